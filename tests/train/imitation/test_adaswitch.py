"""AdaSwitch: what an exam finds, what is learnt of it, that it is learnt, and that a run goes on where it stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.train.imitation.stepping import END, Stepping, believed, run_of, taught, tokenizer
from transformers import LlamaForCausalLM

from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import BackendUnavailable, ConfigError, SelfRouteError
from selfroute.prompts import TEMPLATES
from selfroute.scores.steps import Tags
from selfroute.strategies.base import Sides, Strategy, answer
from selfroute.strategies.inside.catalogue import step_level
from selfroute.train.imitation.adaswitch import AdaSwitch, check_folder
from selfroute.train.imitation.batches import IGNORED
from selfroute.train.imitation.exam import Examined, Judged, TagIds
from selfroute.train.imitation.reflection import Reflection, quality_of, read_exam, reflected
from selfroute.types import Sampling

TASK = Stepping()
TRAIN, HELD_OUT = list(TASK.rows("train")), list(TASK.rows("validation"))
TAGS = TagIds(right=3, wrong=4)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    taught(folder, [(row.question, believed(row)) for row in TRAIN], role="device", seed=1)
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersBackend]:
    rows = [(row.question, TASK.gold_completion(row)) for row in (*TRAIN, *HELD_OUT)]
    network = taught(tmp_path_factory.mktemp("cloud"), rows, role="cloud", seed=2)
    with TransformersBackend("cloud", network, tokenizer()) as made:
        yield made


def trained(run: AdaSwitch) -> dict[str, Any]:
    return asyncio.run(run.run({"seed": run.seed}))


@pytest.fixture(scope="module")
def folders(device: Path, cloud: TransformersBackend, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("runs")
    for name in ("tagging", "control"):
        trained(run_of(out / name, device, cloud, gold_only=name == "control"))
    return {name: out / name for name in ("tagging", "control")}


def accuracy(strategy: Strategy, folder: Path, cloud: TransformersBackend) -> tuple[float, float]:
    """Part of held-out rows answered rightly, and of tokens that the cloud wrote."""

    async def all_rows() -> tuple[float, float]:
        template, sampling = TEMPLATES["plain"], Sampling(max_tokens=20)
        with TransformersBackend("device", LlamaForCausalLM.from_pretrained(folder), tokenizer()) as made:
            sides = Sides(device=made, cloud=cloud, template=template)
            traces = await asyncio.gather(
                *(answer(strategy, sides, template.conversation(row.question), sampling) for row in HELD_OUT)
            )
        right = [TASK.verify(row, trace.text).correct for row, trace in zip(HELD_OUT, traces, strict=True)]
        theirs = [trace.usage("cloud").completion_tokens for trace in traces]
        return sum(right) / len(right), sum(theirs) / sum(
            sum(s.usage.completion_tokens for s in t.segments) for t in traces
        )

    return asyncio.run(all_rows())


class TestLearning:
    def test_the_device_knows_its_wrong_steps(self, folders: dict[str, Path]) -> None:
        run = json.loads((folders["tagging"] / "run.json").read_text())
        assert run["judged"] >= 90 and run["wrong"] > 0.15, "wrong steps are not learnt, and not unlearnt"
        assert run["auroc_tag"] > 0.9

    def test_and_switches_there(self, folders: dict[str, Path], cloud: TransformersBackend) -> None:
        folder = folders["tagging"] / "checkpoint"
        never, _ = accuracy(step_level(checker="tag", tags=folder, threshold=1.0), folder, cloud)
        switching, share = accuracy(step_level(checker="tag", tags=folder), folder, cloud)
        itself, _ = accuracy(step_level(checker="tag", tags=folder, mode="reflection"), folder, cloud)
        assert never < 0.6
        assert switching > 0.8 and 0 < share < 0.3
        assert itself > 0.7, "behind its own tag it has learnt the right step"

    def test_the_control_has_learnt_the_same_steps_without_tags(
        self, folders: dict[str, Path], cloud: TransformersBackend
    ) -> None:
        folder = folders["control"] / "checkpoint"
        with pytest.raises(ConfigError, match="holds no device that tags its steps"):
            Tags.load(folder)
        alone, share = accuracy(step_level(threshold=1.0, step_end=END), folder, cloud)
        assert alone > 0.9 and share == 0
        run = json.loads((folders["control"] / "run.json").read_text())
        assert run["gold_only"] and "auroc_tag" not in run

    def test_practice_comes_first(self, device: Path, cloud: TransformersBackend, tmp_path: Path) -> None:
        run = run_of(tmp_path, device, cloud, practice_steps=60, practice_rate=5e-3, practice_rows=192, steps=1)
        summary = trained(run)
        assert summary["exam_wrong"] < 0.1, "the exam is taken by the device that has practised"
        assert (tmp_path / "practice" / "checkpoint" / "config.json").is_file()


# --- the exam -------------------------------------------------------------------------------------------------------


def test_behind_each_wrong_step_stands_the_clouds(folders: dict[str, Path]) -> None:
    answers = read_exam(folders["tagging"] / "exam.jsonl")
    assert len(answers) == len({each.id for each in answers}) == 192
    words = tokenizer()
    for each in answers:
        row = next(row for row in TRAIN if row.id == each.id)
        clean = [step for step in each.steps if step.right]
        text = words.decode([i for step in clean for i in step.ids], skip_special_tokens=True)
        assert TASK.verify(row, text).correct
        for step, after in zip(each.steps, each.steps[1:], strict=False):
            assert (after.source == "cloud") is not step.right
    wrong = sum(not step.right for each in answers for step in each.steps) / len(answers)
    assert 0.3 < wrong < 0.7


def test_an_exam_that_fails_keeps_what_it_has(device: Path, cloud: TransformersBackend, tmp_path: Path) -> None:
    from tests.strategies.inside.pair import Faulty

    def gone(call: int, result: Any) -> Any:
        raise BackendUnavailable("cloud: connection lost", backend="cloud")

    with pytest.raises(SelfRouteError, match=r"\d+ of 192 answers could not be examined: cloud: connection lost"):
        trained(run_of(tmp_path, device, Faulty(cloud, gone)))
    kept = read_exam(tmp_path / "exam.jsonl")
    assert 40 < len(kept) < 150 and all(step.right for each in kept for step in each.steps)
    assert trained(run_of(tmp_path, device, cloud, steps=2))["examined"] == 192


# --- what is learnt of it -------------------------------------------------------------------------------------------

steps = st.builds(
    Judged, st.lists(st.integers(5, 40), min_size=1, max_size=4), st.booleans(), st.sampled_from(["device", "cloud"])
)


@given(st.lists(st.integers(5, 40), max_size=5), st.lists(steps, max_size=5), st.booleans())
def test_neither_prompt_nor_wrong_steps_are_learnt(prompt: list[int], judged: list[Judged], clean: bool) -> None:
    ids, labels = reflected(prompt, Examined("id", 0, "question", judged), TAGS, clean=clean)
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    assert labels[: len(prompt)] == [IGNORED] * len(prompt)
    kept = [step for step in judged if step.right or (step.source == "device" and not clean)]
    assert ids[len(prompt) :] == [i for s in kept for i in (*s.ids, TAGS.right if s.right else TAGS.wrong)]
    learnt = [label for label in labels if label != IGNORED]
    assert learnt == [i for s in kept for i in ((*s.ids, TAGS.right) if s.right else (TAGS.wrong,))]


@given(st.lists(st.integers(5, 40), max_size=5), st.lists(steps, max_size=5))
def test_the_control_learns_the_right_steps_alone(prompt: list[int], judged: list[Judged]) -> None:
    ids, labels = reflected(prompt, Examined("id", 0, "question", judged), None)
    assert ids == [*prompt, *(i for step in judged if step.right for i in step.ids)]
    assert labels[len(prompt) :] == ids[len(prompt) :]


def test_a_part_of_the_answers_is_clean() -> None:
    import random

    wrong = Examined("id", 0, "q", [Judged([7], False, "device"), Judged([8], True, "cloud")])
    reflection = Reflection([wrong] * 400, [[5]] * 400, TAGS, 0.25)
    clean = sum(TAGS.wrong not in ids for ids, _ in reflection.rows(random.Random(0)))
    assert 70 < clean < 130


def test_quality_is_of_the_devices_steps() -> None:
    judged = [Judged([1], right, "device", {"tag": doubt}) for right, doubt in ((True, 0.1), (False, 0.9), (True, 0.2))]
    found = quality_of([Examined("id", 0, "q", [*judged, Judged([1], True, "cloud")])])
    assert (found.steps, found.wrong, found.auroc) == (3, pytest.approx(1 / 3), {"tag": 1.0})
    assert quality_of([]).as_dict() == {"judged": 0, "wrong": 0.0}


# --- interrupted runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["practice", "exam", "reflection"])
def test_an_interrupted_run_ends_as_one_that_was_not(
    device: Path, cloud: TransformersBackend, tmp_path: Path, stage: str
) -> None:
    options: dict[str, Any] = {"practice_steps": 4, "practice_rows": 16, "exam_rows": 24, "samples": 2, "steps": 4}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trained(run_of(whole, device, cloud, **options))

    def stop(step: int, total: int, metrics: Any) -> None:
        in_practice = not (broken / "practice" / "checkpoint").exists()
        at = {
            "practice": in_practice and step == 2,
            "exam": metrics.get("examined", 0) > 0.5,
            "reflection": not in_practice and step == 2,
        }
        if at[stage]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(run_of(broken, device, cloud, on_progress=stop, **options))
    begun = broken / "practice" / "checkpoint"
    trained(run_of(broken, begun if begun.exists() else device, cloud, **options))
    ours, theirs = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (whole, broken))
    assert all(ours[name].equal(theirs[name]) for name in ours)
    exams = [[[(s.ids, s.right) for s in e.steps] for e in read_exam(f / "exam.jsonl")] for f in (whole, broken)]
    assert exams[0] == exams[1] and len(exams[0]) == 48


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    config = {"steps": 3, "clean_share": 0.5}
    with pytest.raises(ConfigError, match=r"nothing to resume: .* holds no run"):
        check_folder(tmp_path, config, resume=True)
    check_folder(tmp_path, config, resume=False)
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        check_folder(tmp_path, config, resume=False)
    check_folder(tmp_path, config, resume=True)
    with pytest.raises(ConfigError, match=r"was trained with clean_share: 0\.5, the recipe has 0\.1"):
        check_folder(tmp_path, config | {"clean_share": 0.1}, resume=True)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="has been trained to its end"):
        check_folder(tmp_path, config, resume=True)
