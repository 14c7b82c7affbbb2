from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.evaluation.counting.calibration import calibrate_cost, calibrate_share, drift, halfway


def coverage(make: object, *, share: float, level: float, n: int, m: int, splits: int = 1000) -> float:
    """How often the realised share of m held-out requests lies inside the band that n others gave."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(splits):
        scores = make(rng, n + m)  # type: ignore[operator]
        found = calibrate_share(scores[:n], share, level=level, next_requests=m)
        realised = (scores[n:] >= found.threshold).mean()
        inside += found.share_low - 1e-12 <= realised <= found.share_high + 1e-12
    return inside / splits


@pytest.mark.parametrize(
    ("share", "level", "n", "m"), [(0.3, 0.9, 400, 300), (0.05, 0.95, 200, 1000), (0.5, 0.8, 50, 80)]
)
def test_held_out_shares_lie_inside_the_band_as_often_as_stated(share: float, level: float, n: int, m: int) -> None:
    found = coverage(lambda rng, size: rng.standard_cauchy(size), share=share, level=level, n=n, m=m)
    # Exact for continuous scores; whole calls make it cover a little more. Three standard errors below.
    assert level - 3 * math.sqrt(level * (1 - level) / 1000) <= found <= level + 0.06


@pytest.mark.parametrize("values", [3, 11, 60])
def test_ties_widen_the_band_and_never_break_it(values: int) -> None:
    for share in (0.2, 0.3, 0.45):
        found = coverage(lambda rng, size: rng.integers(values, size=size), share=share, level=0.9, n=300, m=300)
        assert found >= 0.9 - 3 * math.sqrt(0.09 / 1000), share


@given(
    score=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    share=st.floats(0, 1),
)
def test_the_share_is_the_largest_that_fits_and_parts_no_tie(score: list[int], share: float) -> None:
    values = np.array(score, dtype=float)
    found = calibrate_share(values, share)
    sent = values >= found.threshold
    assert sent.sum() == found.calls <= share * len(score) + 1e-6
    assert found.share_low <= found.share + 1e-12
    rest = values[~sent]
    if len(rest):
        one_more = (values >= rest.max()).mean()
        assert one_more > share - 1e-9  # one score lower would be too much
        assert found.next_share in (None, pytest.approx(one_more))


def test_a_group_at_the_wanted_share_is_kept_and_said() -> None:
    found = calibrate_share(np.array([9.0, 5, 5, 5, 1]), 0.4)
    assert (found.threshold, found.calls, found.share, found.next_share) == (9.0, 1, 0.2, 0.8)
    assert calibrate_share(np.array([5.0, 5, 5]), 0.5).threshold == math.inf
    everything = calibrate_share(np.array([5.0, 1]), 1.0)
    assert (everything.threshold, everything.share_low, everything.share_high) == (-math.inf, 1, 1)


def test_money_buys_what_it_says_on_new_requests() -> None:
    rng = np.random.default_rng(1)
    inside, splits = 0, 300
    for number in range(splits):
        score, length = rng.random(600), rng.gamma(2, 50, 600)
        kept, sent = 1e-6 * length, 1e-5 * length * (1 + score)
        past, new = slice(0, 300), slice(300, 600)
        found = calibrate_cost(score[past], kept[past], sent[past], 0.6, level=0.9, resamples=300, seed=number,
                               next_requests=300)  # fmt: skip
        assert found.usd_per_1000 is not None and found.usd_per_1000 <= 0.6 + 1e-9
        assert found.usd_low is not None and found.usd_high is not None
        realised = 1000 * np.where(score[new] >= found.threshold, sent[new], kept[new]).mean()
        inside += found.usd_low <= realised <= found.usd_high
    assert inside / splits >= 0.9 - 3 * math.sqrt(0.09 / splits)


def test_too_little_money_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\$0.5 per 1,000 requests is less than the \$1 that the device alone costs"):
        calibrate_cost(np.array([1.0, 2]), np.array([1e-3, 1e-3]), np.array([1e-2, 1e-2]), 0.5)


def test_drift_of_the_share_and_of_the_scores_is_told_apart() -> None:
    rng = np.random.default_rng(2)
    past = rng.normal(size=1000)
    found = calibrate_share(past, 0.3)
    same = drift(past, rng.normal(size=500), found)
    assert not same.is_drifting and same.verdict.startswith("No drift: ")
    harder = drift(past, rng.normal(0.6, 1, size=500), found)
    assert harder.is_drifting and harder.share_p < 1e-3 and harder.ks_p < 1e-3
    assert harder.verdict.startswith("The share has drifted: ") and "Calibrate again" in harder.verdict
    below = past[past < found.threshold]
    reshaped = np.r_[np.full(350, below.min()), past[past >= found.threshold][:150]]
    other = drift(past, reshaped, found)
    assert other.is_drifting and other.verdict.startswith("The share holds: ")


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        ([], {}, "no score"),
        ([1, math.nan], {}, "score number 2 is NaN"),
        ([1.0], {"share": 1.5}, "share=1.5 is not in"),
        ([1.0], {"level": 1.0}, "level=1 is not between"),
        ([1.0], {"next_requests": 0}, "next=0"),
    ],
)
def test_bad_input_is_refused(score: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calibrate_share(np.array(score), **{"share": 0.3, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_halfway_decides_past_requests_alike_and_survives_the_last_digit(share: float) -> None:
    score = np.random.default_rng(0).random(40)
    threshold = calibrate_share(score, share).threshold
    between = halfway(score, threshold)
    assert ((score >= between) == (score >= threshold)).all()
    assert ((score * (1 - 1e-9) >= between) == (score >= threshold)).all()
