"""Whether an environment keeps its contract."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from selfroute.actions import Action
from selfroute.tasks.base import Environment, Explorable, Observation, Restorable
from selfroute.testing.contract import hold

__all__ = ["check_environment"]

_ODD = ("", " ", "\x00", "\ud800", "1e999", "{", '{"a": NaN}', "[" * 5_000, "<answer>", "-1", "x" * 10_000)
_MOST_STEPS = 200


def check_environment(make: Callable[[], Environment], *, walks: int = 20, seed: int = 0) -> None:
    """Check that an environment keeps the contract of `selfroute.Environment`, and what it offers beside.

    Args:
        make: gives a new one each time, always of the same row.
        walks: random walks over `choices`, where it has them.
        seed: of the walks.

    Raises:
        AssertionError: the contract is broken; says which and how.
    """
    environment = make()
    _tools_are_told_apart(environment)
    _any_action_is_answered(make)
    _an_answer_ends_it(make())
    rng = random.Random(seed)
    for _ in range(walks):
        walk = _walk(make(), rng)
        _walks_repeat(make, walk)
        _snapshots_hold(make, walk, rng)


def _tools_are_told_apart(environment: Environment) -> None:
    names = [tool.name for tool in environment.tools]
    hold(len(set(names)) == len(names), f"each tool has a name of its own, not {', '.join(names)}")


def _odd_actions(environment: Environment) -> Iterator[Action]:
    for tool in ("?", *(tool.name for tool in environment.tools)):
        yield from (Action(text, tool) for text in _ODD)


def _any_action_is_answered(make: Callable[[], Environment]) -> None:
    environment = make()
    for action in _odd_actions(environment):
        try:
            seen = environment.step(action)
        except Exception as error:
            raise AssertionError(
                f"`step` never raises on what a model wrote, but of {str(action)!r:.80} it raised {error!r:.200}"
            ) from error
        hold(isinstance(seen, Observation), f"`step` gives an Observation, not {seen!r:.80}")
        _score_is_a_quality(environment)
        if seen.done:
            environment.reset()


def _an_answer_ends_it(environment: Environment) -> None:
    hold(environment.score() in (0.0, None), f"`score` is 0 before the end, or None, not {environment.score()}")
    hold(environment.step(Action("no idea")).done, "an action without a tool is the answer, and ends the episode")
    _score_is_a_quality(environment)
    for tool in environment.tools:
        hold(environment.step(Action("1", tool.name)).done, f"an episode stays over, also after a call of {tool.name}")


def _score_is_a_quality(environment: Environment) -> None:
    score = environment.score()
    hold(score is None or 0.0 <= score <= 1.0, f"`score` is in [0, 1] or None, not {score}")


def _walk(environment: Environment, rng: random.Random) -> list[Action]:
    """Random choices to the end of an episode; none where it does not tell what may be done."""
    walk: list[Action] = []
    while isinstance(environment, Explorable) and len(walk) < _MOST_STEPS and (choices := environment.choices()):
        walk.append(rng.choice(choices))
        seen = environment.step(walk[-1])
        hold(not (seen.done and environment.choices()), "`choices` is empty once the episode is over")
    return walk


def _played(environment: Environment, walk: Sequence[Action]) -> list[tuple[Observation, float | None]]:
    return [(environment.step(action), environment.score()) for action in walk]


def _walks_repeat(make: Callable[[], Environment], walk: Sequence[Action]) -> None:
    environment = make()
    first = environment.reset(), _played(environment, walk)
    again = environment.reset(), _played(environment, walk)
    hold(first == again, "after `reset` the same actions give the same observations and scores")
    hold(_played(make(), walk) == first[1], "two environments of one row are alike")


def _snapshots_hold(make: Callable[[], Environment], walk: Sequence[Action], rng: random.Random) -> None:
    environment, other = make(), make()
    if not isinstance(environment, Restorable) or not isinstance(other, Restorable):
        return
    cut = rng.randint(0, len(walk))
    _played(environment, walk[:cut])
    at = environment.snapshot()
    rest = _played(environment, walk[cut:])
    for where in (environment, other):
        where.restore(at)
        hold(_played(where, walk[cut:]) == rest, f"`restore` goes back to the snapshot after {cut} actions")
