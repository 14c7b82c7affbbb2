from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.recompute import main as recompute
from tests.evaluation.world import (
    TEMPLATE,
    Counting,
    N,
    Numbers,
    Toy,
    cloud_solves,
    device_solves,
    entrants,
    large,
    number,
    run,
    say,
    small,
    world,
)

from selfroute.backends.base import complete, run_sync
from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable, ConfigError
from selfroute.evaluation.bench import Entrant
from selfroute.evaluation.counting.costs import PriceTable
from selfroute.evaluation.counting.summary import summarise
from selfroute.evaluation.records import read_records, read_samples
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prices import Price, Prices
from selfroute.strategies.always import AlwaysCloud, AlwaysDevice
from selfroute.strategies.base import Sides
from selfroute.strategies.random_offload import RandomOffload
from selfroute.strategies.self_route import SelfRoute
from selfroute.tasks.base import Row
from selfroute.types import Message, Sampling
from selfroute.verify.base import Verdict

FILES = {
    *("records.jsonl", "samples.jsonl", "run.json"),
    *("summary.json", "curve.png", "reliability.png", "report.html"),
}


def tokens(backend: FunctionBackend, i: int) -> int:
    """Completion tokens of a backend's answer to prompt i."""
    prompt = TEMPLATE.conversation(f"number {i}")
    return run_sync(complete(backend, prompt, Sampling())).usage.completion_tokens


async def test_it_writes_the_facts_of_every_strategy_and_prompt(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    steps: list[tuple[int, int]] = []
    summary = await run(
        out, on_progress=lambda done, total: steps.append((done, total)), command="selfroute evaluate x"
    )
    assert {path.name for path in out.iterdir()} == FILES
    records = {record.key: record for record in read_records(out / "records.jsonl")}
    assert len(records) == 4 * N
    for i in range(N):
        graded, cloud = records["graded", None, f"n{i:03}"], records["always_cloud", None, f"n{i:03}"]
        for record in (graded, cloud):
            assert (record.device_correct, record.cloud_correct) == (device_solves(i), cloud_solves(i))
        asked = i % 5 == 4
        assert (graded.wants_cloud, graded.source) == (asked, "cloud" if asked else "device")
        assert graded.correct == (cloud_solves(i) if asked else device_solves(i))
        assert graded.local_correct == (device_solves(i) if asked else None)
        assert graded.score == pytest.approx((i % 5) / 5 + i / 1000)
        assert (graded.usd, graded.seconds) == ((0.01, 0.75) if asked else (0, 0.5))
        assert (graded.cloud_tokens > 0, graded.error) == (asked, None)
        both = [tokens(small(), i), tokens(large(), i)]
        assert [graded.attempt_tokens, graded.cloud_answer_tokens] == both and graded.local_tokens == both[0]
        assert graded.device_prompt_tokens > 0 and graded.solve_rate is None
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary == summarise(records.values(), share=0.3, seed=0, task="numbers")
    assert (summary["device_accuracy"], summary["cloud_accuracy"]) == (0.6, 0.9)
    assert steps[-1] == (5 * N, 5 * N) and steps == sorted(steps)


async def test_samples_hold_the_texts(tmp_path: Path) -> None:
    await run(tmp_path)
    sample = {s.key: s for s in read_samples(tmp_path / "samples.jsonl")}["graded", None, "n004"]
    assert (sample.question, sample.gold) == ("number 4", "4")
    assert "<answer>-1</answer>" in sample.device_text and "<answer>4</answer>" in sample.cloud_text
    assert sample.local_text == sample.device_text


@pytest.mark.parametrize("keep", [0, 57, 4 * N - 1])
async def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, keep: int) -> None:
    whole = await run(tmp_path / "whole")
    device, cloud = Counting(small()), Counting(large())
    await run(tmp_path / "cut", world(device, cloud), cloud=cloud)
    path = tmp_path / "cut" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:keep]) + lines[keep][:25])
    (tmp_path / "cut" / "summary.json").unlink()
    before, device.calls = device.calls, 0
    again = await run(tmp_path / "cut", world(device, cloud), cloud=cloud)
    assert again == whole
    assert (device.calls == before) == (keep == 0) and device.calls <= 2 * (4 * N - keep) + 1
    assert len(read_records(path)) == 4 * N and path.read_bytes().endswith(b"\n")


async def test_an_interrupt_leaves_what_was_finished(tmp_path: Path) -> None:
    stop = asyncio.Event()

    def progress(done: int, total: int) -> None:
        if done >= N + 10:
            stop.set()

    task = asyncio.create_task(run(tmp_path, on_progress=progress))
    await stop.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    done = len(read_records(tmp_path / "records.jsonl"))
    assert 0 < done < 4 * N
    device = Counting(small())
    assert await run(tmp_path, world(device, large())) == await run(tmp_path / "whole")
    assert 0 < device.calls < 2 * 4 * N


async def test_a_finished_run_asks_nobody(tmp_path: Path) -> None:
    first = await run(tmp_path)
    device, cloud = Counting(small()), Counting(large())
    assert await run(tmp_path, world(device, cloud), cloud=cloud) == first
    assert (device.calls, cloud.calls) == (0, 0)


async def test_another_configuration_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    await run(tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"share is 0\.3 there and 0\.4 here; choose another out="):
        await run(tmp_path, share=0.4)
    with pytest.raises(ConfigError, match=r"rows is \"40 rows .* there and \"39 rows .* here"):
        await run(tmp_path, rows=list(Numbers().rows("test"))[:39])
    with pytest.raises(ConfigError, match=r'config\.device is missing there and "other" here'):
        await run(tmp_path, config={"device": "other"})
    with pytest.raises(ConfigError, match=r"cloud is \"large\" there and \"huge\" here"):
        await run(tmp_path, cloud=FunctionBackend("huge", lambda m, s: ""))
    assert (tmp_path / "records.jsonl").read_bytes() == before
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"run\.json' is not the run\.json of an evaluation"):
        await run(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"records\.jsonl without run\.json"):
        await run(tmp_path)


def failing(fails: Any) -> FunctionBackend:
    def fn(messages: Sequence[Message], sampling: Sampling) -> str:
        if fails(number(messages)):
            raise BackendUnavailable("no route", backend="large")
        return f"<answer>{number(messages)}</answer>"

    return FunctionBackend("large", fn)


async def test_a_cloud_that_never_answers_stops_the_run_at_once(tmp_path: Path) -> None:
    device = Counting(small())
    cloud = failing(lambda i: True)
    with pytest.raises(ConfigError, match="cloud 'large' answered none of 8 prompts; the first error: no route"):
        await run(tmp_path, world(device, cloud), cloud=cloud)
    assert device.calls == 1  # to see that it answers, before the cloud is asked


async def test_failures_are_none_counted_apart_and_tried_again(tmp_path: Path) -> None:
    cloud = failing(lambda i: i == 4)
    summary = await run(tmp_path, world(small(), cloud), cloud=cloud)
    records = {r.key: r for r in read_records(tmp_path / "records.jsonl")}
    failed = records["graded", None, "n004"]
    assert failed.cloud_correct is failed.correct is failed.device_correct is None
    assert failed.error == "BackendUnavailable: no route"
    assert (summary["n"], summary["n_excluded"]) == (N - 1, 1)
    healed = failing(lambda i: False)
    again = await run(tmp_path, world(small(), healed), cloud=healed)
    assert {r.key: r for r in read_records(tmp_path / "records.jsonl")}["graded", None, "n004"].correct is True
    assert (again["n"], again["n_excluded"]) == (N, 0)


async def test_a_verifier_that_fails_gives_none(tmp_path: Path) -> None:
    class Fragile(Numbers):
        def verify(self, row: Row, completion: str) -> Verdict:
            if row.id == "n007":
                raise ZeroDivisionError("oops")
            return super().verify(row, completion)

    summary = await run(tmp_path, task=Fragile())
    record = {r.key: r for r in read_records(tmp_path / "records.jsonl")}["asks", None, "n007"]
    assert record.correct is None and "ZeroDivisionError" in str(record.error)
    assert summary["n_excluded"] == 1


async def test_a_configuration_error_of_a_strategy_is_not_a_row(tmp_path: Path) -> None:
    def fn(messages: Sequence[Message], sampling: Sampling) -> str:
        raise ConfigError("OPENAI_API_KEY is not set")

    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        await run(tmp_path, entrants([Toy("broken")], FunctionBackend("d", fn), large()))
    assert not (tmp_path / "records.jsonl").read_text()


async def test_the_strategies_of_this_package(tmp_path: Path) -> None:
    def fn(messages: Sequence[Message], sampling: Sampling) -> str:
        i = number(messages)
        asks = TEMPLATE.help in messages[0].content and i % 5 == 4
        return f"<think>?</think> {HANDOFF_TEXT}" if asks else say(i, device_solves(i) or i == 4)

    device, cloud = FunctionBackend("small", fn), large()
    strategies = [AlwaysDevice(), AlwaysCloud(), RandomOffload(share=0.5, seed=1), SelfRoute()]
    summary = await run(tmp_path, entrants(strategies, device, cloud), cloud=cloud)
    by_name = {entry["name"]: entry for entry in summary["strategies"]}
    assert by_name["self_route"]["raw_call_share"] == 0.2
    assert by_name["self_route"]["raw_overall_accuracy"] == pytest.approx(0.7)  # 24 + 4 of the 8 it sends
    assert by_name["self_route"]["forced_local_accuracy"] == pytest.approx(25 / 40)  # prompt 4 comes right when forced
    assert by_name["self_route"]["conditional_local_accuracy"] == pytest.approx(24 / 32)
    assert summary["reference"] == "always_device" and by_name["always_cloud"]["fixed"]
    record = {r.key: r for r in read_records(tmp_path / "records.jsonl")}["self_route", None, "n004"]
    assert (record.source, record.correct, record.local_correct, record.device_correct) == ("cloud", True, True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"who": []}, "no strategy to evaluate"),
        ({"rows": [Row("1", "number 1", "1")] * 2}, "row id '1' occurs more than once"),
        (
            {"who": entrants([Toy("a"), Toy("a")], small(), large())},
            "strategy 'a' occurs more than once",
        ),
        (
            {"who": [Entrant(strategy=SelfRoute(), sides=Sides(device=small()))]},
            r"strategy: 'self_route' needs a cloud; name one",
        ),
        ({"share": 1.2}, r"share=1\.2 is not in \[0, 1\]"),
    ],
)
async def test_bad_arguments_are_refused_before_any_work(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


async def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row to evaluate"):
        await run(tmp_path, rows=[])


async def test_an_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to out='.*file'"):
        await run(tmp_path / "file")


async def test_solve_rates_are_sampled_once_per_device_and_kept(tmp_path: Path) -> None:
    asked: list[tuple[int, float, int | None]] = []

    def fn(messages: Sequence[Message], sampling: Sampling) -> str:
        i = number(messages)
        asked.append((i, sampling.temperature, sampling.seed))
        sampled = sampling.temperature > 0
        return say(i, (sampling.seed or 0) % 4 < i % 5 if sampled else device_solves(i))

    device, cloud = FunctionBackend("small", fn), large()
    summary = await run(tmp_path, world(device, cloud), cloud=cloud, solve_samples=4, solve_temperature=0.7)
    records = {r.key: r for r in read_records(tmp_path / "records.jsonl")}
    assert [records["graded", None, f"n{i:03}"].solve_rate for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert records["asks", None, "n003"].solve_samples == 4
    samples = [call for call in asked if call[1] == 0.7]
    assert len(samples) == len(set(samples)) == 4 * N  # once for all strategies of one device
    found = next(e for e in summary["strategies"] if e["name"] == "graded")["solve_rate"]
    # It asks for exactly the prompts that are always solved: as wrong as can be.
    assert (found["n"], found["samples"], found["mean"]) == (N, 4, 0.5)
    assert [level["rate"] for level in found["levels"]] == [0, 0, 0, 0, 1]
    assert found["auroc"] < 0.2


async def test_the_report_shows_solve_rates_and_costs(tmp_path: Path) -> None:
    prices = PriceTable(prices=Prices(cloud=Price(completion_usd=10.0)), as_of="2026-11-01", cloud_model="large")
    summary = await run(tmp_path, solve_samples=1, prices=prices, routellm_bins=10)
    html = (tmp_path / "report.html").read_text()
    assert "Prices of 2026-11-01" in html and "solve rate of the device" in html and "RouteLLM" in html
    assert (tmp_path / "cost.png").is_file()
    entry = next(e for e in summary["strategies"] if e["name"] == "graded")
    mean = sum(tokens(large(), i) for i in range(N) if i % 5 == 4) * 10 / 1e6 / N
    assert entry["usd_per_1000"] == pytest.approx(1000 * mean)
    assert summary["prices"]["cloud_model"] == "large"


async def test_a_cloud_that_saw_the_attempt_is_judged_by_what_it_said_then(tmp_path: Path) -> None:
    def confused(messages: Sequence[Message], sampling: Sampling) -> str:
        i = number(messages)
        return say(i, "<attempt>" not in messages[-1].content)

    def asks(messages: Sequence[Message], sampling: Sampling) -> str:
        return f"<think>? </think> {HANDOFF_TEXT}"

    cloud = FunctionBackend("cloud", confused)
    strategies = [SelfRoute(), SelfRoute(name="with_attempt", context="attempt")]
    summary = await run(tmp_path, entrants(strategies, FunctionBackend("small", asks), cloud), cloud=cloud)
    right = {entry["name"]: entry["raw_overall_accuracy"] for entry in summary["strategies"]}
    assert right == {"self_route": 1.0, "with_attempt": 0.0}


async def test_a_judge_may_say_how_good_an_answer_is(tmp_path: Path) -> None:
    class Judged(Numbers):
        """A right answer is worth 1, a wrong one of an even prompt 0.75, of an odd one 0."""

        def verify(self, row: Row, completion: str) -> Verdict:
            if super().verify(row, completion).correct:
                return Verdict(True)
            return Verdict(True, quality=0.75) if int(row.gold) % 2 == 0 else Verdict(False)

    summary = await run(tmp_path, task=Judged(), axes=("calls", "cloud_tokens"))
    wrong = [i for i in range(N) if not device_solves(i)]
    assert summary["device_accuracy"] == pytest.approx((24 + 0.75 * sum(i % 2 == 0 for i in wrong)) / N)
    records = {r.key: r for r in read_records(tmp_path / "records.jsonl")}
    assert records["always_device", None, "n004"].device_correct == 0.75
    assert '"device_correct": true' in (tmp_path / "records.jsonl").read_text()
    assert recompute(tmp_path) == []
