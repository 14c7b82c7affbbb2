"""Recipes to running things: what is done before a training starts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfroute.assemble.training import ROWS_AHEAD, ask_ahead, report_outage, serving_line, train_recipe
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.function import FunctionBackend
from selfroute.config import (
    ALGORITHMS,
    BACKENDS,
    STRATEGIES,
    AlgorithmEntry,
    Spec,
    TrainRecipe,
    at,
    parse_overrides,
    parse_spec,
)
from selfroute.errors import BackendUnavailable, ConfigError, SelfRouteError
from selfroute.tasks.countdown import Countdown
from selfroute.types import Message, Sampling


def test_a_cloud_asked_ahead_is_asked_once_for_every_row_and_again_where_it_failed(tmp_path: Path) -> None:
    task = Countdown(limit=ROWS_AHEAD + 10)
    asked: list[str] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(messages[-1].content)
        if len(asked) == 3:
            raise BackendUnavailable("no route", backend="cloud")
        return "an answer"

    def ahead() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        cloud = cached(FunctionBackend("cloud", answer), AnswerCache(tmp_path / "answers.sqlite"))
        ask_ahead(cloud, task, max_tokens=8, concurrency=4, on_progress=lambda *now: seen.append(now))
        return seen

    assert ahead() == [(ROWS_AHEAD, ROWS_AHEAD + 10), (ROWS_AHEAD + 10, ROWS_AHEAD + 10)]
    assert len(asked) == len(set(asked)) == ROWS_AHEAD + 10
    ahead()
    assert len(asked) == ROWS_AHEAD + 11 and asked[-1] == asked[2]


@pytest.mark.parametrize(("calls", "failed"), [(0, 0), (100, 0), (100, 9)])
def test_a_few_failed_calls_are_no_outage(tmp_path: Path, calls: int, failed: int) -> None:
    report_outage({"cloud_calls": calls, "cloud_failures": failed}, tmp_path)


@pytest.mark.parametrize(("calls", "failed"), [(1, 1), (100, 10), (12_345, 12_345)])
def test_an_outage_ends_a_training_in_an_error(tmp_path: Path, calls: int, failed: int) -> None:
    with pytest.raises(SelfRouteError, match=f"did not answer {failed:,} of {calls:,} calls, and attempts that asked"):
        report_outage({"cloud_calls": calls, "cloud_failures": failed}, tmp_path)


@pytest.mark.parametrize(
    ("cloud", "served"),
    [
        ({"openai": {"base_url": "https://api.example.com/v1", "model": "it's big"}}, True),
        ("embedded:cloud", True),
        ({"embedded": "cloud"}, True),
        ("recorded:cloud.jsonl", False),
        (None, False),
    ],
)
def test_the_next_command_serves_beside_the_cloud_of_the_run(cloud: Any, served: bool, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"algorithm": "gapg"} | ({"cloud": cloud} if cloud else {})))
    command, verb, device, *rest = shlex.split(serving_line("transformers:out/mine/checkpoint", tmp_path))
    assert (command, verb, device) == ("selfroute", "serve", "device=transformers:out/mine/checkpoint")
    given = {key: parse_spec(value, key) for key, value in parse_overrides(rest).items()}
    assert given == ({"cloud": parse_spec(cloud, "cloud")} if served else {})
    assert rest == ["cloud=embedded:cloud"] or "embedded" not in str(cloud)


def test_without_a_run_the_next_command_names_the_device_alone(tmp_path: Path) -> None:
    assert serving_line("transformers:m", tmp_path) == "selfroute serve device=transformers:m"


def test_a_relay_is_served_by_what_follows_its_calls(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("algorithm: relay\ncloud: embedded:chain-cloud\n")
    line = serving_line("transformers:x", tmp_path)
    assert line == "selfroute serve device=transformers:x cloud=embedded:chain-cloud strategy=relay"


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=lambda entry: entry.name)
def test_what_serves_a_trained_folder_takes_its_options(algorithm: AlgorithmEntry) -> None:
    spec = parse_spec(yaml.safe_load(algorithm.strategy or "self_route"), "strategy")
    assert spec.options.keys() <= signature(at(STRATEGIES[spec.name].place)).parameters.keys()
    assert algorithm.leaves in BACKENDS or "FOLDER" in algorithm.strategy


def test_a_tagged_device_is_served_by_its_tags(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("algorithm: adaswitch\ntask: chain\n")
    strategy = f"strategy={{step_level: {{checker: tag, tags: {tmp_path}/checkpoint, threshold: 0.3}}}}"
    assert shlex.split(serving_line("transformers:x", tmp_path))[-1] == strategy


def test_a_relay_has_nothing_to_ask_ahead(tmp_path: Path) -> None:
    recipe = TrainRecipe(task=Spec("chain"), algorithm="relay", ask_ahead=True, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="ask_ahead: with algorithm relay the cloud writes within attempts"):
        train_recipe(recipe)
