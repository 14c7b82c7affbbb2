"""Error rates of a verifier on answers made from a task's own gold answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfroute.tasks.base import Row
from selfroute.tasks.check import error_rates, variants
from selfroute.tasks.code import HumanEval
from selfroute.tasks.countdown import Countdown
from selfroute.tasks.jsonl import JsonLines
from selfroute.verify.variants import RESPELLED
from selfroute.verify.verifiers import VERIFIERS

GOLDS = {
    "exact": ["New York", "Café au lait", "Oslo"],
    "numeric": ["42", "-7", "1,234.5", "1000000", "0"],
    "choice": ["A", "(C)", "J"],
    "math": [r"\frac{1}{2}", "17", r"(3, \frac{2}{5})", r"6\sqrt{2}", "-4"],
    "json": ["12", "-3.5", "say \"no\"", '{"a": [1, true]}'],
    "output": ["{'a': 1, 'b': {2}}", "'it'", "[1, (2, None)]", "-3", "set()"],
}  # fmt: skip


def task_of(path: Path, golds: list[str], **options: Any) -> JsonLines:
    rows = [{"question": f"{number}?", "answer": gold} for number, gold in enumerate(golds)]
    path.mkdir()
    (path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return JsonLines(path=path, **options)


@pytest.mark.parametrize("verifier", [*VERIFIERS])
@pytest.mark.parametrize("template", ["think", "steps"])
def test_our_verifiers_make_no_error_on_answers_made_by_rule(tmp_path: Path, verifier: str, template: str) -> None:
    if verifier == "math":
        pytest.importorskip("math_verify")
    rates = error_rates(task_of(tmp_path / "data", GOLDS[verifier], verifier=verifier, template=template), "test")
    assert [(rate.kind, rate.examples) for rate in rates if rate.errors] == []
    assert {rate.right for rate in rates} == {True, False}
    assert sum(rate.tried for rate in rates) > 4 * len(GOLDS[verifier])
    assert [rate.right for rate in rates] == sorted((rate.right for rate in rates), reverse=True)


def test_every_table_of_spellings_belongs_to_a_verifier() -> None:
    assert set(RESPELLED) == {*VERIFIERS, "countdown"}


def test_countdown_and_code() -> None:
    assert not any(rate.errors for rate in error_rates(Countdown(limit=20), "test"))
    row = Row(
        "0",
        "?",
        "    return 1\n",
        {"prompt": "def f():\n", "test": "def check(f): assert f() == 1", "entry_point": "f"},
    )
    found = list(variants(HumanEval(), row, None))
    assert [variant.kind for variant in found] == [
        "a thought before it", "lines end in CR LF", "tilde fence", "tag python3", "another language's block before",
    ]  # fmt: skip
    assert all(HumanEval().verify(row, variant.completion).correct for variant in found)


def lenient(completion: str, gold: str) -> bool:
    """Content with the first digit of the gold, anywhere."""
    return gold[0] in completion


def test_a_lenient_verifier_is_found_out(tmp_path: Path) -> None:
    golds = [str(number) for number in range(11, 40)]
    task = task_of(tmp_path / "data", golds, verifier=f"{__name__}:lenient")
    rates = {rate.kind: rate for rate in error_rates(task, "test")}
    assert rates["a thought before it"].errors == 0
    assert rates["another row's answer"].errors > 20
    assert len(rates["another row's answer"].examples) == 2
    assert rates["another row's answer"].examples[0][0] == "test-1"


def test_at_most_two_hundred_rows_are_tried(tmp_path: Path) -> None:
    task = task_of(tmp_path / "data", [str(number) for number in range(450)])
    seen: list[tuple[int, int]] = []
    rates = error_rates(task, "test", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (200, 200)
    assert max(rate.tried for rate in rates) == 200
    assert not any(rate.errors for rate in rates)
