from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.evaluation.recompute import main
from tests.evaluation.world import (
    Counting,
    Dial,
    N,
    Together,
    Toy,
    device_solves,
    entrants,
    half,
    large,
    other_half,
    run,
    small,
)

from selfroute.errors import ConfigError
from selfroute.evaluation.counting.columns import columns_of, read_columns
from selfroute.evaluation.records import read_records, read_samples
from selfroute.strategies.always import AlwaysCloud, AlwaysDevice
from selfroute.strategies.base import Strategy

AXES = ("calls", "round_trips", "cloud_tokens", "cloud_prompt_tokens", "layer_tokens", "bytes", "seconds")


async def test_a_knob_is_run_at_each_of_its_points(tmp_path: Path) -> None:
    device, cloud = half(), other_half()
    who = entrants([AlwaysDevice(), Dial("dial"), AlwaysCloud()], device, cloud)
    summary = await run(tmp_path, who, cloud=cloud, axes=AXES)
    records = {r.key: r for r in read_records(tmp_path / "records.jsonl")}
    assert len(records) == N * 5 and {key[:2] for key in records if key[0] == "dial"} == {
        ("dial", 0.0),
        ("dial", 10.0),
        ("dial", 20.0),
    }
    assert records["dial", 10.0, "n004"].source == "both" and records["dial", 0.0, "n004"].source == "device"
    samples = {s.key: s for s in read_samples(tmp_path / "samples.jsonl")}
    assert samples["dial", 10.0, "n004"].cloud_text == "middle, "
    assert samples["dial", 10.0, "n004"].local_text == samples["dial", 0.0, "n004"].local_text != ""
    settings = {(e["name"], e["point"]): e["raw_overall_accuracy"] for e in summary["strategies"]}
    assert settings["dial", 0.0] == 0 and settings["dial", 10.0] == 0.25 and settings["dial", 20.0] == 0.5
    calls = next(axis for axis in summary["axes"] if axis["axis"] == "calls")
    line = next(line for line in calls["lines"] if line["name"] == "dial")
    assert [(p["point"], p["spent"], p["accuracy"]) for p in line["points"]] == [
        (0, 0, 0),
        (10, 0.25, 0.25),
        (20, 0.5, 0.5),
    ]
    assert line["accuracy"] == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.5])  # straight between the points
    assert line["over_random"] == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.5])
    bytes_ = next(axis for axis in summary["axes"] if axis["axis"] == "bytes")
    assert next(line for line in bytes_["lines"] if line["name"] == "dial")["points"][1]["spent"] > 25
    layers = next(axis for axis in summary["axes"] if axis["axis"] == "layer_tokens")
    assert layers["cloud_spent"] is None and layers["random_accuracy"] == [None] * 5
    html = (tmp_path / "report.html").read_text()
    assert html.count("Tokens that the cloud writes per request") == 1 and "dial @ 10" in html and "3 points" in html
    assert main(tmp_path) == []


async def test_only_a_knob(tmp_path: Path) -> None:
    device, cloud = half(), other_half()
    summary = await run(tmp_path, entrants([Dial("dial")], device, cloud), cloud=cloud)
    assert (summary["device_accuracy"], summary["cloud_accuracy"]) == (0, 0)
    assert "dial @ 20 answers 50.0" in (tmp_path / "report.html").read_text().replace("&nbsp;", " ")
    assert main(tmp_path) == []


async def test_a_knob_goes_on_where_it_was(tmp_path: Path) -> None:
    device, cloud = Counting(half()), Counting(other_half())
    whole = await run(tmp_path / "whole", entrants([Dial("dial")], device, cloud), cloud=cloud)
    await run(tmp_path / "cut", entrants([Dial("dial")], half(), other_half()), cloud=other_half())
    path = tmp_path / "cut" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: N + 7]))  # the first point, and some of the second
    before, device.calls = device.calls, 0
    assert await run(tmp_path / "cut", entrants([Dial("dial")], device, cloud), cloud=cloud) == whole
    assert 0 < device.calls < before


async def test_an_oracle_is_marked_and_never_the_best(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Knowing(Dial):
        oracle: bool = True

        def at(self, point: float) -> Strategy:
            return replace(self, below=point, points=())

    who = entrants([Knowing("knowing"), Dial("dial", points=(10.0,))], half(), other_half())
    summary = await run(tmp_path, who, cloud=other_half(), axes=("cloud_tokens",))
    marked = {entry["name"]: entry["oracle"] for entry in summary["strategies"]}
    assert marked == {"knowing": True, "dial": False}
    knowing, dial = summary["axes"][0]["lines"]
    assert (knowing["oracle"], dial["oracle"]) == (True, False)
    assert True in dial["near_best"]
    html = (tmp_path / "report.html").read_text().replace("&nbsp;", " ")
    assert "knowing (oracle)" in html and "dial @ 10 answers" in html
    assert main(tmp_path) == []


async def test_a_strategy_that_chooses_may_have_a_knob(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Threshold:
        name: str = "threshold"
        points: tuple[float, ...] = (4, 2)
        knob: str = "point"

        @property
        def needs(self) -> object:
            return Together().needs

        def at(self, point: float) -> Strategy:
            return Toy(self.name, lambda i: (i % 5 >= point, i % 5 / 5))

        def stream(self, *_: object) -> None:
            raise AssertionError("it is run at its points")

    who = entrants([AlwaysDevice(), Threshold()], small(), large())  # type: ignore[list-item]
    summary = await run(tmp_path, who, axes=("calls", "cloud_tokens"))
    of_point = {e["point"]: e for e in summary["strategies"] if e["name"] == "threshold"}
    assert [of_point[p]["raw_call_share"] for p in (4, 2)] == pytest.approx([0.2, 0.6])
    assert of_point[4]["overall_accuracy"] is None and not of_point[4]["joint"]
    kept = [i for i in range(N) if i % 5 < 4]
    assert of_point[4]["local_accuracy"] == pytest.approx(sum(device_solves(i) for i in kept) / N)
    line = next(line for line in summary["axes"][0]["lines"] if line["name"] == "threshold")
    assert [point["point"] for point in line["points"]] == [2, 4]
    assert [point["spent"] for point in line["points"]] == pytest.approx([0.6, 0.2])
    assert main(tmp_path) == []


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((), "strategy 'dial' has no points to be run at"),
        ((0.5, 0.5), r"strategy 'dial': point 0\.5 occurs more than once"),
        ((float("nan"),), "strategy 'dial': point nan is not finite"),
    ],
)
async def test_points_that_cannot_be_are_refused_before_any_work(
    tmp_path: Path, points: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await run(tmp_path / "out", entrants([Dial("dial", points=points)], half(), other_half()))
    assert not (tmp_path / "out").exists()


async def test_other_points_are_another_evaluation(tmp_path: Path) -> None:
    cloud = other_half()
    await run(tmp_path, entrants([Dial("dial", points=(1.0,))], half(), cloud), cloud=cloud)
    with pytest.raises(ConfigError, match=r"strategies is .*points=1.* there and .*points=1 2"):
        await run(tmp_path, entrants([Dial("dial", points=(1.0, 2.0))], half(), cloud), cloud=cloud)


async def test_both_readers_see_the_same_points(tmp_path: Path) -> None:
    cloud = other_half()
    await run(tmp_path, entrants([AlwaysDevice(), Dial("dial")], half(), cloud), cloud=cloud)
    path = tmp_path / "records.jsonl"
    fast, plain = read_columns(path), columns_of(read_records(path))
    assert fast.settings == plain.settings == (("always_device", None), ("dial", 0), ("dial", 10), ("dial", 20))
    assert (fast.setting == plain.setting).all() and (fast.joint == plain.joint).all()
    assert fast.numbers.keys() == plain.numbers.keys()
