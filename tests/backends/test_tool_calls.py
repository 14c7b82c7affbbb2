"""Calls stay apart and keep their ids, however a server numbers and names them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from selfroute.backends.tool_calls import ToolCalls


def piece(name: str | None = None, arguments: Any = "", **more: Any) -> dict[str, Any]:
    return {"function": {"arguments": arguments, **({"name": name} if name else {})}, **more}


def told(*chunks: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Id, name and arguments of the calls, put together as the least careful clients do: everything is joined."""
    calls, reader = dict[int, dict[str, str]](), ToolCalls()
    for chunk in chunks:
        for each in reader.read(chunk):
            call = calls.setdefault(each["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] += each.get("id", "")
            call["name"] += each["function"].get("name", "")
            call["arguments"] += each["function"]["arguments"]
    assert list(calls) == list(range(len(calls)))
    return [(call["id"], call["name"], call["arguments"]) for call in calls.values()]


ONE = [("x", "a", '{"k":1}')]
TWO = [("x", "a", '{"k":1}'), ("y", "b", '{"k":2}')]


@pytest.mark.parametrize(
    "chunks",
    [
        [[piece("a", "", id="x", index=0)], [piece(None, '{"k":', index=0)], [piece(None, "1}", index=0)]],
        [[piece("a", '{"k":', id="x", index=0)], [piece("a", "1}", id="x", index=0)]],
        [[piece("a", '{"k":1}', id="x", index=0)], [piece("a", "", id="x", index=0)]],
        [[piece("a", '{"k":', id="x", index=0)], [piece(None, "1}", id="", index=0)]],
        [[piece("a", '{"k":', id="x", index=0)], [piece(None, "1}", id=None, index=0)]],
        [[piece("a", None, id="x", index=0)], [piece(None, '{"k":1}', index=0)]],
        [[piece("a", '{"k":1}', id="x", index=3)]],
        [[piece("a", "", id="x", index=0), piece(None, '{"k":', index=0), piece(None, "1}", index=0)]],
        [[piece("a", "", id="x"), piece(None, '{"k":'), piece(None, "1}")]],
        [[piece("a", '{"k":', id="x", index=10**12)], [piece(None, "1}", index=10**12)]],
        [[piece("a", '{"k":1}', id="x", index=-1)]],
    ],
    ids=["openai", "all repeated", "named again at its end", "id wiped", "id null", "arguments null", "from three",
         "one chunk", "one chunk, no index", "huge index", "negative index"],
)  # fmt: skip
def test_one_call(chunks: list[list[dict[str, Any]]]) -> None:
    assert told(*chunks) == ONE


def test_arguments_that_are_an_object_are_written_as_json() -> None:
    ((_, _, arguments),) = told([piece("a", {"k": "é"}, id="x")])
    assert json.loads(arguments) == {"k": "é"}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("indexes", [(0, 1), (0, 0), (None, None), (1, 2)])
def test_two_whole_calls(indexes: tuple[Any, Any], together: bool) -> None:
    first, second = (
        piece(name, f'{{"k":{number}}}', id=name_id, index=index)
        for name, number, name_id, index in (("a", 1, "x", indexes[0]), ("b", 2, "y", indexes[1]))
    )
    assert told(*([[first, second]] if together else [[first], [second]])) == TWO


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    "named", [{}, {"id": ""}, {"id": None, "index": 0}, {"id": "same", "index": 0}, {"id": "same"}]
)
def test_calls_of_one_function_that_nothing_tells_apart_are_two_with_ids_of_their_own(
    named: dict[str, Any], together: bool
) -> None:
    pieces = [piece("a", '{"k":1}', **named), piece("a", '{"k":2}', **named)]
    first, second = told(*([pieces] if together else [[each] for each in pieces]))
    assert (first[1:], second[1:]) == (("a", '{"k":1}'), ("a", '{"k":2}'))
    assert first[0] and second[0] and first[0] != second[0]


def test_pieces_that_come_in_turns_go_to_their_calls() -> None:
    begin = [piece("a", "", id="x", index=0), piece("b", "", id="y", index=1)]
    mixed = [piece(None, '{"k":', index=1), piece(None, '{"k":', index=0)]
    rest = [piece(None, "1}", index=0), piece(None, "2}", index=1)]
    assert told(begin, mixed, rest) == TWO
