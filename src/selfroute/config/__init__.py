"""Names and YAML to typed recipes and objects.

A recipe is a YAML file plus `key=value` arguments of the command line. It is checked against a frozen dataclass
before any work starts: unknown keys, wrong types and values outside their range are `ConfigError`s that name the
key, the value and the next step. What a recipe can name stands in `tables`, an entry each.
"""

from __future__ import annotations

from selfroute.bounds import Bounds, Choice, Count, NotNegative, Positive
from selfroute.config.entries import AlgorithmEntry, BackendEntry, Entry, StrategyEntry, Table, TaskEntry, at
from selfroute.config.kinds import check_kind
from selfroute.config.names import (
    algorithm_of,
    asked_for,
    construct,
    make_backend,
    make_budget,
    make_journal,
    make_ledger,
    make_oracle,
    make_policy,
    make_strategy,
    make_task,
    model_value,
    prepare_backend,
    trained_prompt,
)
from selfroute.config.recipes import (
    AttributeOptions,
    BudgetOptions,
    CountLimits,
    EvaluateRecipe,
    HeadRecipe,
    LoraOptions,
    PlaceRecipe,
    ReportOptions,
    SlotOptions,
    TraceOptions,
    TrainRecipe,
    UsdLimits,
    WarmupRecipe,
)
from selfroute.config.tables import ALGORITHMS, BACKENDS, CLUSTERS, LEDGERS, LOADS, ORACLES, POLICIES, STRATEGIES, TASKS
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
    "ALGORITHMS",
    "BACKENDS",
    "CLUSTERS",
    "LEDGERS",
    "LOADS",
    "ORACLES",
    "POLICIES",
    "STRATEGIES",
    "TASKS",
    "AlgorithmEntry",
    "AttributeOptions",
    "BackendEntry",
    "Bounds",
    "BudgetOptions",
    "Choice",
    "Count",
    "CountLimits",
    "Entry",
    "EvaluateRecipe",
    "HeadRecipe",
    "LoraOptions",
    "NotNegative",
    "PlaceRecipe",
    "Positive",
    "ReportOptions",
    "SlotOptions",
    "Spec",
    "StrategyEntry",
    "Table",
    "TaskEntry",
    "TraceOptions",
    "TrainRecipe",
    "UsdLimits",
    "WarmupRecipe",
    "algorithm_of",
    "asked_for",
    "at",
    "build",
    "check_kind",
    "construct",
    "load_recipe",
    "load_values",
    "make_backend",
    "make_budget",
    "make_journal",
    "make_ledger",
    "make_oracle",
    "make_policy",
    "make_strategy",
    "make_task",
    "model_value",
    "parse_overrides",
    "parse_spec",
    "prepare_backend",
    "suggest",
    "to_values",
    "trained_prompt",
]
