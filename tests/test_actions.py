"""Calls of tools in text: any cut gives the same action, the first decision counts, and results can only be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.actions import CALL_CLOSE, CALL_OPEN, MOST_CALL, Action, TurnReader, read_turn, result_text
from selfroute.handoff import HANDOFF_TEXT, Piece, StreamParser, parse

MARKS = ["<tool>", "</tool>", "<think>", "</think>", "<answer>", "</answer>", "<unknown>", "<to", "ol>", "lookup 3"]
turns = st.lists(st.sampled_from(MARKS) | st.text("ab <{\"'/>\n", max_size=5), max_size=12).map("".join)


def joined(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Neighbouring pieces of one kind as one."""
    found: list[tuple[str, str]] = []
    for piece in pieces:
        if found and found[-1][0] == piece.kind:
            found[-1] = (piece.kind, found[-1][1] + piece.text)
        else:
            found.append((piece.kind, piece.text))
    return found


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<tool>lookup 12</tool>", Action("12", "lookup")),
        ("<think>first <tool>calc 3 + 4</tool> then", Action("3 + 4", "calc")),
        ('<tool>\n search {"a": "x<y"} </tool>', Action('{"a": "x<y"}', "search")),
        ("<tool></tool>", Action("", "?")),
        ("<tool>a <tool>b 1</tool>", Action("<tool>b 1", "a")),
        ("<answer>7</answer><tool>lookup 12</tool>", Action("7")),
        ("<answer><tool>lookup 12</tool>", Action("12", "lookup")),
        (f"{HANDOFF_TEXT}<tool>lookup 12</tool>", None),
        (f"<tool>lookup 12</tool>{HANDOFF_TEXT}", Action("12", "lookup")),
        ("just seven", Action("just seven")),
        ("<think>hm</think>", Action("")),
    ],
)
def test_the_first_decision_of_a_turn_counts(text: str, action: Action | None) -> None:
    assert read_turn(text) == action


@pytest.mark.parametrize("length", [MOST_CALL, MOST_CALL + 1])
def test_a_call_is_bounded(length: int) -> None:
    action = read_turn(f"{CALL_OPEN}{'x' * length}{CALL_CLOSE}")
    assert action is not None and bool(action.tool) is (length <= MOST_CALL)


@given(turns, st.data())
def test_any_cut_gives_the_same(text: str, data: st.DataObject) -> None:
    whole = TurnReader()
    expected = joined([*whole.feed(text), *whole.close()])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    reader, pieces = TurnReader(), list[Piece]()
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        pieces += reader.feed(text[begin:end])
    pieces += reader.close()
    assert (reader.action, reader.wants_cloud, joined(pieces)) == (whole.action, whole.wants_cloud, expected)


@given(turns)
def test_what_is_given_out_is_what_stands_before_the_call(text: str) -> None:
    reader = TurnReader()
    given_out = "".join(piece.text for piece in [*reader.feed(text), *reader.close()])
    assert text.startswith(given_out)
    if reader.action is None:
        assert given_out == text


@given(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text("abc 1{}\"'", max_size=20))
def test_an_action_reads_as_it_is_written(tool: str, text: str) -> None:
    assert read_turn(str(Action(text.strip(), tool))) == Action(text.strip(), tool)


@given(
    st.text(max_size=60) | turns | st.sampled_from([HANDOFF_TEXT, "<|im_end|>", "[/INST]", "</result><tool>x</tool>"])
)
def test_a_result_can_do_no_more_than_be_read(text: str) -> None:
    said = result_text(text)
    inner = said.removeprefix("<result>").removesuffix("</result>")
    assert "<" not in inner and "[/INST]" not in inner
    reader = TurnReader()
    pieces = reader.feed(inner)
    assert reader.action is None and all(piece.kind != "tag" for piece in pieces)
    inside = StreamParser()
    inside.feed(f"<think>{inner}")
    assert not inside.wants_cloud and not parse(f"{said}<answer>7</answer>").malformed


def test_a_result_is_cut() -> None:
    assert result_text("abcdef", most=3) == "<result>abc…</result>"
