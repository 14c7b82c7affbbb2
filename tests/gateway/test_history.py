"""Counts of the last hours: by minute and in all, of one worker and of several."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.live import EASY, HARD, ask, gateway, service

from selfroute.budget.base import Estimate, Lease, Unlimited
from selfroute.errors import BudgetExceeded
from selfroute.gateway.history import MINUTES, History, Tally


@given(st.lists(st.tuples(st.integers(0, 60 * 400), st.integers(0, 3), st.integers(0, 3)), max_size=60))
def test_minutes_and_total_are_what_was_counted(came: list[tuple[int, int, int]]) -> None:
    history, now = History(), 60.0 * 1_000_000
    came = sorted(came)
    for second, device, cloud in came:
        history.add(now + second, Tally(device=device, cloud=cloud))
    end = now + (came[-1][0] if came else 0)
    expected: dict[int, tuple[int, int]] = {}
    for second, device, cloud in came:
        at = int(now + second) // 60 * 60
        if at // 60 > end // 60 - MINUTES:
            known = expected.get(at, (0, 0))
            expected[at] = (known[0] + device, known[1] + cloud)
    found = {at: (tally.device, tally.cloud) for at, tally in history.minutes(end)}
    assert found == {at: counts for at, counts in sorted(expected.items()) if counts != (0, 0)}
    assert history.total() == Tally(device=sum(d for _, d, _ in came), cloud=sum(c for _, _, c in came))
    history.close()


def test_workers_are_added_up_also_those_that_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = []
    for pid in (1, 2):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        worker = History(tmp_path)
        worker.add(6000.0, Tally(device=pid, cost_usd=0.5))
        workers.append(worker)
    workers[0].close()
    assert workers[1].total() == Tally(device=3, cost_usd=1.0)
    assert workers[1].minutes(6000.0) == [(6000, Tally(device=3, cost_usd=1.0))]


class Once(Unlimited):
    """A budget of one call."""

    calls = 0

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        self.calls += 1
        if self.calls > 1:
            raise BudgetExceeded("calls_total", spent=1, cap=1)
        return await super().reserve(estimate, score=score)


async def test_the_status_tells_what_was_saved_and_refused() -> None:
    with gateway(service(budget=Once())) as live:
        async with live.async_client() as client:
            answers = [await client.chat.completions.create(**ask(question)) for question in (EASY, HARD, HARD)]
            status = (await client._client.get(f"{live.url}/status.json")).json()
    total, spent = status["total"], sum(answer.selfroute["cost_usd"] for answer in answers)
    assert (total["device"], total["cloud"], total["failed"], total["refused"]) == (2, 1, 0, 1)
    assert status["refused"] == {"count": 1, "limits": {"calls_total": 1}}
    assert total["cost_usd"] == pytest.approx(spent)
    # The cloud's answer costs what it did; each of the device's, what one as long would have cost there.
    device = [answer.selfroute["device"] for answer in answers]
    cloud = answers[1].selfroute["cloud"]
    alone = 3 * cloud["prompt_tokens"] + 15 * cloud["completion_tokens"] + 3 * device[0]["prompt_tokens"]
    alone += 15 * device[0]["completion_tokens"]
    last = total["cloud_alone_usd"] - alone / 1e6
    assert 0 < last <= (3 * device[2]["prompt_tokens"] + 15 * device[2]["completion_tokens"]) / 1e6
    assert total["saved_usd"] == pytest.approx(total["cloud_alone_usd"] - total["cost_usd"])
    (minute,) = status["minutes"]
    assert minute["device"] == 2 and status["now"] - 60 <= minute["at"] <= status["now"]
