"""Verdicts: a quality in [0, 1], of which right and wrong are the ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.verify.base import SOLVED, Verdict, is_solved, right_or_wrong


@given(st.floats(0, 1))
def test_a_quality_is_right_from_one_half_on(quality: float) -> None:
    verdict = Verdict.of(quality)
    assert verdict.quality == quality
    assert verdict.correct is is_solved(quality) is right_or_wrong(quality) is (quality >= SOLVED)


@pytest.mark.parametrize("correct", [True, False])
def test_a_bool_is_a_quality(correct: bool) -> None:
    assert Verdict(correct) == Verdict.of(correct) == Verdict.of(float(correct))
    assert Verdict(correct).quality == correct


def test_a_verdict_is_taken_as_it_is() -> None:
    verdict = Verdict(True, "42", quality=0.8)
    assert Verdict.of(verdict) is verdict


def test_what_could_not_be_judged_is_neither() -> None:
    assert right_or_wrong(None) is None
    assert not is_solved(None)


@pytest.mark.parametrize("quality", [-0.1, 1.5, math.nan, math.inf])
def test_a_number_outside_is_refused(quality: float) -> None:
    with pytest.raises(ConfigError, match="is not between 0 and 1"):
        Verdict.of(quality)


def test_a_verdict_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"correct=False contradicts quality=0\.7: from 0\.5 on"):
        Verdict(False, quality=0.7)
