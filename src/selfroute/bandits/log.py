"""The log of decisions that a replay reads: JSON lines, appended to and never changed.

A line is a decision or an outcome; outcomes come later, perhaps in parts, perhaps never::

    {"version": 1, "kind": "decision", "trace": "t1", "arm": "b", "propensity": 0.93, "least": 0.02, "draws": null,
     "forced": false, "prices_usd": {"a": 0.004, "b": 0.001}, "features": [0.3], "price_weight": 50.0,
     "latency_weight": 0.0}
    {"version": 1, "kind": "outcome", "trace": "t1", "quality": 1.0, "cost_usd": 0.0011, "latency_s": 0.8}

`prices_usd` names the candidates with their quotes. `would`, if it is there, has the probabilities of a policy that was
watched and did not act; a replay passes it by. No text and no key of a user is in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfroute.bandits.base import Arm, Choice, Context, Outcome
from selfroute.errors import ConfigError

__all__ = ["VERSION", "Decision", "decision_line", "outcome_line", "read_log"]

VERSION = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision and what is known to have come of it.

    Attributes:
        cost_usd: what the answer cost; None if nobody said.
    """

    trace: str
    context: Context
    arms: tuple[Arm, ...]
    choice: Choice
    outcome: Outcome
    cost_usd: float | None = None


def decision_line(
    trace: str, context: Context, arms: Sequence[Arm], choice: Choice, *, would: Mapping[str, float] | None = None
) -> str:
    """A decision as a line of a log, without its end.

    Args:
        would: probabilities of a policy that was watched and did not act.
    """
    return json.dumps(
        {
            "version": VERSION,
            "kind": "decision",
            "trace": trace,
            **choice._asdict(),
            "prices_usd": {arm.name: arm.price_usd for arm in arms},
            "features": list(context.features),
            "price_weight": context.price_weight,
            "latency_weight": context.latency_weight,
            **({} if would is None else {"would": dict(would)}),
        }
    )


def outcome_line(
    trace: str, *, quality: float | None = None, cost_usd: float | None = None, latency_s: float | None = None
) -> str:
    """What came of a decision, or a part of it, as a line of a log, without its end."""
    told = {"quality": quality, "cost_usd": cost_usd, "latency_s": latency_s}
    known = {name: value for name, value in told.items() if value is not None}
    return json.dumps({"version": VERSION, "kind": "outcome", "trace": trace, **known})


def read_log(path: Path) -> list[Decision]:
    """The decisions of a log in their order, each with its outcomes; of values told twice the first counts.

    Raises:
        ConfigError: the file is not there, is not such a log, or is of another version; names line and key.
    """
    if not path.is_file():
        raise ConfigError(f"there is no log '{path}'; name a file of decisions")
    found: dict[str, Decision] = {}
    for where, line in _lines(path):
        if line.get("kind") == "decision":
            decision = _decision(line, where)
            if found.setdefault(decision.trace, decision) is not decision:
                raise ConfigError(f"{where}: trace '{decision.trace}' was decided before; ids must not repeat")
        elif line.get("kind") == "outcome":
            trace = line.get("trace")
            if trace in found:  # of decisions in an older file nothing can be made
                found[trace] = _with_outcome(found[trace], line, where)
        else:
            raise ConfigError(f"{where}: kind is {line.get('kind')!r}; a line is a 'decision' or an 'outcome'")
    if not found:
        raise ConfigError(f"'{path}' holds no decision; log some first")
    return list(found.values())


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        try:
            line = json.loads(text)
        except ValueError:
            raise ConfigError(f"{where}: this is not JSON; a log has one JSON object a line") from None
        if not isinstance(line, dict):
            raise ConfigError(f"{where}: this is not an object; a log has one JSON object a line")
        if line.get("version") != VERSION:
            raise ConfigError(f"{where}: version is {line.get('version')!r}, and this selfroute reads {VERSION}")
        yield where, line


def _decision(line: Mapping[str, Any], where: str) -> Decision:
    if "propensity" not in line:
        raise ConfigError(f"{where}: 'propensity' is missing; a log without propensities cannot be replayed")
    prices = line.get("prices_usd")
    if not isinstance(prices, dict) or line.get("arm") not in prices:
        raise ConfigError(f"{where}: prices_usd must name every candidate with its quote, the chosen arm among them")
    arms = tuple(Arm(name, _number(prices, name, where)) for name in prices)
    propensity, least = (_number(line, name, where, high=1.0) for name in ("propensity", "least"))
    if not 0.0 <= least <= propensity or not propensity > 0.0:
        raise ConfigError(f"{where}: propensity {propensity} and least {least} must satisfy 0 < propensity >= least")
    features = line.get("features", [])
    if not isinstance(features, list):
        raise ConfigError(f"{where}: features is not a list of numbers")
    context = Context(
        tuple(_finite(value, "features", where) for value in features),
        _number(line, "price_weight", where, default=0.0),
        _number(line, "latency_weight", where, default=0.0),
    )
    choice = Choice(str(line["arm"]), propensity, least, line.get("draws"), len(arms) == 1)
    return Decision(str(line.get("trace")), context, arms, choice, Outcome(features=context.features))


def _with_outcome(decision: Decision, line: Mapping[str, Any], where: str) -> Decision:
    known = decision.outcome
    quality, latency_s, cost_usd = known.quality, known.latency_s, decision.cost_usd
    if quality is None and "quality" in line:
        quality = _finite(line["quality"], "quality", where)
    if latency_s is None and "latency_s" in line:
        latency_s = _number(line, "latency_s", where)
    if cost_usd is None and "cost_usd" in line:
        cost_usd = _number(line, "cost_usd", where)
    return replace(decision, outcome=replace(known, quality=quality, latency_s=latency_s), cost_usd=cost_usd)


def _number(
    line: Mapping[str, Any], name: str, where: str, *, high: float = math.inf, default: float | None = None
) -> float:
    """A number of 0 or more."""
    if name not in line and default is None:
        raise ConfigError(f"{where}: '{name}' is missing")
    value = _finite(line.get(name, default), name, where)
    if not 0.0 <= value <= high:
        raise ConfigError(f"{where}: {name} is {value}, outside [0, {high:g}]")
    return value


def _finite(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}: {name} is {value!r}, which is not a number")
    return float(value)
