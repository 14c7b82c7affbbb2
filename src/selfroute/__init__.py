"""Share LLM work between a small model on the device and a large one in the cloud.

The public names below load on first use, so that importing the package costs little and no torch::

    from selfroute import SelfRoute, Sides, embedded

    pair = Sides(device=embedded("device-gapg"), cloud=embedded("cloud"))
    events = SelfRoute().stream(pair, messages, sampling)

Command line: `selfroute --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names for type checkers; tests/test_exports.py keeps the two lists equal
    from selfroute.actions import Action as Action
    from selfroute.backends.base import Backend as Backend
    from selfroute.backends.base import BatchBackend as BatchBackend
    from selfroute.backends.base import capability as capability
    from selfroute.backends.base import complete as complete
    from selfroute.backends.base import complete_all as complete_all
    from selfroute.backends.base import find_capability as find_capability
    from selfroute.backends.base import run_sync as run_sync
    from selfroute.backends.best_of import BestOfN as BestOfN
    from selfroute.backends.cache import AnswerCache as AnswerCache
    from selfroute.backends.cache import cached as cached
    from selfroute.backends.embedded import embedded as embedded
    from selfroute.backends.function import FunctionBackend as FunctionBackend
    from selfroute.backends.openai_compatible import OpenAICompatibleBackend as OpenAICompatibleBackend
    from selfroute.backends.recorded import RecordedBackend as RecordedBackend
    from selfroute.backends.recorded import record as record
    from selfroute.backends.transformers import TransformersBackend as TransformersBackend
    from selfroute.budget.base import Budget as Budget
    from selfroute.budget.base import Estimate as Estimate
    from selfroute.budget.base import Lease as Lease
    from selfroute.budget.base import LimitState as LimitState
    from selfroute.budget.base import NoCloud as NoCloud
    from selfroute.budget.base import Unlimited as Unlimited
    from selfroute.errors import BackendError as BackendError
    from selfroute.errors import BackendStatusError as BackendStatusError
    from selfroute.errors import BackendTimeout as BackendTimeout
    from selfroute.errors import BackendUnavailable as BackendUnavailable
    from selfroute.errors import BudgetExceeded as BudgetExceeded
    from selfroute.errors import BudgetUnavailable as BudgetUnavailable
    from selfroute.errors import ConfigError as ConfigError
    from selfroute.errors import ContextLengthExceeded as ContextLengthExceeded
    from selfroute.errors import RecordingMissing as RecordingMissing
    from selfroute.errors import SelfRouteError as SelfRouteError
    from selfroute.errors import TaskError as TaskError
    from selfroute.errors import UnsupportedByBackend as UnsupportedByBackend
    from selfroute.evaluation.run import evaluate as evaluate
    from selfroute.grading import Outcome as Outcome
    from selfroute.grading import grade as grade
    from selfroute.handoff import HANDOFF_TEXT as HANDOFF_TEXT
    from selfroute.handoff import StreamParser as StreamParser
    from selfroute.handoff import parse as parse
    from selfroute.prices import Price as Price
    from selfroute.prices import Prices as Prices
    from selfroute.prompts import TEMPLATES as TEMPLATES
    from selfroute.prompts import PromptTemplate as PromptTemplate
    from selfroute.rewards.hierarchical import Hierarchical as Hierarchical
    from selfroute.rewards.hierarchical import hierarchical as hierarchical
    from selfroute.strategies.always import AlwaysCloud as AlwaysCloud
    from selfroute.strategies.always import AlwaysDevice as AlwaysDevice
    from selfroute.strategies.base import Needs as Needs
    from selfroute.strategies.base import Sides as Sides
    from selfroute.strategies.base import Strategy as Strategy
    from selfroute.strategies.base import answer as answer
    from selfroute.strategies.prompt_router import PromptRouter as PromptRouter
    from selfroute.strategies.random_offload import RandomOffload as RandomOffload
    from selfroute.strategies.self_route import SelfRoute as SelfRoute
    from selfroute.tasks.base import Environment as Environment
    from selfroute.tasks.base import Explorable as Explorable
    from selfroute.tasks.base import Interactive as Interactive
    from selfroute.tasks.base import Observation as Observation
    from selfroute.tasks.base import Restorable as Restorable
    from selfroute.tasks.base import Row as Row
    from selfroute.tasks.base import Task as Task
    from selfroute.tasks.base import Tool as Tool
    from selfroute.tasks.check import check as check
    from selfroute.tasks.countdown import Countdown as Countdown
    from selfroute.tasks.gsm8k import GSM8K as GSM8K
    from selfroute.tasks.hendrycks_math import HendrycksMath as HendrycksMath
    from selfroute.tasks.jsonl import JsonLines as JsonLines
    from selfroute.train.rl.gapg import GAPGTrainer as GAPGTrainer
    from selfroute.train.rl.options import GAPGOptions as GAPGOptions
    from selfroute.train.rl.policy_config import PolicyConfig as PolicyConfig
    from selfroute.train.rl.policy_trainer import PolicyTrainer as PolicyTrainer
    from selfroute.types import Completion as Completion
    from selfroute.types import Delta as Delta
    from selfroute.types import Event as Event
    from selfroute.types import Finished as Finished
    from selfroute.types import HandOff as HandOff
    from selfroute.types import Message as Message
    from selfroute.types import Refusal as Refusal
    from selfroute.types import Retract as Retract
    from selfroute.types import Sampling as Sampling
    from selfroute.types import Segment as Segment
    from selfroute.types import TextDelta as TextDelta
    from selfroute.types import Token as Token
    from selfroute.types import Trace as Trace
    from selfroute.types import Usage as Usage
    from selfroute.verify.base import Verdict as Verdict

_MODULES: dict[str, str] = {
    "actions": "Action",
    "backends.base": "Backend BatchBackend capability complete complete_all find_capability run_sync",
    "backends.best_of": "BestOfN",
    "backends.cache": "AnswerCache cached",
    "backends.embedded": "embedded",
    "backends.function": "FunctionBackend",
    "backends.openai_compatible": "OpenAICompatibleBackend",
    "backends.recorded": "RecordedBackend record",
    "backends.transformers": "TransformersBackend",
    "budget.base": "Budget Estimate Lease LimitState NoCloud Unlimited",
    "errors": (
        "BackendError BackendStatusError BackendTimeout BackendUnavailable BudgetExceeded BudgetUnavailable "
        "ConfigError ContextLengthExceeded RecordingMissing SelfRouteError TaskError UnsupportedByBackend"
    ),
    "evaluation.run": "evaluate",
    "grading": "Outcome grade",
    "handoff": "HANDOFF_TEXT StreamParser parse",
    "prices": "Price Prices",
    "prompts": "PromptTemplate TEMPLATES",
    "rewards.hierarchical": "Hierarchical hierarchical",
    "strategies.always": "AlwaysCloud AlwaysDevice",
    "strategies.base": "Needs Sides Strategy answer",
    "strategies.prompt_router": "PromptRouter",
    "strategies.random_offload": "RandomOffload",
    "strategies.self_route": "SelfRoute",
    "tasks.base": "Environment Explorable Interactive Observation Restorable Row Task Tool",
    "tasks.check": "check",
    "tasks.countdown": "Countdown",
    "tasks.gsm8k": "GSM8K",
    "tasks.hendrycks_math": "HendrycksMath",
    "tasks.jsonl": "JsonLines",
    "train.rl.gapg": "GAPGTrainer",
    "train.rl.options": "GAPGOptions",
    "train.rl.policy_config": "PolicyConfig",
    "train.rl.policy_trainer": "PolicyTrainer",
    "types": (
        "Completion Delta Event Finished HandOff Message Refusal Retract Sampling Segment TextDelta Token Trace Usage"
    ),
    "verify.base": "Verdict",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_MODULE_OF)]


# Names of version 0.1 that are gone, and what stands in their place.
_GONE = {"GAPGConfig": "its options of TRL are those of PolicyConfig, its own are those of GAPGOptions"}


def __getattr__(name: str) -> Any:
    if name in _GONE:
        raise ImportError(f"selfroute.{name} is gone: {_GONE[name]}; docs/gapg.md shows both")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'selfroute' has no attribute '{name}'")
    value = getattr(import_module(f"selfroute.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
