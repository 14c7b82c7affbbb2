from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from selfroute.errors import ConfigError
from selfroute.evaluation.counting.columns import columns_of
from selfroute.evaluation.counting.split import splits_of
from selfroute.evaluation.counting.summary import curves, summarise
from selfroute.evaluation.records import Record


def made(strategy: str, *, n: int = 200, scored: bool = True, asks: float = 0.4, seed: int = 0) -> list[Record]:
    """Prompts of graded difficulty; the device fails on the hard ones, the score sees difficulty through noise."""
    world, own = random.Random(0), random.Random(f"{strategy}{seed}")
    rows = []
    for i in range(n):
        hard = world.random()
        device, cloud = hard < 0.55 + 0.1 * world.random(), world.random() < 0.95 - 0.2 * hard
        score = hard + own.gauss(0, 0.15)
        rows.append(
            Record(
                strategy=strategy,
                id=f"p{i:04}",
                source="device",
                wants_cloud=score > 1 - asks,
                score=score if scored else None,
                device_correct=device,
                cloud_correct=cloud,
                device_tokens=10,
                cloud_tokens=i % 3,
                usd=0.001,
            )
        )
    return rows


def fixed(name: str, *, wants: bool) -> list[Record]:
    values = [(r.id, r.device_correct, r.cloud_correct) for r in made("x")]
    return [
        Record(strategy=name, id=i, source="device", wants_cloud=wants, device_correct=d, cloud_correct=c)
        for i, d, c in values
    ]


ALL = [
    *fixed("always_device", wants=False),
    *fixed("always_cloud", wants=True),
    *made("sees"),
    *made("asks", scored=False),
]


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summarise(ALL, share=0.3, seed=3, task="toy", resamples=200)


def entry(summary: dict[str, Any], name: str) -> dict[str, Any]:
    return next(e for e in summary["strategies"] if e["name"] == name)


def by_hand(records: list[Record], share: float) -> dict[str, float]:
    """The second calculation: plain loops over one scored strategy's records."""
    n = len(records)
    ranked = sorted(records, key=lambda r: -(r.score or 0.0))
    k = int(share * n)
    accuracy = [
        sum(bool(r.cloud_correct if i < sent else r.device_correct) for i, r in enumerate(ranked)) / n
        for sent in range(n + 1)
    ]
    device, cloud = accuracy[0], accuracy[-1]
    only_cloud = sum(bool(r.cloud_correct and not r.device_correct) for r in records) / n
    kept = [r for r in records if not r.wants_cloud]
    wrong = [r.score or 0.0 for r in records if not r.device_correct]
    right = [r.score or 0.0 for r in records if r.device_correct]
    chance = device + k / n * (cloud - device)
    return {
        "call_share": k / n,
        "raw_call_share": 1 - len(kept) / n,
        "overall_accuracy": accuracy[k],
        "overall_accuracy_excess_wrong": accuracy[k]
        - sum(bool(r.device_correct) for r in ranked[k:] if r.wants_cloud) / n,
        "raw_overall_accuracy": sum(bool(r.cloud_correct if r.wants_cloud else r.device_correct) for r in records) / n,
        "local_accuracy": sum(bool(r.device_correct) for r in kept) / n,
        "conditional_local_accuracy": sum(bool(r.device_correct) for r in kept) / len(kept),
        "forced_local_accuracy": device,
        "apgr": (sum((a + b) / 2 / n for a, b in pairwise(accuracy)) - device) / (cloud - device),
        "cpt50": next(i for i, a in enumerate(accuracy) if a >= device + 0.5 * (cloud - device) - 1e-9) / n,
        "cpt80": next(i for i, a in enumerate(accuracy) if a >= device + 0.8 * (cloud - device) - 1e-9) / n,
        "oracle_gain": (accuracy[k] - chance) / (device + min(k / n, only_cloud) - chance),
        "auroc": sum(w > r for w in wrong for r in right) / len(wrong) / len(right),
        "usd": 0.001 * n,
        "device_tokens": 10 * n,
    }


def test_every_number_agrees_with_a_second_calculation(summary: dict[str, Any]) -> None:
    found = entry(summary, "sees")
    for name, value in by_hand(made("sees"), 0.3).items():
        assert found[name] == pytest.approx(value), name


def test_top_level_facts(summary: dict[str, Any]) -> None:
    rows = made("x")
    device = [bool(r.device_correct) for r in rows]
    cloud = [bool(r.cloud_correct) for r in rows]
    assert (summary["task"], summary["n"], summary["n_excluded"], summary["call_share_target"]) == ("toy", 200, 0, 0.3)
    assert summary["reference"] == "always_device"
    assert summary["device_accuracy"] == pytest.approx(np.mean(device))
    assert summary["cloud_accuracy"] == pytest.approx(np.mean(cloud))
    assert summary["either_accuracy"] == pytest.approx(np.mean([d or c for d, c in zip(device, cloud, strict=True)]))


def test_fixed_strategies_are_marked_and_scored_ones_win(summary: dict[str, Any]) -> None:
    assert [e["name"] for e in summary["strategies"] if e["fixed"]] == ["always_device", "always_cloud"]
    assert entry(summary, "always_cloud")["raw_overall_accuracy"] == pytest.approx(summary["cloud_accuracy"])
    assert entry(summary, "always_cloud")["conditional_local_accuracy"] is None
    assert (entry(summary, "sees")["matched_by"], entry(summary, "asks")["matched_by"]) == ("score", "random")
    assert entry(summary, "sees")["overall_accuracy"] > summary["random_accuracy"] + 0.05
    comparison = summary["comparisons"][0]
    assert {comparison["a"], comparison["b"]} == {"sees", "asks"} and comparison["difference"] >= 0


def test_intervals_hold_their_point(summary: dict[str, Any]) -> None:
    for found in summary["strategies"]:
        for name, band in found["ci95"].items():
            assert (found[name] is None) == (band is None)
            if band is not None:
                assert band[0] - 0.011 <= found[name] <= band[1] + 0.011, (found["name"], name)


def test_a_difference_is_the_difference_of_the_table(summary: dict[str, Any]) -> None:
    for c in summary["comparisons"]:
        a, b = (entry(summary, c[side])["overall_accuracy"] for side in "ab")
        assert c["difference"] == pytest.approx(a - b)
        assert c["ci95"][0] <= c["difference"] <= c["ci95"][1]


def test_order_of_records_does_not_matter_and_the_seed_decides(summary: dict[str, Any]) -> None:
    shuffled = random.Random(1).sample(ALL, len(ALL))
    again = summarise(shuffled, share=0.3, seed=3, task="toy", resamples=200)
    names = [e["name"] for e in summary["strategies"]]
    for found in (again["strategies"], again["axes"][0]["lines"]):
        found.sort(key=lambda e: names.index(e["name"]))
    assert again == summary
    assert summarise(ALL, share=0.3, seed=4, task="toy", resamples=200) != summary


def test_the_summary_is_strict_json(summary: dict[str, Any]) -> None:
    json.dumps(summary, allow_nan=False)
    one = summarise(ALL[:1], share=0.3, seed=0, resamples=5)
    assert json.loads(json.dumps(one, allow_nan=False))["n"] == 1


def test_apgr_is_refused_with_a_reason() -> None:
    rows = [
        Record(
            strategy="s", id=str(i), source="device", wants_cloud=False, device_correct=i < 60, cloud_correct=i >= 40
        )
        for i in range(100)
    ]
    found = summarise(rows, share=0.3, seed=0, resamples=50)["strategies"][0]
    assert found["apgr"] is found["cpt50"] is found["ci95"]["apgr"] is None
    assert found["apgr_refused"] == "the cloud leads the device by 0.0 points, less than 2"
    assert found["overall_accuracy"] is not None


def test_prompts_that_failed_anywhere_are_left_out_everywhere() -> None:
    rows = made("a", n=50) + made("b", n=50)
    gap = Record(strategy="a", id="p0003", source="device", wants_cloud=False, device_correct=True, error="cloud down")
    rows = [gap if r.key == gap.key else r for r in rows]
    result = summarise(rows, share=0.3, seed=0, resamples=20)
    assert (result["n"], result["n_excluded"]) == (49, 1)
    assert [e["errors"] for e in result["strategies"]] == [1, 0]
    without = summarise([r for r in rows if r.id != "p0003"], share=0.3, seed=0, resamples=20)
    assert entry(result, "b")["overall_accuracy"] == entry(without, "b")["overall_accuracy"]


def test_nothing_graded_is_an_error_that_names_the_strategy() -> None:
    failed = [Record(strategy="b", id=r.id, source="device", wants_cloud=False, error="x") for r in made("a", n=2)]
    rows = [*made("a", n=2), *failed]
    with pytest.raises(ConfigError, match=r"none of 2 prompts.*strategy 'b' has none"):
        summarise(rows, share=0.3, seed=0)
    with pytest.raises(ConfigError, match="none of 0 prompts"):
        summarise([], share=0.3, seed=0)


def test_strategies_run_on_different_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"r\.jsonl: strategy 'b' has no record of row 'p0002', which 'a' has"):
        splits_of(columns_of([*made("a", n=3), *made("b", n=2)]), seed=0, where="r.jsonl")


def test_curves_pass_through_the_table(summary: dict[str, Any]) -> None:
    drawn = curves(ALL, seed=3)
    at = int(np.argmin(np.abs(drawn.shares - 0.3)))
    assert drawn.shares[at] == pytest.approx(0.3)
    for line in drawn.lines:
        assert line.accuracy[at] == pytest.approx(entry(summary, line.name)["overall_accuracy"])
        assert line.raw_accuracy == pytest.approx(entry(summary, line.name)["raw_overall_accuracy"])
        assert (line.low <= line.accuracy + 0.01).all() and (line.high >= line.accuracy - 0.01).all()
    assert (drawn.oracle[at], drawn.random[at]) == pytest.approx(
        (summary["oracle_accuracy"], summary["random_accuracy"])
    )
    assert (drawn.random[[0, -1]] == [drawn.device, drawn.cloud]).all()


def test_the_axis_of_calls_is_the_matched_share(summary: dict[str, Any]) -> None:
    axis = summary["axes"][0]
    assert (axis["axis"], axis["device_spent"], axis["cloud_spent"]) == ("calls", 0, 1)
    at = axis["fractions"].index(0.3)
    assert axis["random_accuracy"][at] == pytest.approx(summary["random_accuracy"])
    assert axis["oracle_accuracy"][at] == pytest.approx(summary["oracle_accuracy"])
    for line in axis["lines"]:
        found = entry(summary, line["name"])
        assert line["points"][0]["spent"] == pytest.approx(found["raw_call_share"])
        assert line["points"][0]["accuracy"] == pytest.approx(found["raw_overall_accuracy"])
        if found["fixed"]:
            assert line["accuracy"] == line["ci95"] == line["near_best"] == [None] * 5
        else:
            assert line["accuracy"][at] == pytest.approx(found["overall_accuracy"])
            assert line["ci95"][at] == pytest.approx(found["ci95"]["overall_accuracy"])


def test_an_axis_is_counted_at_the_fractions_that_are_asked_for(summary: dict[str, Any]) -> None:
    wide, narrow = summary["axes"][0], summarise(ALL, share=0.3, seed=3, resamples=50, fractions=(0.2,))["axes"][0]
    at = wide["fractions"].index(0.2)
    assert narrow["fractions"] == [0.2]
    for few, all_ in zip(narrow["lines"], wide["lines"], strict=True):
        assert few["accuracy"] == [all_["accuracy"][at]] and len(few["ci95"]) == 1


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["tokens"], "axes: unknown axis 'tokens'; did you mean '.*tokens'. known: calls, round_trips"),
        (["calls", "calls"], "axes: 'calls' occurs more than once"),
        (["usd"], "axes: 'usd' needs a price table; add prices: FILE"),
    ],
)
def test_an_axis_that_cannot_be_counted_is_refused(axes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        summarise(ALL, share=0.3, seed=0, axes=axes)


def test_qualities_are_counted_as_means_and_as_solved_where_right_or_wrong_is_asked() -> None:
    rows = [
        replace(r, device_correct=0.6 if r.device_correct else 0.2, cloud_correct=0.9 if r.cloud_correct else 0.4)
        for r in made("sees")
    ]
    graded = summarise(rows, share=0.3, seed=3, resamples=100)
    bits = summarise(made("sees"), share=0.3, seed=3, resamples=100)
    device, cloud = bits["device_accuracy"], bits["cloud_accuracy"]
    assert graded["device_accuracy"] == pytest.approx(0.2 + 0.4 * device)
    assert graded["cloud_accuracy"] == pytest.approx(0.4 + 0.5 * cloud)
    (own,), (other,) = graded["strategies"], bits["strategies"]
    assert own["reliability"] == other["reliability"]
    for name in ("auroc", "aurc", "aurc_excess", "raw_call_share"):
        assert own[name] == pytest.approx(other[name]), name
        assert own["ci95"][name] == pytest.approx(other["ci95"][name]), name


def test_bits_written_as_numbers_give_the_same_numbers(summary: dict[str, Any]) -> None:
    as_numbers = [
        replace(r, device_correct=float(r.device_correct or 0), cloud_correct=float(r.cloud_correct or 0)) for r in ALL
    ]
    assert summarise(as_numbers, share=0.3, seed=3, task="toy", resamples=200) == summary


def test_what_both_wrote_is_graded_or_left_out() -> None:
    rows = [
        replace(r, strategy="together", joint=i > 0, source="both" if i else "device", correct=None if i < 2 else 1.0)
        for i, r in enumerate(made("sees", n=20))
    ]
    result = summarise([*made("sees", n=20), *rows], share=0.3, seed=0, resamples=20)
    assert (result["n"], result["n_excluded"]) == (18, 2)
    assert entry(result, "together")["raw_overall_accuracy"] == 1.0
