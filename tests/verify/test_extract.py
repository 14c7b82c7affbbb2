"""Where the answer stands in a completion."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.handoff import parse
from selfroute.verify.extract import after_phrases, after_reasoning, boxed, code_blocks, code_in, tagged_answer


@pytest.mark.parametrize(
    ("completion", "rest"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b</think>c", "bc"),
        ("before<think>a", "before"),
        ("a<think>b</think>c<think>d</think>e", "ace"),
        ("a</think>b<think>c", "b"),
        ("<think>a<think>b</think>c", "c"),
        ("<THINK>a</Think >b", "b"),
    ],
)
def test_after_reasoning(completion: str, rest: str) -> None:
    assert after_reasoning(completion) == rest


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer> 4 </answer>", "4"),
        ("<answer>4</answer><answer>5</answer>", "4"),
        ("<answer> </answer><answer>5</answer>", "5"),
        ("<answer>4<answer>5</answer>6</answer>", "5"),
        ("<think><answer>4</answer></think>", None),
        ("<think></think><think><answer>4</answer></think>", None),
        ("<think></think><answer>4</answer></think><answer>5</answer>", "4"),
        ("<answer>4</answer><think></think><answer>5</answer>", "4"),
        ("<answer>4</answer></think><answer>5</answer>", "5"),
        ("<think><answer>4</answer></think><answer>5</answer>", "5"),
        ("<answer>4", None),
        ("4</answer>", None),
    ],
)
def test_tagged_answer(completion: str, answer: str | None) -> None:
    assert tagged_answer(completion) == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so $\boxed{42}$.", "42"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\fbox{3}", "3"),
        (r"$\boxed 9$ units", "9"),
        (r"\boxed12$", "12"),
        (r"\boxed{1", None),
        (r"\boxed{}", None),
        (r"\boxedspace", None),
        ("42", None),
    ],
)
def test_boxed(text: str, content: str | None) -> None:
    assert boxed(text) == content


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", r"\boxed{", "}", "{", "\\", "4"])))
def test_pieces_in_any_order_never_raise(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert (tagged_answer(text) or "4").strip()
    assert (boxed(text) or "4").strip()
    assert len(after_reasoning(text)) <= len(text)


@pytest.mark.parametrize(
    "piece", [r"\boxed{", r"\boxed{}", "{", "<answer>", "<think>", "\\", r"\boxed ", r"\boxedx", "box"]
)
def test_a_megabyte_takes_milliseconds(piece: str) -> None:
    text = piece * (10**6 // len(piece))
    started = time.process_time()
    after_reasoning(text), tagged_answer(text), boxed(text)
    assert time.process_time() - started < 0.5


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", "4", "5", " "]), max_size=10))
def test_the_hand_off_parser_reads_the_same_answer(pieces: list[str]) -> None:
    text = "".join(pieces)
    if (answer := tagged_answer(text)) is not None:
        assert parse(text).answer == answer


GOOD = "def f():\n    return 1"


@pytest.mark.parametrize(
    "completion",
    [
        f"```python\n{GOOD}\n```",
        f"```python\n{GOOD}\n```".replace("\n", "\r\n"),
        f"```bash\npip list\n```\n```PYTHON\n{GOOD}\n```",
        f"It prints\n```\n1\n```\n```py3\n{GOOD}\n```",
        f"~~~\n{GOOD}\n~~~\nDone.",
        f"````python\n{GOOD}\n````",
        f"```{{.python}}\n{GOOD}\n```",
        "1. Code:\n   ```python\n   def f():\n       return 1\n   ```",
        "> ```python\n> def f():\n>     return 1\n> ```",
        f"```python\n{GOOD}",
        GOOD,
    ],
)
def test_code_in(completion: str) -> None:
    assert code_in(completion) == GOOD


def test_code_that_defines_a_function_comes_first() -> None:
    text = f"```python\nprint(f())\n```\n```python\n{GOOD}\n```"
    assert code_in(text) == "print(f())"
    assert code_in(text, defining="f") == GOOD


def test_a_longer_fence_holds_a_shorter_one() -> None:
    assert code_blocks("````\n```\n1\n```\n````") == [("", "```\n1\n```")]


def test_after_phrases_begins_with_the_last() -> None:
    text = "The answer is 7. No.\nDie Antwort ist 8.\n**Answer:**\n9"
    assert list(after_phrases(text)) == ["9", "8.", "7. No."]


@pytest.mark.parametrize(
    "piece", ["```\n", "~~~\n", "> ", "answer ", "answer is ", "answer ab " * 3, "答案", "\r", "1. ```"]
)
def test_a_megabyte_of_fences_or_phrases_takes_under_two_seconds(piece: str) -> None:
    text = piece * (10**6 // len(piece))
    started = time.process_time()
    code_in(text), list(after_phrases(text, of_options=True))
    assert time.process_time() - started < 2
