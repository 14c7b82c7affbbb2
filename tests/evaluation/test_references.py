from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.evaluation.world import Counting, N, Together, Toy, entrants, half, large, other_half, run, small

from selfroute.backends.function import FunctionBackend
from selfroute.errors import SelfRouteError
from selfroute.evaluation.records import read_records
from selfroute.evaluation.references import TRIED
from selfroute.strategies.always import AlwaysCloud, AlwaysDevice
from selfroute.strategies.self_route import SelfRoute
from selfroute.types import Message, Sampling


async def test_nobody_is_credited_with_what_both_wrote(tmp_path: Path) -> None:
    device, cloud = half(), other_half()
    summary = await run(tmp_path, entrants([Together()], device, cloud), cloud=cloud)
    assert (summary["device_accuracy"], summary["cloud_accuracy"], summary["either_accuracy"]) == (0.0, 0.0, 0.0)
    entry = summary["strategies"][0]
    assert (entry["raw_overall_accuracy"], entry["ci95"]["raw_overall_accuracy"]) == (1.0, [1.0, 1.0])
    assert entry["joint"] and entry["overall_accuracy"] is entry["auroc"] is entry["matched_by"] is None
    for record in read_records(tmp_path / "records.jsonl"):
        assert (record.source, record.joint) == ("both", True)
        assert (record.correct, record.device_correct, record.cloud_correct) == (True, False, False)
        assert record.attempt_tokens is None and record.cloud_calls == 1 and record.up_bytes == 100


async def test_the_same_beside_other_strategies(tmp_path: Path) -> None:
    device, cloud = half(), other_half()
    who = entrants([AlwaysDevice(), SelfRoute(), Together(), AlwaysCloud()], device, cloud)
    summary = await run(tmp_path, who, cloud=cloud)
    right = {entry["name"]: entry["raw_overall_accuracy"] for entry in summary["strategies"]}
    assert right == {"always_device": 0.0, "self_route": 0.0, "together": 1.0, "always_cloud": 0.0}
    assert summary["reference"] == "always_device"
    html = (tmp_path / "report.html").read_text()
    assert "<td>together</td>" in html and "Accuracy for the same resource" in html


@pytest.mark.parametrize("first", [True, False])
async def test_the_device_alone_is_asked_once(tmp_path: Path, first: bool) -> None:
    device, cloud = Counting(half()), Counting(other_half())
    strategies = [AlwaysDevice(), Together()] if first else [Together(), AlwaysDevice()]
    await run(tmp_path, entrants(strategies, device, cloud), cloud=cloud)
    assert device.calls == N + 2 * N  # alone, and twice in each answer that both write
    assert cloud.calls == N + N


async def test_strategies_that_choose_ask_no_more_than_before(tmp_path: Path) -> None:
    device, cloud = Counting(small()), Counting(large())
    strategies = [AlwaysDevice(), AlwaysCloud(), Toy("asks", lambda i: (i % 5 == 4, None))]
    await run(tmp_path, entrants(strategies, device, cloud), cloud=cloud)
    assert device.calls == N + N + (N + N // 5)  # alone; forced; own, and forced where it asked
    assert cloud.calls == N + N + N // 5


async def test_a_device_alone_that_fails_is_tried_again(tmp_path: Path) -> None:
    from selfroute.errors import BackendUnavailable

    whole = half()

    def alone_fails(messages: Sequence[Message], sampling: Sampling) -> str:
        if messages[-1].role != "assistant" and "number 0" not in messages[-1].content:
            raise BackendUnavailable("no battery", backend="half")
        return whole.fn(messages, sampling)

    cloud = other_half()
    steady = Toy("steady")
    who = [*entrants([Together()], FunctionBackend("half", alone_fails), cloud), *entrants([steady], half(), cloud)]
    assert (await run(tmp_path, who, cloud=cloud))["n"] == 1
    failed = [r for r in read_records(tmp_path / "records.jsonl") if r.strategy == "together" and r.error]
    assert len(failed) == N - 1 and all("no battery" in str(r.error) and r.device_correct is None for r in failed)
    healed = [*entrants([Together()], half(), cloud), *entrants([steady], half(), cloud)]
    summary = await run(tmp_path, healed, cloud=cloud)
    assert summary["n"] == N and summary["strategies"][0]["raw_overall_accuracy"] == 1.0


@pytest.mark.parametrize("down", [1, 3, 4, N])
async def test_a_device_that_answers_none_of_the_first_rows_stops_before_the_cloud(tmp_path: Path, down: int) -> None:
    """One of the first four is enough to go on."""
    from selfroute.errors import BackendUnavailable

    asked: list[str] = []

    def broken(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(messages[-1].content)
        if len(asked) <= down:
            raise BackendUnavailable("no battery", backend="half")
        return half().fn(messages, sampling)

    cloud = Counting(other_half())
    who = entrants([AlwaysDevice(), AlwaysCloud()], FunctionBackend("half", broken), cloud)
    if down < TRIED:
        await run(tmp_path, who, cloud=cloud)
        assert cloud.calls >= N
        return
    with pytest.raises(
        SelfRouteError, match="device 'half' answered none of the first 4 prompts, and the cloud was not"
    ):
        await run(tmp_path, who, cloud=cloud)
    assert cloud.calls == 0 and len(asked) == TRIED


async def test_a_device_that_nobody_asks_is_not_tried(tmp_path: Path) -> None:
    device, cloud = Counting(small()), Counting(large())
    await run(tmp_path, entrants([AlwaysCloud()], device, cloud), cloud=cloud)
    assert device.calls == N  # what it would have answered, forced
