"""Events to OpenAI's chat completions, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from selfroute.backends.halves import mended
from selfroute.gateway.errors import ApiError
from selfroute.gateway.exchange import Exchange, Piece
from selfroute.types import Retract, TextDelta, Token

__all__ = ["DONE", "ChatChunks", "ChatWhole", "dumps", "sse"]

DONE = b"data: [DONE]\n\n"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps makes one for every call


def dumps(value: Any) -> bytes:
    text = _encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a character, of a model inside this process
        return mended(text).encode()


def sse(value: Any) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


class ChatChunks:
    """The chunks of one streamed completion, as bytes ready to send.

    The first chunk of each speaker names it: `"selfroute": {"source": "cloud"}`.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._logprobs = exchange.request.top_logprobs
        head = {
            "id": f"chatcmpl-{exchange.id}",
            "object": "chat.completion.chunk",
            "created": exchange.created,
            "model": exchange.request.model,
        }
        usage = b',"usage":null' if exchange.request.include_usage else b""
        self._head = b"data: " + dumps(head)[:-1] + usage + b',"choices":[{"index":'
        self._begun: set[int] = set()
        self._speakers: dict[int, str] = {}

    def piece(self, index: int, said: TextDelta) -> bytes:
        """What one side said of a choice, behind the choice's role if it is the first."""
        begin = b"" if index in self._begun else self.begin(index)
        if self._speakers.get(index) != said.source:
            return begin + self._turn(index, said)
        if said.text and not said.extra and not (said.tokens and self._logprobs is not None):
            field = b'{"content":' if said.kind == "content" else b'{"reasoning_content":'
            delta = field + dumps(said.text) + b"}"
            return b'%b%b%d,"delta":%b,"logprobs":null,"finish_reason":null}]}\n\n' % (
                begin, self._head, index, delta,
            )  # fmt: skip
        return begin + self._full(index, said)

    def _turn(self, index: int, said: TextDelta) -> bytes:
        """The first chunk of a speaker."""
        chunk = self._full(index, said)
        if not chunk:
            return b""
        self._speakers[index] = said.source
        return chunk[:-3] + b',"selfroute":{"source":"%b"}}\n\n' % said.source.encode()

    def _full(self, index: int, said: TextDelta) -> bytes:
        delta: dict[str, Any] = dict(said.extra)
        if said.text:
            delta["content" if said.kind == "content" else "reasoning_content"] = said.text
        if not delta:
            return b""
        logprobs = logprobs_object(said.tokens, self._logprobs) if said.kind == "content" else None
        return self._chunk(index, delta, logprobs=logprobs)

    def begin(self, index: int) -> bytes:
        self._begun.add(index)
        return self._chunk(index, {"role": "assistant", "content": ""})

    def _chunk(self, index: int, delta: Mapping[str, Any], **more: Any) -> bytes:
        rest = dumps({"delta": delta, "logprobs": None, "finish_reason": None, **more})[1:]
        return b"%b%d,%b]}\n\n" % (self._head, index, rest)

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that broke off; no [DONE] follows."""
        return sse({**error.body(), "selfroute": self._exchange.account()})

    def end(self) -> bytes:
        """Finish reasons, usage and the account, the latter on the very last chunk."""
        exchange = self._exchange
        out = b"".join(self.begin(c.index) for c in exchange.choices if c.index not in self._begun)
        ends = [self._chunk(c.index, {}, finish_reason=c.finish_reason) for c in exchange.choices]
        account = b',"selfroute":' + dumps(exchange.account())
        if not exchange.request.include_usage:
            last = ends.pop()
            return out + b"".join(ends) + last[:-3] + account + b"}\n\n" + DONE
        head = self._head[: self._head.index(b',"usage":null')]
        usage = head + b',"choices":[],"usage":' + dumps(exchange.usage()) + account + b"}\n\n"
        return out + b"".join(ends) + usage + DONE


class ChatWhole:
    """One completion that is not streamed."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._answers = [_Answer() for _ in exchange.choices]

    def add(self, piece: Piece) -> None:
        index, said = piece
        if isinstance(said, Retract):
            self._answers[index] = _Answer()
        elif isinstance(said, TextDelta):
            self._answers[index].add(said)

    def text(self, index: int = 0) -> tuple[str, str]:
        """Reasoning and content of one choice."""
        answer = self._answers[index]
        return "".join(answer.reasoning), "".join(answer.content)

    def calls(self, index: int = 0) -> list[dict[str, Any]]:
        """Tool calls of one choice."""
        return list(self._answers[index].message().get("tool_calls") or [])

    def body(self) -> dict[str, Any]:
        exchange = self.exchange
        return {
            "id": f"chatcmpl-{exchange.id}",
            "object": "chat.completion",
            "created": exchange.created,
            "model": exchange.request.model,
            "choices": [
                {
                    "index": choice.index,
                    "message": answer.message(),
                    "logprobs": logprobs_object(answer.tokens, exchange.request.top_logprobs),
                    "finish_reason": choice.finish_reason,
                }
                for choice, answer in zip(exchange.choices, self._answers, strict=True)
            ],
            "usage": exchange.usage(),
            "selfroute": exchange.account(),
        }


class _Answer:
    """What has come of one choice."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.tokens: list[Token] = []
        self.extra: dict[str, Any] = {}

    def add(self, said: TextDelta) -> None:
        (self.content if said.kind == "content" else self.reasoning).append(said.text)
        if said.kind == "content":
            self.tokens.extend(said.tokens)
        for name, value in said.extra.items():
            self.extra[name] = merged(self.extra.get(name), value)

    def message(self) -> dict[str, Any]:
        content = "".join(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reasoning := "".join(self.reasoning):
            message["reasoning_content"] = reasoning
        for name, value in self.extra.items():
            message[name] = _without_index(value)
        if not content and self.extra.get("tool_calls"):
            message["content"] = None
        return message


def merged(before: Any, piece: Any) -> Any:
    """Put pieces of a streamed field together, as clients do: texts join, list items go by their index."""
    if before is None:
        return piece
    if isinstance(before, str) and isinstance(piece, str):
        return before + piece
    if isinstance(before, Mapping) and isinstance(piece, Mapping):
        return {key: _joined(key, before.get(key), piece.get(key)) for key in {**before, **piece}}
    if isinstance(before, list) and isinstance(piece, list):
        items = list(before)
        for item in piece:
            _merge_item(items, item)
        return items
    return piece


def _joined(key: str, before: Any, piece: Any) -> Any:
    if piece is None:
        return before
    return piece if key in ("index", "type", "id") else merged(before, piece)


def _merge_item(items: list[Any], item: Any) -> None:
    index = item.get("index") if isinstance(item, Mapping) else None
    for place, known in enumerate(items):
        if index is not None and isinstance(known, Mapping) and known.get("index") == index:
            items[place] = merged(known, item)
            return
    items.append(item)


def _without_index(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_index(item) for item in value]
    return {k: v for k, v in value.items() if k != "index"} if isinstance(value, Mapping) else value


def logprobs_object(tokens: Any, top: int | None) -> dict[str, Any] | None:
    """Log-probabilities in OpenAI's form; None where the client asked for none or the backend gave none."""
    if top is None or not tokens:
        return None
    return {
        "content": [
            {
                **_logprob(token.text, token.logprob),
                "top_logprobs": [_logprob(text, logprob) for text, logprob in _likeliest(token, top)],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _likeliest(token: Token, top: int) -> list[tuple[str, float]]:
    return sorted(token.top.items(), key=lambda pair: -pair[1])[:top]


def _logprob(text: str, logprob: float) -> dict[str, Any]:
    # JSON has no infinity; OpenAI's own servers write -9999 for the least likely.
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(mended(text).encode())}
