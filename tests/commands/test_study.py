"""`selfroute study` and `selfroute distil`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from selfroute.assemble.studying import environment_maker, judge, model_runs
from selfroute.backends.function import FunctionBackend
from selfroute.commands.main import app
from selfroute.errors import BackendUnavailable
from selfroute.types import Message, Sampling


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "140"})


def test_policies_are_played_and_judged(tmp_path: Path) -> None:
    out = tmp_path / "study.json"
    arguments = ("--policy", "ucb", "--policy", "uniform", "--seeds", "6", "--steps", "100", "--out", str(out))
    result = command("study", "bernoulli-5-easy", *arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_text(encoding="utf-8"))
    ucb, uniform = told["agents"]["ucb"], told["agents"]["uniform"]
    assert ucb["regret"] < uniform["regret"] == pytest.approx(100 * 0.5 * 4 / 5, abs=6)
    assert (ucb["win_rate"], uniform["win_rate"]) == (1.0, 0.0)
    assert (told["steps"], ucb["seeds"], ucb["unreadable"]) == (100, 6, None)
    assert "next: selfroute distil bernoulli-5-easy --policy ucb --out decisions.jsonl" in result.output


async def test_a_model_is_played_in_step_and_its_unreadable_replies_are_counted() -> None:
    make = environment_maker("bernoulli-5-easy", steps=12)
    asked: list[int] = []

    def reply(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(len(messages))
        if len(asked) % 4 == 0:
            raise BackendUnavailable("gone", backend="toy")
        return "either A or B" if len(asked) % 4 == 1 else "D"

    studied = await model_runs(FunctionBackend("toy", reply), make, 3, shown="guided", shots=2)
    assert len(asked) == 36
    assert set(asked) == {1 + 2 * 2 + 1}
    assert studied.unreadable == 18
    assert [len(run.chosen) for run in studied.runs] == [12] * 3
    assert judge({"toy": studied}, 5)["toy"]["unreadable"] == 18


async def test_a_model_meets_the_environments_that_policies_meet() -> None:
    make = environment_maker("gaussian-5-easy", steps=5, names="clothes")
    name = make(0).arms[0]
    studied = await model_runs(FunctionBackend("toy", lambda m, s: name), make, 2, shown="raw", seed=7)
    for seed, run in zip((7, 8), studied.runs, strict=True):
        environment = make(seed)
        assert run.rewards.tolist() == [environment.pull(0) for _ in range(5)]


def test_decisions_are_written_as_chat_data(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "decisions.jsonl"
    result = command("distil", "bernoulli-5-easy", "films-10", "--policy", "linucb", "--runs", "2", "--out", str(out))
    assert result.exit_code == 2
    assert "features: 0 is below 1" in result.output
    assert list(out.parent.iterdir()) == []
    arguments = ("--runs", "2", "--steps", "20", "--names", "clothes", "--out", str(out))
    output = command("distil", "bernoulli-5-easy", "bernoulli-20-hard", *arguments).output
    assert "80 decisions" in output
    assert "next: selfroute study bernoulli-5-easy --policy ucb --model MODEL --context guided" in output
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 80
    for row in rows:
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["completion"][0]["content"] in row["prompt"][0]["content"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bernouli-5-easy", "--policy", "ucb"), "unknown 'bernouli-5-easy'; did you mean 'bernoulli-5-easy'?"),
        (("bernoulli-5-easy",), "give --policy or --model"),
        (("bernoulli-5-easy", "--policy", "uzb"), "unknown policy 'uzb'"),
        (("bernoulli-5-easy", "--policy", "ucb", "--names", "cars"), "names: 'cars'"),
        (("bernoulli-5-easy", "--model", "nothing"), "unknown backend 'nothing'"),
        (("films-10", "--policy", "linucb", "--movielens", "nowhere"), "'nowhere' holds neither"),
        (("bernoulli-5-easy", "--policy", "ucb", "--context", "all"), "'all' is not one of 'raw', 'summary', 'guided'"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    result = command("study", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert result.output.count("\n") == 1
