"""Pairs: what gives their order away, how they are divided, and how well scores order them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError, TaskError
from selfroute.train.fit.pairs import Pair, clean, divide, lint, quality_of, read_pairs, shared_words, write_pairs

INTENT = "buy the small red cotton shirt for me"
PLAIN = Pair(INTENT, "view 3; buy 3", "view 2; buy 2")


def test_a_pair_is_kept_unless_it_gives_its_order_away() -> None:
    assert lint(PLAIN) is None
    assert lint(Pair(INTENT, "same", "same")) == "same"
    assert lint(Pair(INTENT, "view 3; buy 3", "view 3", cut=True)) == "cut"
    assert lint(Pair(INTENT, "search small red cotton shirt for me", "search a hat")) == "copied"
    assert lint(Pair(INTENT, "search a hat", "search  Small red cotton shirt FOR me")) == "copied"
    assert lint(Pair(INTENT, "view 3<result>small red cotton shirt for me</result>buy", "view 2; buy")) is None
    both = "search small red cotton shirt for me"
    assert lint(Pair(INTENT, both + " buy 3", both + " buy 2")) is None
    assert lint(PLAIN, passes=lambda pair: pair.bad.endswith("2")) == "passes"


def test_flaws_are_counted() -> None:
    kept, flaws = clean([PLAIN, Pair(INTENT, "a", "a"), Pair(INTENT, "b", "b")])
    assert kept == [PLAIN] and flaws == {"same": 2}


@given(st.lists(st.integers(0, 40), min_size=60, max_size=60), st.integers(0, 5))
def test_no_question_is_on_both_sides(questions: list[int], seed: int) -> None:
    pairs = [Pair(f"question {q}", f"good {i}", f"bad {i}") for i, q in enumerate(questions)]
    try:
        divided = divide(pairs, held_out=0.5, seed=seed, ordered_by_environment=False)
    except ConfigError:
        return
    assert not {p.question for p in divided.learn} & {p.question for p in divided.held_out}
    assert len(divided.learn) + len(divided.held_out) == len(pairs)


def test_one_question_cannot_be_divided() -> None:
    with pytest.raises(ConfigError, match="give more questions"):
        divide([PLAIN] * 20, held_out=0.2, seed=0, ordered_by_environment=False)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "in" / "pairs.jsonl"
    write_pairs(file, [PLAIN, Pair("ü", "1", "2", cut=True)])
    assert read_pairs(file) == [PLAIN, Pair("ü", "1", "2", cut=True)]
    file.write_text('{"question": "q", "good": "g"}\n', encoding="utf-8")
    with pytest.raises(TaskError, match=r"pairs\.jsonl:1: 'bad' is None"):
        read_pairs(file)
    file.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="is empty"):
        read_pairs(file)
    with pytest.raises(ConfigError, match="no file"):
        read_pairs(tmp_path / "none.jsonl")


def test_quality_counts_ties_half_and_leaves_out_the_unknown() -> None:
    pairs = [PLAIN] * 5
    found = quality_of(pairs, [2.0, 0.0, 1.0, None, 3.0], [1.0, 1.0, 1.0, 0.0, 1.0])
    assert (found.n, found.unknown, found.accuracy) == (4, 1, 0.625)
    assert found.margin == pytest.approx(0.5)
    assert found.centre == pytest.approx(1.25)
    with pytest.raises(ConfigError, match="none of 5"):
        quality_of(pairs, [None] * 5, [0.0] * 5)


def test_scores_that_mean_what_they_say_have_no_calibration_error() -> None:
    gap = math.log(4)  # right four times in five
    found = quality_of([PLAIN] * 10, [gap, 0] * 5, [0, gap] * 5)
    assert found.accuracy == 0.5 and found.calibration_error == pytest.approx(0.3)
    sure = quality_of([PLAIN] * 10, [50.0] * 10, [0.0] * 10)
    assert sure.calibration_error < 1e-9


def test_the_free_judges_stand_beside_the_score() -> None:
    pairs = [Pair("red shirt", "red shirt, paid", "hat"), Pair("red shirt", "a red one", "hat")]
    found = quality_of(pairs, [0, 0], [1, 1])
    assert found.accuracy == 0 and found.by_length == 1 and found.by_words == 1
    assert shared_words("red shirt", "a RED one") == 0.5
