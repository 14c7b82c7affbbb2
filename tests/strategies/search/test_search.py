"""Searches in a world where the truth is known: what they find, what they take, and what they never do."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies.search.lock import PAID, Lock, arena, guess, right

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.strategies.search.arena import Arena, Found, Limits, Place, Proposal
from selfroute.strategies.search.best_of_n import best_of_n
from selfroute.strategies.search.reflexion import reflexion
from selfroute.strategies.search.tree_search import Node, tree_search, worth

CODE = "0312"


async def nothing_learned(question: str, place: Place, score: float | None) -> tuple[str, int]:
    return "", 0


async def first_wrong(question: str, place: Place, score: float | None) -> tuple[str, int]:
    """The first digit that is wrong, as somebody says who knows."""
    at = next((i for i, step in enumerate(place.steps) if step.action.text != CODE[i]), 0)
    return f"{at}={CODE[at]}", 3


SEARCHES: dict[str, Callable[[Arena], Awaitable[Found]]] = {
    "best_of_n": lambda arena: best_of_n(arena, at_once=4),
    "reflexion": lambda arena: reflexion(arena, nothing_learned),
    "standard": lambda arena: tree_search(arena),
    "released": lambda arena: tree_search(arena, form="released"),
}
ALL = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())


@ALL
async def test_a_search_goes_by_the_score_and_says_what_it_took(search: Any) -> None:
    lock = Lock(CODE)
    found = await search(arena(CODE, environment=lock, attempts=64))
    assert found.best is not None and found.score == right(CODE, found.best.answer)
    assert found.score >= 2 and found.ended in ("attempts", "exhausted")
    assert found.spent.environment_calls == lock.calls
    assert found.spent.attempts >= len(found.scores) > 1
    assert found.spent.tokens > 0 and found.spent.seconds > 0
    lock.restore(found.best.state)
    assert lock.score() == found.score / len(CODE)


@ALL
@settings(max_examples=25)
@given(
    attempts=st.integers(1, 12) | st.none(),
    calls=st.integers(1, 40) | st.none(),
    tokens=st.integers(1, 60) | st.none(),
)
def test_limits_hold(search: Any, attempts: int | None, calls: int | None, tokens: int | None) -> None:
    import asyncio

    if attempts is calls is tokens is None:
        return
    lock = Lock(CODE)
    found = asyncio.run(
        search(arena(CODE, environment=lock, attempts=attempts, environment_calls=calls, tokens=tokens))
    )
    assert lock.calls == found.spent.environment_calls <= (calls or math.inf)
    assert found.spent.attempts <= (attempts or math.inf)
    # What is asked for when there is still room is written to its end: four proposals, or four attempts at once.
    assert found.spent.tokens <= (tokens or math.inf) + 4
    assert (found.best is None) == (not found.scores)


@ALL
async def test_time_is_a_limit(search: Any) -> None:
    world = arena(CODE, seconds=10.0)
    ticks = iter(range(1000))
    world.meter.clock = lambda: float(next(ticks))
    world.meter.began = 0.0
    assert (await search(world)).ended == "seconds"


@ALL
async def test_a_tool_that_costs_money_is_never_called(search: Any) -> None:
    async def spender(question: str, place: Place, **options: Any) -> list[Proposal]:
        if place.steps and place.steps[-1].action.tool == PAID.name:
            assert "cannot be called while planning" in place.text
            return list(await guess(question, place, **options))
        return [Proposal(Action("", PAID.name))]

    lock = Lock(CODE)
    found = await search(arena(CODE, environment=lock, propose=spender, attempts=6))
    assert found.best is not None and lock.paid == 0


class Gone:
    """An environment that cannot go back."""

    tools = ()

    def reset(self) -> str:
        return ""

    def step(self, action: Action) -> Any:
        raise AssertionError("nothing may be done")

    def score(self) -> float:
        return 0.0


def test_an_environment_without_snapshot_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Gone has no snapshot\(\) and restore\(\)"):
        arena(CODE, environment=Gone(), attempts=1)


@pytest.mark.parametrize(
    ("limits", "said"), [({}, "none is set"), ({"attempts": 0}, "attempts: 0"), ({"seconds": -1.0}, "seconds: -1")]
)
def test_limits_that_cannot_be(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Limits(**limits)


async def test_lessons_make_reflexion_better_and_enough_ends_it() -> None:
    found = await reflexion(arena(CODE, attempts=20), first_wrong, enough=4.0)
    assert found.ended == "enough" and found.score == 4 and found.spent.attempts <= 6
    assert found.best is not None and found.best.answer == CODE


async def test_a_tree_needs_fewer_calls_than_attempts_side_by_side() -> None:
    """Over some locks, at equal calls: partial scores tell a tree where to go on."""
    codes = ["0312", "1111", "2031", "3302", "0123", "2210", "1303", "3120"]
    calls = 60
    flat = [await best_of_n(arena(code, environment_calls=calls)) for code in codes]
    tree = [await tree_search(arena(code, environment_calls=calls)) for code in codes]
    assert sum(found.score or 0 for found in tree) > sum(found.score or 0 for found in flat)


@ALL
async def test_what_cannot_be_judged_is_never_chosen(search: Any) -> None:
    world = arena(CODE, attempts=8)

    def none(rows: Sequence[tuple[str, str]]) -> list[float | None]:
        return [None] * len(rows)

    world.scores = none
    found = await search(world)
    assert found.best is None and found.score is None and set(found.scores) == {None}


async def test_an_attempt_that_does_not_end_is_broken_off() -> None:
    async def never(question: str, place: Place, **options: Any) -> list[Proposal]:
        return [Proposal(Action("", PAID.name))]

    found = await best_of_n(arena(CODE, propose=never, attempts=3))
    assert found.best is None and found.scores == ()


def test_the_two_forms_of_uct() -> None:
    root = Node(Place(None), visits=9)
    node = Node(Place(None), root, visits=3, scored=2, total=6.0, highest=5.0)
    standard = worth(node, "standard", 2.0, lowest=1.0, highest=5.0)
    assert standard == pytest.approx(0.5 + 2 * math.sqrt(math.log(9) / 3))
    released = worth(node, "released", 2.0, lowest=1.0, highest=5.0)
    assert released == pytest.approx(5 + 2 * math.sqrt(math.log(9)) / 4)
    unscored = Node(Place(None), root, visits=1)
    assert worth(unscored, "released", 0.0, lowest=1.0, highest=5.0) == 1.0
    assert worth(unscored, "standard", 0.0, lowest=1.0, highest=5.0) == 0.0


async def test_the_released_form_ends_by_means() -> None:
    """One branch holds the best attempt and a bad one, the other two good ones."""
    outcomes = {"0": [9.0, 0.0], "1": [7.0, 7.0]}

    async def two(question: str, place: Place, *, count: int, seed: int, lessons: Sequence[str] = ()) -> list[Proposal]:
        return [Proposal(Action(digit, "pick")) for digit in ("0", "1")[:count]]

    def scores(rows: Sequence[tuple[str, str]]) -> list[float | None]:
        picked = [text.rpartition("<result>")[2].partition("<")[0] for _, text in rows]
        return [outcomes[one[0]][int(one[1])] for one in picked]

    def world() -> Arena:
        return Arena("open it", Lock("00"), two, scores, Limits(attempts=20))

    released = await tree_search(world(), form="released", width=2)
    standard = await tree_search(world(), width=2)
    assert (standard.score, released.score) == (9.0, 7.0)
    assert standard.ended == "exhausted"


async def test_the_same_seed_finds_the_same() -> None:
    for search in SEARCHES.values():
        one, two = await search(arena(CODE, attempts=10)), await search(arena(CODE, attempts=10))
        assert one.best == two.best and one.scores == two.scores
