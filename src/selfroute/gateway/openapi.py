"""The OpenAPI description of the gateway, made from its limits and error codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from selfroute.budget.shared import Source
from selfroute.gateway.errors import CODES
from selfroute.gateway.exchange import ASKS
from selfroute.gateway.request import Limits
from selfroute.types import Role

__all__ = ["description"]

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}


def description(limits: Limits, *, needs_key: bool) -> dict[str, Any]:
    """OpenAPI 3.1 of every address."""
    chat = {"$ref": "#/components/schemas/ChatRequest"}
    paths = {
        "/": _get("Dashboard", content="text/html"),
        "/healthz": _get("The process is alive"),
        "/readyz": _get("Requests can be answered; 503 until then", errors=(503,)),
        "/metrics": _get("Counters for Prometheus", content="text/plain", errors=(401,)),
        "/status.json": _get("What the dashboard shows", errors=(401,)),
        "/openapi.json": _get("This description"),
        "/v1/models": _get("Names that `model` may have", errors=(401,)),
        "/v1/models/{model}": _get("One of them, or any other name", errors=(401, 404), parameters=[_MODEL]),
        "/v1/chat/completions": _post("Answer a conversation, whole or streamed", chat, "ChatCompletion", streams=True),
        "/v1/responses": _post(
            "Answer text with text, whole or streamed", {"$ref": "#/components/schemas/ResponseRequest"}, "Response",
            streams=True,
        ),
        "/v1/completions": _post(
            "Pass a plain prompt on to one model's server", {"$ref": "#/components/schemas/CompletionRequest"},
            "Passed", streams=True,
        ),
        "/v1/embeddings": _post(
            "Pass texts on to one model's server", {"$ref": "#/components/schemas/EmbeddingRequest"}, "Passed"
        ),
        "/v1/selfroute/preview": _post("Show what the cloud would get, without calling it", chat, "Preview"),
        "/v1/route": _post("Say who would answer, without calling the cloud", chat, "Decision"),
        "/v1/feedback": _post(
            "Say how good an answer of one of several clouds was",
            {"$ref": "#/components/schemas/FeedbackRequest"},
            "Feedback",
            parameters=(),
        ),
    }  # fmt: skip
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "selfroute", "version": "1", "description": "An OpenAI-compatible gateway to two models."},
        "paths": paths,
        "components": {"schemas": _schemas(limits), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
    if needs_key:
        described["security"] = [{"key": []}]
    return described


_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
_MODE = {
    "name": "x-selfroute-mode",
    "in": "header",
    "required": False,
    "description": "Overrides who may answer, where the config allows it.",
    "schema": {"type": "string", "enum": ["auto", "device", "cloud", "private"]},
}

_ASKS = [
    {"name": name, "in": "header", "required": False, "description": f"{meaning}.", "schema": {"type": "string"}}
    for name, meaning in ASKS.items()
]


def _responses(errors: tuple[int, ...]) -> dict[str, Any]:
    meanings: dict[int, list[str]] = {}
    for code, (status, _, meaning) in CODES.items():
        meanings.setdefault(status, []).append(f"{code}: {meaning}")
    return {
        str(status): {"description": "; ".join(meanings.get(status, ["not ready"])), "content": _ERROR}
        for status in errors
    }


def _get(
    summary: str,
    *,
    content: str = "application/json",
    errors: tuple[int, ...] = (),
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    schema = {"type": "object" if content == "application/json" else "string"}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {content: {"schema": schema}}},
                      **_responses((403, *errors))},
    }  # fmt: skip
    if parameters:
        operation["parameters"] = parameters
    return {"get": operation}


def _post(
    summary: str,
    body: dict[str, Any],
    answer: str,
    *,
    streams: bool = False,
    parameters: Sequence[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    if streams:
        content["text/event-stream"] = {}
    statuses = tuple(sorted({status for status, _, _ in CODES.values()} - {405}))
    return {
        "post": {
            "summary": summary,
            "parameters": [_MODE, *_ASKS] if parameters is None else list(parameters),
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": {"description": summary, "content": content}, **_responses(statuses)},
        }
    }


def _schemas(limits: Limits) -> dict[str, Any]:
    part = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"type": "string"}},
    }
    message = {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": [*get_args(Role), "function"]},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": part}, {"type": "null"}]},
        },
    }
    count = {"type": ["integer", "null"], "anyOf": [{"minimum": 1}, {"const": -1}, {"type": "null"}]}
    sampling = {
        "model": {"type": ["string", "null"]},
        "stream": {"type": ["boolean", "null"]},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    }
    texts = {"type": "string", "minLength": 1}
    chat = {
        **sampling,
        "messages": {"type": "array", "minItems": 1, "maxItems": limits.messages, "items": message},
        "max_tokens": count,
        "max_completion_tokens": count,
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": limits.n},
        "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
        "stop": {"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "array", "maxItems": 4, "items": texts}]},
        "logprobs": {"type": ["boolean", "null"]},
        "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}}},
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "response_format": {"type": ["object", "null"]},
    }
    response = {
        **sampling,
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": message}]},
        "instructions": {"type": ["string", "null"]},
        "max_output_tokens": count,
    }
    error = {
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
                       "code": {"enum": list(CODES)}},
    }  # fmt: skip
    passed = {"model": {"type": ["string", "null"]}}
    prompts = {"type": ["string", "array"]}
    plain = {**passed, "prompt": prompts, "stream": {"type": ["boolean", "null"]},
             "max_tokens": {"type": ["integer", "null"], "minimum": 0}}  # fmt: skip
    return {
        "CompletionRequest": {"type": "object", "required": ["prompt"], "properties": plain},
        "EmbeddingRequest": {"type": "object", "required": ["input"], "properties": {**passed, "input": prompts}},
        "Passed": {"type": "object"},
        "ChatRequest": {"type": "object", "required": ["messages"], "properties": chat},
        "ResponseRequest": {"type": "object", "required": ["input"], "properties": response},
        "ChatCompletion": _object("id", "object", "created", "model", "choices", "usage", "selfroute"),
        "Response": _object("id", "object", "created_at", "status", "model", "output", "usage", "selfroute"),
        "FeedbackRequest": {
            "type": "object",
            "required": ["trace_id", "score"],
            "properties": {
                "trace_id": {"type": "string", "minLength": 1},
                "score": {"type": "number", "minimum": 0, "maximum": 1},
                "source": {"enum": list(get_args(Source))},
            },
            "additionalProperties": False,
        },
        "Feedback": _object("object", "trace_id", "status", "cloud"),
        "Preview": _object("object", "body", "placeholders", "refused"),
        "Decision": _object("object", "source", "reason", "wants_cloud", "score", "mode", "strategy", "trace_id"),
        "Error": {"type": "object", "required": ["error"], "properties": {"error": error}},
    }


def _object(*required: str) -> dict[str, Any]:
    return {"type": "object", "required": list(required)}
