"""The arithmetic of limits: windows, whole units, the share's bucket."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.budget import limits
from selfroute.budget.base import Estimate
from selfroute.budget.limits import Hold, ShareLimit, Window, WindowLimit, window_end
from selfroute.errors import ConfigError
from selfroute.types import Usage


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "now", "end"),
    [
        ("minute", "2026-02-28T23:59:59.9", "2026-03-01T00:00:00"),
        ("minute", "2026-02-28T23:59:00", "2026-03-01T00:00:00"),
        ("hour", "2026-11-25T10:00:00", "2026-11-25T11:00:00"),
        ("day", "2024-02-28T12:00:00", "2024-02-29T00:00:00"),
        ("month", "2024-02-29T23:59:59", "2024-03-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
    ],
)
def test_windows_are_aligned_to_utc(window: Window, now: str, end: str) -> None:
    assert window_end(window, at(now)) == at(end)


@pytest.mark.parametrize(
    ("window", "zone", "now", "end"),
    [
        ("day", "Europe/Berlin", "2026-11-29T22:59:59", "2026-11-29T23:00:00"),
        ("day", "Europe/Berlin", "2026-11-29T23:00:00", "2026-11-30T23:00:00"),
        # Clocks go forward on 29 March, a day of 23 hours, and back on 25 October, one of 25.
        ("day", "Europe/Berlin", "2026-03-28T23:00:00", "2026-03-29T22:00:00"),
        ("day", "Europe/Berlin", "2026-10-24T22:00:00", "2026-10-25T23:00:00"),
        ("month", "Europe/Berlin", "2026-03-15T12:00:00", "2026-03-31T22:00:00"),
        ("month", "America/New_York", "2026-11-01T04:00:00", "2026-12-01T05:00:00"),
        ("day", "Asia/Kathmandu", "2026-11-29T18:14:59", "2026-11-29T18:15:00"),
        # Midnight of 8 September 2024 was left out here, and 00:00 to 01:00 of 3 November came twice there.
        ("day", "America/Santiago", "2024-09-07T12:00:00", "2024-09-08T04:00:00"),
        ("day", "America/Havana", "2024-11-03T04:30:00", "2024-11-04T05:00:00"),
        ("day", "America/Havana", "2024-11-03T05:30:00", "2024-11-04T05:00:00"),
        ("hour", "Asia/Kathmandu", "2026-11-29T18:14:59", "2026-11-29T19:00:00"),
    ],
)
def test_days_and_months_end_at_midnight_of_their_zone(window: Window, zone: str, now: str, end: str) -> None:
    assert window_end(window, at(now), ZoneInfo(zone)) == at(end)


@given(
    window=st.sampled_from(["minute", "hour", "day", "month"]),
    zone=st.timezones(),
    now=st.floats(0, 2**32),
    later=st.floats(0, 1),
)
def test_windows_follow_one_another_without_a_gap(window: Window, zone: ZoneInfo, now: float, later: float) -> None:
    end = window_end(window, now, zone)
    assert end is not None and now < end <= now + 31 * 86_400 + 90_000
    inside = now + later * (end - now)
    assert inside >= end or window_end(window, inside, zone) == end
    following = window_end(window, end, zone)
    assert following is not None and following > end


def test_a_moment_before_midnight_is_the_day_before() -> None:
    assert window_end("day", 86_399.99999999999) == 86_400
    assert window_end("month", math.nextafter(at("2026-02-01"), 0)) == at("2026-02-01")


def test_a_total_never_ends() -> None:
    assert window_end("total", 0) is None


def test_amounts_are_whole_and_rounded_up() -> None:
    usd = WindowLimit(unit="usd", window="month", cap=5)
    assert usd.amount(Usage(), 1.2e-10) == 1
    assert usd.amount(Usage(), 0.1 + 0.2) == 300_000_000
    assert usd.charge(Estimate(cost_usd=1.0), 0).cap == 5 * 10**9
    assert WindowLimit(unit="tokens", window="day", cap=9).amount(Usage(3, 4), 1.0) == 7


@pytest.mark.parametrize("cap", [-1, float("nan"), float("inf"), 1e19])
def test_a_cap_that_is_none(cap: float) -> None:
    with pytest.raises(ConfigError, match=r"calls_per_day: .* is not a cap"):
        WindowLimit(unit="calls", window="day", cap=cap)


def test_a_share_or_burst_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"share: 1.5 is not in"):
        ShareLimit(share=1.5)
    with pytest.raises(ConfigError, match=r"burst: 0 is below 1"):
        ShareLimit(share=0.5, burst=0)


@given(
    share=st.floats(0.01, 1.0),
    burst=st.integers(1, 8),
    asks=st.lists(st.sampled_from(["keep", "ask", "ask and close"]), max_size=200),
)
def test_no_stretch_of_requests_has_more_calls_than_its_share_and_a_burst(
    share: float, burst: int, asks: list[str]
) -> None:
    bucket = ShareLimit(share=share, burst=burst).bucket
    counters: defaultdict[str, int] = defaultdict(int)
    excess = lowest = 0.0  # calls − share · requests, and its lowest value so far
    for ask in asks:
        if ask == "keep":
            limits.count(counters, bucket)
            calls = 0
        else:
            calls = limits.reserve(counters, [], bucket).granted
            if calls and ask == "ask and close":
                limits.close(counters, Hold(0, (), share=True))
                calls = 0
        excess += calls - share
        lowest = min(lowest, excess)
        # A request that did not use the cloud gives its place back, never more: the bound holds from any start.
        assert excess - lowest <= burst + 1e-4 + share
    assert counters[limits.REQUESTS] == len(asks)


def test_a_share_is_exact() -> None:
    bucket = ShareLimit(share=0.3, burst=2).bucket
    counters: defaultdict[str, int] = defaultdict(int)
    granted = [limits.reserve(counters, [], bucket).granted for _ in range(10_000)]
    assert 3000 <= sum(granted) <= 3002
    assert all(sum(granted[:n]) <= 0.3 * n + 2 for n in range(10_001))
