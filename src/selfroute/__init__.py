"""Share LLM work between a small model on the device and a large one in the cloud.

The public names below load on first use, so that importing the package costs little and no torch::

    from selfroute import SelfRoute, answer, embedded

Command line: `selfroute --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names for type checkers; tests/test_exports.py keeps the two lists equal
    from selfroute.backends.base import Backend as Backend
    from selfroute.backends.base import BatchBackend as BatchBackend
    from selfroute.backends.base import complete as complete
    from selfroute.backends.base import complete_all as complete_all
    from selfroute.backends.base import run_sync as run_sync
    from selfroute.budget.base import Budget as Budget
    from selfroute.budget.base import Lease as Lease
    from selfroute.budget.base import NoCloud as NoCloud
    from selfroute.budget.base import Unlimited as Unlimited
    from selfroute.errors import BackendError as BackendError
    from selfroute.errors import BackendStatusError as BackendStatusError
    from selfroute.errors import BackendTimeout as BackendTimeout
    from selfroute.errors import BackendUnavailable as BackendUnavailable
    from selfroute.errors import BudgetExceeded as BudgetExceeded
    from selfroute.errors import ConfigError as ConfigError
    from selfroute.errors import RecordingMissing as RecordingMissing
    from selfroute.errors import SelfRouteError as SelfRouteError
    from selfroute.errors import TaskError as TaskError
    from selfroute.errors import UnsupportedByBackend as UnsupportedByBackend
    from selfroute.handoff import TEMPLATES as TEMPLATES
    from selfroute.handoff import PromptTemplate as PromptTemplate
    from selfroute.strategies.base import Strategy as Strategy
    from selfroute.strategies.base import answer as answer
    from selfroute.tasks.base import Row as Row
    from selfroute.tasks.base import Task as Task
    from selfroute.tasks.base import Verdict as Verdict
    from selfroute.types import Completion as Completion
    from selfroute.types import Delta as Delta
    from selfroute.types import Event as Event
    from selfroute.types import Finished as Finished
    from selfroute.types import HandOff as HandOff
    from selfroute.types import Message as Message
    from selfroute.types import Sampling as Sampling
    from selfroute.types import Segment as Segment
    from selfroute.types import TextDelta as TextDelta
    from selfroute.types import Token as Token
    from selfroute.types import Trace as Trace
    from selfroute.types import Usage as Usage

_MODULES: dict[str, str] = {
    "backends.base": "Backend BatchBackend complete complete_all run_sync",
    "budget.base": "Budget Lease NoCloud Unlimited",
    "errors": (
        "BackendError BackendStatusError BackendTimeout BackendUnavailable BudgetExceeded ConfigError "
        "RecordingMissing SelfRouteError TaskError UnsupportedByBackend"
    ),
    "handoff": "PromptTemplate TEMPLATES",
    "strategies.base": "Strategy answer",
    "tasks.base": "Row Task Verdict",
    "types": "Completion Delta Event Finished HandOff Message Sampling Segment TextDelta Token Trace Usage",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'selfroute' has no attribute '{name}'")
    value = getattr(import_module(f"selfroute.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
