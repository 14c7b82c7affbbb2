"""A client's body to messages and sampling: checked where the gateway uses a field, carried along where it does not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from selfroute.errors import ConfigError
from selfroute.gateway.errors import ApiError, bad_request
from selfroute.types import Message, Role, Sampling

__all__ = ["ChatRequest", "Limits", "chat_request", "json_object"]

_ROLES = get_args(Role)
# Fields with a place of their own; everything else goes to the backend as it is.
_OWN = frozenset(
    {"model", "messages", "stream", "stream_options", "n", "temperature", "top_p", "max_tokens",
     "max_completion_tokens", "seed", "stop", "logprobs", "top_logprobs"}
)  # fmt: skip
# What clients keep of an answer beside its text: thoughts under many names, and notes of their own.
_KEPT_HERE = ("reasoning", "thinking", "thought", "annotations", "provider_specific_fields")
_LEADING_THOUGHT = re.compile(r"\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)
_CALLS = ("tool_calls", "function_call")
_SEEDS = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask for.

    Attributes:
        body_bytes: largest request body.
        messages: most messages of one conversation.
        max_tokens: most completion tokens of one answer; a request for more is cut down.
        default_tokens: `max_tokens` of a request that does not say; null sends none to a model's server, which then
            has its own, and lets in-process models write up to `max_tokens`. Under a budget of tokens or money null
            is 4096, as every call reserves what it may cost.
        n: most choices of one request.
        concurrent: requests answered at once, by one worker process; further ones get 429.
        request_s: seconds for one whole request.
        keep_alive_s: after so many seconds without a piece a stream says that it is still there.
    """

    body_bytes: int = 8 * 1024 * 1024
    messages: int = 512
    max_tokens: int = 16384
    default_tokens: int | None = None
    n: int = 8
    concurrent: int = 256
    request_s: float = 300.0
    keep_alive_s: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"limits.{field.name}: {value} is not above 0; give a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A checked request.

    Attributes:
        model: as the client wrote it; echoed in the answer.
        top_logprobs: alternatives per token the client wants to see; None for no log-probabilities.
    """

    model: str
    messages: list[Message]
    sampling: Sampling
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    top_logprobs: int | None = None


def json_object(data: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        ApiError: it is none, or holds what JSON or UTF-8 cannot.
    """
    try:
        body = json.loads(data, parse_constant=_no_constant)
        if b"\\ud" in data or b"\\uD" in data:
            json.dumps(body, ensure_ascii=False).encode()  # a lone surrogate is no text
    except RecursionError:
        raise ApiError("invalid_json", "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError("invalid_json", f"the body is not valid JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(body, dict):
        raise ApiError("invalid_json", f"the body must be a JSON object, not {type(body).__name__}")
    return body


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def chat_request(body: Mapping[str, Any], limits: Limits, *, temperature: float | None = None) -> ChatRequest:
    """Check a body of `/v1/chat/completions`.

    Args:
        temperature: for requests that do not say; None leaves it to the backend's server.

    Raises:
        ApiError: a field is wrong, or more than `limits` allow; names it.
    """
    stream = _get(body, "stream", bool, False)
    options = _get(body, "stream_options", dict, {})
    top_logprobs = _logprobs(body)
    return ChatRequest(
        model=_get(body, "model", str, "selfroute"),
        messages=_messages(body, limits),
        sampling=_sampling(body, limits, top_logprobs, temperature),
        stream=stream,
        include_usage=_get(options, "include_usage", bool, False) and stream,
        n=int(_number(body, "n", 1, 1, limits.n, whole=True)),
        top_logprobs=top_logprobs,
    )


# --- Sampling -------------------------------------------------------------------------------------------------------


def _sampling(body: Mapping[str, Any], limits: Limits, top_logprobs: int | None, temperature: float | None) -> Sampling:
    extra = _beside(body)
    asked = _number(body, "temperature", math.nan, 0, 2)
    if math.isnan(asked):
        if temperature is None:
            extra["temperature"] = None  # the server's own default, not ours
        asked = temperature or 0.0
    name, max_tokens = _max_tokens(body, limits)
    if name != "max_tokens":  # newer servers refuse the older name, and some refuse any
        extra["max_tokens"] = None
    if name == "max_completion_tokens":
        extra[name] = max_tokens
    seed = _get(body, "seed", int, None)
    if seed is not None and seed not in _SEEDS:
        raise bad_request("seed", f"{seed} is not a 64-bit number")
    return Sampling(
        temperature=asked,
        top_p=_number(body, "top_p", 1.0, 0, 1, above=True),
        max_tokens=max_tokens,
        seed=seed,
        stop=_stop(body),
        top_logprobs=top_logprobs,
        extra=extra,
    )


def _beside(body: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that go on as they are; what says nothing without tools, servers refuse without them."""
    for at, tool in enumerate(_get(body, "tools", list, [])):
        if not isinstance(tool, dict):
            raise bad_request(f"tools[{at}]", f"must be an object, not {_shown(tool)}")
    _get(body, "response_format", dict, None)
    extra = {name: value for name, value in body.items() if name not in _OWN}
    if not extra.get("tools"):
        extra.pop("tools", None)
        extra.pop("parallel_tool_calls", None)
        if extra.get("tool_choice") in ("auto", "none"):
            del extra["tool_choice"]
    return extra


def _max_tokens(body: Mapping[str, Any], limits: Limits) -> tuple[str | None, int]:
    """The field that sets a limit, None where neither client nor operator does; and the most that may be written."""
    asked = {name: _count(body, name) for name in ("max_completion_tokens", "max_tokens")}
    name = next((name for name, value in asked.items() if body.get(name) is not None), "max_tokens")
    most = asked[name] or limits.default_tokens
    return (None, limits.max_tokens) if most is None else (name, min(most, limits.max_tokens))


def _count(body: Mapping[str, Any], name: str) -> int | None:
    """A limit of tokens; None where there is none, which clients of llama.cpp and LM Studio write as -1."""
    if body.get(name) in (None, -1):
        return None
    return int(_number(body, name, 0, 1, math.inf, whole=True))


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None or stop == "":
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(s, str) and s for s in stops):
        raise bad_request("stop", "must be a string, or up to 4 strings that are not empty")
    return tuple(stops)


def _logprobs(body: Mapping[str, Any]) -> int | None:
    wanted = _get(body, "logprobs", bool, False)
    top = int(_number(body, "top_logprobs", 0, 0, 20, whole=True))
    if top and not wanted:
        raise bad_request("top_logprobs", "needs logprobs: true")
    return top if wanted else None


def _get(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = _without_point(body.get(name)) if kind is int else body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise bad_request(name, f"must be {_KINDS[kind]}, not {_shown(value)}")
    return value


def _number(
    body: Mapping[str, Any],
    name: str,
    default: float,
    low: float,
    high: float,
    *,
    whole: bool = False,
    above: bool = False,
) -> float:
    value = _without_point(body.get(name)) if whole else body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise bad_request(name, f"must be {'a whole number' if whole else 'a number'}, not {_shown(value)}")
    if not (low < value if above else low <= value):
        raise bad_request(name, f"is {_shown(value)}; it must be {'above' if above else 'at least'} {low:g}")
    if value > high:
        raise bad_request(name, f"is {_shown(value)}; the most is {high:g}", code="limit_exceeded")
    return value


def _without_point(value: Any) -> Any:
    """A whole number, also as languages that have but one kind of number write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_KINDS = {bool: "true or false", str: "text", dict: "an object", int: "a whole number", list: "a list"}


def _shown(value: Any) -> str:
    """A wrong value for a message: its beginning, or its kind where it may be somebody's text."""
    return repr(value)[:40] if isinstance(value, int | float) else f"a {type(value).__name__}"


# --- Messages -------------------------------------------------------------------------------------------------------


def _messages(body: Mapping[str, Any], limits: Limits) -> list[Message]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages", "must be a list of at least one message")
    if len(messages) > limits.messages:
        raise bad_request("messages", f"has {len(messages)}; the most is {limits.messages}", code="limit_exceeded")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise bad_request(where, "must be an object with role and content")
    if message.get("role") not in (*_ROLES, "function"):
        raise bad_request(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    role: Role = "tool" if message["role"] == "function" else message["role"]  # as it was called before tools
    message = _said_before(message) if role == "assistant" else _filled_in(message)
    content = message.get("content")
    if isinstance(content, str):
        return Message(role, content, None if len(message) == 2 and role in _PLAIN else message)
    if isinstance(content, list):
        return Message(role, "".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)), message)
    if content is None and role == "assistant":
        return Message(role, "", message)
    raise bad_request(f"{where}.content", "must be text or a list of parts")


_PLAIN = frozenset({"system", "user", "assistant"})  # of which role and text say all


def _filled_in(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn without empty fields; instructions, or a function, that say nothing say so with an empty text."""
    kept = {name: value for name, value in message.items() if value is not None}
    if "content" not in kept and message["role"] != "user":
        kept["content"] = ""
    return kept


def _said_before(message: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of ours as clients send it back: without its thoughts, which stay here, and without empty fields."""
    kept = {
        name: value
        for name, value in message.items()
        if name == "content" or (value not in (None, []) and not name.startswith(_KEPT_HERE))
    }
    content = kept.get("content")
    if isinstance(content, str):
        kept["content"] = _answer_alone(content)
    elif isinstance(content, list):
        kept["content"] = [_answer_part(part) for part in content if not _is_thought(part)]
    elif content is None and not any(kept.get(name) for name in _CALLS):
        kept["content"] = kept.pop("refusal", "")
    return kept


def _answer_alone(text: str) -> str:
    """A text without the thoughts in front of it, of an answer whose server did not tell them apart."""
    while found := _LEADING_THOUGHT.match(text):
        text = text[found.end() :]
    return text


def _answer_part(part: Any) -> Any:
    is_text = isinstance(part, dict) and isinstance(part.get("text"), str)
    return {**part, "text": _answer_alone(part["text"])} if is_text else part


def _is_thought(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind.removeprefix("redacted_").startswith(_KEPT_HERE)


def _part(part: Any, where: str) -> str:
    """The text of one part of a message; other kinds of parts have none."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise bad_request(where, "must be an object with a type")
    if kind != "text":
        return ""
    text = part.get("text")
    if not isinstance(text, str):
        raise bad_request(f"{where}.text", "must be text")
    return text
