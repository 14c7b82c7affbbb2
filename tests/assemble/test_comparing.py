"""`selfroute compare`: entries are trained, evaluated and counted one by one; what cannot be is left out by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from typer.testing import CliRunner

from selfroute.assemble.comparing import compare_recipe
from selfroute.backends.function import FunctionBackend
from selfroute.commands.main import app
from selfroute.config import (
    ALGORITHMS,
    BACKENDS,
    STRATEGIES,
    AlgorithmEntry,
    BackendEntry,
    CompareRecipe,
    Spec,
    StrategyEntry,
    build,
)
from selfroute.config.comparing import apart
from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.strategies.random_offload import RandomOffload
from selfroute.types import Message, Sampling

HERE = "tests.assemble.test_comparing"
ROWS = 40
asked: list[str] = []
trained: list[str] = []


# --- a world -------------------------------------------------------------------------------------------------------


def number_in(messages: Sequence[Message]) -> int:
    return int(re.findall(r"\d+", messages[-1].content)[-1])


def pupil(name: str = "pupil") -> FunctionBackend:
    """Doubles even numbers only."""

    def double(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(name)
        number = number_in(messages)
        return f"\\boxed{{{2 * number if number % 2 == 0 else 7}}}"

    return FunctionBackend(name, double)


def teacher(name: str = "teacher") -> FunctionBackend:
    return FunctionBackend(name, lambda messages, sampling: f"\\boxed{{{2 * number_in(messages)}}}")


def taught(folder: str, name: str = "taught") -> FunctionBackend:
    """Asks from a number on, which it was taught."""
    lesson = json.loads(Path(folder, "lesson.json").read_text())

    def double(messages: Sequence[Message], sampling: Sampling) -> str:
        number = number_in(messages)
        return HANDOFF_TEXT if number % 2 and number >= lesson["asks_from"] else f"\\boxed{{{2 * number}}}"

    return FunctionBackend(name, double)


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonRecipe:
    """What a lesson needs."""

    task: Spec
    algorithm: Literal["lesson"] = "lesson"
    asks_from: int = 0
    after: str = ""
    seed: int = 0
    out: Path = Path("out/lesson")


def give_lesson(recipe: LessonRecipe, *, on_progress: Callable[..., None], say: Callable[[str], object]) -> Path:
    trained.append(recipe.out.name)
    assert not recipe.after or (Path(recipe.after) / "run.json").is_file(), "what it builds on comes first"
    on_progress(1, 1, {"loss": 0.0})
    recipe.out.mkdir(parents=True)
    (recipe.out / "lesson.json").write_text(json.dumps({"asks_from": recipe.asks_from}))
    (recipe.out / "run.json").write_text("{}")
    return recipe.out


@dataclass(frozen=True, kw_only=True)
class Seer(RandomOffload):
    """Knows which numbers the pupil fails on."""

    share: float = 0.5
    oracle: bool = True

    def draw(self, messages: Sequence[Message]) -> float:
        return float(number_in(messages) % 2)


ENTRIES = (
    (BACKENDS, BackendEntry(name="pupil", place=f"{HERE}:pupil")),
    (BACKENDS, BackendEntry(name="teacher", place=f"{HERE}:teacher")),
    (BACKENDS, BackendEntry(name="taught", place=f"{HERE}:taught")),
    (ALGORITHMS, AlgorithmEntry(name="lesson", place=f"{HERE}:give_lesson", options=f"{HERE}:LessonRecipe")),
    (STRATEGIES, StrategyEntry(name="seer", place=f"{HERE}:Seer")),
    (STRATEGIES, StrategyEntry(name="absent", place="surely_not_here:Absent", extra="ray")),
)


TASK = {"jsonl": {"path": "data", "verifier": "numeric"}}
RECIPE: dict[str, Any] = {
    "task": TASK,
    "device": "pupil",
    "cloud": "teacher",
    "seeds": [1, 2],
    "shares": [0.2, 0.5],
    "axes": ["calls", "cloud_tokens", "bytes", "seconds", "usd"],
    "prices": "prices.yaml",
    "evaluate": {"router_rows": 20},
    "parts": {
        "first": "lesson.yaml asks_from=300",
        "second": "lesson.yaml asks_from=220 after={first}",
    },
    "entries": {
        "ends": {
            "level": "query",
            "evaluate": {"strategies": ["always_device", "always_cloud", "random_offload", "prompt_length"]},
        },
        "seer": {"level": "query", "evaluate": {"entrants": {"all-seeing": {"seer": {}}}}},
        "dice": {
            "level": "query",
            "free": True,
            "evaluate": {"entrants": {"dice": {"random_offload": {"share": 0.1}}}},
        },
        "taught": {"level": "relay", "evaluate": {"policies": {"taught": "taught:{second}"}}},
    },
    "out": "out",
}


@pytest.fixture(autouse=True)
def entered(monkeypatch: pytest.MonkeyPatch) -> None:
    for table, entry in ENTRIES:
        monkeypatch.setitem(table, entry.name, entry)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole recipe has run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for table, entry in ENTRIES:
            patch.setitem(table, entry.name, entry)
        write_files()
        trained.clear()
        compare()
        assert trained == ["first", "second"] * 2
    return folder


@pytest.fixture(autouse=True)
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it."""
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "here"))
    asked.clear()
    trained.clear()


def write_files() -> None:
    Path("data").mkdir()
    for split, first in (("train", 100), ("test", 200)):
        rows = [{"question": f"What is twice {n}", "answer": 2 * n} for n in range(first, first + ROWS)]
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = {
        "pupil": {"prompt_usd": 0, "completion_usd": 0},
        "teacher": {"prompt_usd": 1, "completion_usd": 2},
    }
    Path("prices.yaml").write_text(yaml.safe_dump({"as_of": date(2026, 11, 1), "models": models}))
    Path("lesson.yaml").write_text(yaml.safe_dump({"task": TASK, "algorithm": "lesson"}))


def read() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path("out/table.json").read_text())
    return table


def recipe(**values: Any) -> CompareRecipe:
    return build(CompareRecipe, {**RECIPE, **values}, where="compare.yaml")


def compare(said: list[str] | None = None, **values: Any) -> dict[str, Any]:
    said = [] if said is None else said
    return compare_recipe(recipe(**values), source="compare.yaml", command="selfroute compare x", say=said.append)


def line(table: Mapping[str, Any], axis: str, strategy: str) -> dict[str, Any]:
    part = next(part for part in table["axes"] if part["axis"] == axis)
    found: dict[str, Any] = next(line for line in part["lines"] if line["strategy"] == strategy)
    return found


def entries(**more: Any) -> dict[str, Any]:
    return {**RECIPE["entries"], **more}


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_entry_is_evaluated_and_counted_on_every_seed() -> None:
    table = read()
    assert (table["n"], table["seeds"], table["shares"]) == ([ROWS] * 2, [1, 2], [0.2, 0.5])
    assert table["device_accuracy"] == {"mean": 0.5, "sd": 0.0}
    assert [part["axis"] for part in table["axes"]] == RECIPE["axes"]
    assert [each["name"] for each in table["entries"]] == ["ends", "seer", "dice", "taught"]
    assert [ran["seed"] for ran in table["entries"][3]["ran"]] == [1, 2]
    assert "out/seed-2/taught.yaml seed=2" in table["entries"][3]["ran"][1]["command"]
    assert table["left_out"] == []


def test_a_table_has_the_same_shape_everywhere() -> None:
    """What `docs/evaluation.md` says of it, which programs read."""
    table = read()
    origin = {"command", "commit", "task", "n", "seeds", "shares", "network", "prices"}
    assert table.keys() == origin | {"device_accuracy", "cloud_accuracy", "axes", "runs", "entries", "left_out"}
    for part in table["axes"]:
        assert part.keys() == {"axis", "device_spent", "cloud_spent", "random", "oracle", "lines"}
        for one in part["lines"]:
            assert one.keys() == {"strategy", "entry", "level", "free", "oracle", "at"}
            assert [cell["share"] for cell in one["at"]] == table["shares"]
            assert all(cell.keys() == {"share", "mean", "sd", "ci95", "near_best"} for cell in one["at"])
    for run in table["runs"]:
        assert run.keys() == {"strategy", "point", "right", "spent", "of_cloud"}
        assert [*run["spent"]] == [*run["of_cloud"]] == RECIPE["axes"]


def test_the_numbers_are_those_of_the_world() -> None:
    """Half of the numbers are odd, and the device has none of them: who knows them needs a call for each."""
    table = read()
    for axis in ("calls", "cloud_tokens", "usd"):
        assert [cell["mean"] for cell in line(table, axis, "all-seeing")["at"]] == pytest.approx([0.7, 1.0], abs=0.01)
    assert [cell["mean"] for cell in line(table, "calls", "always_device")["at"]] == [0.5, 0.5]
    assert [cell["mean"] for cell in line(table, "calls", "always_cloud")["at"]] == [None, None]
    random = line(table, "calls", "random_offload")["at"][1]
    assert 0.6 < random["mean"] < 0.9 and random["ci95"][0] < random["mean"] < random["ci95"][1]
    run = next(run for run in table["runs"] if run["strategy"] == "always_cloud")
    assert run["of_cloud"] == {axis: {"mean": 1.0, "sd": 0.0} for axis in RECIPE["axes"]}


def test_free_baselines_and_oracles_are_marked_by_their_kind_or_their_entry() -> None:
    marks = {each["strategy"]: (each["free"], each["oracle"]) for each in read()["axes"][0]["lines"]}
    free = ("always_device", "always_cloud", "random_offload", "prompt_length", "dice")
    assert marks == {**dict.fromkeys(free, (True, False)), "all-seeing": (False, True), "taught": (False, False)}
    page = Path("out/table.md").read_text()
    assert "| random_offload (free) " in page and "| all-seeing (oracle) " in page


def test_stars_stand_at_the_best_that_is_no_oracle() -> None:
    table = read()
    assert line(table, "calls", "taught")["at"][1]["near_best"]
    assert not line(table, "calls", "random_offload")["at"][0]["near_best"]


# --- stop and go on --------------------------------------------------------------------------------------------------


def test_a_second_run_asks_and_trains_nothing_and_a_folder_may_be_moved() -> None:
    before = read()
    Path("out").rename("elsewhere")
    assert compare(out="elsewhere")["axes"] == before["axes"]
    assert (asked, trained) == ([], [])


def test_it_goes_on_where_it_was_stopped() -> None:
    before = read()
    shutil.rmtree("out/seed-2/taught")

    def stop(text: str) -> None:
        if text.startswith("selfroute evaluate"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_recipe(recipe(), source="compare.yaml", command="x", say=stop)
    assert compare()["axes"] == before["axes"]
    assert trained == []


def test_a_seed_stands_for_its_number() -> None:
    """Files of a task that draws no problems itself lie in a folder for each seed."""
    for seed in (1, 2):
        shutil.copytree("data", f"data-{seed}")
    there = {"level": "query", "needs": {"data-{seed}/more.txt": "touch data-{seed}/more.txt"},
             "evaluate": {"strategies": ["entropy"]}}  # fmt: skip
    values = {"task": {"jsonl": {"path": "data-{seed}", "verifier": "numeric"}}, "out": "each"}
    table = compare(**values, entries={"ends": RECIPE["entries"]["ends"], "there": there}, parts={})
    assert "data-2" in Path("each/seed-2/ends.yaml").read_text()
    assert [(each["why"], each["command"]) for each in table["left_out"]] == [
        ("'data-1/more.txt' is not there", "touch data-1/more.txt")
    ]


def test_entries_that_share_no_part_may_run_apart() -> None:
    given = {
        "ends": [], "one": ["first"], "two": ["third"], "both": ["first", "fourth"], "deep": ["second"], "none": [],
    }  # fmt: skip
    parts = {"first": "lesson.yaml", "second": "lesson.yaml after={first}", "third": "lesson.yaml", "fourth": "a.yaml"}
    levels = {
        name: {"level": "relay", "evaluate": {"policies": {name: [f"taught:{{{part}}}" for part in needed]}}}
        for name, needed in given.items()
    }
    built = recipe(entries=levels, parts=parts)
    assert apart(built) == [["ends"], ["two"], ["one", "both", "deep"], ["none"]]
    assert apart(recipe(entries=levels, parts=parts, only=["deep", "two"])) == [["deep"], ["two"]]


def test_processes_make_the_table_that_one_makes() -> None:
    """Tables of a test are not those of another process: the models are answers on file here."""
    with Path("cloud.jsonl").open("w") as file:
        for number in (*range(100, 100 + ROWS), *range(200, 200 + ROWS)):
            asked_for = f"What is twice {number}"
            file.write(json.dumps({"prompt": asked_for, "text": f"\\boxed{{{2 * number}}}"}) + "\n")
    absent = {"level": "query", "needs": {"nowhere.txt": "touch nowhere.txt"}, "evaluate": {"strategies": ["entropy"]}}
    values = {
        "task": {"jsonl": {"path": "data", "verifier": "numeric", "template": "plain"}},
        "device": "recorded:cloud.jsonl", "cloud": "recorded:cloud.jsonl", "parts": {}, "prices": None,
        "axes": ["calls"],
        "entries": {"ends": RECIPE["entries"]["ends"], "dice": RECIPE["entries"]["dice"], "absent": absent},
    }  # fmt: skip
    said: list[str] = []
    one, several = compare(**values, out="one"), compare(said, **values, out="several", jobs=2)
    assert "seed 2: dice" in said
    assert several["left_out"] == one["left_out"] != []
    assert (several["axes"], several["runs"]) == (one["axes"], one["runs"])


def test_a_part_that_was_stopped_is_trained_anew() -> None:
    shutil.rmtree("out/seed-1/taught")
    Path("out/seed-1/trained/second/run.json").unlink()
    compare(seeds=[1])
    assert trained == ["second"]


def test_what_has_not_run_is_named_with_the_command_that_runs_it() -> None:
    shutil.rmtree("out/seed-1/taught")
    (missing,) = compare(seeds=[1], only=[])["left_out"]
    assert missing == {
        "name": "taught",
        "why": "not run",
        "command": "selfroute compare compare.yaml 'only=[\"taught\"]'",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"evaluate": {"router_rows": 10}},
            "'out/seed-1/ends' holds another evaluation: router_rows is 20 there and 10",
        ),
        ({"limit": 8}, "limit is null there and 8 here; choose another out= or delete the folder"),
        ({"parts": {"first": "lesson.yaml", "second": "lesson.yaml"}, "device": "teacher"}, "device is"),
        (
            {"parts": {"first": "lesson.yaml asks_from=300", "second": "lesson.yaml asks_from=9 after={first}"}},
            "'out/seed-1/trained/second' holds another training: lesson.yaml asks_from=220 "
            "after=out/seed-1/trained/first there and lesson.yaml asks_from=9 after=out/seed-1/trained/first here",
        ),
    ],
)
def test_what_has_finished_otherwise_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compare(**values)


def test_a_part_of_which_nobody_noted_what_it_was_told_is_taken_as_it_is() -> None:
    Path("out/seed-1/trained/second.json").unlink()
    trained.clear()
    parts = {"first": "lesson.yaml asks_from=300", "second": "lesson.yaml asks_from=9 after={first}"}
    compare(seeds=[1], parts=parts)
    assert trained == []


# --- left out --------------------------------------------------------------------------------------------------------


def test_without_training_an_entry_is_left_out_with_the_commands_that_make_its_parts() -> None:
    shutil.rmtree("out/seed-1")
    said: list[str] = []
    table = compare(said, seeds=[1], train=False, only=["ends", "taught"])
    missing = table["left_out"][-1]
    assert (missing["name"], missing["why"]) == ("taught", "'first' is not trained")
    assert missing["command"] == (
        "selfroute train lesson.yaml asks_from=300 seed=1 out=out/seed-1/trained/first && "
        "selfroute train lesson.yaml asks_from=220 after=out/seed-1/trained/first seed=1 out=out/seed-1/trained/second"
    )
    assert any(text.startswith("left out: taught: 'first' is not trained; selfroute train") for text in said)
    assert "- **taught**: 'first' is not trained: `selfroute train" in Path("out/table.md").read_text()
    assert trained == []


@pytest.mark.parametrize(
    ("entry", "why", "command"),
    [
        ({"evaluate": {"strategies": ["absent"]}}, "needs 'surely_not_here'", "pip install 'selfroute[ray]'"),
        ({"elsewhere": "selfroute replay log.jsonl"}, "measured elsewhere", "selfroute replay log.jsonl"),
        (
            {"evaluate": {"strategies": ["entropy"]}, "needs": {"out/tuned": "selfroute tune sums.yaml"}},
            "'out/tuned' is not there",
            "selfroute tune sums.yaml",
        ),
    ],
)
def test_what_is_not_there_is_left_out_by_name(entry: dict[str, Any], why: str, command: str) -> None:
    table = compare(seeds=[1], entries=entries(other={"level": "query", **entry}), only=["other"])
    found = next(each for each in table["left_out"] if each["name"] == "other")
    assert why in found["why"]
    assert found["command"] == command


def test_what_is_measured_elsewhere_is_said_whatever_is_run() -> None:
    table = compare(seeds=[1], entries=entries(other={"level": "query", "elsewhere": "selfroute replay x"}), only=[])
    assert table["left_out"] == [{"name": "other", "why": "measured elsewhere", "command": "selfroute replay x"}]


def test_any_other_fault_stops() -> None:
    bad = entries(other={"level": "query", "evaluate": {"device": "recorded:nowhere.jsonl", "strategies": ["entropy"]}})
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        compare(entries=bad)


def test_without_both_ends_there_is_no_table() -> None:
    absent = {"ends": {"level": "query", "evaluate": {"strategies": ["absent"]}}}
    shutil.rmtree("out")
    with pytest.raises(ConfigError, match=r"entries\.ends: it holds both ends and has not finished: .*; pip install"):
        compare(entries=absent)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": []}, "seeds: there is none; give at least one"),
        ({"seeds": [1, 1]}, "seeds: '1' occurs more than once"),
        ({"shares": [1.5]}, "shares[0]: 1.5 is not between 0 and 1"),
        ({"axes": ["byte"]}, "axes: unknown axis 'byte'; did you mean 'bytes'?"),
        ({"axes": ["usd"], "prices": None}, "axes: 'usd' needs a price table"),
        ({"only": ["tought"]}, "only: unknown 'tought'; did you mean 'taught'?"),
        ({"parts": {"first": "lesson.yaml after={second}", "second": "lesson.yaml after={first}"}}, "needs itself"),
        ({"parts": {"my part": "lesson.yaml"}}, "parts: 'my part' cannot stand in braces"),
        ({"parts": {"first": "lesson.yaml", "second": "lesson.yaml ask_from=1"}}, "did you mean 'asks_from'?"),
        ({"parts": {"first": "lessen.yaml", "second": "lesson.yaml"}}, "recipe 'lessen.yaml' does not exist"),
        ({"entries": entries(other={"level": "queri", "elsewhere": "x"})}, "level: 'queri'"),
        ({"entries": entries(other={"level": "query"})}, "entries.other: give either evaluate"),
        (
            {"entries": entries(other={"level": "query", "evaluate": {"strategies": ["entropi"]}})},
            "unknown strategy 'entropi'; did you mean 'entropy'?",
        ),
        (
            {"entries": entries(other={"level": "query", "evaluate": {"strategy": ["entropy"]}})},
            "entries.other: unknown key 'strategy'; did you mean 'strategies'?",
        ),
        (
            {"entries": entries(other={"level": "query", "evaluate": {"strategies": ["entropy"], "limit": 3}})},
            "entries.other.evaluate: 'limit' is one for all entries",
        ),
        (
            {"entries": entries(other={"level": "query", "evaluate": {"policies": {"x": "taught:{secnd}"}}})},
            "entries.other.evaluate: unknown 'secnd'; did you mean 'second'?",
        ),
        (
            {"entries": entries(other={"level": "query", "evaluate": {"strategies": ["always_cloud"]}})},
            "entries: 'always_cloud' occurs more than once",
        ),
    ],
)
def test_bad_input_is_one_line_before_any_work(values: dict[str, Any], message: str) -> None:
    shutil.rmtree("out")
    Path("compare.yaml").write_text(yaml.safe_dump({**RECIPE, **values}))
    result = CliRunner().invoke(app, ["compare", "compare.yaml"])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_the_command_shows_the_table_and_what_is_left_out() -> None:
    shutil.rmtree("out/seed-1/taught")
    shutil.rmtree("out/seed-1/trained")
    Path("compare.yaml").write_text(yaml.safe_dump(RECIPE))
    result = CliRunner().invoke(app, ["compare", "compare.yaml", "seeds=[1]", "--no-train"])
    assert result.exit_code == 0, result.output
    assert Path("out/table.md").read_text() in result.stdout
    assert "`selfroute compare compare.yaml 'seeds=[1]' --no-train`" in result.stdout
    assert "left out: taught: 'first' is not trained; selfroute train lesson.yaml" in result.stderr
