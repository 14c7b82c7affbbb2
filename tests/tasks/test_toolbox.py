"""A user's own tools: their schemas, and the care that is taken of their calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.actions import Action
from selfroute.config import Spec, make_task
from selfroute.errors import ConfigError
from selfroute.tasks.base import Interactive, Restorable, Row
from selfroute.tasks.lookup import Lookup
from selfroute.tasks.toolbox import OwnTool, Toolbox, tool_of
from selfroute.testing import check_environment

HERE = __name__


def forecast(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """Say what the weather will be.

    Args:
        city: as on a map.
    """
    return f"{city}: {days} days of sun, 20 {unit}"


async def awaited(city: str) -> str:
    """Say what the weather is."""
    return f"rain in {city}"


def untyped(city) -> str:  # type: ignore[no-untyped-def]
    """Say nothing."""
    return ""


def odd(city: set[str]) -> str:
    """Say nothing."""
    return ""


def open_ended(*cities: str) -> str:
    """Say nothing."""
    return ""


def silent(city: str) -> str:
    return ""


class Flaky:
    """Fails so many times, then answers; counts."""

    def __init__(self, failures: int) -> None:
        self.failures, self.tried = failures, 0

    def __call__(self, city: str) -> str:
        """Say what the weather is."""
        self.tried += 1
        if self.tried <= self.failures:
            raise OSError("no line")
        return f"{city} is dry, says try {self.tried}"


def opened(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], **options: Any) -> Any:
    """An episode with one tool, which is called "ask"; its clock stands still."""
    monkeypatch.setattr(f"{HERE}.now", function, raising=False)
    own = OwnTool(call=f"{HERE}:now", name="ask", **options)
    box = Toolbox(tools=[own], clock=lambda: 0.0, sleep=lambda seconds: None)
    return box.environment(Row("", "anything", ""))


def test_annotations_and_docstring_are_the_schema() -> None:
    tool = tool_of(forecast)
    assert (tool.name, tool.description) == ("forecast", "Say what the weather will be.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "as on a map."},
            "days": {"type": "integer"},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["city"],
    }
    assert tool.call is not None and tool.call({"city": "Oslo", "days": 2}) == "Oslo: 2 days of sun, 20 C"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (f"{HERE}:untyped", "tool 'untyped': parameter 'city' has no schema; annotate it as str, int"),
        (f"{HERE}:odd", "tool 'odd': parameter 'city' has no schema"),
        (f"{HERE}:open_ended", "tool 'open_ended': parameter 'cities' has no schema"),
        (f"{HERE}:silent", "tool 'silent': no docstring says what it does"),
        (
            f"{HERE}:nobody",
            "cannot be imported: module .* has no attribute 'nobody'; its folder has to",
        ),
        ("nowhere_at_all:f", "cannot be imported: No module named 'nowhere_at_all'"),
        ("forecast", "'forecast' is no module:function; write e.g. my_tools:forecast"),
        (f"{HERE}:HERE", "is '.*' and no function"),
    ],
)
def test_a_function_that_does_not_say_its_schema_is_refused(call: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        Toolbox(tools=[OwnTool(call=call)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"price_usd": -1.0}, "price_usd: -1 is not at least 0"), ({"timeout_s": 0.0}, "timeout_s: 0 is not above 0"),
     ({"retries": -1}, "retries: -1 is not at least 0")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OwnTool(call=f"{HERE}:forecast", **options)


def test_a_box_without_tools_or_with_two_of_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="tools is empty"):
        Toolbox(tools=[])
    with pytest.raises(ConfigError, match="two tools are called 'forecast'"):
        Toolbox(tools=[OwnTool(call=f"{HERE}:forecast")] * 2)


def test_calls_in_either_form_reach_the_function_and_wrong_ones_are_told_so() -> None:
    world = Toolbox(tools=[OwnTool(call=f"{HERE}:forecast"), OwnTool(call=f"{HERE}:awaited")]).environment(
        Row("", "", "")
    )
    assert world.step(Action("Oslo", "forecast")).text == "Oslo: 1 days of sun, 20 C"
    assert world.step(Action('{"city": "Rome", "days": 3}', "forecast")).text == "Rome: 3 days of sun, 20 C"
    assert world.step(Action("Bonn", "awaited")).text == "rain in Bonn"
    for action, told in ((Action("", "forecast"), "forecast needs city"), (Action("", "fly"), "no tool 'fly'")):
        seen = world.step(action)
        assert told in seen.text and seen.tries == 0 and not seen.done
    assert world.step(Action("it is sunny")).done and world.score() is None


@pytest.mark.parametrize(("failures", "retries", "tries"), [(0, 2, 1), (2, 2, 3), (3, 2, 3), (1, 0, 1)])
def test_a_failing_function_is_tried_again_so_often(
    monkeypatch: pytest.MonkeyPatch, failures: int, retries: int, tries: int
) -> None:
    function = Flaky(failures)
    world = opened(monkeypatch, function, retries=retries)
    seen = world.step(Action("Oslo", "ask"))
    assert seen.tries == function.tried == tries
    assert seen.text == (f"Oslo is dry, says try {tries}" if failures <= retries else "ask failed: OSError: no line")
    assert world.tools[0].tries == retries + 1


def test_a_function_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()

    def hangs(city: str) -> str:
        """Wait."""
        forever.wait(30)
        return "late"

    world = opened(monkeypatch, hangs, timeout_s=0.05, retries=0)
    assert world.step(Action("Oslo", "ask")).text == "ask failed: no answer within 0.05 s"
    forever.set()


def test_an_answer_is_remembered_for_its_time_and_its_arguments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now, function = [0.0], Flaky(0)
    monkeypatch.setattr(f"{HERE}.now", function, raising=False)
    own = OwnTool(call=f"{HERE}:now", name="ask", cache_s=10)
    box = Toolbox(tools=[own], clock=lambda: now[0])
    one, other = (box.environment(Row("", "", "")) for _ in range(2))
    first = one.step(Action("Oslo", "ask"))
    again = other.step(Action('{"city": "Oslo"}', "ask"))
    assert again.text == first.text and (first.tries, again.tries, function.tried) == (1, 0, 1)
    assert one.step(Action("Rome", "ask")).tries == 1
    now[0] = 10.0
    assert one.step(Action("Oslo", "ask")).tries == 1


def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    world = opened(monkeypatch, Flaky(1), retries=0, cache_s=10)
    assert "failed" in world.step(Action("Oslo", "ask")).text
    assert world.step(Action("Oslo", "ask")).text == "Oslo is dry, says try 2"


@given(st.text(max_size=30), st.sampled_from(["forecast", "", "?", "fly"]))
def test_any_action_is_answered(text: str, tool: str) -> None:
    world = Toolbox(tools=[OwnTool(call=f"{HERE}:forecast")]).environment(Row("", "", ""))
    assert isinstance(world.step(Action(text, tool)).text, str)


def test_a_recipe_names_tools_beside_a_task_whose_questions_they_serve() -> None:
    tools = [f"{HERE}:forecast", {"call": f"{HERE}:awaited", "retries": 3, "cache_s": 60}]
    made = make_task(Spec("toolbox", options={"tools": tools, "task": {"lookup": {"limit": 3}}}))
    assert isinstance(made, Interactive)
    rows = list(made.rows("test"))
    assert [row.id for row in rows] == [row.id for row in Lookup(limit=3).rows("test")]
    world: Any = made.environment(rows[0])
    assert [tool.name for tool in world.tools] == ["forecast", "awaited"]
    world.step(Action(rows[0].gold))
    assert world.score() == 1.0 and not isinstance(world, Restorable)
    check_environment(lambda: made.environment(rows[0]))


def test_a_calculator_comes_along() -> None:
    world = Toolbox(tools=[OwnTool(call="selfroute.tasks.toolbox:calculate", retries=0)]).environment(Row("", "", ""))
    assert world.step(Action("(17+5)/4", "calculate")).text == "11/2"
    assert world.step(Action("1/0", "calculate")).text.startswith("calculate failed: ExpressionError: ")


def test_what_a_box_alone_does_not_have(tmp_path: Path) -> None:
    alone = Toolbox(tools=[OwnTool(call=f"{HERE}:forecast")])
    with pytest.raises(ConfigError, match="no questions of its own; name a task"):
        alone.rows("test")
    assert not alone.verify(Row("", "", ""), "<answer>5</answer>").correct  # type: ignore[union-attr]
