"""Recording a model that answers nothing, and evaluating a recording whose answers have moved."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfroute.assemble.evaluating import GIVEN_UP, evaluate_recipe, record_rows
from selfroute.assemble.pieces import template_of
from selfroute.backends.base import complete
from selfroute.backends.function import FunctionBackend
from selfroute.backends.recorded import RecordedBackend
from selfroute.config import EvaluateRecipe, build
from selfroute.errors import BackendUnavailable, ConfigError, SelfRouteError
from selfroute.prompts import PromptTemplate, TrainedPrompt
from selfroute.tasks.countdown import Countdown
from selfroute.types import Message, Sampling


@pytest.mark.parametrize("fails", [GIVEN_UP - 1, GIVEN_UP])
async def test_a_model_that_answers_none_of_the_first_rows_is_asked_no_more(tmp_path: Path, fails: int) -> None:
    task = Countdown(limit=40)
    asked: list[str] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(messages[-1].content)
        if len(asked) <= fails:
            raise BackendUnavailable("no battery", backend="mine")
        return "an answer"

    async def recorded() -> list[str]:
        return await record_rows(
            FunctionBackend("mine", answer),
            task,
            list(task.rows("test")),
            tmp_path / "a.jsonl",
            as_device=False,
            concurrency=1,
            max_tokens=8,
            on_progress=lambda done, total: None,
        )

    if fails < GIVEN_UP:
        assert len(await recorded()) == fails and len(asked) == 40
        return
    with pytest.raises(SelfRouteError, match="'mine' answered none of the first 8 rows, and the others were not asked"):
        await recorded()
    assert len(asked) <= GIVEN_UP + 1


async def test_a_trained_device_is_asked_in_its_own_words_and_found_under_the_tasks(tmp_path: Path) -> None:
    task = Countdown(limit=2)
    asked: list[tuple[list[str], int]] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(([turn.content for turn in messages], sampling.max_tokens))
        return messages[-1].content.upper()

    words = PromptTemplate(system="Be short.", help="Ask if you must.", user="q: {question}")
    file, rows = tmp_path / "device.jsonl", list(task.rows("test"))
    await record_rows(
        FunctionBackend("mine", answer),
        task,
        rows,
        file,
        as_device=True,
        trained=TrainedPrompt(template=words, max_tokens=7),
        concurrency=1,
        max_tokens=64,
        on_progress=lambda done, total: None,
    )
    assert asked == [(["Be short.", f"q: {row.question}"], 7) for row in rows]
    template = template_of(task)
    known = template.device_messages(template.conversation(rows[0].question), offer_handoff=False)
    found = await complete(RecordedBackend("device", file), known, Sampling())
    assert found.text.startswith("Q: USING THE NUMBERS") and found.finish_reason == "length"


def written(folder: Path, *, by: int) -> dict[str, Any]:
    rng = random.Random(1)
    rows = [{"question": f"What is {i} plus {i}?", "answer": 2 * i} for i in range(60)]
    right = [rng.random() < 0.7 for _ in rows]
    texts = [f"<answer>{2 * i if right[i] else 'x'}</answer>" for i in range(60)]
    recorded = [{"prompt": row["question"], "text": texts[(i + by) % 60]} for i, row in enumerate(rows)]
    for name, content in (("rows.jsonl", rows), ("device.jsonl", recorded), ("cloud.jsonl", recorded)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    task = {"path": str(folder / "rows.jsonl"), "verifier": "numeric", "template": "plain", "test_share": 0.0}
    return {
        "task": {"jsonl": {**task, "validation_share": 0.0}},
        "split": "train",
        "device": {"recorded": str(folder / "device.jsonl")},
        "cloud": {"recorded": str(folder / "cloud.jsonl")},
        "strategies": ["always_device", "always_cloud"],
        "out": str(folder / "out"),
    }


@pytest.mark.parametrize("by", [1, -1])
async def test_a_recording_that_is_shifted_by_a_row_is_refused(tmp_path: Path, by: int) -> None:
    recipe = build(EvaluateRecipe, written(tmp_path, by=by), where="test")
    with pytest.raises(ConfigError, match=r"device: the answers of '.*' are right for the row (behind|before) theirs"):
        await evaluate_recipe(recipe)
    assert not (tmp_path / "out" / "records.jsonl").exists()


async def test_a_recording_whose_answers_are_in_their_place_is_evaluated(tmp_path: Path) -> None:
    summary = await evaluate_recipe(build(EvaluateRecipe, written(tmp_path, by=0), where="test"))
    assert 0.5 < summary["device_accuracy"] < 0.9
