"""What an operator hears of, at whatever level of the log."""

from __future__ import annotations

import pytest

from selfroute.errors import BackendError, BackendStatusError, BackendTimeout, BudgetExceeded, BudgetUnavailable
from selfroute.gateway.notices import Notices


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def notices(now: list[float], caplog: pytest.LogCaptureFixture) -> Notices:
    caplog.set_level("WARNING", "selfroute.gateway")
    return Notices(clock=lambda: now[0])


def failure(status: int) -> BackendStatusError:
    return BackendStatusError("m said: secret", backend="m", status_code=status, summary=f"m answered HTTP {status}")


def test_a_kind_is_told_once_and_again_after_a_while(
    notices: Notices, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for second in (0, 1, 2, 601):
        now[0] = float(second)
        notices.failure("cloud", failure(401))
    assert caplog.messages == [
        "the cloud failed: m answered HTTP 401",
        "the cloud failed: m answered HTTP 401 (2 more since the last such line)",
    ]


def test_sides_classes_and_statuses_are_kinds_of_their_own(notices: Notices, caplog: pytest.LogCaptureFixture) -> None:
    for side in ("device", "cloud"):
        for each in (failure(401), failure(500), BackendTimeout("m: nothing within 1 s", backend="m")):
            notices.failure(side, each)
            notices.failure(side, each)
    assert len(caplog.messages) == 6
    assert "the device failed: m: nothing within 1 s" in caplog.messages


def test_an_error_that_sums_up_nothing_is_told_by_its_class(notices: Notices, caplog: pytest.LogCaptureFixture) -> None:
    notices.failure("device", BackendError("cannot read 'my secret'", backend="mine"))
    assert caplog.messages == ["the device failed: mine: BackendError"]


def test_a_budget_that_refuses_is_told_but_for_the_share(notices: Notices, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        notices.refusal(BudgetExceeded("share", spent=0.3, cap=0.3))
        notices.refusal(BudgetExceeded("usd_per_day", spent=0.9, cap=1, call=0.2, reset_s=60))
        notices.refusal(BudgetUnavailable("budget ledger x: out of reach"))
    assert [line.split(":")[0] for line in caplog.messages] == [
        "cloud budget 'usd_per_day' has no room for this call",
        "budget ledger x",
    ]
