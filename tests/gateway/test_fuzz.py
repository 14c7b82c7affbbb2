"""Whatever is sent, the gateway answers in OpenAI's shape: no 5xx, no hang."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.gateway.live import Live

from selfroute.gateway.errors import CODES
from selfroute.gateway.openapi import description
from selfroute.gateway.request import Limits

SCHEMA = schemathesis.openapi.from_dict(description(Limits(), needs_key=False))
SETTINGS = settings(
    max_examples=40,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]) | JSON}, optional={"text": JSON})
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]) | JSON,
     "content": st.text(max_size=20) | st.lists(PARTS, max_size=2) | JSON},
    optional={"tool_calls": JSON, "name": JSON},
)  # fmt: skip
NAMES = "model stream stream_options n temperature top_p max_tokens seed stop max_completion_tokens logprobs"
FIELDS: dict[str, Any] = dict.fromkeys([*NAMES.split(), "top_logprobs", "tools", "response_format", "anything"], JSON)
FIELDS |= {"n": st.integers(0, 3) | JSON, "stream": st.booleans() | JSON, "max_tokens": st.integers(0, 50) | JSON}
CHATS = st.fixed_dictionaries({"messages": st.lists(MESSAGES, max_size=3) | JSON}, optional=FIELDS) | JSON
RESPONSES = st.fixed_dictionaries(
    {"input": st.text(max_size=20) | st.lists(MESSAGES, max_size=2) | JSON},
    optional={**FIELDS, "text": JSON, "instructions": JSON, "reasoning": JSON, "max_output_tokens": JSON},
)


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-selfroute-trace-id"]
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert CODES[error["code"]][:2] == (answer.status_code, error["type"])
        assert isinstance(error["message"], str) and "\n" not in error["message"]
    elif answer.headers["content-type"] == "application/json":
        assert answer.json()["object"]


@given(CHATS, st.sampled_from(["auto", "device", "cloud", "private", "x"]))
@SETTINGS
def test_any_body_of_a_chat(pair: Live, body: Any, mode: str) -> None:
    data = json.dumps(body)
    headers = {"x-selfroute-mode": mode}
    check(httpx.post(f"{pair.url}/v1/chat/completions", content=data, headers=headers, timeout=10))
    check(httpx.post(f"{pair.url}/v1/route", content=data, headers=headers, timeout=10))


@given(RESPONSES)
@SETTINGS
def test_any_body_of_a_response(pair: Live, body: Any) -> None:
    check(httpx.post(f"{pair.url}/v1/responses", content=json.dumps(body), timeout=10))


@given(st.binary(max_size=200))
@SETTINGS
def test_any_bytes(pair: Live, body: bytes) -> None:
    check(httpx.post(f"{pair.url}/v1/chat/completions", content=body, timeout=10))


@SCHEMA.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_description_is_kept(pair: Live, case: Any) -> None:
    """schemathesis: wrong and right requests made from the OpenAPI description, checked against it."""
    # Right by the description and refused all the same: whether a model has a field is not the description's to say.
    case.call_and_validate(base_url=pair.url, timeout=20, excluded_checks=[positive_data_acceptance])


def test_the_description_is_served(pair: Live) -> None:
    assert httpx.get(f"{pair.url}/openapi.json").json() == description(Limits(), needs_key=False)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/route"])
def test_every_status_that_can_come_is_described(path: str) -> None:
    described = description(Limits(), needs_key=False)["paths"][path]["post"]["responses"]
    assert {int(code) for code in described} >= {status for status, _, _ in CODES.values()} - {405}
