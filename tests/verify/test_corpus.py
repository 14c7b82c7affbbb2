"""Error rates of every verifier on a corpus of labelled answers: `corpus.jsonl`, one a line.

    {"verifier": …, "kind": …, "gold": …, "completion": …, "label": "right" | "wrong" | "contested", "held_out": …}

Labels are by hand, or hold by how the answer was made from its gold ("by rule": re-spelled, a digit changed, the sign
turned). Half of the first 1,760 were held out while the verifiers were mended; those of the kinds "second round" to
"fourth round" came after. Contested answers have a reason and no part in the rates: graders differ on them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from selfroute.verify.code import named_verifier

ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("corpus.jsonl").read_text(encoding="utf-8").splitlines()
]
VERIFIERS = sorted({row["verifier"] for row in ROWS})
MOST_FALSE_ACCEPTS, MOST_MISSES = 0.01, 0.03


def errors(verifier: str) -> dict[str, list[bool]]:
    """For each label, whether each verdict contradicts it."""
    judge = named_verifier(verifier)
    found: dict[str, list[bool]] = defaultdict(list)
    for row in ROWS:
        if row["verifier"] == verifier and row["label"] != "contested":
            verdict = judge(row["completion"], row["gold"])
            found[row["label"]].append(verdict.correct != (row["label"] == "right"))
    return found


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_error_rates(verifier: str) -> None:
    if verifier == "math":
        pytest.importorskip("math_verify")
    found = errors(verifier)
    false_accepts, misses = (sum(found[label]) / len(found[label]) for label in ("wrong", "right"))
    assert false_accepts <= MOST_FALSE_ACCEPTS
    assert misses <= MOST_MISSES


def test_the_corpus_is_what_it_says() -> None:
    assert len(ROWS) >= 2800
    assert len({(row["verifier"], row["gold"], row["completion"]) for row in ROWS}) == len(ROWS)
    assert {row["label"] for row in ROWS} == {"right", "wrong", "contested"}
    for row in ROWS:
        assert bool(row.get("reason")) is (row["label"] == "contested"), row
    held_out = [row for row in ROWS if row["held_out"]]
    assert len(held_out) >= 800
    assert {row["verifier"] for row in held_out} == set(VERIFIERS)
