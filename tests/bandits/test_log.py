"""The log: what is written is read, and what is wrong is named by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.bandits.worlds import ARMS

from selfroute.bandits import catalogue
from selfroute.bandits.base import Context, Outcome
from selfroute.bandits.log import decision_line, outcome_line, read_log
from selfroute.errors import ConfigError

CONTEXT = Context((0.25, -1.0), price_weight=3.0, latency_weight=0.5)
CHOICE = catalogue.thompson(arms=[arm.name for arm in ARMS]).choose(CONTEXT, ARMS)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(decision_line("t1", CONTEXT, ARMS, CHOICE)), **values})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        decision_line("t1", CONTEXT, ARMS, CHOICE),
        decision_line("t2", Context(), ARMS[:1], CHOICE._replace(arm="a", propensity=1.0, least=1.0)),
        outcome_line("t1", latency_s=0.5),
        "",
        outcome_line("t1", quality=0.5, cost_usd=0.001),
        outcome_line("t1", quality=1.0),
        outcome_line("of an older file", quality=1.0),
    )
    first, second = read_log(path)
    assert (first.context, first.arms, first.choice) == (CONTEXT, ARMS, CHOICE)
    assert first.outcome == Outcome(0.5, 0.5, CONTEXT.features)
    assert first.cost_usd == 0.001
    assert second.choice.forced
    assert second.outcome.quality is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (changed(version=2), "log.jsonl:2: version is 2, and this selfroute reads 1"),
        ("{", "log.jsonl:2: this is not JSON"),
        ("[1]", "log.jsonl:2: this is not an object"),
        (changed(kind="guess"), "kind is 'guess'"),
        (changed(trace="t0"), "trace 't0' was decided before"),
        (changed(arm="z"), "prices_usd must name every candidate"),
        (changed(propensity=0.0), "must satisfy 0 < propensity"),
        (changed(propensity=1.5), r"propensity is 1.5, outside \[0, 1\]"),
        (changed(features="x"), "features is not a list"),
        (changed(features=["x"]), "features is 'x', which is not a number"),
        (changed(prices_usd={CHOICE.arm: -1.0}), "is -1.0, outside"),
        (outcome_line("t0").replace("}", ', "quality": "good"}'), "quality is 'good'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path / "log.jsonl", changed(trace="t0"), line)
    with pytest.raises(ConfigError, match=said):
        read_log(path)


def test_a_log_without_propensities_is_refused(tmp_path: Path) -> None:
    line = {key: value for key, value in json.loads(changed()).items() if key != "propensity"}
    with pytest.raises(ConfigError, match="a log without propensities cannot be replayed"):
        read_log(write(tmp_path / "log.jsonl", json.dumps(line)))


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no log"):
        read_log(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="holds no decision"):
        read_log(write(tmp_path / "log.jsonl", outcome_line("t1", quality=1.0)))
