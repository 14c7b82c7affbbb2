"""Every task keeps the contract of `selfroute.testing`. A new one joins with a line in `TASKS`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from selfroute.config import Spec, make_task
from selfroute.tasks.base import Task
from selfroute.tasks.chain import Chain
from selfroute.tasks.code import HumanEval, OutputPrediction
from selfroute.tasks.countdown import Countdown
from selfroute.tasks.game24 import Game24
from selfroute.tasks.gsm8k import GSM8K
from selfroute.tasks.hendrycks_math import HendrycksMath
from selfroute.tasks.jsonl import JsonLines
from selfroute.tasks.lookup import Lookup
from selfroute.tasks.mmlu import MMLU
from selfroute.tasks.recorded import Recorded
from selfroute.tasks.shop import Shop
from selfroute.tasks.tickets import Tickets
from selfroute.testing import check_task

ROWS: Mapping[str, Mapping[str, Any]] = {
    "gsm8k": {"question": "What is 2 plus 1,000?", "answer": "2+1000=<<2+1000=1002>>1002\n#### 1,002"},
    "math": {"problem": "Halve 3.", "level": "Level 1", "type": "Algebra", "solution": r"So $\boxed{\frac{3}{2}}$."},
    "mmlu": {"question": "Capital?", "choices": ["Rome", "Paris", "Oslo", "Bonn"], "answer": 1, "subject": "geo"},
    "output_prediction": {"id": "s0", "code": "def f(x):\n    return {x: 1}", "input": "'a'", "output": "{'a': 1}"},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'def inc(xs):\n    """Add one."""\n',
        "test": "def check(candidate):\n    assert candidate([1]) == [2]\n",
        "entry_point": "inc",
        "canonical_solution": "    return [x + 1 for x in xs]\n",
    },
    "exact": {"question": "?", "answer": "New York"},
    "numeric": {"question": "?", "answer": "1,234.5"},
    "choice": {"question": "?", "answer": "(C)"},
    "math verifier": {"question": "?", "answer": r"\frac{1}{2}"},
    "json": {"question": "?", "answer": "7"},
    "regex": {"question": "?", "answer": r"\d+-\d\d", "example": "2024-01"},
    "code": {"question": "?", "answer": "assert f() == 1", "example": "```python\ndef f(): return 1\n```"},
}


def file_of(name: str, folder: Path) -> Path:
    (folder / "test.jsonl").write_text(json.dumps(ROWS[name]) + "\n", encoding="utf-8")
    return folder


def jsonl(row: str, **options: Any) -> Callable[[Path], Task]:
    return lambda folder: JsonLines(path=file_of(row, folder), **({"verifier": row} | options))


def recorded(folder: Path) -> Task:
    paths = [folder / "device.jsonl", folder / "cloud.jsonl"]
    for number, path in enumerate(paths):
        rows = [
            {"id": str(n), "prompt": f"{n}+{n}?", "text": f"<answer>{2 * n + number}</answer>", "gold": str(2 * n)}
            for n in range(20)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Recorded(answers=paths, verifier="numeric")


TASKS: Mapping[str, Callable[[Path], Task]] = {
    "countdown": lambda folder: Countdown(seed=3, limit=200),
    "chain": lambda folder: Chain(seed=3, limit=200),
    "tickets": lambda folder: Tickets(seed=3, limit=200),
    "shop": lambda folder: Shop(seed=3, limit=200),
    "shop, long": lambda folder: Shop(seed=3, limit=200, wishes=3),
    "lookup": lambda folder: Lookup(seed=3, limit=200),
    "game24": lambda folder: Game24(limit=100),
    "gsm8k": lambda folder: GSM8K(path=file_of("gsm8k", folder)),
    "math": lambda folder: HendrycksMath(path=file_of("math", folder)),
    "mmlu": lambda folder: MMLU(path=file_of("mmlu", folder)),
    "humaneval": lambda folder: HumanEval(path=file_of("humaneval", folder)),
    "output_prediction": lambda folder: OutputPrediction(path=file_of("output_prediction", folder)),
    "reasoning_gym": lambda folder: make_task(Spec("reasoning_gym", "leg_counting"), seed=3, limit=4),
    "recorded": recorded,
    "jsonl, exact": jsonl("exact"),
    "jsonl, numeric": jsonl("numeric"),
    "jsonl, choice": jsonl("choice"),
    "jsonl, math": jsonl("math verifier", verifier="math"),
    "jsonl, json": jsonl("json"),
    "jsonl, regex": jsonl("regex", gold_field="example"),
    "jsonl, code": jsonl("code", gold_field="example"),
}
NEEDS = {"reasoning_gym": "reasoning_gym", "math": "math_verify", "jsonl, math": "math_verify"}


@pytest.mark.parametrize("name", TASKS)
def test_it_keeps_the_contract(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"needs {NEEDS[name]}")
    drawn = name.split(",")[0] in ("countdown", "chain", "tickets", "shop", "lookup", "game24")
    splits = ("train", "validation", "test") if drawn else ("test",)
    check_task(TASKS[name](tmp_path), splits=splits)
