"""The task tickets: which values are needed, and that no wording of the test split is seen before."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.privacy.values import Values, leakage
from selfroute.tasks.base import Row
from selfroute.tasks.tickets import ASKED, INTENTS, SAID, Tickets, completion, message, question, split_of

SPLITS = ("train", "validation", "test")
TASK = Tickets()
tickets = st.builds(
    lambda seed, intent, split: TASK.draw(random.Random(seed), intent, split),
    st.integers(0, 10_000),
    st.sampled_from(INTENTS),
    st.sampled_from(SPLITS),
)


@given(tickets, st.integers(0, 1000))
def test_a_request_holds_all_its_values_and_a_message_the_needed_one_alone(ticket, seed) -> None:  # type: ignore[no-untyped-def]
    asked = question(ticket, random.Random(seed))
    assert all(value in asked for value in ticket.values.values())
    values = Values(tuple(ticket.needed), tuple(ticket.unneeded))
    told = leakage(message(ticket), values)
    assert (told.leaked, told.lost) == (0, 0)
    assert leakage(message(ticket, ticket.unneeded[:1]), values).leaked == 1
    assert leakage(asked, values).leaked == len(ticket.unneeded)


@given(tickets)
def test_the_desk_is_right(ticket) -> None:  # type: ignore[no-untyped-def]
    row = Row(id="r", question="", gold=ticket.answer)
    assert TASK.verify(row, completion(ticket)).correct
    assert not TASK.verify(row, "<answer>nobody knows</answer>").correct
    assert not TASK.verify(row, ticket.answer).correct, "no tag"


def test_rows_are_the_same_every_time_and_intents_take_turns() -> None:
    rows = list(Tickets(limit=10).rows("test"))
    assert rows == list(Tickets(limit=20).rows("test"))[:10]
    assert Counter(row.fields["intent"] for row in rows) == dict.fromkeys(INTENTS, 2)
    assert rows != list(Tickets(limit=10, seed=1).rows("test"))


def test_no_wording_of_the_test_split_is_seen_in_another() -> None:
    seen, unseen = (
        {text for texts in (*SAID[kind].values(), *ASKED[kind].values()) for text in texts}
        for kind in ("seen", "unseen")
    )
    assert not seen & unseen
    asking = [text for text in unseen if "{place}" in text or "{" not in text]
    frames = [re.escape(text).replace(re.escape("{place}"), r"\w+") for text in asking]
    tested = [row.question for row in Tickets(limit=50).rows("test")]
    assert all(any(re.search(frame, asked) for frame in frames) for asked in tested)
    trained = [row.question for row in Tickets(limit=200).rows("train")]
    assert not any(re.search(frame, asked) for frame in frames for asked in trained)


def test_splits_never_share_values() -> None:
    rng = random.Random(0)
    for split in SPLITS:
        assert {split_of(TASK.draw(rng, "id", split).values) for _ in range(20)} == {split}


@pytest.mark.parametrize(("options", "fault"), [({"others": 0}, "others must be"), ({"limit": 0}, "limit must be")])
def test_options_outside_their_range_are_refused(options: dict[str, int], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Tickets(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown split 'dev' of task 'tickets'"):
        list(TASK.rows("dev"))
