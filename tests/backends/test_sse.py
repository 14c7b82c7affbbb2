"""Events are read the same however their bytes are cut, and each as soon as it is there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.backends.sse import DONE, Event, EventReader, Malformed, error_message

ENDS = ("\n", "\r\n", "\r")
EVENTS = st.lists(
    st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.integers() | st.none(), max_size=3), max_size=4
)


def read(*blocks: bytes) -> list[Event]:
    reader = EventReader()
    found = [event for block in blocks for event in reader.read(block)]
    return found + list(reader.end())


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Event], bytes]:
    """Events, and one of the ways in which a server may write them."""
    events: list[Event] = [*draw(EVENTS), *draw(st.sampled_from([[], [DONE]]))]
    end, indent, blank = draw(st.sampled_from(ENDS)), draw(st.sampled_from([None, None, 1])), draw(st.booleans())
    noise = st.sampled_from(["", ": here", "id: 7", "retry: 3", "unknown: field", "event: chunk"])
    lines: list[str] = []
    for event in events:
        text = event if isinstance(event, str) else json.dumps(event, indent=indent, ensure_ascii=draw(st.booleans()))
        lines += [line for line in [draw(noise)] if line]
        lines += [f"data:{draw(st.sampled_from(['', ' ']))}{line}" for line in text.split("\n")]
        lines += [""] if blank or indent else []
    written = (end.join([*lines, ""])).encode()
    return events, draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + written


@given(streams(), st.data())
def test_any_cut_gives_the_same_events(stream: tuple[list[Event], bytes], data: st.DataObject) -> None:
    events, written = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=6)))
    blocks = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    assert read(*blocks) == events
    assert read(*(bytes([byte]) for byte in written)) == events


@pytest.mark.parametrize("block", [b"unknown: field\ndata: [DONE]", b"unknown: field\n[DONE]"])
def test_a_bare_end_is_an_event_beside_a_strange_line(block: bytes) -> None:
    assert read(block) == [DONE]


@given(st.binary(max_size=60), st.data())
def test_bytes_that_are_anything_are_read_alike_however_cut(written: bytes, data: st.DataObject) -> None:
    def outcome(*blocks: bytes) -> object:
        try:
            return read(*blocks)
        except Malformed as error:
            return str(error)

    cut = data.draw(st.integers(0, len(written)))
    assert outcome(written[:cut], written[cut:]) == outcome(written)


@given(EVENTS, st.sampled_from(ENDS))
def test_an_event_is_there_with_the_end_of_its_line(events: list[dict[str, object]], end: str) -> None:
    reader = EventReader()
    for event in events:
        assert list(reader.read(f"data: {json.dumps(event)}{end}".encode())) == [event]


@pytest.mark.parametrize(
    "written", [b"data: [DONE]", b"data:[DONE]", b"data: [DONE]\n", b"[DONE]\n", b"data: [DONE]\r"]
)
def test_nothing_is_waited_for_behind_the_last_event(written: bytes) -> None:
    assert list(EventReader().read(b'data: {"a": 1}\n\n' + written)) == [{"a": 1}, DONE]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_without_events_is_read_as_it_is(indent: int | None, end: str) -> None:
    answer = {"choices": [{"message": {"content": "hé"}}]}
    written = json.dumps(answer, indent=indent, ensure_ascii=False).replace("\n", end).encode()
    assert read(written) == read(*(bytes([byte]) for byte in written)) == [answer]
    assert read(written + end.encode() * 2 + written) == [answer, answer]


@pytest.mark.parametrize(
    "written",
    [
        b'event: error\ndata: {"message": "busy"}\n\n',
        b'event: error\ndata: {"message": "busy"}\n',
        b'event: error\ndata: {\ndata: "message": "busy"}\n\n',
        b'data: {"message": "busy"}\nevent: error\n\n',
        b"event: error\ndata: busy\n\n",
    ],
)
def test_an_error_event_is_one_wherever_it_is_named_so(written: bytes) -> None:
    with pytest.raises(Malformed, match="reported an error: busy"):
        list(EventReader().read(written))


def test_what_is_no_event_is_told_if_nothing_else_came() -> None:
    with pytest.raises(Malformed, match="not a stream of events, check base_url: <html>"):
        read(b"<html>\n<body>hello</body>")
    assert read(b"strange: field\ndata: {}\n\n") == [{}]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error": {"message": "a"}}', "a"),
        ('{"error": "a"}', "a"),
        ('[{"error": {"message": "a"}}]', "a"),
        ('{"detail": "a"}', "a"),
        ('{"code": 1, "msg": "a"}', "a"),
        ("<html>", "<html>"),
        ("[]", "[]"),
    ],
)
def test_what_a_server_says_is_found_in_its_error(body: str, said: str) -> None:
    assert error_message(body) == said
