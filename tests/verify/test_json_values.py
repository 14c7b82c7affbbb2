"""The last `"answer"` of JSON-like text, and when two values are the same."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.verify.json_values import last_answer, same_json
from selfroute.verify.verifiers import json_answer

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(min_size=1, max_size=30).filter(lambda text: bool(text.strip()))


@given(TEXT, st.booleans())
def test_a_text_passes_however_it_is_escaped(gold: str, ascii_only: bool) -> None:
    assert json_answer(json.dumps({"answer": gold}, ensure_ascii=ascii_only), gold).correct


@given(st.dictionaries(st.text(max_size=3), JSON, min_size=1, max_size=3), st.integers(0, 2))
def test_objects_pass_in_any_order_and_layout(value: dict[str, Any], indent: int) -> None:
    gold = json.dumps(value)
    turned = dict(reversed(value.items()))
    assert json_answer(json.dumps({"answer": turned}, indent=indent), gold).correct
    assert json_answer(json.dumps({"answer": json.dumps(turned)}), gold).correct
    assert not json_answer(json.dumps({"answer": [value]}), gold).correct
    assert not json_answer(json.dumps({"answer": {**value, "another key": 1}}), gold).correct


@pytest.mark.parametrize(
    ("value", "gold", "same"),
    [
        (1, "1.0", True), (1.0, "1", True), ("1", "1", True), (True, "1", False), (1, "true", False),
        (True, "true", True), (None, "null", True), (None, "0", False), ([1], "[1.0]", True), (["1"], "[1]", False),
        ([True], "[1]", False), ([1, 9], "[1, 2]", False), ("[1, 9]", "[1, 2]", False), ("9:15", "9:40", False),
        (1, '{"a": 1}', False), ({"a": 1}, "1", False), ("2x + 5", "2x + 3", False), ("6√2", "6", False),
    ],
)  # fmt: skip
def test_same_json(value: Any, gold: str, same: bool) -> None:
    found = last_answer(json.dumps({"answer": value}))
    assert found is not None
    assert same_json(found, gold) is same


@pytest.mark.parametrize("latex", [r"\frac{1}{2}", r"\times 3", r"2\beta", r"\nu", r"\right)", r"\sqrt{2}"])
def test_latex_passes_escaped_or_not(latex: str) -> None:
    assert json_answer(f'{{"answer": "{latex}"}}', latex).correct
    assert json_answer(json.dumps({"answer": latex}), latex).correct


def test_what_stands_last_counts() -> None:
    assert last_answer('{"answer": 7} then {"answer": 42}') == last_answer('{"answer": 42}')
    assert last_answer(r'{"reasoning": "\"answer\": 7"}') is None
    assert last_answer('{"answer": ""}') is None


@pytest.mark.parametrize(
    "piece", ['"answer": [', '"answer": {"a":', '"answer": 9', '"answer": "\\u', "[[", '"answer":']
)
def test_a_megabyte_takes_under_two_seconds(piece: str) -> None:
    started = time.process_time()
    json_answer(piece * (1_000_000 // len(piece)), "42")
    json_answer(f'"answer": {piece * 100_000}', "42")
    assert time.process_time() - started < 2
