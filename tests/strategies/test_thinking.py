from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.strategies.thinking import CloudReader, ThinkSplitter
from selfroute.types import Delta

TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "a", "b c", "<answer>"]), max_size=12
).map("".join)


def split(*chunks: str) -> dict[str, str]:
    splitter = ThinkSplitter()
    parts = [part for chunk in chunks for part in splitter.feed(chunk)] + splitter.close()
    assert all(text for _, text in parts)
    return {kind: "".join(text for k, text in parts if k == kind) for kind in ("reasoning", "content")}


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>a</think>\n\nb", "a", "b"),
        (" \n<think>a</think>b</think>", "a", "b</think>"),
        ("b <think>a</think>", "", "b <think>a</think>"),
        ("<think>a", "a", ""),
        ("<think>a</thi", "a</thi", ""),
        ("<thinker", "", "<thinker"),
        ("  b ", "", "  b "),
        ("", "", ""),
        ("<think></think>", "", ""),
    ],
)
def test_only_a_leading_thought_is_told_apart(text: str, reasoning: str, content: str) -> None:
    assert split(text) == {"reasoning": reasoning, "content": content}


@given(TEXTS, st.lists(st.integers(0, 60), max_size=8))
def test_any_cut_gives_the_same(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    assert split(*(text[a:b] for a, b in pairwise(places))) == split(text)


@given(TEXTS)
def test_nothing_is_lost_but_tags_and_blanks(text: str) -> None:
    got = split(text)
    bare = "".join(text.split())
    reasoning, content = ("".join(got[kind].split()) for kind in ("reasoning", "content"))
    assert bare in (content, f"<think>{reasoning}", f"<think>{reasoning}</think>{content}")


@pytest.mark.parametrize("told", [False, True])
def test_a_later_thought_is_one_where_the_server_says_so(told: bool) -> None:
    reader = CloudReader(strip_tags=False)
    deltas = [Delta("<think>a</think>\n\nb "), Delta("<think>c", aside=told), Delta("d</think> e"), Delta("<think>")]
    said = [each for delta in deltas for each in reader.read(delta)] + reader.close()
    got = {kind: "".join(each.text for each in said if each.kind == kind) for kind in ("reasoning", "content")}
    later = {"reasoning": "acd", "content": "b  e<think>"}
    assert got == (later if told else {"reasoning": "a", "content": "b <think>cd</think> e<think>"})
