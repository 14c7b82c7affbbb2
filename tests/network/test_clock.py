"""The clock of answers that two sides write in turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.network.clock import Timing, Turn, timing, turns_of
from selfroute.network.link import Network
from selfroute.types import Segment, Usage

NETWORK = Network(
    rtt_s=0.1, uplink_mbps=0.008, downlink_mbps=1, device_prompt_tokens_per_s=100, device_tokens_per_s=10,
    cloud_prompt_tokens_per_s=1000, cloud_tokens_per_s=100,
)  # fmt: skip
counts = st.integers(0, 200)
turns = st.lists(st.builds(Turn, st.booleans(), counts, counts, st.integers(0, 3), counts, counts), max_size=6)


def test_a_turn_after_another() -> None:
    device, cloud = (
        Turn(cloud=False, read=50, written=20),
        Turn(cloud=True, read=30, written=1, trips=1, up=200, down=2),
    )
    found = timing([device, cloud, Turn(cloud=False, written=10)], NETWORK)
    waited = 0.2 + 0.1 + 0.03 + 0.01  # 1,000 bytes a second go up
    assert found == Timing(pytest.approx(2.5 + waited + 1.0), pytest.approx(waited))


def test_uploads_overlap_with_computing() -> None:
    device, cloud = Turn(cloud=False, read=50, written=20), Turn(cloud=True, written=1, trips=1, up=200)
    late, early = (timing([device, cloud], NETWORK, ahead=ahead) for ahead in (False, True))
    assert late.seconds - early.seconds == pytest.approx(0.2 * 19 / 20)  # all but the last token is there
    slow = Turn(cloud=True, written=1, trips=1, up=9000)  # longer than the device works
    assert timing([device, slow], NETWORK, ahead=True).seconds == pytest.approx(9.0 + 0.1 + 0.01)


@given(turns)
def test_ahead_is_never_later_and_nothing_stalls_beyond_the_end(turns: list[Turn]) -> None:
    late, early = (timing(turns, NETWORK, ahead=ahead) for ahead in (False, True))
    assert early.seconds <= late.seconds + 1e-9
    assert -1e-9 <= late.stall_s <= late.seconds + 1e-9


@given(turns)
def test_it_agrees_with_what_reports_count_where_texts_come_as_fast_as_they_are_written(turns: list[Turn]) -> None:
    """Reports know totals alone: with a fast way down they are exact, else a lower bound."""
    cloud = [turn for turn in turns if turn.cloud]
    read, written, up, down, trips = (
        np.array([float(sum(getattr(turn, name) for turn in cloud))])
        for name in ("read", "written", "up", "down", "trips")
    )
    device = [turn for turn in turns if not turn.cloud]
    own = [float(sum(getattr(turn, name) for turn in device)) for name in ("read", "written")]
    fast = Network(**{**{f: getattr(NETWORK, f) for f in NETWORK.__dataclass_fields__}, "downlink_mbps": 1e9})
    for network, exact in ((fast, True), (NETWORK, False)):
        total = network.device_s(*own) + network.cloud_s(read, written, calls=trips, up=up, down=down)[0]
        seconds = timing(turns, network).seconds
        assert seconds == pytest.approx(total, abs=1e-6) if exact else seconds >= total - 1e-9


def test_the_turns_of_a_trace() -> None:
    def segment(source: str, **used: int) -> Segment:
        return Segment(source=source, model="m", usage=Usage(**used))  # type: ignore[arg-type]

    found = turns_of(
        [
            segment("device", prompt_tokens=9, completion_tokens=5, calls=1),
            segment("device", completion_tokens=1),
            segment("cloud", prompt_tokens=20, completion_tokens=1, calls=1, round_trips=2, up_bytes=50, down_bytes=8),
            segment("device", completion_tokens=3),
        ]
    )
    assert found == [
        Turn(cloud=False, read=9, written=6),
        Turn(cloud=True, read=20, written=1, trips=2, up=50, down=8),
        Turn(cloud=False, written=3),
    ]


def test_the_savings_of_ce_collm_follow_from_its_own_seconds() -> None:
    # 100 answers of Alpaca (arXiv 2411.02829): 370 s of cloud alone; 192 s of edge, 113 of cloud and 14 on the way.
    network = Network(rtt_s=0.0, uplink_mbps=8e-6, device_tokens_per_s=1.0, cloud_tokens_per_s=1.0)  # a byte a second
    alone = timing([Turn(cloud=True, written=370)], network).seconds
    together = timing([Turn(cloud=False, written=192), Turn(cloud=True, written=113, up=14)], network)
    assert (together.seconds, together.stall_s) == (pytest.approx(319), pytest.approx(113 + 14))
    assert 1 - together.seconds / alone == pytest.approx(0.1381, abs=5e-4)
    assert 1 - 113 / alone == pytest.approx(0.695, abs=5e-4)
