"""The error tree.

Every error that selfroute raises on purpose derives from `SelfRouteError`::

    SelfRouteError
    ├── ConfigError            bad argument, key or file; raised before any work starts
    │   └── NotInstalled           a library or model that a part needs is missing; knows the command that gets it
    ├── TaskError              a broken row of a task, e.g. a gold answer its own verifier rejects
    ├── BackendError           a model did not answer; knows the backend and whether to retry
    │   ├── BackendTimeout         no answer within the time limit
    │   ├── BackendUnavailable     the connection failed, or the model is not loaded
    │   ├── BackendStatusError     the endpoint answered with an HTTP error status
    │   ├── ContextLengthExceeded  the conversation is longer than the model's window
    │   └── PrivacyRefused         something in the request must not leave the device
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
    "NotInstalled",
    "PrivacyRefused",
    "RecordingMissing",
    "SelfRouteError",
    "TaskError",
    "UnsupportedByBackend",
]


class SelfRouteError(Exception):
    """Base of every error in this package. The message is written for the user, on one line."""


class ConfigError(SelfRouteError):
    """An argument, key or file is wrong; raised before any work starts."""


class NotInstalled(ConfigError):
    """A library or a model that a part needs is not there.

    Attributes:
        what: who needs it.
        command: that installs it.
    """

    def __init__(self, what: str, *, command: str) -> None:
        super().__init__(f"{what}; {command}")
        self.what = what
        self.command = command


class TaskError(SelfRouteError):
    """A row of a task is broken: a field is missing, or its gold answer fails its own verifier."""


class BackendError(SelfRouteError):
    """A model did not answer.

    Attributes:
        backend: name of the backend that failed.
        retryable: whether the same request may succeed later.
        summary: what a log may hold: no word of a prompt, an answer or the server.
    """

    def __init__(self, message: str, *, backend: str, retryable: bool = False, summary: str | None = None) -> None:
        super().__init__(message)
        self.backend = backend
        self.retryable = retryable
        self.summary = f"{backend}: {type(self).__name__}" if summary is None else summary


class BackendTimeout(BackendError):
    """No answer within the time limit."""

    def __init__(self, message: str, *, backend: str, retryable: bool = True) -> None:
        super().__init__(message, backend=backend, retryable=retryable, summary=message)


class BackendUnavailable(BackendError):
    """The connection failed, or the model is not loaded."""

    def __init__(self, message: str, *, backend: str, retryable: bool = True, summary: str | None = None) -> None:
        super().__init__(message, backend=backend, retryable=retryable, summary=summary)


class BackendStatusError(BackendError):
    """The endpoint answered with an HTTP error status.

    Attributes:
        status_code: the HTTP status.
    """

    def __init__(
        self, message: str, *, backend: str, status_code: int, retryable: bool = False, summary: str | None = None
    ) -> None:
        super().__init__(message, backend=backend, retryable=retryable, summary=summary)
        self.status_code = status_code


class ContextLengthExceeded(BackendError):
    """The conversation is longer than the model's window; asking again is of no use."""


class PrivacyRefused(BackendError):
    """Something in the request must not leave the device, or might: it was not sent. Never says what it was."""

    def __init__(self, message: str, *, backend: str = "privacy") -> None:
        super().__init__(message, backend=backend)


class BudgetExceeded(SelfRouteError):
    """A cloud limit is reached.

    Attributes:
        limit: name of the limit, e.g. "calls".
        spent: what is used up, in the limit's unit, with what is held.
        held: the part of it that is held for requests under way.
        cap: what the limit allows, in the same unit.
        call: the most that the refused request can use, in the same unit; None where none was estimated.
        reset_s: seconds until the limit's window resets, or None if no clock resets it.
    """

    def __init__(
        self,
        limit: str,
        *,
        spent: float,
        cap: float,
        held: float = 0.0,
        call: float | None = None,
        reset_s: float | None = None,
        when: str | None = None,
    ) -> None:
        """`when` says in words how the limit opens again, if not by its `reset_s`."""
        when = when or ("it does not reset" if reset_s is None else f"it resets in {math.ceil(reset_s)} s")
        booked = f"{spent - held:.6g} of {cap:.6g} spent" + (f", {held:.6g} held for calls under way" if held else "")
        left = max(0.0, cap - spent)
        if call is None or not left:
            what = f"is used up: {booked}"
        elif call > cap:
            what = f"lets no call of this size pass: it may take {call:.6g}; raise it, or limit the answer's tokens"
            when = booked
        else:
            what = f"has no room for this call: it may take {call:.6g}, and {left:.6g} is left: {booked}"
        super().__init__(f"cloud budget '{limit}' {what}; {when}")
        self.limit = limit
        self.spent = spent
        self.held = held
        self.cap = cap
        self.call = call
        self.reset_s = reset_s


class BudgetUnavailable(SelfRouteError):
    """The ledger of a budget cannot be reached. What cannot be booked is not spent: no call is made."""


class RecordingMissing(SelfRouteError):
    """A replayed backend has no recorded answer for this prompt."""


class UnsupportedByBackend(SelfRouteError):
    """The backend lacks a capability that the caller needs, e.g. log-probabilities."""
