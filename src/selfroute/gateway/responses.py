"""OpenAI's Responses API for text: requests to conversations, events to `response.*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfroute.gateway.chat import ChatWhole, dumps
from selfroute.gateway.errors import ApiError, bad_request
from selfroute.gateway.exchange import Exchange
from selfroute.gateway.request import ChatRequest, Limits, chat_request
from selfroute.types import TextDelta

__all__ = ["ResponseEvents", "response_body", "response_request"]

# Fields of a Responses request that a chat request has too, by the name they have there.
_SAME = ("model", "stream", "temperature", "top_p", "user", "metadata", "service_tier", "safety_identifier",
         "prompt_cache_key", "store")  # fmt: skip
# What needs a memory, a queue or tools behind the endpoint.
_UNSUPPORTED = ("previous_response_id", "conversation", "background", "tools", "prompt", "include", "truncation")
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "background": (False,),
    "tools": ([],),
    "include": ([],),
    "truncation": ("disabled",),
    "tool_choice": ("auto", "none"),
}
_IDLE = ("parallel_tool_calls", "max_tool_calls", "stream_options")  # say nothing where there are no tools
_OWN = frozenset(
    {*_SAME, *_UNSUPPORTED, *_IDLE, "input", "instructions", "max_output_tokens", "text", "reasoning", "tool_choice",
     "top_logprobs"}
)  # fmt: skip


def response_request(body: Mapping[str, Any], limits: Limits, *, temperature: float | None = None) -> ChatRequest:
    """Check a body of `/v1/responses` and turn it into a chat request.

    Raises:
        ApiError: a field is wrong, or needs what this gateway does not have; names it.
    """
    for name in (*_UNSUPPORTED, "tool_choice"):
        value = body.get(name)
        if value is not None and value not in _HARMLESS.get(name, ()):
            hint = "; /v1/chat/completions takes tools" if "tool" in name else ""
            raise bad_request(name, f"is not supported here{hint}", code="unsupported_by_backend")
    chat: dict[str, Any] = {name: body[name] for name in _SAME if body.get(name) is not None}
    chat["messages"] = _messages(body)
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    if (top := body.get("top_logprobs")) not in (None, 0):
        raise bad_request("top_logprobs", f"{top!r:.20} is not supported here; /v1/chat/completions takes it",
                          code="unsupported_by_backend")  # fmt: skip
    chat |= _format(body.get("text")) | _effort(body.get("reasoning"))
    chat |= {name: value for name, value in body.items() if name not in _OWN}
    try:
        return chat_request(chat, limits, temperature=temperature)
    except ApiError as error:
        if error.param == "max_tokens":
            raise bad_request("max_output_tokens", str(error).partition(": ")[2], code=error.code) from None
        raise


def _messages(body: Mapping[str, Any]) -> list[Any]:
    given = body.get("input")
    if isinstance(given, str):
        messages: list[Any] = [{"role": "user", "content": given}]
    elif isinstance(given, list) and given:
        messages = [_item(item, f"input[{index}]") for index, item in enumerate(given)]
    else:
        raise bad_request("input", "must be text or a list of messages")
    instructions = body.get("instructions")
    if instructions is None:
        return messages
    if not isinstance(instructions, str):
        raise bad_request("instructions", "must be text")
    return [{"role": "system", "content": instructions}, *messages]


def _item(item: Any, where: str) -> dict[str, Any]:
    """A message of the input as one of chat."""
    if not isinstance(item, dict):
        raise bad_request(where, "must be an object")
    if item.get("type", "message") != "message":
        raise bad_request(where, "only messages are supported here", code="unsupported_by_backend")
    content = item.get("content")
    if not isinstance(content, list):
        return {"role": item.get("role"), "content": content}
    return {
        "role": item.get("role"),
        "content": [_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)],
    }


def _part(part: Any, where: str) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    raise bad_request(where, "must be input_text, output_text or input_image with image_url",
                      code="unsupported_by_backend")  # fmt: skip


def _format(text: Any) -> dict[str, Any]:
    """`text.format` as `response_format`."""
    if text is None:
        return {}
    form = text.get("format") if isinstance(text, dict) else text
    if isinstance(text, dict) and form is None:
        return {}
    if not isinstance(form, dict):
        raise bad_request("text", "must be an object with format")
    if form.get("type") != "json_schema":
        return {"response_format": form}
    schema = {key: value for key, value in form.items() if key != "type"}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _effort(reasoning: Any) -> dict[str, Any]:
    if reasoning is None:
        return {}
    if not isinstance(reasoning, dict):
        raise bad_request("reasoning", "must be an object")
    return {"reasoning_effort": reasoning["effort"]} if reasoning.get("effort") else {}


# --- answers --------------------------------------------------------------------------------------------------------


def response_body(whole: ChatWhole, body: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer."""
    exchange = whole.exchange
    reasoning, content = whole.text()
    output = [_reasoning(exchange, reasoning)] if reasoning else []
    return _response(exchange, body, [*output, _said(exchange, content)])


def _response(
    exchange: Exchange, body: Mapping[str, Any], output: list[dict[str, Any]], *, state: str | None = None
) -> dict[str, Any]:
    cut = exchange.choices[0].finish_reason == "length"
    response: dict[str, Any] = {
        "id": f"resp_{exchange.id}",
        "object": "response",
        "created_at": exchange.created,
        "status": state or ("incomplete" if cut else "completed"),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut and state is None else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": exchange.request.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": _known_temperature(exchange),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": exchange.request.sampling.top_p,
        "truncation": "disabled",
        "usage": None,
    }
    if state is None:
        usage = exchange.usage()
        response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        response["selfroute"] = exchange.account()
    return response


def _known_temperature(exchange: Exchange) -> float | None:
    """None where it is the model's server that chooses it."""
    sampling = exchange.request.sampling
    return None if sampling.extra.get("temperature", 0) is None else sampling.temperature


def _said(exchange: Exchange, text: str, *, state: str | None = None) -> dict[str, Any]:
    cut = exchange.choices[0].finish_reason == "length"
    parts = [] if state == "in_progress" else [_text_part(text)]
    state = state or ("incomplete" if cut else "completed")
    return {"id": f"msg_{exchange.id}", "type": "message", "status": state, "role": "assistant", "content": parts}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(exchange: Exchange, text: str, *, state: str = "completed") -> dict[str, Any]:
    parts = [{"type": "reasoning_text", "text": text}] if state == "completed" else []
    return {"id": f"rs_{exchange.id}", "type": "reasoning", "status": state, "summary": [], "content": parts}


class ResponseEvents:
    """The events of one streamed response, as bytes ready to send.

    Reasoning that comes in pieces between the answer's is one item, reported where it first came.
    """

    def __init__(self, exchange: Exchange, body: Mapping[str, Any]) -> None:
        self._exchange, self._body = exchange, body
        self._number = 0
        self._order: list[str] = []  # of the items, "reasoning" and "content", as they came
        self._texts: dict[str, list[str]] = {"reasoning": [], "content": []}

    def piece(self, index: int, said: TextDelta) -> bytes:
        """What one side said, behind the events that open its item."""
        if not said.text:
            return b""
        out = b"" if self._order else self._begin()
        if said.kind not in self._order:
            out += self._open(said.kind)
        self._texts[said.kind].append(said.text)
        return out + self._delta(said.kind, said.text)

    def end(self) -> bytes:
        """Close what is open, and give the whole response."""
        out = b"" if self._order else self._begin()
        if "content" not in self._order:
            out += self._open("content")
        items = [self._item(kind) for kind in self._order]
        for kind, item in zip(self._order, items, strict=True):
            out += self._close(kind, item)
        response = _response(self._exchange, self._body, items)
        return out + self._event(f"response.{response['status']}", response=response)

    def failed(self, error: ApiError) -> bytes:
        response = _response(self._exchange, self._body, [self._item(kind) for kind in self._order], state="failed")
        response["error"] = {"code": "server_error", "message": str(error)}
        response["selfroute"] = self._exchange.account()
        return self._event("response.failed", response=response)

    def _begin(self) -> bytes:
        response = _response(self._exchange, self._body, [], state="in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _open(self, kind: str) -> bytes:
        index = len(self._order)
        self._order.append(kind)
        make = _said if kind == "content" else _reasoning
        item = make(self._exchange, "", state="in_progress")
        out = self._event("response.output_item.added", output_index=index, item=item)
        if kind == "content":
            place = {"item_id": item["id"], "output_index": index, "content_index": 0}
            out += self._event("response.content_part.added", **place, part=_text_part(""))
        return out

    def _delta(self, kind: str, text: str) -> bytes:
        more: dict[str, Any] = {"logprobs": []} if kind == "content" else {}
        return self._event(f"response.{_NAMES[kind]}.delta", **self._place(kind), delta=text, **more)

    def _close(self, kind: str, item: dict[str, Any]) -> bytes:
        text, place = "".join(self._texts[kind]), self._place(kind)
        more: dict[str, Any] = {"logprobs": []} if kind == "content" else {}
        out = self._event(f"response.{_NAMES[kind]}.done", **place, text=text, **more)
        if kind == "content":
            out += self._event("response.content_part.done", **place, part=_text_part(text))
        return out + self._event("response.output_item.done", output_index=place["output_index"], item=item)

    def _item(self, kind: str) -> dict[str, Any]:
        text = "".join(self._texts[kind])
        return _said(self._exchange, text) if kind == "content" else _reasoning(self._exchange, text)

    def _place(self, kind: str) -> dict[str, Any]:
        name = "msg" if kind == "content" else "rs"
        return {"item_id": f"{name}_{self._exchange.id}", "output_index": self._order.index(kind), "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), dumps(event))


_NAMES = {"content": "output_text", "reasoning": "reasoning_text"}
