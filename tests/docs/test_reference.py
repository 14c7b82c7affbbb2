"""The reference pages say what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from tests.scripts import load_script

from selfroute import errors
from selfroute.commands.main import app
from selfroute.config import (
    ALGORITHMS,
    BACKENDS,
    CLUSTERS,
    LEDGERS,
    LOADS,
    OBJECTIVES,
    ORACLES,
    PAIRS,
    STRATEGIES,
    TASKS,
    CompareRecipe,
    EntryOptions,
    EvaluateRecipe,
    HeadRecipe,
    ReportOptions,
    RewardRecipe,
    TrainRecipe,
    WarmupRecipe,
)
from selfroute.config.serving import ServeRecipe
from selfroute.gateway.exchange import REASONS
from selfroute.types import Reason

# The tests that show each row of the table of faults in serving.md.
FAULTS = {
    "cloud refuses the connection, 401, 500, malformed, empty": (
        "a_dead_cloud_leaves_the_device_to_answer",
        "a_broken_cloud_leaves_the_device_to_answer_and_says_so",
        "a_stream_that_ends_in_an_error_of_the_server_is_malformed",
    ),
    "cloud stops without an answer": ("a_cloud_that_stops_without_an_answer_leaves_it_to_the_device",),
    "cloud 429": (
        "a_busy_cloud_is_asked_again_when_it_says",
        "a_broken_cloud_leaves_the_device_to_answer_and_says_so",
    ),
    "cloud slower than `wait.cloud_first_token_s`": ("a_broken_cloud_leaves_the_device_to_answer_and_says_so",),
    "cloud cut before any of its answer was shown": ("a_cloud_that_only_thought_before_it_was_cut_is_replaced",),
    "cloud cut in mid-answer, not streamed": ("a_cloud_cut_in_mid_answer_is_replaced_where_nothing_was_shown",),
    "cloud cut in mid-answer, streamed": ("a_cloud_cut_in_mid_stream_is_one_error_and_no_second_answer",),
    "cloud fails `breaker.failures` times in a row": ("a_cloud_that_keeps_failing_is_left_alone_for_a_while",),
    "cloud says that the request is wrong (400, 413, 415, 422)": (
        "a_cloud_that_finds_the_request_wrong_leaves_a_device_that_does_not",
        "what_the_cloud_says_of_a_wrong_request_is_told",
    ),
    "device refuses the connection, fails, is too slow, or is cut while thinking": (
        "a_broken_device_leaves_the_cloud_to_answer_and_says_so",
    ),
    "device cut in mid-answer": (
        "a_device_cut_in_mid_answer_is_one_error_and_no_second_answer",
        "a_device_cut_in_mid_answer_is_an_error_where_nothing_was_shown_too",
    ),
    "device stops without an answer": ("a_device_that_stops_without_an_answer_leaves_it_to_the_cloud",),
    "device still loading": (
        "a_device_that_loads_is_waited_for_and_readiness_says_so",
        "a_device_that_loads_too_long_leaves_the_cloud_to_answer",
    ),
    "both fail": ("two_dead_models_are_one_error_that_names_both",),
    "budget refuses": (
        "a_used_up_budget_is_told_in_headers_body_and_metrics",
        "a_used_up_budget_can_be_a_429_that_says_when_to_come_back",
    ),
    "budget's ledger out of reach": ("a_ledger_out_of_reach_keeps_the_answer_on_the_device",),
    "client leaves": (
        "a_client_that_leaves_stops_generation_within_200_ms",
        "a_client_that_leaves_before_the_first_token_costs_nothing",
        "the_clouds_server_sees_the_client_leave",
    ),
    "request longer than `limits.request_s`": ("a_request_that_takes_too_long_is_an_error_in_time",),
    "more than `limits.concurrent` at once": ("too_many_at_once_are_told_to_come_back",),
    "gateway told to stop": ("a_shutdown_lets_streams_end",),
}
DOCS = Path(__file__).resolve().parents[2] / "docs"
pytestmark = pytest.mark.docs


def script() -> Any:
    return load_script("docs/make_reference.py")


every_page = pytest.mark.parametrize("name", script().PAGES)


@every_page
def test_a_page_is_what_its_script_writes(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == script().PAGES[name](), "run python docs/make_reference.py"


@every_page
def test_every_row_has_a_meaning(name: str) -> None:
    rows = [line for line in script().PAGES[name]().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    for row in rows:
        *_, meaning, last = row.removesuffix(" |").split(" | ")
        assert (meaning if name == "names.md" else last).strip(), f"no meaning: {row}"


def test_every_key_of_every_recipe_is_explained() -> None:
    recipes = {
        "serving-reference.md": [ServeRecipe],
        "train-reference.md": [TrainRecipe, WarmupRecipe, HeadRecipe, RewardRecipe],
        "evaluate-reference.md": [EvaluateRecipe, ReportOptions, CompareRecipe, EntryOptions],
    }
    for page, kinds in recipes.items():
        named = set(re.findall(r"^\| `(\w+)[.`]", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE))
        assert {field.name for kind in kinds for field in dataclasses.fields(kind)} <= named


def test_every_name_of_every_table_is_explained() -> None:
    text = (DOCS / "names.md").read_text(encoding="utf-8")
    for table in (STRATEGIES, TASKS, BACKENDS, ALGORITHMS, LEDGERS, CLUSTERS, LOADS, OBJECTIVES, ORACLES, PAIRS):
        assert [name for name in table if f"\n| `{name}` |" not in text] == []


def test_every_reason_is_explained() -> None:
    assert set(REASONS) == set(get_args(Reason))


def faults() -> list[list[str]]:
    """The rows of the table of faults."""
    page = (DOCS / "serving.md").read_text(encoding="utf-8").partition("## Faults")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return rows[1:]


def test_every_fault_is_a_reason_or_an_error() -> None:
    known = set(REASONS) | set(script().CODES) | {"client-gone"}
    for *_, reason in faults():
        for name in re.findall(r"`([^`]+)`", reason):
            assert name in known, name


def test_every_fault_is_shown_by_a_test() -> None:
    gateway = DOCS.parent / "tests" / "gateway"
    code = "".join((gateway / name).read_text(encoding="utf-8") for name in ("test_faults.py", "test_budget.py"))
    assert [fault for fault, *_ in faults()] == list(FAULTS)
    for tests in FAULTS.values():
        for test in tests:
            assert f"def test_{test}(" in code, test


def test_every_command_and_option_is_explained() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) > 20
    for name, command in commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(f"`{option}`" in sections[name] for option in parameter.opts)


def test_every_error_is_explained() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert [name for name in errors.__all__ if f"\n| `{name}` |" not in text] == []
