"""Calls in an answer's tokens, however these are cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.calls import CALL_END, CALL_START, CallReader, Stretch, call_text


class Pieces:
    """Spells tokens that are places in a list of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.pushed = self.taken = 0

    def push(self, token_id: int) -> None:
        self.pushed += 1

    def finish(self) -> None:
        pass

    def take(self, *, last: bool = False) -> tuple[str, range]:
        which = range(self.taken, self.pushed)
        self.taken = self.pushed
        return "".join(self.texts[i] for i in which), which


def read(texts: Sequence[str], cuts: Sequence[int] = ()) -> list[Stretch]:
    """What a reader finds in tokens of these texts, fed in parts; neighbours of the answer as one."""
    reader, found, ends = CallReader(Pieces(texts)), list[Stretch](), [*sorted(cuts), len(texts)]
    for begin, end in zip([0, *ends], ends, strict=False):
        found += reader.feed(range(begin, end))
    joined: list[Stretch] = []
    for stretch in [*found, *reader.close()]:
        if joined and not (stretch.is_call or joined[-1].is_call):
            stretch = Stretch(joined.pop().token_ids + stretch.token_ids)
        joined.append(stretch)
    return joined


def answer_of(texts: Sequence[str]) -> str:
    return "".join(texts[i] for stretch in read(texts) if not stretch.is_call for i in stretch.token_ids)


WELL = [
    (["a", "<", "call", ">", "5", "<", "/", "call", ">", "b"], 5),
    (["a", "<call>", "12", "</call>", "b"], 12),
    (["a", " <call> 3 </call>\n", "b"], 3),
    (["a", "<c", "all>0", "7</ca", "ll>", "b"], 7),
]


@pytest.mark.parametrize(("texts", "count"), WELL)
def test_a_call_is_told_from_the_answer(texts: list[str], count: int) -> None:
    before, call, after = read(texts)
    assert (before.token_ids, after.token_ids) == ((0,), (len(texts) - 1,))
    assert call == Stretch(tuple(range(1, len(texts) - 1)), is_call=True, count=count)


BAD = [
    (["a", "<call>", "five", "</call>", "b"], "afiveb"),
    (["a", "<call>", "</call>", "b"], "ab"),
    (["a", "<call>", "-1", "</call>", "b"], "a-1b"),
    (["a", "<call>", "5", "b"], "ab"),
    (["a", "<call>", "5"], "a"),
    (["a", "</call>", "b"], "ab"),
    (["a", "<call>", "<call>", "5", "b"], "ab"),
    (["a", "<call>", "1" * 40, "</call>", "b"], "ab"),
]


@pytest.mark.parametrize(("texts", "said"), BAD)
def test_what_is_malformed_asks_for_nothing_and_is_left_out(texts: list[str], said: str) -> None:
    assert answer_of(texts) == said
    assert all(stretch.count is None for stretch in read(texts))


def test_what_only_begins_like_a_call_is_the_answer() -> None:
    assert read(["1", "<", "2", "<", "ca", "t>", "<"]) == [Stretch(tuple(range(7)))]


def test_text_that_shares_a_token_with_a_call_goes_with_it() -> None:
    assert answer_of(["a", ";<", "call>2</call>", "b"]) == "ab"


PIECES = st.lists(
    st.sampled_from(["<", "call", ">", "/", "</", "<call>", "</call>", "5", "12", " ", "a", "b<", "<c", "al", "l", ""]),
    max_size=14,
)


@given(PIECES, st.data())
def test_any_cut_gives_the_same(texts: list[str], data: st.DataObject) -> None:
    whole = read(texts)
    assert [i for stretch in whole for i in stretch.token_ids] == list(range(len(texts)))
    cuts = data.draw(st.lists(st.integers(0, len(texts)), max_size=4))
    assert read(texts, cuts) == whole


@given(st.lists(st.sampled_from(["x", "y ", "1"]), max_size=6), st.integers(0, 6), st.integers(0, 10**6))
def test_a_call_in_an_answer_leaves_the_answer(words: list[str], place: int, count: int) -> None:
    place = min(place, len(words))
    texts = [*words[:place], *call_text(count), *words[place:]]
    assert answer_of(texts) == "".join(words)
    assert [stretch.count for stretch in read(texts) if stretch.is_call] == [count]
    assert CALL_START not in answer_of(texts) and CALL_END not in answer_of(texts)
