"""A model's server as it is met in the wild: it calls functions, fills in schemas, and dresses its stream oddly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = "It is sunny in Rome 😀."
THOUGHT = "let me see"
VECTOR = [0.25, -0.5, 1.0]
USED = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}


class Upstream(ThreadingHTTPServer):
    """Answers every chat as a stream.

    Attributes:
        odd: whether the stream is dressed in every way that some server has.
        asked: bodies received, in order.
    """

    daemon_threads = True

    def __init__(self, *, odd: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.odd = odd
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def upstream(*, odd: bool) -> Iterator[Upstream]:
    server = Upstream(odd=odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if self.path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": i, "embedding": VECTOR} for i, _ in enumerate(_texts(body))]
            self._json(200, {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 3}})
        elif len(json.dumps(body["messages"])) > 100_000:
            self._json(400, {"error": {"message": "This model's maximum context length is 8192 tokens."}})
        else:
            self._stream(said(body))

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, deltas: Sequence[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in (oddly if self.server.odd else usually)(deltas):
            self.wfile.write(piece)
            self.wfile.flush()
        time.sleep(0.5 if self.server.odd else 0)  # and keeps the connection open when all is said
        self.close_connection = True


def _texts(body: Mapping[str, Any]) -> list[Any]:
    given = body["input"]
    return given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]


# --- what it says ---------------------------------------------------------------------------------------------------


def said(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The deltas of an answer: calls of functions, a filled-in schema, or a sentence."""
    talk = [m for m in body["messages"] if m["role"] not in ("system", "developer")]
    tools = {t["function"]["name"]: t["function"].get("parameters") or {} for t in body.get("tools") or []}
    knows = any(m["role"] == "tool" or "sunny" in str(m.get("content")) for m in talk)
    names = _called(tools, body.get("tool_choice"), knows=knows, both="both" in str(talk))
    if names:
        calls = [(name, json.dumps(filled(tools[name], place))) for name, place in names]
        return [{"tool_calls": [p]} for at, call in enumerate(calls) for p in _pieces(at, *call)]
    schema = _schema(body.get("response_format"))
    if schema is not None:
        return [{"content": json.dumps(filled(schema, "Rome"))}]
    if "[[ ## answer ## ]]" in str(body["messages"]):  # DSPy's own form
        text = f"[[ ## reasoning ## ]]\nhm\n\n[[ ## answer ## ]]\n{ANSWER}\n\n[[ ## completed ## ]]"
        return [{"content": text}]
    return [{"reasoning": THOUGHT}, *({"content": f"{word} "} for word in ANSWER.split()[:-1]), {"content": "😀."}]


def _called(tools: Mapping[str, Any], choice: Any, *, knows: bool, both: bool) -> list[tuple[str, str]]:
    """Functions to call, each with the place that it is asked for."""
    if isinstance(choice, Mapping):
        return [(choice["function"]["name"], "Rome")]
    closing = [name for name in tools if name.startswith("final")]  # by which agents hand in their result
    if not tools or choice == "none" or (knows and not closing):
        return []
    if knows:
        return [(closing[0], "Rome")]
    name = next((name for name in tools if name not in closing), next(iter(tools)))
    return [(name, "Rome"), (name, "Oslo")] if both else [(name, "Rome")]


def _pieces(at: int, name: str, arguments: str) -> list[dict[str, Any]]:
    half = len(arguments) // 2
    begin = {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": ""}}
    rest = [{"index": at, "function": {"arguments": each}} for each in (arguments[:half], arguments[half:])]
    return [begin, *rest]


def _schema(form: Any) -> dict[str, Any] | None:
    if not isinstance(form, Mapping) or form.get("type") == "text":
        return None
    found: dict[str, Any] = form.get("json_schema", {}).get("schema") or {"properties": {"name": {}, "people": _INT}}
    return found


_INT = {"type": "integer"}


def filled(schema: Mapping[str, Any], place: str, root: Mapping[str, Any] | None = None) -> Any:
    """A value of a JSON schema."""
    root = root or schema
    if "$ref" in schema:
        return filled(root["$defs"][schema["$ref"].rpartition("/")[2]], place, root)
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            return filled(schema[name][0], place, root)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type", "object" if "properties" in schema else "string"):
        case "object":
            return {name: filled(each, place, root) for name, each in (schema.get("properties") or {}).items()}
        case "array":
            return [filled(schema.get("items") or {}, place, root)]
        case "integer" | "number":
            return 3
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return place


# --- how it says it -------------------------------------------------------------------------------------------------


def usually(deltas: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """As OpenAI's servers do."""
    yield _event({"role": "assistant", "content": ""})
    for delta in deltas:
        yield _event(delta)
    yield _event({}, "tool_calls" if "tool_calls" in deltas[-1] else "stop")
    yield b"data: " + json.dumps({"choices": [], "usage": USED}).encode() + b"\n\ndata: [DONE]\n\n"


def oddly(deltas: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """No empty lines, other line ends, halves of characters, one id for all calls, zeros as usage, empty reasons."""
    yield b"\xef\xbb\xbf: hello\r\nretry: 1\r\n"
    for delta in deltas:
        for piece in _halved(delta):
            yield _event(piece, "", usage={"prompt_tokens": 0, "completion_tokens": 0}).replace(b"\n\n", b"\r\n")
        yield b": still here\r\n"
    yield _event({"content": None, "tool_calls": None}, "STOP", usage=USED).replace(b"\n\n", b"\r") + b"data: [DONE]"


def _halved(delta: dict[str, Any]) -> list[dict[str, Any]]:
    if "tool_calls" in delta:
        (call,) = delta["tool_calls"]
        return [{"tool_calls": [{**call, "id": f"call_{call['index']}", "index": 0}]}]
    ((name, text),) = delta.items()
    units = text.encode("utf-16-le")
    halves = "".join(chr(int.from_bytes(units[i : i + 2], "little")) for i in range(0, len(units), 2))
    return [{name: halves[:3]}, {name: halves[3:]}] if "\ud83d" not in halves else [{name: half} for half in halves]


def _event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "stub"}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({**head, "choices": [choice], **more}).encode() + b"\n\n"
