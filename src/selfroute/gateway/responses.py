"""OpenAI's Responses API without a memory: requests to conversations, events to `response.*`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfroute.gateway.chat import ChatWhole, dumps, merged
from selfroute.gateway.errors import ApiError, bad_request
from selfroute.gateway.exchange import Exchange
from selfroute.gateway.request import ChatRequest, Limits, chat_request
from selfroute.types import TextDelta

__all__ = ["ResponseEvents", "response_body", "response_request"]

# Fields of a Responses request that a chat request has too, by the name they have there.
_SAME = ("model", "stream", "temperature", "top_p", "user", "metadata", "service_tier", "safety_identifier",
         "prompt_cache_key", "store")  # fmt: skip
_STATELESS = "this gateway keeps no answers; set store: false, and your client sends the whole conversation"
# What needs a memory or a queue behind the endpoint, what may be said of it all the same, and the way out.
_UNSUPPORTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "previous_response_id": ((), _STATELESS),
    "conversation": ((), _STATELESS),
    "background": ((False,), "leave it out, and wait for the answer or stream it"),
    "prompt": ((), "write the prompt out in input and instructions"),
}
# Said to a server with tools or a memory of its own; here they change nothing.
_IDLE = ("max_tool_calls", "stream_options", "include", "truncation")
_OWN = frozenset(
    {*_SAME, *_UNSUPPORTED, *_IDLE, "input", "instructions", "max_output_tokens", "text", "reasoning", "tools",
     "tool_choice", "parallel_tool_calls", "top_logprobs"}
)  # fmt: skip


def response_request(body: Mapping[str, Any], limits: Limits, *, temperature: float | None = None) -> ChatRequest:
    """Check a body of `/v1/responses` and turn it into a chat request.

    Raises:
        ApiError: a field is wrong, or needs what this gateway does not have; names it.
    """
    for name, (harmless, way_out) in _UNSUPPORTED.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise bad_request(name, f"is not supported here: {way_out}", code="unsupported_by_backend")
    chat: dict[str, Any] = {name: body[name] for name in _SAME if body.get(name) is not None}
    chat["messages"] = _messages(body)
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    if (top := body.get("top_logprobs")) not in (None, 0):
        raise bad_request("top_logprobs", f"{top!r:.20} is not supported here; /v1/chat/completions takes it",
                          code="unsupported_by_backend")  # fmt: skip
    chat |= _format(body.get("text")) | _effort(body.get("reasoning")) | _tools(body)
    chat |= {name: value for name, value in body.items() if name not in _OWN}
    try:
        return chat_request(chat, limits, temperature=temperature)
    except ApiError as error:
        if error.param == "max_tokens":
            raise bad_request("max_output_tokens", str(error).partition(": ")[2], code=error.code) from None
        raise


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """Functions and the choice among them, in chat's form; those that a provider would run are refused."""
    tools = body.get("tools")
    if not tools:
        if body.get("tool_choice") not in (None, "auto", "none"):
            raise bad_request("tool_choice", "needs tools")
        return {}
    if not isinstance(tools, list):
        raise bad_request("tools", "must be a list of functions")
    fields: dict[str, Any] = {"tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]}
    if (choice := body.get("tool_choice")) is not None:
        fields["tool_choice"] = _choice(choice)
    if body.get("parallel_tool_calls") is not None:
        fields["parallel_tool_calls"] = body["parallel_tool_calls"]
    return fields


def _choice(choice: Any) -> Any:
    """A choice among functions in chat's form."""
    match choice:
        case {"type": "function"}:
            return {"type": "function", "function": {"name": choice.get("name")}}
        case {"type": "allowed_tools", "tools": list(tools)}:
            allowed = {"mode": choice.get("mode") or "auto", "tools": [_choice(tool) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    return choice


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, dict) else None
        raise bad_request(where, f"is of type {kind!r:.40}; only functions, which the client runs, are supported here",
                          code="unsupported_by_backend")  # fmt: skip
    if not isinstance(tool.get("name"), str):
        raise bad_request(f"{where}.name", "must be text")
    said = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": said}


def _messages(body: Mapping[str, Any]) -> list[Any]:
    given = body.get("input")
    if isinstance(given, str):
        messages: list[Any] = [{"role": "user", "content": given}]
    elif isinstance(given, list) and given:
        messages = []
        for index, item in enumerate(given):
            _add_item(messages, item, f"input[{index}]")
    else:
        raise bad_request("input", "must be text or a list of messages")
    instructions = body.get("instructions")
    if instructions is None or instructions == "":
        return messages
    if not isinstance(instructions, str):
        raise bad_request("instructions", "must be text")
    return [{"role": "system", "content": instructions}, *messages]


def _add_item(messages: list[Any], item: Any, where: str) -> None:
    """Put an item of the input behind the messages that it makes in chat."""
    if not isinstance(item, dict):
        raise bad_request(where, "must be an object")
    match item.get("type") or "message":
        case "message":
            messages.append(_message(item, where))
        case "reasoning":  # thoughts stay where they were thought
            return
        case "function_call":
            call = {"id": _call_id(item, where), "type": "function",
                    "function": {"name": item.get("name"), "arguments": item.get("arguments") or ""}}  # fmt: skip
            if not messages or messages[-1].get("role") != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)
        case "function_call_output":
            output = item.get("output")
            if isinstance(output, list):
                output = [_part(part, f"{where}.output[{i}]") for i, part in enumerate(output)]
            messages.append({"role": "tool", "tool_call_id": _call_id(item, where), "content": output})
        case "item_reference":
            raise bad_request(where, f"refers to an item of an earlier answer; {_STATELESS}",
                              code="unsupported_by_backend")  # fmt: skip
        case kind:
            raise bad_request(where, f"is of type {kind!r:.40}; messages, reasoning and functions are supported here",
                              code="unsupported_by_backend")  # fmt: skip


def _call_id(item: Mapping[str, Any], where: str) -> str:
    call_id = item.get("call_id")
    if not isinstance(call_id, str):
        raise bad_request(where, "must have a call_id, which tells the calls of functions apart")
    return call_id


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A message of the input as one of chat."""
    content = item.get("content")
    if isinstance(content, list):
        content = [_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
        if item.get("role") == "assistant":  # as our own output, which some servers take as text alone
            content = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return {"role": item.get("role"), "content": content}


def _part(part: Any, where: str) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal")}
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
    calls = whole.calls()
    output = [_reasoning(exchange, reasoning)] if reasoning else []
    if content or not calls:
        output.append(_said(exchange, content))
    output += [_call(exchange, index, call) for index, call in enumerate(calls)]
    return _response(exchange, body, output)


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
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": _known_temperature(exchange),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": exchange.request.sampling.top_p,
        "truncation": body.get("truncation") or "disabled",
        "usage": None,
    }
    if state is None:
        usage = exchange.usage()
        response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
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


def _reasoning_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def _reasoning(exchange: Exchange, text: str, *, state: str = "completed") -> dict[str, Any]:
    parts = [_reasoning_part(text)] if state == "completed" else []
    return {"id": f"rs_{exchange.id}", "type": "reasoning", "status": state, "summary": [], "content": parts}


def _call(exchange: Exchange, index: int, call: Mapping[str, Any], *, state: str = "completed") -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = "" if state == "in_progress" else function.get("arguments") or ""
    return {"id": f"fc_{exchange.id}_{index}", "type": "function_call", "status": state, "call_id": call.get("id"),
            "name": function.get("name"), "arguments": arguments}  # fmt: skip


class ResponseEvents:
    """The events of one streamed response, as bytes ready to send.

    Reasoning that comes in pieces between the answer's is one item, reported where it first came.
    """

    def __init__(self, exchange: Exchange, body: Mapping[str, Any]) -> None:
        self._exchange, self._body = exchange, body
        self._number = 0
        self._order: list[str | int] = []  # items as they came: "reasoning", "content", and calls by their index
        self._texts: dict[str, list[str]] = {"reasoning": [], "content": []}
        self._calls: dict[int, Any] = {}

    def piece(self, index: int, said: TextDelta) -> bytes:
        """What one side said, behind the events that open its item."""
        calls = said.extra.get("tool_calls") or ()
        if not said.text and not calls:
            return b""
        out = b"" if self._order else self._begin()
        if said.text:
            if said.kind not in self._order:
                out += self._open(said.kind)
            self._texts[said.kind].append(said.text)
            out += self._delta(said.kind, said.text)
        return out + b"".join(self._call_piece(call) for call in calls)

    def _call_piece(self, call: Mapping[str, Any]) -> bytes:
        """A piece of a call: the first one names the function, further ones go on with its arguments."""
        index = int(call.get("index") or 0)
        self._calls[index] = merged(self._calls.get(index), dict(call))
        out = b"" if index in self._order else self._open(index)
        if arguments := (call.get("function") or {}).get("arguments"):
            out += self._event("response.function_call_arguments.delta", **self._place(index), delta=arguments)
        return out

    def end(self) -> bytes:
        """Close what is open, and give the whole response."""
        out = b"" if self._order else self._begin()
        if "content" not in self._order and not self._calls:
            out += self._open("content")
        items = [self._item(key) for key in self._order]
        for key, item in zip(self._order, items, strict=True):
            out += self._close(key, item)
        response = _response(self._exchange, self._body, items)
        return out + self._event(f"response.{response['status']}", response=response)

    def failed(self, error: ApiError) -> bytes:
        response = _response(self._exchange, self._body, [self._item(key) for key in self._order], state="failed")
        response["error"] = {"code": "server_error", "message": str(error)}
        response["selfroute"] = self._exchange.account()
        return self._event("response.failed", response=response)

    def _begin(self) -> bytes:
        response = _response(self._exchange, self._body, [], state="in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _open(self, key: str | int) -> bytes:
        index = len(self._order)
        self._order.append(key)
        item = self._item(key, state="in_progress")
        out = self._event("response.output_item.added", output_index=index, item=item)
        if isinstance(key, str):
            out += self._event("response.content_part.added", **self._place(key), part=_PARTS[key](""))
        return out

    def _delta(self, kind: str, text: str) -> bytes:
        more: dict[str, Any] = {"logprobs": []} if kind == "content" else {}
        return self._event(f"response.{_NAMES[kind]}.delta", **self._place(kind), delta=text, **more)

    def _close(self, key: str | int, item: dict[str, Any]) -> bytes:
        place = self._place(key)
        if isinstance(key, int):
            named = {"name": item["name"], "arguments": item["arguments"]}
            out = self._event("response.function_call_arguments.done", **place, **named)
        else:
            text = "".join(self._texts[key])
            more: dict[str, Any] = {"logprobs": []} if key == "content" else {}
            out = self._event(f"response.{_NAMES[key]}.done", **place, text=text, **more)
            out += self._event("response.content_part.done", **place, part=_PARTS[key](text))
        return out + self._event("response.output_item.done", output_index=place["output_index"], item=item)

    def _item(self, key: str | int, *, state: str | None = None) -> dict[str, Any]:
        if isinstance(key, int):
            return _call(self._exchange, key, self._calls[key], state=state or "completed")
        text = "" if state else "".join(self._texts[key])
        if key == "content":
            return _said(self._exchange, text, state=state)
        return _reasoning(self._exchange, text, state=state or "completed")

    def _place(self, key: str | int) -> dict[str, Any]:
        index = self._order.index(key)
        if isinstance(key, int):
            return {"item_id": f"fc_{self._exchange.id}_{key}", "output_index": index}
        name = "msg" if key == "content" else "rs"
        return {"item_id": f"{name}_{self._exchange.id}", "output_index": index, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), dumps(event))


_NAMES = {"content": "output_text", "reasoning": "reasoning_text"}
_PARTS: Mapping[str, Callable[[str], dict[str, Any]]] = {"content": _text_part, "reasoning": _reasoning_part}
