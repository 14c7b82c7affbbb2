"""Names and YAML to typed recipes and objects.

A recipe is a YAML file plus `key=value` arguments of the command line. It is checked against a frozen dataclass
before any work starts: unknown keys, wrong types and values outside their range are `ConfigError`s that name the
key, the value and the next step. Names of tasks, backends and strategies are plain dicts from a name to the
place of its factory, which is imported when it is first asked for.
"""

from __future__ import annotations

from selfroute.bounds import Bounds, Count, NotNegative, Positive
from selfroute.config.names import (
    BACKEND_EXAMPLES,
    BACKENDS,
    CLUSTERS,
    DRAWN_TASKS,
    LEARNED,
    LEDGERS,
    LOADS,
    SCORED,
    STRATEGIES,
    TASKS,
    construct,
    make_backend,
    make_budget,
    make_ledger,
    make_task,
    prepare_backend,
    resolve,
)
from selfroute.config.recipes import (
    BudgetOptions,
    CountLimits,
    EvaluateRecipe,
    LoraOptions,
    PlaceRecipe,
    ReportOptions,
    SlotOptions,
    TraceOptions,
    TrainRecipe,
    UsdLimits,
    WarmupRecipe,
)
from selfroute.config.scored import is_scored, scored_options
from selfroute.config.values import (
    Spec,
    build,
    load_recipe,
    load_values,
    parse_overrides,
    parse_spec,
    suggest,
    to_values,
)

__all__ = [
    "BACKENDS",
    "BACKEND_EXAMPLES",
    "CLUSTERS",
    "DRAWN_TASKS",
    "LEARNED",
    "LEDGERS",
    "LOADS",
    "SCORED",
    "STRATEGIES",
    "TASKS",
    "Bounds",
    "BudgetOptions",
    "Count",
    "CountLimits",
    "EvaluateRecipe",
    "LoraOptions",
    "NotNegative",
    "PlaceRecipe",
    "Positive",
    "ReportOptions",
    "SlotOptions",
    "Spec",
    "TraceOptions",
    "TrainRecipe",
    "UsdLimits",
    "WarmupRecipe",
    "build",
    "construct",
    "is_scored",
    "load_recipe",
    "load_values",
    "make_backend",
    "make_budget",
    "make_ledger",
    "make_task",
    "parse_overrides",
    "parse_spec",
    "prepare_backend",
    "resolve",
    "scored_options",
    "suggest",
    "to_values",
]
