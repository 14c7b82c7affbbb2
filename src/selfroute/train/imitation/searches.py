"""Written searches for Countdown: what the embedded pair learns to imitate before reinforcement learning.

A trace tries, checks and stops. Each attempt is one line, every result written out and the last one compared
with the target right beside it::

    <think>12-10=2,16*2=32?18n
    12-10=2,16+2=18?18y
    </think><answer>16+(12-10)</answer>

An attempt is a real solution with probability `solution_rate`; otherwise it starts at random and its last step
comes as near to the target as it can: with a random last step, most of what there is to imitate is noise.

Attempts go round the ways to start in one order, that of the numbers in the question, from anywhere on: what comes next
can be told from the line before alone. In no order a model has to look up everything it tried, does so badly, and
greedy decoding repeats a failed line.

A search that fails says so in a last line, and answers with its last attempt all the same::

    12-10=2,16*2=32?18n
    none
    </think><answer>16*(12-10)</answer>

Hand-offs break the open reasoning off at random places, so that the imitating model can ask but does not know when:
at once, between attempts, and after the last one, also after a successful one. They stand right behind a verdict and
before `none` or `</think>`: there what comes next without a hand-off depends on the verdict, so the model has to tell
the two apart. Where both go on alike, as behind `none` or `</think>`, it does not, and training changes asking in both.

A cloud can learn what to do with a device's attempt that it is shown: to go on where that search stopped, or to search
as if it were not there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from selfroute.handoff import HANDOFF_TEXT
from selfroute.tasks.countdown import OPERATORS, Countdown, Problem, Step, draw_steps, expression, question, split_of
from selfroute.train.imitation.writers import TOLD_SHARES, Example, Role, TraceStyle

__all__ = ["FAILED", "Searches", "write_answer_to_attempt", "write_trace"]

FAILED = "none\n"
SHOWN = 6  # most lines of a device's attempt that a cloud is shown


def _attempt(steps: Sequence[Step], target: int) -> str:
    verdict = "y" if steps[-1].result == target else "n"
    return f"{','.join(map(str, steps))}?{target}{verdict}\n"


def _try(problem: Problem, rng: random.Random, largest: int, tried: set[tuple[Step, ...]]) -> tuple[Step, ...] | None:
    """A calculation with a new start; it may hit the target by chance."""
    for _ in range(50):
        steps = draw_steps(rng, problem.numbers, largest, target=problem.target)
        if steps is not None and steps[:-1] not in tried:
            return steps
    return None


def _place(numbers: Sequence[int], steps: Sequence[Step]) -> tuple[tuple[int, int, int], ...]:
    """Where a calculation stands in the order of ways to start: places of the numbers it joins, then the operator."""
    pool = list(numbers)
    places = []
    for step in steps[:-1]:
        first = pool.index(step.left)
        second = next(i for i, value in enumerate(pool) if value == step.right and i != first)
        places.append((min(first, second), max(first, second), OPERATORS.index(step.operator)))
        pool = [value for i, value in enumerate(pool) if i not in (first, second)] + [step.result]
    return tuple(places)


def _search(problem: Problem, style: TraceStyle, rng: random.Random) -> list[tuple[Step, ...]]:
    """The attempts of one search, in order: the last one hits the target, or there are `style.attempts` of them."""
    tried: dict[tuple[Step, ...], tuple[Step, ...]] = {}  # by their start
    for _ in range(style.attempts):
        drawn = None if rng.random() < style.solution_rate else _try(problem, rng, style.largest, set(tried))
        steps = drawn if drawn is not None else problem.steps
        tried[steps[:-1]] = steps
        if steps[-1].result == problem.target:
            break
    ordered = sorted(tried.values(), key=lambda steps: _place(problem.numbers, steps))
    first = rng.randrange(len(ordered))
    round_ = ordered[first:] + ordered[:first]
    hit = next((i for i, steps in enumerate(round_) if steps[-1].result == problem.target), len(round_) - 1)
    return round_[: hit + 1]


def write_trace(problem: Problem, style: TraceStyle, rng: random.Random, *, offer_handoff: bool) -> str:
    """One search as completion text, ended by an answer or by a hand-off."""
    search = _search(problem, style, rng)
    handoff_rate = style.handoff_rate if offer_handoff else 0.0
    lines: list[str] = []
    for steps in search:
        if rng.random() < handoff_rate:
            return f"<think>{''.join(lines)}{HANDOFF_TEXT}"
        lines.append(_attempt(steps, problem.target))
    if offer_handoff and rng.random() < style.final_handoff_rate:
        return f"<think>{''.join(lines)}{HANDOFF_TEXT}"
    return _with_answer(lines, search[-1], problem)


def write_answer_to_attempt(problem: Problem, style: TraceStyle, rng: random.Random) -> tuple[str, str]:
    """What a device tried in vain, and the completion of a cloud that is shown it.

    The attempt is empty where the search succeeds with its first line.
    """
    search = _search(problem, style, rng)
    lines = [_attempt(steps, problem.target) for steps in search]
    most = min(SHOWN, len(lines) - 1)  # the last line is left to the cloud
    if style.shown == "ignore":
        tried = "".join(lines[:most])
        return tried, write_trace(problem, style, rng, offer_handoff=False)
    cut = rng.randint(min(1, most), most)
    return "".join(lines[:cut]), _with_answer(lines[cut:], search[-1], problem)


def _with_answer(lines: Sequence[str], last: Sequence[Step], problem: Problem) -> str:
    failed = [] if last[-1].result == problem.target else [FAILED]
    return f"<think>{''.join([*lines, *failed])}</think><answer>{expression(last)}</answer>"


class Searches:
    """Written searches of train problems, for either role."""

    template = Countdown.template

    def __init__(self, task: Countdown, style: TraceStyle, role: Role) -> None:
        self.task = task
        self.style = style
        self.role = role

    def problem(self, rng: random.Random) -> Problem:
        """One of the train split."""
        while True:
            problem = self.task.draw(rng)
            if split_of(problem.numbers, problem.target) == "train":
                return problem

    def example(self, rng: random.Random) -> Example:
        """One question and its search, with or without the offer to hand off."""
        problem = self.problem(rng)
        asked = question(problem.numbers, problem.target)
        if self.role == "device":
            offer = rng.random() < 0.5
            style, share = self.style, None
            if offer and style.told_rate and rng.random() < style.told_rate:
                share = rng.choice(TOLD_SHARES)
                early = share if style.told == "each" else style.handoff_rate
                style = replace(style, handoff_rate=early, final_handoff_rate=share)
            return Example(asked, write_trace(problem, style, rng, offer_handoff=offer), offer, share)
        if self.style.shown_rate and rng.random() < self.style.shown_rate:
            attempt, completion = write_answer_to_attempt(problem, self.style, rng)
            return Example(asked, completion, attempt=attempt.strip())
        return Example(asked, write_trace(problem, self.style, rng, offer_handoff=False))
