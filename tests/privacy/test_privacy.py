"""What is found, that nothing found leaves, and that it comes back."""

from __future__ import annotations

import json
import re
import unicodedata
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy.bodies import NAMES, planted

from selfroute.errors import ConfigError, PrivacyRefused
from selfroute.privacy.base import Span, find
from selfroute.privacy.leaks import check
from selfroute.privacy.numbers import Numbers
from selfroute.privacy.patterns import Patterns
from selfroute.privacy.redaction import Redactor
from selfroute.privacy.restoring import Restorer, restored
from selfroute.privacy.table import LONGEST, Table
from selfroute.types import Message, Sampling

DETECTORS = (Patterns(NAMES), Numbers(["US", "GB", "DE"]))
REDACTOR = Redactor(DETECTORS)


def kinds(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find(text, DETECTORS)]


def redacted(text: str, redactor: Redactor = REDACTOR) -> str:
    return redactor.redact([Message("user", text)], Sampling()).messages[0].content


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Ask anna.mueller@example.co.uk.", "email", "anna.mueller@example.co.uk"),
        ("see a%40b.org/x", "email", "a%40b.org"),
        ("pay 4111 1111 1111 1111 now", "card", "4111 1111 1111 1111"),
        ("pay 378282246310005", "card", "378282246310005"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "iban", "DE89 3704 0044 0532 0130 00"),
        ("to GB82WEST12345698765432", "iban", "GB82WEST12345698765432"),
        ("SSN 536-90-4399", "id", "536-90-4399"),
        ("NI: QQ 12 34 56 C, AB 12 34 56 C", "id", "AB 12 34 56 C"),
        ("Call 0171 2345678 today", "phone", "0171 2345678"),
        ("call 415-555-2671", "phone", "415-555-2671"),
        ("call 4155552671", "phone", "4155552671"),
        ("OPENAI_API_KEY=sk-abcdefghijklmnop1234", "key", "sk-abcdefghijklmnop1234"),
        ('{"password": "hunter2!x"}', "key", "hunter2!x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "key", None),
        ("at 10.0.0.12:80", "ip", "10.0.0.12"),
        ("at 2001:db8::1, ok", "ip", "2001:db8::1"),
        ("I live at 12 Baker Street, London NW1 6XE.", "address", "12 Baker Street, London NW1 6XE"),
        ("Hauptstraße 5, 10115 Berlin", "address", "Hauptstraße 5, 10115 Berlin"),
        ("12 rue de la Paix, 75002 Paris", "address", "12 rue de la Paix, 75002 Paris"),
        ("Calle Mayor 5, 28013 Madrid", "address", "Calle Mayor 5, 28013 Madrid"),
        ("to anna  müller!", "name", "anna  müller"),
    ],
)
def test_a_value_is_found_as_it_is_written(text: str, kind: str, value: str | None) -> None:
    assert (kind, value or text) in kinds(text)


@pytest.mark.parametrize(
    "text",
    [
        "Using the numbers [3, 5, 7], create an equation that equals 26",
        "He walked 5 km up the hill; 4 people sat in the park at 12:30:45 on 2024-10-12 10:30.",
        "12 * 34 + 5678 = 6086, version 1.2.3, order 20231115, 1234567 items",
        "4111 1111 1111 1112 has a wrong checksum",
        "My password is secret, and the key to success is work.",
        "def f(x: int) -> int: return x @ y",
        "Annabelle Müllerin",
    ],
)
def test_what_is_none_is_left(text: str) -> None:
    assert kinds(text) == []


def test_two_accounts_with_few_words_between_are_both_found() -> None:
    text = "Old: GB29NWBK60161331926819 We have GB82WEST12345698765432 here"
    assert kinds(text) == [("iban", "GB29NWBK60161331926819"), ("iban", "GB82WEST12345698765432")]


VALUES = [
    *("12 Baker Street, London NW1 6XE", "Calle Mayor 5, 28013 Madrid", "DE89 3704 0044 0532 0130 00", "10.0.0.12"),
    *("536-90-4399", "anna.mueller@example.co.uk", "sk-abcdefghijklmnop1234", "4111 1111 1111 1111"),
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
]
PROSE = [
    "and so on, ",
    "in room 12 of the 3rd floor, ",
    "host to the key token secret of it: ",
    "PL OF ST, ",
    "x" * 200 + " ",
]


@given(st.lists(st.sampled_from(PROSE), max_size=30), st.lists(st.sampled_from(PROSE), max_size=30), st.data())
@settings(max_examples=100, deadline=None)
def test_a_value_is_found_wherever_it_stands(before: list[str], behind: list[str], data: st.DataObject) -> None:
    value = data.draw(st.sampled_from(VALUES))
    text = f"{''.join(before)}; {value}; {''.join(behind)}"
    start = text.index(f"; {value}") + 2
    assert any(span.start <= start and start + len(value) <= span.end for span in find(text, DETECTORS))


def test_of_two_that_overlap_the_longer_one_stands() -> None:
    assert kinds("4155552671@example.org") == [("email", "4155552671@example.org")]
    assert kinds("4111 1111 1111 1111") == [("card", "4111 1111 1111 1111")]


@pytest.mark.parametrize("seed", range(500))
def test_no_planted_value_is_in_what_leaves(seed: int) -> None:
    made = planted(seed)
    body, table = REDACTOR.redact_body(made.body)
    sent = json.dumps(body, ensure_ascii=False)
    check(sent.encode(), table)
    plain = unicodedata.normalize("NFKC", sent).casefold()
    numbers = re.sub(r"[\W_]", "", plain)
    for kind, value in made.values:
        small = value.casefold()
        assert small not in plain, kind
        if kind in ("card", "iban", "phone", "id"):
            assert re.sub(r"[\W_]", "", small) not in numbers, kind
    assert sum(table.kinds().values()) <= len(made.values)


def test_equal_values_have_one_placeholder_and_turns_that_follow_keep_it() -> None:
    first = redacted("I am 4111 1111 1111 1111, mail a@b.org")
    more = redacted("I am 4111 1111 1111 1111, mail a@b.org\nAgain: 4111-1111-1111-1111 and A@B.org and c@d.org")
    assert more.startswith(first)
    assert more.endswith("Again: [CARD_1] and [EMAIL_1] and [EMAIL_2]")


def test_a_placeholder_in_the_users_own_text_is_not_used() -> None:
    text = "what does [EMAIL_1] mean in a@b.org?"
    request = REDACTOR.redact([Message("user", text)], Sampling())
    assert request.messages[0].content == "what does [EMAIL_1] mean in [EMAIL_2]?"
    assert restored(request.messages[0].content, request.table) == text


def test_a_request_without_a_finding_is_the_same_object() -> None:
    messages, sampling = [Message("user", "2 + 2?")], Sampling(extra={"tools": []})
    request = REDACTOR.redact(messages, sampling)
    assert request.messages is messages and request.sampling is sampling and not len(request.table)


@pytest.mark.parametrize(("action", "expected"), [("send", "to a@b.org"), ("redact", "to [EMAIL_1]")])
def test_each_kind_has_its_action(action: Any, expected: str) -> None:
    assert redacted("to a@b.org", Redactor(DETECTORS, {"email": action})) == expected


def test_a_kind_that_is_refused_keeps_the_request_and_says_no_value() -> None:
    with pytest.raises(PrivacyRefused, match="kind 'card'") as caught:
        redacted("4111 1111 1111 1111", Redactor(DETECTORS, {"card": "refuse"}))
    assert "4111" not in str(caught.value)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"text": "no type"},
        {"type": "text", "text": "see data:image/png;base64,AAAA"},
    ],
)
def test_what_cannot_be_read_is_not_sent(part: dict[str, Any]) -> None:
    message = Message("user", "", raw={"role": "user", "content": [part]})
    with pytest.raises(PrivacyRefused, match="cannot be read"):
        REDACTOR.redact([message], Sampling())


def test_a_detector_that_fails_keeps_everything_and_says_nothing_of_the_text() -> None:
    class Broken:
        name = "broken"

        def spans(self, text: str) -> list[Span]:
            raise ValueError(text)

    with pytest.raises(PrivacyRefused, match="'broken' failed: ValueError") as caught:
        redacted("a@b.org", Redactor([Broken()]))
    assert "a@b" not in str(caught.value)


def test_unknown_kinds_actions_and_regions_are_named() -> None:
    with pytest.raises(ConfigError, match="no kind of value is named 'mail'; known are key"):
        Redactor(DETECTORS, {"mail": "redact"})
    with pytest.raises(ConfigError, match="'hide' is not one of send, redact, refuse"):
        Redactor(DETECTORS, {"email": "hide"})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="'ZZ' is no country"):
        Numbers(["ZZ"])
    with pytest.raises(ConfigError, match="a name is empty"):
        Patterns(["  "])


def table_of(*values: tuple[str, str]) -> Table:
    table = Table()
    for kind, value in values:
        table.put(kind, value)
    return table


TABLE = table_of(
    ("email", "a@b.org"), ("email", "c@d.org"), ("name", 'Ann "A" Lee'), *(("ip", f"10.0.0.{i}") for i in range(12))
)
PIECES = [*TABLE.values, "[", "]", "[EMAIL_", "1]", "x", "[[NAME_1]", "[IP_1", "\n", "[EMAIL_3]", "ü"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.lists(st.integers(0, 80), max_size=8))
@settings(max_examples=300, deadline=None)
def test_however_a_stream_is_cut_the_same_text_comes_out(text: str, cuts: list[int]) -> None:
    restorer, out, held = Restorer(TABLE), "", 0
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for start, end in pairwise(places):
        out += restorer.feed(text[start:end])
        held = max(held, len(restorer._waiting))
    out += restorer.close()
    expected = re.sub("|".join(re.escape(mark) for mark in TABLE.values), lambda m: TABLE.values[m[0]], text)
    assert out == expected == restored(text, TABLE)
    assert held < LONGEST


def test_values_within_json_are_escaped() -> None:
    assert json.loads(restored('{"to": "[NAME_1]"}', TABLE, within_json=True)) == {"to": 'Ann "A" Lee'}


@pytest.mark.parametrize(
    "body",
    [
        b'{"x": "a@b.org"}',
        b'{"x": "A\\u0040b.org"}',
        b'{"x": "a%40b.org"}',
        '{"x": "ａ@b.org"}'.encode(),
        b'{"x": "{\\"y\\": \\"a\\\\u0040b.org\\"}"}',
        b'{"a@b.org": 1}',
        b'{"x": 4111111111111111}',
        b'{"x": "4111.1111-1111 1111"}',
        b"not json a@b.org",
    ],
)
def test_the_last_look_sees_a_value_in_every_dress(body: bytes) -> None:
    with pytest.raises(PrivacyRefused, match="would have left"):
        check(body, table_of(("email", "a@b.org"), ("card", "4111 1111 1111 1111")))


def test_the_last_look_lets_pass_what_only_looks_like_it() -> None:
    check(b'{"x": "[EMAIL_1] ba@b.organic 4111"}', table_of(("email", "a@b.org"), ("name", "Li")))
