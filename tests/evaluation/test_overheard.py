"""Which private values of a row an evaluated strategy tells the cloud."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.world import other_half, run

from selfroute.backends.base import complete
from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable
from selfroute.evaluation.bench import Entrant
from selfroute.evaluation.overheard import Overheard, leaked, overheard
from selfroute.evaluation.records import read_records
from selfroute.handoff import HANDOFF_TEXT
from selfroute.strategies.always import AlwaysCloud, AlwaysDevice
from selfroute.strategies.base import Sides
from selfroute.strategies.self_route import SelfRoute
from selfroute.tasks.base import Row
from selfroute.tasks.tickets import Tickets
from selfroute.types import Message, Sampling, Segment, Trace, Usage

ROWS = list(Tickets(limit=20).rows("test"))
BY_QUESTION = {row.question: row for row in ROWS}


def asked(messages: Sequence[Message]) -> Row:
    return next(row for question, row in BY_QUESTION.items() if question in messages[-1].content)


def device(also: int = 0) -> FunctionBackend:
    """Answers about mail, and asks about the rest with what is needed and some of what is not."""

    def say(messages: Sequence[Message], sampling: Sampling) -> str:
        row = asked(messages)
        if row.fields["intent"] == "mail" or sampling.forbid:
            return f"<answer>{row.gold}</answer>"
        return f"{HANDOFF_TEXT} about {' '.join([*row.fields['needed'], *row.fields['unneeded'][:also]])}, please"

    return FunctionBackend("writes", say)


def who(**sides: Any) -> list[Entrant]:
    both = Sides(device=device(**sides), cloud=FunctionBackend("desk", lambda m, s: "<answer>4</answer>"))
    strategies = (AlwaysDevice(), AlwaysCloud(), SelfRoute(context="message", scored=False))
    return [Entrant(strategy=strategy, sides=both) for strategy in strategies]


async def evaluated(out: Path, **sides: Any) -> dict[str, Any]:
    people = who(**sides)
    cloud = people[0].sides.cloud
    summary = await run(out, people, cloud=cloud, task=Tickets(limit=20), rows=ROWS, resamples=20)
    return {entry["name"]: entry for entry in summary["strategies"]}


async def test_a_private_question_leaks_nothing_and_the_whole_request_all(tmp_path: Path) -> None:
    found = await evaluated(tmp_path)
    told = [len(row.fields["unneeded"]) for row in ROWS]
    assert [found["always_device"][name] for name in ("values_leaked", "values_lost", "leaking_share")] == [0, 0, 0.0]
    assert (found["always_cloud"]["values_leaked"], found["always_cloud"]["values_lost"]) == (sum(told), 0)
    assert found["always_cloud"]["leaking_share"] == 1.0
    assert (found["self_route"]["values_leaked"], found["self_route"]["values_lost"]) == (0, 0)


async def test_what_the_device_tells_too_much_is_counted_row_by_row(tmp_path: Path) -> None:
    found = (await evaluated(tmp_path, also=2))["self_route"]
    records = {r.id: r for r in read_records(tmp_path / "records.jsonl") if r.strategy == "self_route"}
    for row in ROWS:
        assert records[row.id].values_leaked == (0 if row.fields["intent"] == "mail" else 2)
    assert found["leaking_share"] == pytest.approx(0.8) and found["values_leaked"] == 2 * 16


async def test_the_report_shows_them_only_for_tasks_that_name_values(tmp_path: Path) -> None:
    await evaluated(tmp_path / "tickets", also=1)
    assert "<th>needed lost</th>" in (tmp_path / "tickets" / "report.html").read_text()
    summary = await run(tmp_path / "numbers", resamples=20)
    assert all(entry["values_leaked"] is entry["leaking_share"] is None for entry in summary["strategies"])
    assert "needed lost</th>" not in (tmp_path / "numbers" / "report.html").read_text()
    assert "values_leaked" not in (tmp_path / "numbers" / "records.jsonl").read_text()


ROW = Row("r", "I am Clara, number 482913", "4", {"needed": ["482913"], "unneeded": ["Clara"]})


async def test_a_request_that_failed_had_left() -> None:
    def fail(messages: Sequence[Message], sampling: Sampling) -> str:
        raise BackendUnavailable("down", backend="desk")

    cloud = overheard(FunctionBackend("desk", fail), ROW)
    assert isinstance(cloud, Overheard)
    with pytest.raises(BackendUnavailable):
        await complete(cloud, [Message("user", "for CLARA")], Sampling())
    kept = Trace(strategy="s", wants_cloud=True, reason="cloud-error", segments=(segment("device"),))
    found = leaked(ROW, cloud, kept)
    assert found is not None and (found.leaked, found.lost) == (1, 1)


def segment(source: Any) -> Segment:
    return Segment(source=source, model="m", text="x", usage=Usage(calls=1))


def test_a_cloud_that_wrote_without_being_heard_was_told_all() -> None:
    trace = Trace(strategy="s", wants_cloud=True, reason="judged", segments=(segment("device"), segment("cloud")))
    found = leaked(ROW, None, trace)
    assert found is not None and (found.leaked, found.lost) == (1, 0)


def test_rows_without_private_values_are_not_listened_to() -> None:
    backend = other_half()
    row = Row("r", "number 1", "1")
    assert overheard(backend, row) is backend
    trace = Trace(strategy="s", wants_cloud=False, reason="answered", segments=(segment("device"),))
    assert leaked(row, backend, trace) is None
