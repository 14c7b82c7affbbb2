"""Replicas believe the same whatever the order in which they look, and what dies loses its last words alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfroute.bandits import catalogue
from selfroute.bandits.base import Arm, Context, Outcome
from selfroute.bandits.beliefs import Beliefs, Told
from selfroute.budget import journal as journals
from selfroute.budget.journal import Journal, MemoryJournal, Page, Waiting
from selfroute.budget.shared import SharedBeliefs
from selfroute.errors import BudgetUnavailable, ConfigError

ARMS = ("a", "b", "c")
CONTEXT, CANDIDATES = Context(), [Arm(name) for name in ARMS]


def replica(journal: Journal, **options: object) -> SharedBeliefs:
    beliefs = Beliefs(catalogue.thompson(catalogue.Learning(discount=0.9, trials=0), arms=ARMS))
    return SharedBeliefs(beliefs, journal, every_s=0.01, **options)  # type: ignore[arg-type]


def known(one: SharedBeliefs) -> dict[str, object]:
    state = one.beliefs.state()
    return {**state, "policy": {**state["policy"], "rng": None, "asked": None}}


async def joined(journal: Journal, count: int, **options: object) -> list[SharedBeliefs]:
    each = [replica(journal, **options) for _ in range(count)]
    for one in each:
        one._adopt(await journal.join())
    return each


# Who speaks, of which arm, with what quality; and when somebody looks.
said = st.tuples(st.integers(0, 2), st.sampled_from(ARMS), st.floats(0, 1))
steps = st.lists(said | st.integers(0, 2), max_size=40)


@settings(deadline=None)
@given(steps)
def test_all_replicas_believe_the_same(turns: Sequence[tuple[int, str, float] | int]) -> None:
    async def run() -> None:
        each = await joined(MemoryJournal(), 3, snapshot_lines=5)
        for turn in turns:
            if isinstance(turn, int):
                await each[turn].look()
            else:
                who, arm, quality = turn
                each[who].tell(Told(arm=arm, outcome=Outcome(quality), usd=0.1))
        for one in [*each, *each]:
            await one.look()
        assert known(each[0]) == known(each[1]) == known(each[2])

    asyncio.run(run())


async def test_a_newcomer_believes_what_the_others_do() -> None:
    journal = MemoryJournal()
    (old,) = await joined(journal, 1, snapshot_lines=4)
    for number in range(10):
        old.tell(Told(arm="a", outcome=Outcome(number / 10)))
        await old.look()
    new = replica(journal)
    await new.start()
    assert known(new) == known(old)
    await new.aclose()


async def test_who_was_away_for_long_catches_up_from_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "KEPT_LINES", 3)
    journal = MemoryJournal()
    speaker, sleeper = await joined(journal, 2, snapshot_lines=4)
    for number in range(30):
        speaker.tell(Told(arm="b", outcome=Outcome(number / 30)))
        await speaker.look()
    number = sleeper._replica
    sleeper.tell(Told(arm="c", outcome=Outcome(1.0)))
    await sleeper.look()
    await speaker.look()
    assert known(sleeper) == known(speaker)
    assert sleeper._replica == number


async def test_replicas_with_one_seed_do_not_explore_in_step() -> None:
    one, other = await joined(MemoryJournal(), 2, seed=3)
    again = (await joined(MemoryJournal(), 1, seed=3))[0]

    def draws(shared: SharedBeliefs) -> list[str]:
        return [shared.beliefs.choose(CONTEXT, CANDIDATES).arm for _ in range(30)]

    mine = draws(one)
    assert mine != draws(other)
    assert mine == draws(again)


class Flaky(MemoryJournal):
    """A journal that is out of reach while `down`."""

    down = False

    async def exchange(self, seen: int, lines: Sequence[str], waiting: Sequence[Waiting]) -> Page:
        if self.down:
            raise BudgetUnavailable("the store is away")
        return await super().exchange(seen, lines, waiting)


async def test_while_the_store_is_away_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    journal = Flaky()
    shared = replica(journal)
    await shared.start()
    journal.down = True
    shared.tell(Told(arm="a", outcome=Outcome(1.0)))
    shared.wait("t", None, "a", ())
    await asyncio.sleep(0.1)
    with pytest.raises(BudgetUnavailable):
        await shared.judge("t", None, 1.0, "user")
    assert [record.message for record in caplog.records] == [
        "what is learnt of clouds is not shared for now: the store is away"
    ]
    journal.down = False
    assert (await shared.judge("t", None, 1.0, "user")).verdict == "learnt"
    (look, *_) = shared.beliefs.look(CONTEXT, CANDIDATES)
    assert look.quality == 1.0
    await shared.aclose()


async def test_a_source_counts_by_its_weight() -> None:
    shared = replica(MemoryJournal(), weights={"user": 0.1})
    await shared.start()
    for number, (score, source) in enumerate([(1.0, "verifier"), (0.0, "user"), (0.0, "failure")]):
        shared.wait(str(number), "app", "a", ())
        assert (await shared.judge(str(number), "app", score, source)).verdict == "learnt"  # type: ignore[arg-type]
    (look, *_) = shared.beliefs.look(CONTEXT, CANDIDATES)
    # Each outcome counts 0.9 of what it did after the next one.
    assert look.quality == pytest.approx(0.81 / (0.81 + 0.9 * 0.1 + 0.25))
    await shared.aclose()


async def test_feedback_is_said_once_by_the_client_that_asked_and_in_time() -> None:
    now = [0.0]
    shared = replica(MemoryJournal(), clock=lambda: now[0], lifetime_s=10.0)
    await shared.start()
    shared.wait("t", "app", "b", ())
    shared.wait("late", "app", "b", ())
    assert (await shared.judge("t", "other", 1.0, "user")).verdict == "unknown"
    assert [(await shared.judge("t", "app", score, "user")).verdict for score in (1.0, 1.0, 0.5)] == [
        "learnt",
        "repeated",
        "differs",
    ]
    now[0] = 11.0
    assert (await shared.judge("late", "app", 1.0, "user")).verdict == "expired"
    with pytest.raises(ConfigError, match=r"quality: 2.0 is outside \[0, 1\]"):
        await shared.judge("late", "app", 2.0, "user")
    await shared.aclose()


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"boss": 1.0}, "weights: unknown source 'boss'"), ({"user": 0.0}, "weights.user: 0.0 is not above 0")],
)
def test_wrong_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replica(MemoryJournal(), weights=weights)
