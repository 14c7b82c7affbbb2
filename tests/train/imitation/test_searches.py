"""Written searches: what they claim is true, and hand-offs stand where they may."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from selfroute.backends.embedded import accepts_own_check
from selfroute.handoff import HANDOFF_TEXT, parse
from selfroute.tasks.countdown import Countdown, Problem, Step, draw_steps
from selfroute.train.imitation.searches import (
    FAILED,
    SHOWN,
    _place,
    _search,
    write_answer_to_attempt,
    write_trace,
)
from selfroute.train.imitation.writers import TraceStyle
from selfroute.verify.arithmetic import countdown_verdict

TASK = Countdown(four_share=0.5)
STYLE = TraceStyle(handoff_rate=0.2)
STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")

problems = st.randoms(use_true_random=False).map(TASK.draw)
seeds = st.integers(0, 2**32)
styles = st.builds(
    TraceStyle,
    attempts=st.integers(1, 8),
    solution_rate=st.floats(0, 1),
    handoff_rate=st.floats(0, 0.6),
)


def attempts(trace: str) -> list[str]:
    return reasoning(trace).removesuffix(FAILED).splitlines()


def reasoning(trace: str) -> str:
    return trace.removeprefix("<think>").partition("</think>")[0].partition(HANDOFF_TEXT)[0]


@given(problems, styles, seeds, st.booleans())
def test_every_line_is_true(problem: Problem, style: TraceStyle, seed: int, offer: bool) -> None:
    trace = write_trace(problem, style, random.Random(seed), offer_handoff=offer)
    lines = attempts(trace)
    assert len(lines) <= style.attempts
    for number, line in enumerate(lines):
        body, _, claim = line.partition("?")
        pool = list(problem.numbers)
        for step in body.split(","):
            left, operator, right, result = STEP.fullmatch(step).groups()  # type: ignore[union-attr]
            pool.remove(int(left))
            pool.remove(int(right))
            pool.append(int(result))
            assert eval(f"{left}{operator}{right}") == int(result)
        assert claim[:-1] == str(problem.target)
        assert (claim[-1] == "y") == (pool == [problem.target])
        assert claim[-1] == "n" or number == len(lines) - 1  # a success ends the search


@given(problems, styles, seeds, st.booleans())
def test_a_search_that_says_yes_answers_rightly(problem: Problem, style: TraceStyle, seed: int, offer: bool) -> None:
    trace = write_trace(problem, style, random.Random(seed), offer_handoff=offer)
    if not parse(trace).wants_cloud:
        assert parse(trace).answered
        right = countdown_verdict(trace, problem.numbers, problem.target).correct
        assert right == accepts_own_check(trace)


@given(problems, styles, seeds, st.booleans())
def test_a_search_says_that_it_failed_after_its_last_attempt(
    problem: Problem, style: TraceStyle, seed: int, offer: bool
) -> None:
    trace = write_trace(problem, style, random.Random(seed), offer_handoff=offer)
    failed = reasoning(trace).endswith(FAILED)
    if "</think>" in trace:
        assert failed == (not accepts_own_check(trace))
    if failed:
        assert len(attempts(trace)) == style.attempts


@given(problems, styles, seeds)
def test_no_random_start_repeats(problem: Problem, style: TraceStyle, seed: int) -> None:
    starts = [line.partition("?")[0].rpartition(",")[0] for line in attempts(_trace(problem, style, seed))]
    assert len(set(starts)) == len(starts)


@given(problems, styles, seeds)
def test_starts_go_round_the_order_of_the_numbers(problem: Problem, style: TraceStyle, seed: int) -> None:
    lines = attempts(_trace(problem, style, seed))
    places = [_place(problem.numbers, [_step(step) for step in line.partition("?")[0].split(",")]) for line in lines]
    falls = sum(later < earlier for earlier, later in pairwise(places))
    assert falls <= 1 and (falls == 0 or places[-1] < places[0])


def _step(text: str) -> Step:
    left, operator, right, result = STEP.fullmatch(text).groups()  # type: ignore[union-attr]
    return Step(int(left), operator, int(right), int(result))


def _trace(problem: Problem, style: TraceStyle, seed: int) -> str:
    return write_trace(problem, style, random.Random(seed), offer_handoff=False)


@given(problems, styles, seeds, st.booleans())
def test_a_hand_off_breaks_off_the_open_reasoning_behind_a_line(
    problem: Problem, style: TraceStyle, seed: int, offer: bool
) -> None:
    trace = write_trace(problem, style, random.Random(seed), offer_handoff=offer)
    assert trace.startswith("<think>")
    parsed = parse(trace)
    assert parsed.wants_cloud == (HANDOFF_TEXT in trace)
    if not parsed.wants_cloud:
        assert trace.endswith("</answer>")
        return
    assert offer and trace.count(HANDOFF_TEXT) == 1 and trace.endswith(HANDOFF_TEXT)
    before = trace.removesuffix(HANDOFF_TEXT)
    assert before == "<think>" or before.endswith("\n")


def _many(style: TraceStyle, *, offer: bool, count: int = 400) -> list[str]:
    rng = random.Random(0)
    return [write_trace(TASK.draw(rng), style, rng, offer_handoff=offer) for _ in range(count)]


def test_hand_offs_are_offered_only_where_asked_for() -> None:
    assert not any(HANDOFF_TEXT in trace for trace in _many(STYLE, offer=False))
    offered = [trace for trace in _many(STYLE, offer=True) if HANDOFF_TEXT in trace]
    assert 200 < len(offered) < 360
    assert any(reasoning(trace).endswith("y\n") for trace in offered)  # also after a success
    assert any(reasoning(trace).endswith("n\n") for trace in offered)
    assert not any(reasoning(trace).endswith(FAILED) for trace in offered)  # behind it, both ends look alike
    assert any(trace == f"<think>{HANDOFF_TEXT}" for trace in offered)


@given(problems, styles, seeds)
def test_a_cloud_that_goes_on_with_an_attempt_repeats_none_of_it(
    problem: Problem, style: TraceStyle, seed: int
) -> None:
    attempt, completion = write_answer_to_attempt(problem, style, random.Random(seed))
    shown, own = attempt.splitlines(), attempts(completion)
    assert len(shown) <= SHOWN
    assert own and all(line.endswith("n") for line in shown)
    starts = [line.rpartition(",")[0] for line in [*shown, *own]]
    assert len(set(starts)) == len(starts)  # of one search
    right = countdown_verdict(completion, problem.numbers, problem.target).correct
    assert right == own[-1].endswith("y")


@given(problems, styles, seeds)
def test_a_cloud_that_ignores_an_attempt_writes_a_whole_search(problem: Problem, style: TraceStyle, seed: int) -> None:
    ignoring = replace(style, shown="ignore")
    rng, same = random.Random(seed), random.Random(seed)
    attempt, completion = write_answer_to_attempt(problem, ignoring, rng)
    assert all(line.endswith("n") for line in attempt.splitlines())
    _search(problem, ignoring, same)
    assert completion == write_trace(problem, style, same, offer_handoff=False)


def test_the_solution_rate_sets_how_often_a_search_succeeds() -> None:
    certain = _many(TraceStyle(solution_rate=1.0), offer=False)
    assert all(accepts_own_check(trace) and len(attempts(trace)) == 1 for trace in certain)
    never = _many(TraceStyle(attempts=1, solution_rate=0.0), offer=False)
    assert 0.01 < sum(map(accepts_own_check, never)) / len(never) < 0.5


@given(problems, styles, seeds)
def test_the_same_generator_writes_the_same_trace(problem: Problem, style: TraceStyle, seed: int) -> None:
    assert _trace(problem, style, seed) == _trace(problem, style, seed)


def test_a_random_calculation_ends_as_near_the_target_as_its_last_step_can() -> None:
    rng = random.Random(0)
    for _ in range(200):
        problem = TASK.draw(rng)
        steps = draw_steps(rng, problem.numbers, 100, target=problem.target)
        if steps is None:
            continue
        left, right = steps[-1].left, steps[-1].right
        reachable = [left + right, left - right, left * right] + ([left // right] if left % right == 0 else [])
        usable = [value for value in reachable[:2] if 0 < value <= 100]
        assert all(abs(steps[-1].result - problem.target) <= abs(value - problem.target) for value in usable)
