"""What a client is told when it gets no answer: OpenAI's error shape, for every error of the tree."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from selfroute.backends.base import REFUSED
from selfroute.errors import (
    BackendStatusError,
    BackendTimeout,
    BackendUnavailable,
    BudgetExceeded,
    BudgetUnavailable,
    ContextLengthExceeded,
    PrivacyRefused,
    RecordingMissing,
    SelfRouteError,
    UnsupportedByBackend,
)

__all__ = ["CODES", "ApiError", "Rejected", "api_error", "bad_request", "refusal_fields"]

# Every `code` a client can meet: HTTP status, `type`, and what it means. The reference page is made from this table.
CODES: dict[str, tuple[int, str, str]] = {
    "invalid_json": (400, "invalid_request_error", "the body is not a JSON object"),
    "invalid_value": (400, "invalid_request_error", "a field has a wrong type or value; `param` names it"),
    "limit_exceeded": (400, "invalid_request_error", "the request asks for more than the gateway's limits allow"),
    "unsupported_by_backend": (400, "invalid_request_error", "no model that may answer has what the request asks for"),
    "mode_not_allowed": (400, "invalid_request_error", "`x-selfroute-mode` is not a mode that the config allows"),
    "context_length_exceeded": (400, "invalid_request_error", "the conversation is longer than the model's window"),
    "upstream_refused": (400, "invalid_request_error", "the model's server found the request wrong"),
    "privacy_refused": (400, "invalid_request_error", "the request must not leave, and the device does not answer"),
    "invalid_api_key": (401, "authentication_error", "the client's key is missing or unknown"),
    "origin_not_allowed": (403, "permission_error", "a web page of another origin, or a foreign Host header"),
    "not_found": (404, "invalid_request_error", "there is no such address"),
    "trace_unknown": (404, "not_found_error", "feedback on an answer that this client did not get, or no cloud gave"),
    "session_unknown": (404, "not_found_error", "an open answer that the model has forgotten"),
    "recording_missing": (404, "not_found_error", "a replayed model has no answer to this prompt"),
    "method_not_allowed": (405, "invalid_request_error", "the address exists, with another method"),
    "feedback_conflict": (409, "invalid_request_error", "the answer was judged otherwise before"),
    "trace_expired": (410, "invalid_request_error", "the answer is too old for feedback"),
    "unsupported_encoding": (415, "invalid_request_error", "the body is compressed in a way the gateway cannot read"),
    "body_too_large": (413, "invalid_request_error", "the body is larger than `limits.body_bytes`"),
    "budget_exceeded": (429, "insufficient_quota", "the cloud budget is used up, and the device does not answer"),
    "too_many_requests": (
        429,
        "rate_limit_error",
        "`limits.concurrent` requests are under way, or feedback is too fast",
    ),
    "upstream_rate_limited": (429, "rate_limit_error", "the model's server asks to slow down"),
    "internal_error": (500, "server_error", "a fault of the gateway; the log has it under the trace id"),
    "upstream_error": (502, "server_error", "the model's server failed, cut its answer or sent something else"),
    "answer_interrupted": (502, "server_error", "the cloud broke off after part of its answer was streamed"),
    "upstream_unavailable": (503, "server_error", "no model could be reached, or none is loaded yet"),
    "budget_unavailable": (503, "server_error", "the ledger cannot be reached, and the device does not answer"),
    "upstream_timeout": (504, "server_error", "no model answered in time"),
    "request_timeout": (504, "server_error", "the whole request took longer than `limits.request_s`"),
}


class ApiError(Exception):
    """An answer in OpenAI's error shape.

    Attributes:
        code: a key of `CODES`; gives status and type.
        param: the field of the request that is wrong.
        headers: to send along, e.g. Retry-After.
        details: further fields of the error object.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status, self.type, _ = CODES[code]
        self.param = param
        self.headers = dict(headers or {})
        self.details = dict(details or {})

    def body(self) -> dict[str, Any]:
        error = {"message": str(self), "type": self.type, "param": self.param, "code": self.code, **self.details}
        return {"error": error}


class Rejected(Exception):
    """The budget refused, and the config says that the client is told so instead of the device answering."""

    def __init__(self, refusal: BudgetExceeded | BudgetUnavailable) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def bad_request(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    return ApiError(code, f"{param}: {message}", param=param)


# Kinds of failure that always have the same code, the special before the general.
_CODE_OF: tuple[tuple[type[Exception], str], ...] = (
    (UnsupportedByBackend, "unsupported_by_backend"),
    (PrivacyRefused, "privacy_refused"),
    (ContextLengthExceeded, "context_length_exceeded"),
    (RecordingMissing, "recording_missing"),
    (BudgetUnavailable, "budget_unavailable"),
    (BackendTimeout, "upstream_timeout"),
    (BackendUnavailable, "upstream_unavailable"),
    (SelfRouteError, "upstream_error"),
)
_SOON_OVER = frozenset({"budget_unavailable", "upstream_rate_limited", "upstream_unavailable"})


def api_error(failure: Exception) -> ApiError:
    """What a client is told about a failure."""
    if isinstance(failure, Rejected):
        failure = failure.refusal
    if isinstance(failure, ApiError):
        return failure
    message = "; ".join([str(failure), *getattr(failure, "__notes__", [])])
    if isinstance(failure, BudgetExceeded):
        return ApiError("budget_exceeded", message, headers=_retry(failure), details=refusal_fields(failure))
    code = _code(failure)
    if code == "internal_error":
        return ApiError(code, "the gateway failed; its log says more under this response's trace id")
    return ApiError(code, message, headers={"Retry-After": "1"} if code in _SOON_OVER else None)


def refusal_limit(refusal: BudgetExceeded | BudgetUnavailable) -> str:
    """Name of the limit that refused; "ledger" where nobody could ask it."""
    return refusal.limit if isinstance(refusal, BudgetExceeded) else "ledger"


def refusal_fields(refusal: BudgetExceeded) -> dict[str, Any]:
    """Which limit refused and when it opens, for an error and for the `selfroute` object."""
    reset_at = None if refusal.reset_s is None else round(time.time() + refusal.reset_s, 3)
    return {
        "limit": refusal.limit,
        "spent": refusal.spent,
        "held": refusal.held,
        "cap": refusal.cap,
        "call": refusal.call,
        "reset_s": refusal.reset_s,
        "reset_at": reset_at,
    }


def _retry(refusal: BudgetExceeded) -> dict[str, str]:
    # OpenAI's own clients repeat a 429 by themselves; before the reset that is no use.
    never = {"x-should-retry": "false"}
    return never if refusal.reset_s is None else {**never, "Retry-After": str(math.ceil(refusal.reset_s))}


def _code(failure: Exception) -> str:
    if isinstance(failure, BackendStatusError):
        if failure.status_code == 429:
            return "upstream_rate_limited"
        # What the server says of the request itself is the client's to know; 401, 403 and 404 are the operator's.
        return "upstream_refused" if failure.status_code in REFUSED else "upstream_error"
    return next((code for kind, code in _CODE_OF if isinstance(failure, kind)), "internal_error")
