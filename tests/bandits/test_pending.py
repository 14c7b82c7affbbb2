"""Feedback that is late, repeated, missing, or about nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.bandits.pending import Pending
from selfroute.errors import ConfigError


def test_feedback_counts_once_and_in_time() -> None:
    pending = Pending(lifetime_s=10.0)
    pending.add("t1", "a", (1.0, 2.0), now_s=0.0)
    pending.add("t2", "b", now_s=0.0)
    first = pending.settle("t1", 0.8, weight=0.5, now_s=9.0)
    assert (first.verdict, first.arm) == ("learnt", "a")
    assert first.outcome is not None
    assert (first.outcome.quality, first.outcome.weight, first.outcome.features) == (0.8, 0.5, (1.0, 2.0))
    assert pending.settle("t1", 0.1, now_s=9.5).verdict == "repeated"
    assert pending.settle("t2", 0.1, now_s=11.0).verdict == "expired"
    assert pending.settle("t3", 0.1, now_s=11.0).verdict == "unknown"


def test_a_score_out_of_range_settles_nothing() -> None:
    pending = Pending()
    pending.add("t", "a", now_s=0.0)
    for quality in (1.2, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="quality"):
            pending.settle("t", quality, now_s=1.0)
    with pytest.raises(ConfigError, match="weight"):
        pending.settle("t", 1.0, weight=0.0, now_s=1.0)
    assert pending.settle("t", 1.0, now_s=1.0).verdict == "learnt"


@given(traces=st.lists(st.integers(0, 30), max_size=200))
def test_it_is_bounded_and_keeps_the_newest(traces: list[int]) -> None:
    pending = Pending(limit=8)
    for at, trace in enumerate(traces):
        pending.add(str(trace), "a", now_s=float(at))
    newest = list(dict.fromkeys(map(str, reversed(traces))))[:8]
    assert len(pending) == len(newest)
    assert all(pending.settle(trace, 1.0, now_s=0.0).verdict == "learnt" for trace in newest)


def test_after_a_restart_it_knows_what_was_settled() -> None:
    pending = Pending()
    pending.add("t1", "a", (0.5,), now_s=0.0)
    pending.add("t2", "b", (0.5,), now_s=0.0)
    pending.settle("t1", 1.0, now_s=1.0)
    again = Pending()
    again.restore(json.loads(json.dumps(pending.state())))
    assert again.settle("t1", 1.0, now_s=2.0).verdict == "repeated"
    assert again.settle("t2", 1.0, now_s=2.0).arm == "b"
