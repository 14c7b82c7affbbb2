"""Oracles on the channels of a completion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.config import ORACLES, Spec, make_oracle
from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT, ChannelReader, channel_text
from selfroute.scores.oracles import Judged, Words, leaks
from selfroute.tasks.base import Row

ROW = Row(id="r", question="", gold="", fields={"needed": ["12"], "unneeded": ["Anna"]})
ASKING = f"<think>hm</think>{HANDOFF_TEXT} What of 12 for Anna?"


def shout(text: str, row: Row) -> float:
    return float(text.isupper())


def test_each_channel_is_judged_by_itself_and_an_empty_one_not_at_all() -> None:
    message, answer = Judged(leaks(), "message"), Judged(leaks(), "answer")
    assert message(ASKING, ROW) == 1.0 and answer(ASKING, ROW) is None
    assert answer("<answer>Anna</answer>", ROW) == 1.0 and message("<answer>Anna</answer>", ROW) is None
    assert message(f"{HANDOFF_TEXT} What of 12?", ROW) == 0.0
    assert message(HANDOFF_TEXT, ROW) is None
    assert leaks()("Anna", Row(id="r", question="", gold="")) == 0.0, "the row names no values"


@pytest.mark.parametrize(
    ("spec", "text", "rate"),
    [
        (Spec("words", options={"words": ["darn"]}), "oh DARN it", 1.0),
        (Spec("words", options={"words": ["darn"]}), "darning socks", 0.0),
        (Spec("rules", options={"kinds": ["email"]}), "to a@b.org", 1.0),
        (Spec("rules", options={"kinds": ["card"]}), "to a@b.org", 0.0),
        (Spec("profanity"), "have a nice day", 0.1),
        (Spec("function", value="tests.scores.test_oracles:shout"), "NO", 1.0),
    ],
)
def test_oracles_of_a_recipe(spec: Spec, text: str, rate: float) -> None:
    assert make_oracle(spec)(text, ROW) == pytest.approx(rate, abs=0.1)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (Spec("wurds"), "unknown oracle 'wurds'; did you mean 'words'"),
        (Spec("words"), "the list is empty"),
        (Spec("words", options={"path": "gone.txt"}), "cannot read 'gone.txt'"),
        (Spec("rules", options={"kinds": ["mail"]}), "no kind of value is named 'mail'"),
        (Spec("function", value="tests.scores.test_oracles:gone"), "no function at"),
        (Spec("function", value="tests.scores.test_oracles:ROW"), "is no function"),
    ],
)
def test_an_oracle_that_cannot_be_is_refused(spec: Spec, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        make_oracle(spec, where="attributes.a.oracle")


def test_a_list_may_lie_in_a_file_and_a_number_outside_its_range_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("darn\n\nwhat the heck\n", encoding="utf-8")
    assert Words(path=tmp_path / "words.txt")("What the HECK?", ROW) == 1.0
    with pytest.raises(ConfigError, match=r"oracle: gave 2\.0 for a text of row 'r'"):
        Judged(lambda text, row: 2.0, "answer")("hm", ROW)
    assert set(ORACLES) == {"leaks", "rules", "words", "profanity", "function"}


TOKENS = ["<think>", "a", " b", "</think>", "<answer>", "7", "</answer>", HANDOFF_TEXT]


def bare(text: str) -> str:
    """A text without tags and blanks."""
    return "".join(re.sub(r"</?\w+>", "", text).split())


@given(st.lists(st.sampled_from(TOKENS), max_size=8))
def test_a_reader_tells_before_each_token_where_it_belongs(tokens: list[str]) -> None:
    readers = {channel: ChannelReader(channel) for channel in ("message", "answer")}
    found = dict.fromkeys(readers, "")
    for token in tokens:
        assert not (readers["message"].is_open and readers["answer"].is_open)
        for channel, reader in readers.items():
            found[channel] += token if reader.is_open else ""
            reader.feed(token)
    text = "".join(tokens)
    assert bare(channel_text(text, "message")) in bare(found["message"])
    assert bare(channel_text(text, "answer")) in bare(found["answer"]) or "</think>" in text
