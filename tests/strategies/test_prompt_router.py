from __future__ import annotations

import math
import threading

import pytest
from tests.strategies.pair import SAMPLING, TEMPLATE

from selfroute.backends.function import FunctionBackend
from selfroute.errors import ConfigError
from selfroute.strategies.base import Sides, answer
from selfroute.strategies.prompt_router import PromptRouter
from selfroute.types import Message

DEVICE = FunctionBackend("device", lambda messages, sampling: "device")
CLOUD = FunctionBackend("cloud", lambda messages, sampling: "cloud")
SIDES = Sides(device=DEVICE, cloud=CLOUD, template=TEMPLATE)


def router(threshold: float, seen: list[str] | None = None) -> PromptRouter:
    def score(question: str) -> float:
        assert threading.current_thread() is not threading.main_thread()
        if seen is not None:
            seen.append(question)
        return len(question)

    return PromptRouter(score=score, threshold=threshold)


@pytest.mark.parametrize(("threshold", "source"), [(3, "cloud"), (4, "device"), (math.inf, "device")])
async def test_the_threshold_itself_is_sent(threshold: float, source: str) -> None:
    trace = await answer(router(threshold), SIDES, TEMPLATE.conversation("2+2"), SAMPLING)
    assert (trace.source, trace.reason, trace.score) == (source, "routed", 3.0)


async def test_the_scorer_sees_the_question_as_it_was_fitted() -> None:
    seen: list[str] = []
    earlier = [Message("user", "Hi"), Message("assistant", "Hello")]
    for messages in (TEMPLATE.conversation("2+2"), [*earlier, *TEMPLATE.conversation("3+3")], [Message("user", "4")]):
        await answer(router(9, seen), SIDES, messages, SAMPLING)
    await answer(router(9, seen), SIDES, [Message("system", "Be kind.")], SAMPLING)
    assert seen == ["2+2", "3+3", "4", ""]


def test_a_threshold_that_is_none() -> None:
    with pytest.raises(ConfigError, match="threshold: nan"):
        router(math.nan)
