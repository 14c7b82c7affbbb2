"""Whole runs: what they write, what they refuse, and that a stopped one goes on as if it had not stopped."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.train.small_run import Easy, Stop, run, small_model, stop_after, weights
from transformers import AutoModelForCausalLM

from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable, ConfigError
from selfroute.grading import Outcome
from selfroute.prices import Price
from selfroute.tasks.base import Row
from selfroute.train.folder import is_flat
from selfroute.train.rl.alarms import CollapseWarning
from selfroute.train.rl.arguments import batching, processes_here
from selfroute.train.rl.checkpoint import STATE_FILE
from selfroute.types import Message, Sampling


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_model(tmp_path_factory.mktemp("model"))


def down(messages: Sequence[Message], sampling: Sampling) -> str:
    raise BackendUnavailable("no route", backend="cloud")


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Four steps in one go, over an epoch's end: six rows are three steps."""
    out = tmp_path_factory.mktemp("straight") / "run"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        summary = run(model, out, config={"algorithm": "gapg", "seed": 0})
    yield out, summary


def test_a_run_leaves_checkpoint_metrics_config_and_provenance(straight: tuple[Path, dict[str, Any]]) -> None:
    out, summary = straight
    assert AutoModelForCausalLM.from_pretrained(out / "checkpoint").config.hidden_size == 32
    assert (out / "checkpoint" / "tokenizer.json").exists()
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]
    for name in ("loss", "reward", "rollouts/call_share", "rollouts/device_correct", "filter/device_prompts"):
        assert all(name in line for line in metrics(out)), name
    assert yaml.safe_load((out / "config.yaml").read_text()) == {"algorithm": "gapg", "seed": 0}
    assert json.loads((out / "run.json").read_text()) == summary
    assert summary["rho"] == pytest.approx(3 / 7)
    wanted = {"algorithm", "seed", "steps", "share", "rows", "wall_s", "resumed_from", "cloud_calls", "cloud_failures"}
    assert wanted | {"warnings", "versions", "commit", "hardware"} <= set(summary)
    assert (summary["steps"], summary["rows"], summary["resumed_from"]) == (4, 6, None)
    assert 1 <= summary["cloud_calls"] <= 6
    assert summary["cloud_calls"] == metrics(out)[-1]["cloud/calls"]


def test_a_price_list_says_what_the_cloud_has_cost(model: str, tmp_path: Path) -> None:
    summary = run(model, tmp_path / "run", steps=2, cloud_price=Price(prompt_usd=1.0, completion_usd=2.0))
    assert summary["cloud_usd"] == metrics(tmp_path / "run")[-1]["cloud/usd"]
    assert summary["cloud_usd"] > 0


def test_rollouts_to_read(straight: tuple[Path, dict[str, Any]]) -> None:
    samples = [json.loads(line) for line in (straight[0] / "rollouts.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {1, 2, 3, 4}
    assert {sample["kind"] for sample in samples} == {"handed_off", "solved", "wrong"}
    pays = {"handed_off": 0.3, "solved": 1.0, "wrong": 0.0}
    assert all(sample["reward"] == pays[sample["kind"]] and sample["text"] for sample in samples)


def test_a_tracker_that_is_not_installed_is_named(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report_to: 'nonesuch' cannot be used here; installed: .*pip install"):
        run(model, tmp_path / "run", report_to=["nonesuch"])
    assert not (tmp_path / "run").exists()


def test_a_run_in_bfloat16_keeps_its_weights_in_float32(model: str, tmp_path: Path) -> None:
    run(model, tmp_path / "run", bf16=True, steps=1)
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}


def test_a_checkpoint_has_the_parts_of_version_0_1(straight: tuple[Path, dict[str, Any]]) -> None:
    """Its runs go on: a part under another name would be refused."""
    state = json.loads((straight[0] / "checkpoints" / "checkpoint-4" / STATE_FILE).read_text())
    assert set(state) == {"targets", "alarms", "clouds"}
    assert set(state["targets"][0]) == {"share", "filter_carry", "multiplier", "usual"}
    assert set(state["alarms"]) == {"messages", "steps"}
    assert set(state["clouds"][0]) == {"calls", "failures", "usd", "known"}


class Graded(Easy):
    """Answers are good by a quarter, a half, three quarters or wholly."""

    def verify(self, row: Row, completion: str) -> Any:
        return (1 + len(completion) % 4) / 4


def test_a_judge_that_gives_qualities_pays_in_proportion(model: str, tmp_path: Path) -> None:
    run(model, tmp_path / "run", task=Graded(limit=6), steps=1)
    (line,) = metrics(tmp_path / "run")
    samples = [json.loads(text) for text in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    for sample in samples:
        quality = (1 + len(sample["text"]) % 4) / 4
        if sample["kind"] != "handed_off":
            assert sample["reward"] == quality
            assert sample["kind"] == ("solved" if quality >= 0.5 else "wrong")
    assert {sample["kind"] for sample in samples} >= {"solved", "wrong"}
    assert 0.5 <= line["reward/solved"] < 1.0 and line["reward/wrong"] == 0.25


def test_training_moves_the_weights(model: str, straight: tuple[Path, dict[str, Any]]) -> None:
    before, after = load_file(Path(model) / "model.safetensors"), weights(straight[0])
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    model: str, tmp_path: Path, straight: tuple[Path, dict[str, Any]]
) -> None:
    run(model, tmp_path / "same")
    run(model, tmp_path / "other", seed=1)
    one, same, other = weights(straight[0]), weights(tmp_path / "same"), weights(tmp_path / "other")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_stopped_run_goes_on_bit_for_bit(
    model: str, tmp_path: Path, straight: tuple[Path, dict[str, Any]], stopped: int
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stop):
        run(model, out, on_progress=stop_after(stopped))
    assert [line["step"] for line in metrics(out)] == list(range(1, stopped + 1 + 1))
    torch.manual_seed(123)  # a new process has another generator
    summary = run(model, out, resume=True)
    one, two = weights(straight[0]), weights(out)
    assert summary["resumed_from"] == f"checkpoint-{stopped}"
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert summary["cloud_calls"] == straight[1]["cloud_calls"]
    seconds = [line["wall_s"] for line in metrics(out)]
    assert seconds == sorted(seconds) and summary["wall_s"] == pytest.approx(
        seconds[-1], abs=0.0505
    )  # both; rounded to 0.1 and 0.001
    for ours, theirs in zip(metrics(out), metrics(straight[0]), strict=True):
        assert _comparable(ours) == _comparable(theirs)


BEYOND: dict[str, Any] = {
    "handoff_reward": "dual",
    "told_shares": (0.2, 0.5),
    "forced_attempts": 2,
    "reward": {"local": 1.0, "cloud": 0.3, "format": 0.0, "token_price": 0.01},
}


def test_a_stopped_run_with_everything_beyond_the_paper_goes_on_bit_for_bit(model: str, tmp_path: Path) -> None:
    whole = run(model, tmp_path / "whole", **BEYOND)
    with pytest.raises(Stop):
        run(model, tmp_path / "parts", on_progress=stop_after(2), **BEYOND)
    parts = run(model, tmp_path / "parts", resume=True, **BEYOND)
    assert whole["targets"] == parts["targets"]
    assert all(target["multiplier"]["value"] != 0 for target in whole["targets"])
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], two[name]) for name in one)
    for ours, theirs in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        assert _comparable(ours) == _comparable(theirs)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 1, "seed: 0, the recipe has 1"),
        ("algorithm", "grpo", "algorithm: gapg, the recipe has grpo"),
        ("reward", {"local": 1.0, "cloud": 0.2}, "reward.cloud: 0.3, the recipe has 0.2"),
        ("cloud", {"openai": {"model": "big"}}, "cloud: embedded:cloud, the recipe has not set"),
    ],
)
def test_a_run_of_another_recipe_is_not_resumed(
    model: str, tmp_path: Path, straight: tuple[Path, dict[str, Any]], key: str, value: Any, message: str
) -> None:
    was = {"algorithm": "gapg", "seed": 0, "reward": {"local": 1.0, "cloud": 0.3}, "cloud": "embedded:cloud"}
    out = shutil.copytree(straight[0], tmp_path / "run")
    (out / "config.yaml").write_text(yaml.safe_dump(was))
    with pytest.raises(ConfigError, match=re.escape(f"was trained with {message}")):
        run(model, out, steps=5, resume=True, config={**was, key: value, "steps": 5})
    assert yaml.safe_load((out / "config.yaml").read_text()) == was


class NoValidation(Easy):
    """A task whose rows are all for training."""

    def rows(self, split: str) -> list[Row]:
        return [] if split == "validation" else list(super().rows(split))


def test_a_share_is_measured_on_validation_rows_or_where_the_user_says(model: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"handoff_reward": "dual", "steps": 1}
    run(model, tmp_path / "run", **options)
    assert "held_out/device_correct" in metrics(tmp_path / "run")[0]
    task = NoValidation(limit=6)
    with pytest.raises(ConfigError, match=r"validation rows, and 'countdown' has none; .* share_prompts=0"):
        run(model, tmp_path / "none", task=task, **options)
    assert not (tmp_path / "none").exists()
    run(model, tmp_path / "rollouts", task=task, share_prompts=0, **options)
    (line,) = metrics(tmp_path / "rollouts")
    assert "held_out/device_correct" not in line
    assert line["handoff/gap"] == pytest.approx(line["rollouts/call_share"] - 0.3)


def test_a_run_for_other_shares_is_not_resumed(model: str, tmp_path: Path) -> None:
    run(model, tmp_path, steps=2, **BEYOND)
    with pytest.raises(ConfigError, match=r"was trained for shares \[0\.2, 0\.5\], not \[0\.1, 0\.5\]"):
        run(model, tmp_path, resume=True, **{**BEYOND, "told_shares": (0.1, 0.5)})


def _comparable(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if "time" not in name and name != "wall_s"}


def test_a_checkpoint_that_was_being_written_is_passed_over(
    model: str, tmp_path: Path, straight: tuple[Path, dict[str, Any]]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stop):
        run(model, out, on_progress=stop_after(2))
    last = out / "checkpoints" / "checkpoint-2"
    (last / STATE_FILE).unlink()  # everything but the file that is written last
    summary = run(model, out, resume=True)
    assert summary["resumed_from"] == "checkpoint-1"
    one, two = weights(straight[0]), weights(out)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_finished_run_is_not_overwritten_nor_resumed(
    model: str, tmp_path: Path, straight: tuple[Path, dict[str, Any]]
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(straight[0], out)
    before = (out / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        run(model, out)
    with pytest.raises(ConfigError, match="already has all 4 steps; raise steps="):
        run(model, out, resume=True)
    assert (out / "metrics.jsonl").read_text() == before


def test_a_finished_run_can_be_made_longer(model: str, tmp_path: Path, straight: tuple[Path, dict[str, Any]]) -> None:
    out = tmp_path / "copy"
    shutil.copytree(straight[0], out)
    assert run(model, out, resume=True, steps=5)["resumed_from"] == "checkpoint-4"
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4, 5]


def test_several_passes_and_a_baseline_run(model: str, tmp_path: Path) -> None:
    run(model, tmp_path / "passes", rows_per_pass=2, steps=1)
    summary = run(model, tmp_path / "alone", algorithm="task_tuning", cloud=None, steps=1)
    assert summary["cloud_calls"] == 0


def test_a_cloud_that_is_down_ends_nothing(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfroute.train.rl import run as module

    class OnlyAsks(module.OutcomeGrader):
        def _local(self, row: Row, text: str) -> Outcome:
            return Outcome(wants_cloud=True)

    monkeypatch.setattr(module, "OutcomeGrader", OnlyAsks)
    seen: list[Mapping[str, float]] = []
    summary = run(
        model,
        tmp_path / "run",
        cloud=FunctionBackend("cloud", down),
        on_progress=lambda step, steps, numbers: seen.append(numbers),
        steps=2,
    )
    assert summary["cloud_failures"] == summary["cloud_calls"] == 4
    assert [line["reward"] for line in metrics(tmp_path / "run")] == [None, None]
    assert all("reward" not in numbers and numbers["rollouts/ungraded"] == 1.0 for numbers in seen)
    before, after = load_file(Path(model) / "model.safetensors"), weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share: 0 is not between 0 and 1, both excluded"),
        ({"share": 30.0}, "share: 30 is not"),
        ({"algorithm": "ppo"}, "algorithm: 'ppo' is not one of gapg, dr_grpo"),
        ({"cloud": None}, "needs a cloud"),
        ({"rows_per_pass": 3}, "rows_per_pass=3 does not divide the 8 rollouts"),
        ({"rows_per_pass": 0}, "rows_per_pass: 0 is not at least 1"),
        ({"group_size": 1}, "group_size: 1 is not at least 2; the estimator compares the rollouts of a group"),
        ({"reward": {"local": 1.0, "cloud": 1.0, "format": 0.0}}, "local > cloud > format"),
        ({"resume": True}, "nothing to resume"),
        ({"prompts_per_step": 7}, "prompts_per_step=7 is more than the 6 training rows"),
        (
            {"algorithm": "task_tuning", "handoff_reward": "dual"},
            "handoff_reward=dual: algorithm 'task_tuning' never offers",
        ),
        ({"algorithm": "task_tuning", "told_shares": (0.1, 0.5)}, "told_shares: algorithm 'task_tuning' never offers"),
        (
            {"algorithm": "task_tuning", "reward": {"local": 1.0, "cloud": 0.5, "format": 0.0, "token_price": 0.01}},
            "reward.token_price: algorithm 'task_tuning' never offers",
        ),
        ({"prompt_filter": False, "told_shares": (0.1, 0.5)}, "all shares are trained alike"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    model: str, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(model, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_step_is_shared_out_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes_here() == 2
    assert batching(4, 4, None, 2).rows == 8
    assert batching(4, 4, 2, 2).passes == 4
    with pytest.raises(ConfigError, match="2 processes do not divide the 9 rollouts"):
        batching(3, 3, None, 2)


def test_a_collapse_stands_in_the_runs_record(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfroute.train.rl import alarms

    monkeypatch.setattr(alarms, "PATIENCE", 2)
    monkeypatch.setattr(alarms, "EXTREME", 0.0)
    with pytest.warns(CollapseWarning, match="rollout asks") as raised:
        summary = run(model, tmp_path / "run", steps=2)
    assert [str(warning.message) for warning in raised if warning.category is CollapseWarning] == summary["warnings"]
    assert any("every rollout asks" in message for message in summary["warnings"])


class Moved(Easy):
    """Rows of a file whose content is given."""

    def __init__(self, questions: Sequence[str]) -> None:
        super().__init__(limit=6)
        self.questions = questions

    def rows(self, split: str) -> list[Row]:
        return [Row(f"{split}-{i}", question, "1") for i, question in enumerate(self.questions, start=1)]


@pytest.mark.parametrize(
    "questions",
    [("zero", "one", "two", "three"), ("one", "two"), ("two", "one", "three"), ("one", "two", "drei")],
    ids=["in front", "fewer", "moved", "changed"],
)
def test_a_run_does_not_go_on_with_other_rows(model: str, tmp_path: Path, questions: Sequence[str]) -> None:
    before = Moved(("one", "two", "three"))
    run(model, tmp_path / "run", task=before, steps=1)
    asked: list[str] = []
    cloud = FunctionBackend("cloud", lambda messages, sampling: asked.append("") or "even")
    with pytest.raises(ConfigError, match=r"was trained on 3 training rows, which are not the \d of now; put the data"):
        run(model, tmp_path / "run", task=Moved(questions), steps=2, resume=True, cloud=cloud)
    assert not asked
    assert run(model, tmp_path / "run", task=before, steps=2, resume=True)["steps"] == 2


def test_a_run_ends_where_its_curve_is_flat(model: str, tmp_path: Path) -> None:
    """At such a rate nothing is learned; a run that was resumed after three steps looks at these too."""
    out = tmp_path / "run"
    with pytest.raises(Stop):
        run(model, out, steps=9, until_flat=2, learning_rate=1e-9, on_progress=stop_after(3))
    summary = run(model, out, steps=9, until_flat=2, learning_rate=1e-9, resume=True)
    rewards = [line["reward"] for line in metrics(out)]
    looks = [
        step for step in (4, 6, 8, 9) if step == 9 or is_flat(rewards[step - 4 : step - 2], rewards[step - 2 : step])
    ]
    assert summary["steps"] == len(rewards) == looks[0] < 9


@pytest.mark.parametrize(
    ("before", "now", "flat"),
    [
        ([0.1, 0.2, 0.1, 0.2], [0.5, 0.6, 0.5, 0.6], False),
        ([0.1, 0.2, 0.1, 0.2], [0.15, 0.15, 0.15, 0.16], True),
        ([0.5, 0.6], [0.1, 0.2], True),
        ([0.5], [0.1, 0.2], False),
        ([], [], False),
        ([0.0, 0.0], [0.0, 0.0], True),
    ],
)
def test_a_curve_is_flat_within_the_error_of_its_means(before: list[float], now: list[float], flat: bool) -> None:
    assert is_flat(before, now) is flat
