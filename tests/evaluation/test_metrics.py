from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.evaluation import metrics

ROUTELLM = Path(__file__).parents[3] / "shared" / "data" / "routellm"
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


def test_interval_agrees_with_the_normal_one() -> None:
    hits = np.arange(400) < 240
    low, high = metrics.intervals(lambda w: {"mean": metrics.weighted_mean(hits, w)}, 400, seed=1)["mean"]
    half = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    assert (low, high) == (pytest.approx(0.6 - half, abs=0.006), pytest.approx(0.6 + half, abs=0.006))


def test_a_paired_difference_is_narrower() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(500) < 0.6
    second = first ^ (rng.random(500) < 0.05)
    low, high = metrics.intervals(
        lambda w: {"d": metrics.weighted_mean(first.astype(float) - second, w)}, 500, resamples=500
    )["d"]
    assert high - low < 0.05 < 2 * 1.96 * math.sqrt(2 * 0.24 / 500)
    same = metrics.intervals(lambda w: {"d": metrics.weighted_mean(np.zeros(500), w)}, 500, resamples=50)["d"]
    assert same == (0, 0)


def test_interval_of_something_undefined_is_nan() -> None:
    low, high = metrics.intervals(lambda w: {"x": np.full(len(w), NAN)}, 5, resamples=3)["x"]
    assert np.isnan(low) and np.isnan(high)


def test_apgr_is_refused_when_the_lead_means_nothing() -> None:
    device = np.arange(1000) < 600
    assert metrics.apgr_refusal(device, np.arange(1000) < 610) == (
        "the cloud leads the device by 1.0 points, less than 2"
    )
    assert "leads the device by -10.0 points" in str(metrics.apgr_refusal(device, np.arange(1000) < 500))
    few = metrics.apgr_refusal(bools(1, 0, 1, 0, 0, 1), bools(0, 1, 1, 0, 1, 1))
    assert few is not None and "95 % interval" in few
    assert metrics.apgr_refusal(device, np.arange(1000) < 900) is None


# --- RouteLLM's recorded answers -------------------------------------------------------------------------------


def routellm_gsm8k() -> tuple[Bools, Bools, npt.NDArray[np.float64]]:
    """Weak and strong correctness and prompt length, without the contaminated prompts."""
    with (ROUTELLM / "gsm8k_contaminated_prompts.jsonl").open(encoding="utf-8") as lines:
        left_out = {json.loads(line)["eval_prompt"] for line in lines}
    with (ROUTELLM / "gsm8k_responses.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] not in left_out]
    weak, strong = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
    device, cloud = (np.array([row[name] == "True" for row in rows]) for name in (weak, strong))
    return device, cloud, np.array([float(len(row["prompt"])) for row in rows])


@pytest.mark.data
@pytest.mark.skipif(not ROUTELLM.is_dir(), reason="needs ../shared/data/routellm")
def test_routellm_gsm8k_rows_are_reproduced() -> None:
    device, cloud, length = routellm_gsm8k()
    assert len(device) == 1307
    either, only_cloud = (device | cloud).mean(), (cloud & ~device).mean()
    assert [round(100 * x, 2) for x in (device.mean(), cloud.mean(), either, only_cloud)] == [
        63.73,
        85.77,
        92.96,
        29.23,
    ]

    random = [metrics.apgr_routellm(np.random.default_rng(s).random(1307), device, cloud) for s in range(200)]
    assert np.mean(random) == pytest.approx(0.5, abs=0.006)
    assert np.std(random) == pytest.approx(0.021, abs=0.004)

    order = metrics.send_order(cloud.astype(float) - device, seed=0)
    place = np.empty(1307)
    place[order] = -np.arange(1307.0)
    oracle = metrics.call_curve(device, cloud, order)
    assert metrics.apgr_routellm(place, device, cloud) == pytest.approx(1.115, abs=0.001)
    assert 100 * metrics.cpt(*oracle, 0.5) == pytest.approx(11.0, abs=0.05)
    assert 100 * metrics.cpt(*oracle, 0.8) == pytest.approx(17.7, abs=0.05)
    assert metrics.apgr_routellm(length, device, cloud) == pytest.approx(
        0.597, abs=0.002
    )  # equal lengths: 0.5975 to 0.5987
    exact = metrics.apgr(*metrics.call_curve(device, cloud, metrics.send_order(length, seed=0)))
    assert exact == pytest.approx(0.597, abs=0.002)
