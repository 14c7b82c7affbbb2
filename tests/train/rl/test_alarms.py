"""When a run complains, and that it does so once."""

from __future__ import annotations

import json

import pytest

from selfroute.grading import Outcome
from selfroute.train.rl.alarms import ADVICE, PATIENCE, Alarms, advice, symptoms
from selfroute.train.rl.options import GAPGOptions


@pytest.mark.parametrize("kind", list(ADVICE))
def test_what_lasts_is_said_once_with_the_fix(kind: str) -> None:
    alarms = Alarms()
    said = [alarms.check(step, [kind]) for step in range(3 * PATIENCE)]
    assert [bool(messages) for messages in said] == [step == PATIENCE - 1 for step in range(3 * PATIENCE)]
    what, fix = ADVICE[kind]
    assert alarms.messages == [f"step {PATIENCE - 1}: {what} for {PATIENCE} steps; {fix}"]


@pytest.mark.parametrize(
    ("options", "names_reward"),
    [
        (GAPGOptions(), True),
        (GAPGOptions(algorithm="grpo"), True),
        (GAPGOptions(handoff_reward="dual"), False),
        (GAPGOptions(algorithm="relay"), False),
    ],
    ids=["gapg", "grpo", "a met share", "relay"],
)
def test_the_fix_is_one_of_the_algorithm(options: GAPGOptions, names_reward: bool) -> None:
    for kind in ("always asks", "never asks"):
        fix = advice(kind, priced=options.is_dual)
        assert ("reward.cloud" in fix) == names_reward
        assert ("multiplier_rate" in fix) == (not names_reward)
    assert advice("cloud down", priced=options.is_dual) == ADVICE["cloud down"][1]


def test_a_good_step_starts_the_count_anew() -> None:
    alarms = Alarms()
    for step in range(4 * PATIENCE):
        alarms.check(step, [] if step % PATIENCE == PATIENCE - 1 else ["cloud down"])
    assert alarms.messages == []
    for step in range(PATIENCE):
        alarms.check(step, ["cloud down", "never asks"])
    assert len(alarms.messages) == 2


def test_a_resumed_run_counts_on() -> None:
    alarms, resumed = Alarms(), Alarms()
    for step in range(PATIENCE - 1):
        alarms.check(step, ["always asks"])
    resumed.restore(json.loads(json.dumps(alarms.state())))
    assert len(resumed.check(PATIENCE - 1, ["always asks"])) == 1


ASKS = Outcome(wants_cloud=True, cloud_correct=True)
LOST = Outcome(wants_cloud=True, cloud_correct=None)
RIGHT = Outcome(wants_cloud=False, device_correct=True)
WRONG = Outcome(wants_cloud=False, device_correct=False)


@pytest.mark.parametrize(
    ("group", "found"),
    [
        ([ASKS] * 4, ["always asks"]),
        ([LOST] * 4, ["always asks", "cloud down"]),
        ([RIGHT] * 4, ["never asks"]),
        ([WRONG] * 4, ["never asks", "nothing solved"]),
        ([ASKS, ASKS, WRONG, WRONG], ["nothing solved"]),
        ([ASKS, LOST, RIGHT, WRONG], []),
    ],
)
def test_what_is_the_matter(group: list[Outcome], found: list[str]) -> None:
    assert symptoms([group, group], forced=0, may_ask=True, filtered=True) == found
    # Attempts without the offer say nothing of asking, and of what can be solved as much as any.
    more = [[*group, WRONG, WRONG]] * 2
    assert symptoms(more, forced=2, may_ask=True, filtered=True) == found


def test_without_a_cloud_or_a_filter_less_can_be_the_matter() -> None:
    assert symptoms([[WRONG] * 4], forced=0, may_ask=False, filtered=False) == []
