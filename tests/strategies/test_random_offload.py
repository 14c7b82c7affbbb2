from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies.pair import SAMPLING, TEMPLATE

from selfroute.backends.function import FunctionBackend
from selfroute.errors import ConfigError
from selfroute.strategies.base import Sides, answer
from selfroute.strategies.random_offload import RandomOffload
from selfroute.types import Message


def offload(share: float, seed: int = 0) -> RandomOffload:
    return RandomOffload(share=share, seed=seed)


def says(text: str) -> FunctionBackend:
    return FunctionBackend(text, lambda messages, sampling: text)


SIDES = Sides(device=says("device"), cloud=says("cloud"), template=TEMPLATE)


async def test_the_share_holds() -> None:
    strategy = offload(0.3)
    traces = [await answer(strategy, SIDES, [Message("user", f"question {i}")], SAMPLING) for i in range(2000)]
    share = sum(trace.source == "cloud" for trace in traces) / len(traces)
    assert share == pytest.approx(0.3, abs=0.04)  # 4 standard errors
    assert all(trace.wants_cloud == (trace.source == "cloud") for trace in traces)
    kept = [trace.score for trace in traces if not trace.wants_cloud]
    sent = [trace.score for trace in traces if trace.wants_cloud]
    assert max(kept) < min(sent)  # type: ignore[type-var]


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(), st.integers())
def test_the_draw_depends_on_seed_and_conversation_alone(text: str, seed: int) -> None:
    messages = [Message("user", text)]
    assert 0 <= offload(0.3, seed).draw(messages) < 1
    assert offload(0.3, seed).draw(messages) == offload(0.9, seed).draw(messages)
    assert offload(0.3, seed).draw(messages) != offload(0.3, seed + 1).draw(messages)
    assert offload(0.3, seed).draw(messages) != offload(0.3, seed).draw([*messages, Message("user", text)])


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(ConfigError, match=r"share: .* is not in \[0, 1\]"):
        offload(share)
