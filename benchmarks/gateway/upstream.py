"""The stub model behind every gateway of the benchmark: raw ASGI, answers at once, `max_tokens` words.

Run as `uvicorn upstream:app`; one process, no access log.
"""

from __future__ import annotations

import json
from typing import Any

_HEAD = {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 1, "model": "stub"}


def _chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return b"data: " + json.dumps({**_HEAD, "choices": [choice]}).encode() + b"\n\n"


_ROLE, _WORD, _STOP = _chunk({"role": "assistant", "content": ""}), _chunk({"content": "word "}), _chunk({}, "stop")


def _usage(words: int) -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": words, "total_tokens": 9 + words}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = json.loads(body) if body else {}
    words = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 8)
    if asked.get("stream"):
        await _stream(send, words, bool((asked.get("stream_options") or {}).get("include_usage")))
        return
    message = {"role": "assistant", "content": "word " * words}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _usage(words)}
    data = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _stream(send: Any, words: int, with_usage: bool) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for data in (_ROLE, *[_WORD] * words, _STOP):
        await send({"type": "http.response.body", "body": data, "more_body": True})
    end = b""
    if with_usage:
        end = b"data: " + json.dumps({**_HEAD, "choices": [], "usage": _usage(words)}).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": end + b"data: [DONE]\n\n"})
