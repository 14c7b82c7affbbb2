"""The strategy that plans: what it serves, when it hands off, and what its trace says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.strategies.search.lock import Lock, right

from selfroute.backends.function import FunctionBackend
from selfroute.config import Spec, make_strategy
from selfroute.errors import BackendError, BackendUnavailable, ConfigError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import TEMPLATES
from selfroute.strategies.base import Sides, answer
from selfroute.strategies.search.agent import OneAnswer
from selfroute.strategies.search.arena import Limits
from selfroute.strategies.search.planned import UNJUDGED, Planned
from selfroute.testing.strategies import check_strategy
from selfroute.types import Message, Sampling

ASKED = [Message("user", "seven")]
CODE = "0312"


def scores(rows: Sequence[tuple[str, str]]) -> list[float | None]:
    """The number that an answer names."""
    return [float(text.split(">")[-1]) if text.split(">")[-1].isdigit() else None for _, text in rows]


def device(text: str = "<think>try {seed}</think>{seed}") -> FunctionBackend:
    return FunctionBackend("device", lambda messages, sampling: text.format(seed=(sampling.seed or 0) % 10))


def sides(**options: Any) -> Sides:
    cloud = FunctionBackend("cloud", lambda messages, sampling: "from the cloud")
    return Sides(**{"device": device(), "cloud": cloud, "template": TEMPLATES["plain"]} | options)


def planned(threshold: float, **options: Any) -> Planned:
    return Planned(**{"scores": scores, "threshold": threshold, "limits": Limits(attempts=4)} | options)


async def test_the_best_attempt_is_served_and_the_others_are_probes() -> None:
    trace = await answer(planned(0.0), sides(), ASKED, Sampling(seed=0))
    tried = [int(segment.text[-1]) for segment in trace.segments]
    assert (trace.text, trace.reason, trace.source) == (
        f"<think>try {max(tried)}</think>{max(tried)}",
        "answered",
        "device",
    )
    assert trace.score == -max(tried) and trace.decided_after == 4 == len(trace.segments)
    assert [segment.part for segment in trace.segments] == ["probe"] * 3 + ["answer"]
    assert trace.usage("device").calls == 4 and trace.usage("cloud").calls == 0


async def test_the_cloud_answers_where_the_best_is_low() -> None:
    trace = await answer(planned(-100.0), sides(), ASKED, Sampling(seed=0))
    assert (trace.text, trace.reason, trace.wants_cloud) == ("from the cloud", "judged", True)
    assert trace.usage("cloud").calls == 1
    assert [segment.part for segment in trace.segments] == ["probe"] * 3 + ["attempt", "answer"]


async def test_the_best_attempt_is_kept_for_a_cloud_that_fails() -> None:
    def fail(messages: Sequence[Message], sampling: Sampling) -> str:
        raise BackendUnavailable("gone", backend="cloud", retryable=True)

    trace = await answer(planned(-100.0), sides(cloud=FunctionBackend("cloud", fail)), ASKED, Sampling(seed=0))
    assert trace.reason == "cloud-error" and trace.text.startswith("<think>try")


async def test_nothing_that_could_be_judged_wants_the_cloud() -> None:
    for text in ("no number", HANDOFF_TEXT):
        trace = await answer(planned(0.0), sides(device=device(text)), ASKED, Sampling())
        assert trace.wants_cloud and trace.score == UNJUDGED and trace.text == "from the cloud"
    kept = await answer(planned(math.inf), sides(device=device("no number")), ASKED, Sampling())
    assert not kept.wants_cloud


async def test_a_device_that_fails_now_and_then_loses_those_attempts() -> None:
    turns = itertools.count()

    def flaky(messages: Sequence[Message], sampling: Sampling) -> str:
        if next(turns) % 2:
            raise BackendUnavailable("busy", backend="device", retryable=True)
        return "5"

    trace = await answer(planned(0.0), sides(device=FunctionBackend("device", flaky)), ASKED, Sampling())
    assert trace.text == "5" and len(trace.segments) == 2

    def gone(messages: Sequence[Message], sampling: Sampling) -> str:
        raise BackendUnavailable("gone", backend="device", retryable=True)

    with pytest.raises(BackendError, match="gone"):
        await answer(planned(0.0), sides(device=FunctionBackend("device", gone)), ASKED, Sampling())


@pytest.mark.parametrize("search", ["best_of_n", "reflexion"])
async def test_plain_answers_keep_the_contract_of_strategies(search: Any) -> None:
    await check_strategy(lambda: planned(0.0, search=search))
    await check_strategy(lambda: planned(-math.inf, search=search))


async def test_reflexion_tells_the_device_what_it_has_said_itself() -> None:
    seen: list[str] = []

    def write(messages: Sequence[Message], sampling: Sampling) -> str:
        seen.append(messages[-1].content)
        return "take more care" if "what to do differently" in messages[-1].content else "3"

    made = planned(0.0, search="reflexion", limits=Limits(attempts=2))
    trace = await answer(made, sides(device=FunctionBackend("device", write)), ASKED, Sampling())
    assert trace.text == "3" and "- take more care" in seen[2]
    assert await answer(planned(0.0, search="reflexion", enough=3.0), sides(device=device("3")), ASKED, Sampling())


@pytest.mark.parametrize("search", ["best_of_n", "reflexion", "tree_search", "released_tree"])
async def test_an_agent_acts_in_the_environment_of_the_question(search: Any) -> None:
    locks: list[Lock] = []

    def environment(question: str) -> Lock:
        assert question == "seven"
        locks.append(Lock(CODE))
        return locks[-1]

    def write(messages: Sequence[Message], sampling: Sampling) -> str:
        if "what to do differently" in messages[-1].content:
            return "pick others"
        assert "</tool>" in sampling.stop
        done = sum("<result>" in message.content for message in messages)
        return f"<tool>pick {((sampling.seed or 0) * 7 + done) % 4}"

    def opened(rows: Sequence[tuple[str, str]]) -> list[float | None]:
        return [float(right(CODE, text.rpartition("<result>")[2].partition("<")[0])) for _, text in rows]

    made = planned(0.0, search=search, environment=environment, scores=opened, limits=Limits(attempts=12))
    trace = await answer(made, sides(device=FunctionBackend("device", write)), ASKED, Sampling(seed=3))
    assert trace.text.startswith("<answer>") and trace.score == -right(CODE, trace.text[8:12])
    assert len(locks) == 1 and trace.usage("device").calls == len(trace.segments) > 12


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nan is not a threshold"):
        planned(math.nan)
    with pytest.raises(ConfigError, match="0 makes all attempts alike"):
        planned(0.0, temperature=0.0)
    with pytest.raises(ConfigError, match="tree_search needs an environment"):
        planned(0.0, search="tree_search")
    with pytest.raises(ConfigError, match="holds no reward model"):
        make_strategy(Spec("planned", options={"reward": str(tmp_path), "threshold": 0.0}))
    assert OneAnswer().score() is None
