"""The error tree.

Every error that selfroute raises on purpose derives from `SelfRouteError`::

    SelfRouteError
    ├── ConfigError            bad argument, key or file; raised before any work starts
    ├── TaskError              a broken row of a task, e.g. a gold answer its own verifier rejects
    ├── BackendError           a model did not answer; knows the backend and whether to retry
    │   ├── BackendTimeout         no answer within the time limit
    │   ├── BackendUnavailable     the connection failed, or the model is not loaded
    │   ├── BackendStatusError     the endpoint answered with an HTTP error status
    │   └── ContextLengthExceeded  the conversation is longer than the model's window
    ├── BudgetExceeded         a cloud limit is reached; names it and when it resets
    ├── BudgetUnavailable      the ledger cannot be reached, so that no call may be made
    ├── RecordingMissing       a replayed backend has no answer for this prompt
    └── UnsupportedByBackend   the backend lacks a capability that the caller needs

Model text never raises: a malformed hand-off or answer parses to a value. Messages name the value that is
wrong and the next step.
"""

from __future__ import annotations

import math

__all__ = [
    "BackendError",
    "BackendStatusError",
    "BackendTimeout",
    "BackendUnavailable",
    "BudgetExceeded",
    "BudgetUnavailable",
    "ConfigError",
    "ContextLengthExceeded",
    "RecordingMissing",
    "SelfRouteError",
    "TaskError",
    "UnsupportedByBackend",
]


class SelfRouteError(Exception):
    """Base of every error in this package. The message is written for the user, on one line."""


class ConfigError(SelfRouteError):
    """An argument, key or file is wrong; raised before any work starts."""


class TaskError(SelfRouteError):
    """A row of a task is broken: a field is missing, or its gold answer fails its own verifier."""


class BackendError(SelfRouteError):
    """A model did not answer.

    Attributes:
        backend: name of the backend that failed.
        retryable: whether the same request may succeed later.
    """

    def __init__(self, message: str, *, backend: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.backend = backend
        self.retryable = retryable


class BackendTimeout(BackendError):
    """No answer within the time limit."""

    def __init__(self, message: str, *, backend: str, retryable: bool = True) -> None:
        super().__init__(message, backend=backend, retryable=retryable)


class BackendUnavailable(BackendError):
    """The connection failed, or the model is not loaded."""

    def __init__(self, message: str, *, backend: str, retryable: bool = True) -> None:
        super().__init__(message, backend=backend, retryable=retryable)


class BackendStatusError(BackendError):
    """The endpoint answered with an HTTP error status.

    Attributes:
        status_code: the HTTP status.
    """

    def __init__(self, message: str, *, backend: str, status_code: int, retryable: bool = False) -> None:
        super().__init__(message, backend=backend, retryable=retryable)
        self.status_code = status_code


class ContextLengthExceeded(BackendError):
    """The conversation is longer than the model's window; asking again is of no use."""


class BudgetExceeded(SelfRouteError):
    """A cloud limit is reached.

    Attributes:
        limit: name of the limit, e.g. "calls".
        spent: what is used up, in the limit's unit.
        cap: what the limit allows, in the same unit.
        reset_s: seconds until the limit's window resets, or None if no clock resets it.
    """

    def __init__(
        self, limit: str, *, spent: float, cap: float, reset_s: float | None = None, when: str | None = None
    ) -> None:
        """`when` says in words how the limit opens again, if not by its `reset_s`."""
        when = when or ("it does not reset" if reset_s is None else f"it resets in {math.ceil(reset_s)} s")
        super().__init__(f"cloud budget '{limit}' is used up: {spent:.6g} of {cap:.6g} spent; {when}")
        self.limit = limit
        self.spent = spent
        self.cap = cap
        self.reset_s = reset_s


class BudgetUnavailable(SelfRouteError):
    """The ledger of a budget cannot be reached. What cannot be booked is not spent: no call is made."""


class RecordingMissing(SelfRouteError):
    """A replayed backend has no recorded answer for this prompt."""


class UnsupportedByBackend(SelfRouteError):
    """The backend lacks a capability that the caller needs, e.g. log-probabilities."""
