"""Values of Python as text: which are the same, where a completion gives one, and that nothing is run."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfroute.verify.python_values import output, output_in, same_value

EQUAL = [
    ("{'a':1}", "{'a': 1}"), ('{"a": 1}', "{'a': 1}"), ("{'b': 2, 'a': 1}", "{'a': 1, 'b': 2}"), ("(1,2)", "(1, 2)"),
    ("{2, 1}", "{1, 2}"), ('"x"', "'x'"), ("[1,\n 2]", "[1, 2]"), ("-1", "-1"), ("1e3", "1000.0"), ("None", "None"),
    (" True ", "True"), (r"'\u0041'", "'A'"), ("-0.0", "0.0"), ("1, 2", "(1, 2)"), ("set( )", "set()"),
    ("[<A object at 0x7f>]", "[<A object at 0x10>]"), ("float('nan')", "nan"), ("0x" + "f" * 4000, "0x" + "F" * 4000),
]  # fmt: skip
DIFFERENT = [
    ("1", "True"), ("1", "1.0"), ("(1, 2)", "[1, 2]"), ("'1'", "1"), ("[2, 1]", "[1, 2]"), ("{1}", "[1]"),
    ("'a '", "'a'"), ("none", "None"), ("{}", "set()"), ("[True]", "[1]"), ("{'a': {1}}", "{'a': [1]}"),
    ("<A object at 0x7f>", "<B object at 0x7f>"), ("Counter({'a': 1})", "{'a': 1}"), ("inf", "-inf"),
]  # fmt: skip


def test_hard_equivalents() -> None:
    assert [pair for pair in EQUAL if not same_value(*pair)] == []
    assert [pair for pair in DIFFERENT if same_value(*pair)] == []


SIMPLE: Any = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3)
NESTED = st.recursive(
    SIMPLE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.sets(st.integers() | st.text(max_size=3), max_size=3)
    ),
    max_leaves=8,
)


@given(NESTED)
def test_a_value_is_what_repr_writes(value: Any) -> None:
    assert same_value(repr(value), repr(value))
    assert output(f"<answer>{value!r}</answer>", repr(value)).correct or "<" in repr(value) or not repr(value).strip()
    assert not same_value(repr([value]), repr(value))


@given(st.dictionaries(st.text(max_size=3), NESTED, min_size=2, max_size=4))
def test_the_order_of_a_dict_does_not_count(value: dict[str, Any]) -> None:
    assert same_value(repr(dict(reversed(value.items()))), repr(value))


@pytest.mark.parametrize(
    "value", [Counter("aab"), OrderedDict(a=1), deque([1], 3), date(2024, 1, 31), frozenset({1, 2})]
)
def test_reprs_of_the_standard_library(value: Any) -> None:
    assert same_value(repr(value), repr(value))
    assert not same_value("[1]", repr(value))


@pytest.mark.parametrize(
    "completion",
    [
        "<answer>{'a': 1}</answer>",
        "So f('a') == {'a': 1}",
        "<answer>f('a') == {'a': 1}</answer>",
        "<think>{'b': 1}</think>It returns\n`{'a': 1}`",
        "<answer>{'a': 1}</answer> or <answer>2</answer>",
        "[ANSWER]\nassert f('a') == {'a': 1}\n[/ANSWER]",
        "The output is `{'a': 1}`.",
        "f('a') -> {'a': 1}",
        "So:\n```python\n{'a': 1}\n```",
    ],
)
def test_where_the_output_stands(completion: str) -> None:
    assert same_value(output_in(completion), "{'a': 1}")


@pytest.mark.parametrize("text", ["f('a')", "__import__('os').getpid()", "[x for x in (1,)]", "1 + 1", "'a' * 10**9"])
def test_expressions_are_not_worked_out(text: str) -> None:
    assert not output(f"<answer>{text}</answer>", "1").correct
    assert output(f"<answer>{text}</answer>", text).correct, "they only read the same"


@pytest.mark.parametrize(
    "piece", ["[", "f(", "{", "f() == ", "44**19**35 ", "-", "\\x", "(1,", "[ANSWER]", "is ", "<A at 0x1>", "~~~\n"]
)
def test_a_megabyte_takes_under_two_seconds(piece: str) -> None:
    started = time.process_time()
    for text in (piece * (1_000_000 // len(piece)), f"<answer>{piece * 200_000}</answer>"):
        assert not output(text, "{'a': 1}").correct
    assert time.process_time() - started < 2


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_gets_a_verdict(text: str) -> None:
    output(text, "{'a': 1}")
