"""Declarations of tools, and how the arguments of a call are read by them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.tasks.base import Tool
from selfroute.tasks.episode import arguments_of, text_parameters


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "look up"}, "tool 'look up': a name has 1 to 64 letters"),
        ({"parameters": {}}, "tool 'lookup': parameters={} is no JSON schema of an object"),
        ({"price_usd": -0.01}, "tool 'lookup': price_usd must be 0 or more, not -0.01"),
        ({"price_usd": float("nan")}, "price_usd must be 0 or more, not nan"),
    ],
)
def test_a_tool_without_name_schema_or_with_a_negative_price_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Tool(**({"name": "lookup", "description": "", "parameters": text_parameters(key="a key")} | wrong))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_tool_is_told_to_an_endpoint_as_openai_has_it() -> None:
    schema = Tool(name="lookup", description="Look up.", parameters=text_parameters(key="a key")).schema
    assert schema["type"] == "function" and schema["function"]["parameters"]["required"] == ["key"]


@given(st.text(max_size=20) | st.from_regex(r"\{.{0,12}\}?", fullmatch=True))
def test_any_text_is_arguments_or_says_what_is_wrong(text: str) -> None:
    tool = Tool(name="lookup", description="", parameters=text_parameters(key="a key"))
    try:
        assert isinstance(arguments_of(tool, text)["key"], str)
    except ValueError as error:
        assert "\n" not in str(error)
