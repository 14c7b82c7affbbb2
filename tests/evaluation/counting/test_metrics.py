from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from selfroute.errors import ConfigError
from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.resampling import percentiles, resample
from selfroute.evaluation.counting.split import Split

ROUTELLM = Path(__file__).parents[4] / "shared" / "data" / "routellm"
NAN = math.nan

Bools = npt.NDArray[np.bool_]
bits = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.5, 1.0])), min_size=1)


def bools(*values: int) -> Bools:
    return np.array(values, dtype=bool)


# A hand-computed example: 5 prompts, device 2/5, cloud 4/5.
DEVICE = bools(1, 0, 0, 1, 0)
CLOUD = bools(1, 1, 1, 0, 1)
SCORE = np.array([0.1, 0.9, 0.8, 0.5, 0.3])


def curve(score: npt.NDArray[np.float64] = SCORE) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return metrics.call_curve(DEVICE, CLOUD, metrics.send_order(score, seed=0))


def test_curve_sends_one_prompt_after_the_other() -> None:
    shares, accuracies = curve()
    assert shares.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert accuracies.tolist() == pytest.approx([0.4, 0.6, 0.8, 0.6, 0.8, 0.8])


def test_apgr_and_cpt_by_hand() -> None:
    area = 0.2 * (0.2 + 0.6 + 0.8 + 0.6 + 0.8 + 0.4)
    assert metrics.apgr(*curve()) == pytest.approx((area - 0.4) / 0.4)
    assert metrics.cpt(*curve(), 0.5) == pytest.approx(0.2)
    assert metrics.cpt(*curve(), 0.8) == pytest.approx(0.4)


def test_accuracy_at_is_exact_at_points_and_linear_between() -> None:
    for share, accuracy in [(0, 0.4), (0.2, 0.6), (0.3, 0.7), (0.4, 0.8), (0.5, 0.7), (1, 0.8)]:
        assert metrics.accuracy_at(*curve(), share) == pytest.approx(accuracy)


def test_auroc_by_hand() -> None:
    # Positives (device wrong) score .9 .8 .3, negatives .1 .5: 5 of 6 pairs in order.
    assert metrics.auroc(SCORE, ~DEVICE) == pytest.approx(5 / 6)
    assert metrics.auroc(np.ones(5), ~DEVICE) == 0.5
    assert np.isnan(metrics.auroc(SCORE, np.ones(5, dtype=bool)))


def test_oracle_gain_by_hand() -> None:
    # At 40 %: random 0.4 + 0.4·0.4 = 0.56, oracle 0.8, curve 0.8.
    random = metrics.random_accuracy(0.4, 0.8, 0.4)
    oracle = metrics.oracle_accuracy(DEVICE, CLOUD, 0.4)
    assert (random, oracle) == (pytest.approx(0.56), pytest.approx(0.8))
    assert metrics.oracle_gain(metrics.accuracy_at(*curve(), 0.4), random, oracle) == pytest.approx(1)
    assert metrics.oracle_gain(random, random, oracle) == pytest.approx(0)
    assert np.isnan(metrics.oracle_gain(np.float64(1.0), np.float64(1.0), np.float64(1.0)))


@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.6, 0.8, 1])
def test_oracle_is_the_best_of_all_choices(share: float) -> None:
    k = round(share * 5)
    best = max(
        np.where(np.isin(np.arange(5), sent), CLOUD, DEVICE).mean() for sent in itertools.combinations(range(5), k)
    )
    assert metrics.oracle_accuracy(DEVICE, CLOUD, share) == pytest.approx(best)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=7), st.integers(0, 7))
def test_the_oracle_of_qualities_is_the_best_of_all_choices(rows: list[tuple[float, float]], k: int) -> None:
    device, cloud = (np.array([row[i] for row in rows]) for i in (0, 1))
    k = min(k, len(rows))
    best = max(
        np.where(np.isin(np.arange(len(rows)), sent), cloud, device).mean()
        for sent in itertools.combinations(range(len(rows)), k)
    )
    assert metrics.oracle_accuracy(device, cloud, k / len(rows)) == pytest.approx(best, abs=1e-12)


@given(bits)
def test_random_line_is_the_mean_of_all_choices_and_its_apgr_one_half(
    rows: list[tuple[bool, bool, bool, float]],
) -> None:
    device, cloud = (np.array([row[i] for row in rows]) for i in (0, 1))
    n = len(rows)
    rotations = [metrics.call_curve(device, cloud, np.roll(np.arange(n), r)) for r in range(n)]
    mean = np.mean([accuracies for _, accuracies in rotations], axis=0)
    line = metrics.random_accuracy(float(device.mean()), float(cloud.mean()), rotations[0][0])
    assert mean == pytest.approx(line)
    if cloud.mean() > device.mean():
        assert metrics.apgr(rotations[0][0], line) == pytest.approx(0.5)


@given(bits, st.floats(0, 1), st.integers(0, 5), st.booleans())
def test_matched_share_is_exact(
    rows: list[tuple[bool, bool, bool, float]], share: float, seed: int, scored: bool
) -> None:
    device, cloud, wants = (np.array([row[i] for row in rows]) for i in range(3))
    score = np.array([row[3] if scored else NAN for row in rows])
    matched = metrics.match_share(wants, score, share=share, seed=seed)
    k = metrics.calls_at(share, len(rows))
    assert matched.sent.sum() == k <= share * len(rows) + 1e-6
    assert not (matched.refused & matched.sent).any() and not (matched.added & ~matched.sent).any()
    if scored and 0 < k < len(rows):
        assert score[matched.sent].min() >= score[~matched.sent].max()
    if not scored:  # cut or topped up, never both
        assert not (matched.refused.any() and matched.added.any())
    # The curve read at the share is the same number, in both countings.
    order = metrics.send_order(metrics.filled_score(wants, score), seed=seed)
    for wrong, kept in ((False, device), (True, device & ~wants)):
        expected = metrics.accuracy_at(*metrics.call_curve(kept, cloud, order), k / len(rows))
        assert metrics.matched_accuracy(matched, device, cloud, excess_wrong=wrong) == pytest.approx(float(expected))


def test_excess_requests_count_both_ways() -> None:
    # Asks for all five, two are allowed; a collapsed policy scores share x cloud in the paper's counting.
    matched = metrics.match_share(np.ones(5, dtype=bool), SCORE, share=0.4, seed=0)
    assert matched.sent.tolist() == [False, True, True, False, False]
    assert metrics.matched_accuracy(matched, DEVICE, CLOUD) == pytest.approx(0.8)
    assert metrics.matched_accuracy(matched, DEVICE, CLOUD, excess_wrong=True) == pytest.approx(0.4)


def test_ties_are_broken_by_the_seed_alone() -> None:
    orders = [metrics.send_order(np.zeros(50), seed=seed).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_a_missing_score_follows_the_decision() -> None:
    filled = metrics.filled_score(bools(1, 0, 1), np.array([NAN, NAN, 0.2]))
    assert filled.tolist() == [np.inf, -np.inf, 0.2]


@pytest.mark.parametrize("share", [-0.1, 1.01, NAN])
def test_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"share=.* is not in \[0, 1\]"):
        metrics.calls_at(share, 10)


def test_whole_calls_survive_rounding() -> None:
    assert [metrics.calls_at(0.3, n) for n in (10, 1000, 400, 7)] == [3, 300, 120, 2]
    assert metrics.calls_at(0.29, 100) == 29


# --- weights and intervals -------------------------------------------------------------------------------------


@given(bits, st.integers(0, 3))
def test_weights_equal_repeated_prompts(rows: list[tuple[bool, bool, bool, float]], seed: int) -> None:
    device, cloud = (np.array([row[i] for row in rows]) for i in (0, 1))
    score = np.array([row[3] for row in rows])
    weights = next(metrics.bootstrap_weights(len(rows), resamples=4, seed=seed))
    assert weights.shape == (4, len(rows)) and (weights.sum(1) == len(rows)).all()
    order = metrics.send_order(score, seed=0)
    shares, accuracies = metrics.call_curve(device, cloud, order, weights)
    area = metrics.auroc(score, ~device, weights)
    k = metrics.calls_at(0.3, len(rows)) / len(rows)
    for b in range(4):
        again = np.repeat(order, weights[b, order])
        own = metrics.call_curve(device[again], cloud[again], np.arange(len(rows)))
        for share in (0, k, 1):
            assert metrics.accuracy_at(shares[b], accuracies[b], share) == pytest.approx(
                metrics.accuracy_at(*own, share)
            )
        assert np.allclose(metrics.apgr(shares[b], accuracies[b]), metrics.apgr(*own), equal_nan=True)
        # A prompt drawn several times is one step of the weighted curve: a crossing is seen at the step's end.
        late = metrics.cpt(shares[b], accuracies[b], 0.5) - metrics.cpt(*own, 0.5)
        assert np.isnan(late) or -1e-9 <= late <= (weights[b].max() - 1) / len(rows) + 1e-9
        assert np.allclose(area[b], metrics.auroc(score[again], ~device[again]), equal_nan=True)
        oracle = metrics.oracle_accuracy(device, cloud, k, weights)
        assert oracle[b] == pytest.approx(metrics.oracle_accuracy(device[again], cloud[again], k))


def test_blocks_do_not_change_the_number_of_samples() -> None:
    blocks = list(metrics.bootstrap_weights(10, resamples=7, seed=0, cells=30))
    assert [len(block) for block in blocks] == [3, 3, 1]


def interval(values: Any, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of a mean over prompts."""
    n = len(values)
    no, yes = np.zeros(n), np.ones(n)
    prompts = Split("s", no.astype(bool), no, device=no, cloud=yes, served=no, order=np.arange(n), numbers={}, errors=0)
    drawn = resample([prompts], lambda *_: {}, [{"mean": values.astype(float)}], resamples=resamples, seed=seed)
    return drawn.band(0, "mean")


def test_interval_agrees_with_the_normal_one() -> None:
    hits = np.arange(400) < 240
    low, high = interval(hits, seed=1)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    assert (low, high) == (pytest.approx(0.6 - half, abs=0.006), pytest.approx(0.6 + half, abs=0.006))


def test_a_paired_difference_is_narrower() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(500) < 0.6
    second = first ^ (rng.random(500) < 0.05)
    low, high = interval(first.astype(float) - second, resamples=500)
    assert high - low < 0.05 < 2 * 1.96 * math.sqrt(2 * 0.24 / 500)
    assert interval(np.zeros(500), resamples=50) == (0, 0)


def test_interval_of_something_undefined_is_nan() -> None:
    low, high = percentiles(np.full(5, NAN))
    assert np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize(
    ("device", "cloud", "band", "reason"),
    [
        (0.6, 0.61, (0.005, 0.015), "the cloud leads the device by 1.0 points, less than 2"),
        (0.39, 0.347, (-0.07, -0.01), "the cloud hurts: it gets 34.7 % right, the device 39.0 %"),
        (0.5, 0.6, (-0.05, 0.25), "the cloud's lead over the device has a 95 % interval of -5.0 to 25.0 points"),
        (0.6, 0.9, (0.28, 0.32), None),
    ],
)
def test_apgr_is_refused_when_the_lead_means_nothing(
    device: float, cloud: float, band: tuple[float, float], reason: str | None
) -> None:
    assert metrics.apgr_refusal(device, cloud, band) == reason


def test_risk_coverage_by_hand() -> None:
    # Sent first to last: wrong, right, wrong, right. Kept in the other order: risks 0, 1/2, 1/3, 1/2.
    wrong = np.array([1.0, 0, 1, 0])
    aurc = metrics.risk_coverage(np.ones(4), wrong)
    assert aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    perfect = metrics.risk_coverage(np.ones(4), np.array([1.0, 1, 0, 0]))
    assert perfect == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert metrics.excess_risk(aurc, np.array(0.5), 4) == pytest.approx(aurc - perfect)


@given(wrong=st.lists(st.booleans(), min_size=1, max_size=30))
def test_excess_risk_is_zero_for_a_perfect_order_and_never_below(wrong: list[bool]) -> None:
    n, errors = len(wrong), np.array(wrong, dtype=float)
    aurc = metrics.risk_coverage(np.ones(n), errors)
    assert metrics.excess_risk(aurc, errors.mean(), n) >= -1e-9
    perfect = metrics.risk_coverage(np.ones(n), np.sort(errors)[::-1])
    assert metrics.excess_risk(perfect, errors.mean(), n) == pytest.approx(0, abs=1e-9)


def test_aiq_by_hand() -> None:
    # From (0, .5) straight to (1, .9), flat to 2; the point in the dent is below the hull.
    cost, accuracy = np.array([0.0, 0.5, 1.0, 2.0]), np.array([0.5, 0.6, 0.9, 0.8])
    assert metrics.aiq(cost, accuracy, low=0, high=2, start=0.5) == pytest.approx((0.7 + 0.9) / 2)
    # A strategy whose cheapest point is dearer may be mixed with the cheapest of all.
    assert metrics.aiq(np.array([1.0]), np.array([0.9]), low=0, high=2, start=0.5) == pytest.approx(0.8)
    assert np.isnan(metrics.aiq(cost, accuracy, low=1, high=1, start=0.5))


def test_mcnemar_and_holm_agree_with_scipy_and_by_hand() -> None:
    a = bools(*[1] * 12, *[0] * 3, *[1] * 5)
    b = bools(*[0] * 12, *[1] * 3, *[1] * 5)
    assert metrics.mcnemar(a, b) == pytest.approx(binomtest(12, 15).pvalue)
    assert metrics.mcnemar(a, a) == 1
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([]) == []


def test_reliability_bins_hold_their_rates() -> None:
    value = np.linspace(0, 1, 1000)
    bins = metrics.reliability(value, (value > 0.5).astype(float))
    assert len(bins) == 10 and sum(found.n for found in bins) == 1000
    assert [found.rate for found in bins] == [0] * 5 + [1] * 5
    assert metrics.calibration_error(bins) == pytest.approx(0.25, abs=0.01)
    few = metrics.reliability(np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 1, 1]))
    assert [(found.mean, found.n, found.rate) for found in few] == [(0, 2, 0.5), (1, 2, 1)]
    assert few[0].rate_low == pytest.approx(0.0126, abs=1e-4)  # Clopper and Pearson, 1 of 2


def test_auroc_against_rates_is_that_of_repeated_prompts() -> None:
    score, rate = np.array([0.1, 0.5, 0.9]), np.array([0.25, 0.5, 1.0])
    repeated = [(s, k < 4 * r) for s, r in zip(score, rate, strict=True) for k in range(4)]
    found = metrics.auroc(np.array([s for s, _ in repeated]), np.array([p for _, p in repeated]))
    assert metrics.auroc_of_rates(score, rate) == pytest.approx(found)


# --- the threshold rule

rates = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(rates, st.floats(0.05, 0.95), st.randoms(use_true_random=False))
def test_the_rule_itself_has_no_regret_and_nobody_beats_it_where_the_cloud_knows_all(
    values: list[float], threshold: float, rng: Any
) -> None:
    rate = np.array(values)
    cloud = np.ones(len(rate), bool)
    own = metrics.threshold_rule(rate, rate < threshold, cloud, threshold)
    assert (own.agreement, own.regret) == (1.0, 0.0)
    wants = np.array([rng.random() < 0.5 for _ in values])
    other = metrics.threshold_rule(rate, wants, cloud, threshold)
    assert other.regret >= 0
    assert other.agreement == np.mean(wants == (rate < threshold))


def test_regret_is_what_wrong_decisions_cost() -> None:
    rate, cloud = np.array([0.0, 0.2, 0.9, 0.1]), np.array([True, True, True, False])
    wants = np.array([True, False, True, True])  # the second should be handed off, the third kept
    found = metrics.threshold_rule(rate, wants, cloud, 0.5)
    assert found.agreement == 0.5
    assert found.regret == pytest.approx(((0.5 - 0.2) + (0.9 - 0.5)) / 4)
