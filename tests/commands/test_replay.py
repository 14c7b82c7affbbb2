"""`selfroute replay`: a table, refusals, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.bandits.worlds import ARMS, World
from typer.testing import CliRunner, Result

from selfroute.bandits import catalogue
from selfroute.bandits.log import decision_line, outcome_line
from selfroute.commands.main import app


def replayed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["replay", *arguments], env={"COLUMNS": "160"})


def log(path: Path, *, floor: float = 0.3, n: int = 900) -> Path:
    """What a learning policy logs, feedback of three quarters."""
    world, policy = World(0), catalogue.thompson(catalogue.Learning(floor=floor), arms=[arm.name for arm in ARMS])
    lines = []
    for number in range(n):
        context = world.context()
        choice = policy.choose(context, ARMS)
        outcome = world.outcome(context, choice.arm)
        policy.update(choice.arm, outcome)
        lines.append(decision_line(f"t{number}", context, ARMS, choice))
        if number % 4:
            cost = next(arm.price_usd for arm in ARMS if arm.name == choice.arm)
            lines.append(
                outcome_line(f"t{number}", quality=outcome.quality, latency_s=outcome.latency_s, cost_usd=cost)
            )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_it_tells_policies_fixed_arms_and_their_mix(tmp_path: Path) -> None:
    path = log(tmp_path / "log.jsonl")
    out = tmp_path / "replayed.json"
    result = replayed(str(path), "--policy", "epsilon_greedy: {floor: 0.3}", "--policy", "uniform", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "the log's own" in result.output
    assert "always a" in result.output
    assert "feedback: 75.0% of the free decisions" in result.output
    assert "next: selfroute serve CONFIG.yaml 'choose.policy=epsilon_greedy: {floor: 0.3}'" in result.output
    told = json.loads(out.read_text(encoding="utf-8"))
    assert set(told["policies"]) == {
        *(f"always {arm.name}" for arm in ARMS),
        "epsilon_greedy: {floor: 0.3}",
        "uniform",
    }
    even = told["policies"]["uniform"]
    assert even["static_mix"] >= even["doubly_robust"]["quality"]["value"] - 0.1
    assert even["doubly_robust"]["quality"]["low"] < 0.5125 < even["doubly_robust"]["quality"]["high"]
    assert replayed(str(path), "--policy", "uniform").output == replayed(str(path), "--policy", "uniform").output


def test_too_few_are_refused_with_the_reason(tmp_path: Path) -> None:
    result = replayed(str(log(tmp_path / "log.jsonl", n=160)), "--policy", "fixed:d")
    assert result.exit_code == 1
    assert "refused" in result.output
    assert "error: fixed:d: the log's 120 decisions with feedback are worth" in result.output


def test_a_log_without_exploration_is_refused(tmp_path: Path) -> None:
    result = replayed(str(log(tmp_path / "log.jsonl", floor=0.0)), "--policy", "uniform")
    assert result.exit_code == 1
    assert "could not have been chosen" in result.output


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("uzb", "unknown policy 'uzb'; did you mean 'ucb'?"),
        ("ucb: {alfa: 1}", "unknown key 'alfa'; did you mean 'alpha'?"),
        ("ucb: {alpha: -1}", "alpha: -1.0 is not a number of 0 or more"),
        ("ucb:3", "ucb takes no '3'"),
        ("fixed:z", "fixed.arm: 'z' is not one of a, b, c, d"),
        ("fixed", "option 'arm' is missing"),
    ],
)
def test_a_wrong_policy_is_one_line(tmp_path: Path, policy: str, said: str) -> None:
    result = replayed(str(log(tmp_path / "log.jsonl", n=5)), "--policy", policy)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert result.output.count("\n") == 1


def test_a_wrong_log_is_one_line(tmp_path: Path) -> None:
    result = replayed(str(tmp_path / "none.jsonl"), "--policy", "uniform")
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
