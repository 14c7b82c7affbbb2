"""Rows of any task written out: the form, and hand-offs that say nothing of a row."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.train.small_run import small_model

from selfroute.assemble.training import warm_up_recipe
from selfroute.config import WarmupRecipe, build
from selfroute.errors import ConfigError
from selfroute.handoff import parse
from selfroute.prompts import read_prompt
from selfroute.tasks.jsonl import JsonLines
from selfroute.train.imitation.worked import Worked
from selfroute.train.imitation.writers import Example, Role, TraceStyle

ROWS = [
    {"question": "What is 2 plus 3?", "answer": 5},
    {"question": "What is 14 plus 9 plus 20?", "answer": 43, "work": "14 + 9 = 23\n23 + 20 = 43"},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return folder


def task(data: Path, template: str = "short") -> JsonLines:
    return JsonLines(path=data, verifier="numeric", template=template, validation_share=0.0)


def examples(
    data: Path, rate: float, *, role: Role = "device", template: str = "short", n: int = 4000
) -> list[Example]:
    writer = Worked(task(data, template), TraceStyle(final_handoff_rate=rate), role)
    rng = random.Random(0)
    return [writer.example(rng) for _ in range(n)]


def test_a_row_without_a_working_drafts_its_answer_and_one_with_it_has_it(data: Path) -> None:
    said = {example.question: example.completion for example in examples(data, 0.0)}
    assert said[ROWS[0]["question"]] == "<think>5</think><answer>5</answer>"
    assert said[ROWS[1]["question"]] == f"<think>{ROWS[1]['work']}</think><answer>43</answer>"


def test_without_reasoning_tags_the_working_stands_before_the_answer(data: Path) -> None:
    said = {example.question: example.completion for example in examples(data, 0.0, template="steps")}
    written = task(data, "steps")
    golds = {row.question: written.gold_completion(row) for row in written.rows("train")}
    assert said[ROWS[0]["question"]] == golds[ROWS[0]["question"]]
    assert said[ROWS[1]["question"]] == f"{ROWS[1]['work']}\n{golds[ROWS[1]['question']]}"


def test_hand_offs_come_behind_the_attempt_and_are_blind_to_the_row(data: Path) -> None:
    counts: Counter[tuple[str, bool]] = Counter()
    for example in examples(data, 0.3):
        asks = parse(example.completion).wants_cloud
        assert not asks or example.offer, "a hand-off where none is offered"
        assert not asks or "</think>" in example.completion
        if example.offer:
            counts[example.question, asks] += 1
    shares = [counts[q, True] / (counts[q, True] + counts[q, False]) for q in (row["question"] for row in ROWS)]
    assert shares == pytest.approx([0.3, 0.3], abs=0.04)


def test_a_cloud_answers_always(data: Path) -> None:
    assert not any(
        each.offer or parse(each.completion).wants_cloud for each in examples(data, 0.5, role="cloud", n=200)
    )


def test_what_only_a_search_has_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"traces\.leak_rate: 0\.2 does nothing for task jsonl; known: final_handoff"):
        Worked(task(data), TraceStyle(leak_rate=0.2), "device")


def recipe(data: Path, tmp_path: Path, **values: Any) -> WarmupRecipe:
    jsonl = {"path": str(data), "verifier": "numeric", "template": "short", "validation_share": 0.0}
    given = {"task": {"jsonl": jsonl}, "algorithm": "warm_up", "out": str(tmp_path / "warm"), **values}
    return build(WarmupRecipe, given, where="train")


def test_a_model_learns_the_form_from_rows_of_its_user(data: Path, tmp_path: Path) -> None:
    start = small_model(tmp_path / "start")
    told = recipe(data, tmp_path, start=start, steps=40, batch_tokens=1024, learning_rate=5e-3,
                  traces={"final_handoff_rate": 0.2})  # fmt: skip
    checkpoint = warm_up_recipe(told)
    losses = [
        line["loss"]
        for line in map(json.loads, (told.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        if "loss" in line
    ]
    assert losses[-1] < 0.5 * losses[0]
    kept = read_prompt(checkpoint)
    assert kept is not None
    assert (kept.name, kept.offers) == ("short", True)


def test_a_new_model_needs_something_written(data: Path, tmp_path: Path) -> None:
    told = recipe(data, tmp_path)
    with pytest.raises(ConfigError, match=r"task: 'jsonl' has nothing written .* start=smollm2") as error:
        warm_up_recipe(told)
    assert "\n" not in str(error.value)
    assert not told.out.exists()
