"""Evaluations of several seeds as one table."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.evaluation.counting.compared import Listed, compared, spread
from selfroute.evaluation.report.compared import comparison_page

LISTED = {
    "device": Listed("ends", "query", True),
    "router": Listed("routers", "query", False),
    "knowing": Listed("bounds", "token", False),
}


def line(name: str, accuracy: list[float | None], *, near: list[bool | None], spent: float = 0.0) -> dict[str, Any]:
    return {
        "name": name,
        "oracle": name == "knowing",
        "points": [{"point": None, "spent": spent, "accuracy": 0.4}],
        "accuracy": accuracy,
        "ci95": [None if value is None else [value - 0.1, value + 0.2] for value in accuracy],
        "near_best": near,
    }


def summary(seed: int, *, right: float, near: bool = True, device_spends: float = 0.0) -> dict[str, Any]:
    """A seed of two shares of one resource, of which the cloud alone spends 10."""
    lines = [
        line("device", [None, None], near=[None, None], spent=device_spends),
        line("router", [None, right], near=[None, near], spent=3.0),
        line("knowing", [0.9, 0.9], near=[True, True], spent=1.0),
    ]
    axis = {
        "axis": "cloud_tokens",
        "fractions": [0.1, 0.5],
        "device_spent": device_spends,
        "cloud_spent": 10.0,
        "random_accuracy": [0.45, 0.65],
        "oracle_accuracy": [0.5, 0.9],
        "lines": lines,
    }
    strategies = [
        {"name": name, "fixed": name == "device", "ci95": {"raw_overall_accuracy": [0.3, 0.5]}} for name in LISTED
    ]
    about = {"task": "toy", "n": 100, "seed": seed, "network": {}, "prices": None}
    ends = {"device_accuracy": 0.4, "cloud_accuracy": 0.9}
    return {**about, **ends, "axes": [axis], "strategies": strategies}


def at(table: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = next(each for each in table["axes"][0]["lines"] if each["strategy"] == name)["at"]
    return found


def test_means_and_deviations_are_over_seeds_and_intervals_have_their_ends_averaged() -> None:
    table = compared([summary(1, right=0.6), summary(2, right=0.8)], LISTED)
    assert at(table, "router")[1]["mean"] == pytest.approx(0.7)
    assert at(table, "router")[1]["sd"] == pytest.approx(0.2 / 2**0.5)
    assert at(table, "router")[1]["ci95"] == pytest.approx([0.6, 0.9])
    assert (table["seeds"], table["n"], table["shares"]) == ([1, 2], [100, 100], [0.1, 0.5])


def test_below_its_cheapest_setting_a_strategy_has_no_value() -> None:
    cell = at(compared([summary(1, right=0.6)], LISTED), "router")[0]
    assert cell == {"share": 0.1, "mean": None, "sd": None, "ci95": None, "near_best": False}


def test_a_star_has_to_stand_on_every_seed() -> None:
    both = compared([summary(1, right=0.6), summary(2, right=0.8)], LISTED)
    one = compared([summary(1, right=0.6), summary(2, right=0.8, near=False)], LISTED)
    assert at(both, "router")[1]["near_best"] and not at(one, "router")[1]["near_best"]


@pytest.mark.parametrize(("spends", "held"), [(0.0, [0.4, 0.4]), (4.0, [None, 0.4]), (6.0, [None, None])])
def test_what_treats_every_prompt_alike_stands_where_the_budget_allows_it(spends: float, held: list[float]) -> None:
    cells = at(compared([summary(1, right=0.6, device_spends=spends)], LISTED), "device")
    assert [cell["mean"] for cell in cells] == held
    assert [cell["ci95"] for cell in cells] == [None if value is None else [0.3, 0.5] for value in held]


def test_runs_are_also_told_as_parts_of_what_the_cloud_spends() -> None:
    (_, router, _) = compared([summary(1, right=0.6), summary(2, right=0.8)], LISTED)["runs"]
    assert router["spent"]["cloud_tokens"] == {"mean": 3.0, "sd": 0.0}
    assert router["of_cloud"]["cloud_tokens"]["mean"] == pytest.approx(0.3)


@given(st.lists(st.floats(0, 1), min_size=1))
def test_a_mean_lies_between_its_values_and_one_seed_has_no_deviation(values: list[float]) -> None:
    found = spread(values)
    assert found["mean"] is not None and min(values) - 1e-9 <= found["mean"] <= max(values) + 1e-9
    assert (found["sd"] is None) == (len(values) == 1)
    assert spread([*values, None]) == {"mean": None, "sd": None}


def test_the_page_says_where_records_do_not_tell() -> None:
    table = compared([summary(1, right=0.6)], LISTED)
    table["axes"][0]["cloud_spent"] = spread([None])
    page = comparison_page({**table, "command": "x", "commit": "abc", "left_out": []})
    assert "## Tokens that the cloud writes per request\n\nThe records do not tell." in page


def test_the_page_marks_ranks_and_names_what_is_left_out() -> None:
    table = compared([summary(1, right=0.6), summary(2, right=0.8)], LISTED)
    left = [{"name": "split", "why": "not run", "command": "selfroute compare x"}]
    page = comparison_page({**table, "command": "selfroute compare x", "commit": "abc", "left_out": left})
    rows = [row for row in page.splitlines() if row.startswith("| ")]
    assert [row.split(" |")[0].split("  ")[0] for row in rows[1:4]] == [
        "| knowing (oracle)",
        "| device (free)",
        "| router",
    ]
    assert "Right, in %: device alone 40.0 ± 0.0, cloud alone 90.0 ± 0.0." in page
    assert "- **split**: not run: `selfroute compare x`" in page
    assert len({len(row) for row in rows[:6]}) == 1, "columns line up"
