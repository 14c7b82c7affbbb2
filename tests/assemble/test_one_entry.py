"""Adding a thing is a file and an entry: toys of each kind in everything that names reach, and nothing else touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.assemble.toys import ENTRIES
from tests.gateway.live import running
from tests.scripts import load_script
from typer.testing import CliRunner

from selfroute.assemble.serving import make_gateway, make_service
from selfroute.assemble.training import model_files
from selfroute.commands.main import app
from selfroute.config.serving import build_serve_recipe
from selfroute.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAIR = {"device": "abacus:even", "cloud": "abacus:all"}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for table, entry in ENTRIES:
        monkeypatch.setitem(table, entry.name, entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("tasks", "doubles  Twice a number."),
        ("backends", "abacus  Doubles the numbers it has beads for.  abacus:even"),
        ("strategies", "by_digit  Questions whose last digit"),
        ("algorithms", "rote  Write the training rows down."),
    ],
)
def test_the_lists_show_them(command: str, line: str) -> None:
    words = " ".join(run(command).split())
    assert all(word in words for word in line.split("  "))


def test_the_reference_pages_show_them() -> None:
    page = load_script("docs/make_reference.py").PAGES["names.md"]()
    for _, entry in ENTRIES:
        assert f"\n| `{entry.name}` |" in page
    assert "| `by_digit` | the question, fitted |" in page and "| `alternate` | – |" in page
    assert "`share: 0.5` |" in page


def test_a_task_is_checked_and_recorded() -> None:
    assert "all 40 gold answers of 'test' pass" in run("tasks", "--check", "doubles")
    run("record", "doubles", "--backend", "abacus:all", "--limit", "3", "--out", "answers.jsonl")
    assert len(Path("answers.jsonl").read_text().splitlines()) == 3


def test_they_are_evaluated_and_the_seed_draws(tmp_path: Path) -> None:
    recipe = {"task": "doubles", **PAIR, "strategies": ["always_device", "alternate", "by_digit"], "router_rows": 40}
    Path("mine.yaml").write_text(json.dumps(recipe))
    run("evaluate", "mine.yaml", "seed=3", "share=0.5", "limit=20", "out=out")
    summary = json.loads(Path("out/summary.json").read_text())
    entries = {entry["name"]: entry for entry in summary["strategies"]}
    assert (summary["n"], summary["device_accuracy"], summary["cloud_accuracy"]) == (20, 0.5, 1.0)
    assert entries["by_digit"]["overall_accuracy"] == 1.0, "the fit found what the device cannot do"
    assert "2300" in Path("out/records.jsonl").read_text(), "drawn by the run's seed"


def test_a_recipe_gives_them_names_and_options(tmp_path: Path) -> None:
    entrants = {"some": {"alternate": {"share": 0.2}}, "mine": {"random_offload": {"share": 1.0}}}
    recipe = {"task": "doubles", **PAIR, "strategies": ["always_device"], "entrants": entrants}
    Path("mine.yaml").write_text(json.dumps(recipe))
    run("evaluate", "mine.yaml", "limit=20", "out=out")
    summary = json.loads(Path("out/summary.json").read_text())
    shares = {entry["name"]: entry["raw_call_share"] for entry in summary["strategies"]}
    assert shares.keys() == {"always_device", "some", "mine"} and shares["mine"] == 1.0


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{mine: {alternat: {}}}", "entrants.mine: unknown strategy 'alternat'; did you mean 'alternate'?"),
        ("{mine: {alternate: {name: x}}}", "entrants.mine: name: x is one name too many"),
        ("{mine: {alternate: {shar: 1}}}", "entrants.mine.alternate: unknown key 'shar'; did you mean 'share'?"),
        ("{mine: prompt_length}", "entrants.mine.prompt_length: key 'threshold' is missing"),
    ],
)
def test_an_entrant_that_cannot_be_is_refused(written: str, message: str) -> None:
    Path("mine.yaml").write_text(json.dumps({"task": "doubles", **PAIR}))
    result = CliRunner().invoke(app, ["evaluate", "mine.yaml", f"entrants={written}", "out=out"])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_they_are_served(tmp_path: Path) -> None:
    import httpx2 as httpx

    Path("digits.json").write_text(json.dumps({str(n): n % 2 for n in range(10)}))
    strategy = {"by_digit": {"threshold": 0.5, "scorer": "digits.json"}}
    values = {**PAIR, "strategy": strategy, "budget": {"share": 1, "ledger": "slate"}}
    gateway = make_gateway(build_serve_recipe(values, where="serve.yaml"))
    assert gateway.service.wrap and gateway.service.last_turn and gateway.service.strip_cloud_tags
    with running(gateway) as url:
        for number, source in ((4, "device"), (5, "cloud")):
            messages = [{"role": "user", "content": f"What is twice {number}"}]
            answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "x", "messages": messages}).json()
            assert answer["choices"][0]["message"]["content"] == str(2 * number)
            assert answer["selfroute"]["source"] == source


def test_without_a_cloud_another_takes_the_place_of_one_that_says_so() -> None:
    values = {"device": PAIR["device"], "cloud": None, "strategy": "alternate"}
    assert make_service(build_serve_recipe(values, where="x")).strategy.name == "always_device"


def test_they_are_trained_and_tried_dry() -> None:
    Path("mine.yaml").write_text("algorithm: rote\ntask: doubles\n")
    assert "every key is right" in run("train", "mine.yaml", "--dry-run")
    assert not Path("out").exists()
    assert "trained model: out/rote" in run("train", "mine.yaml")


def test_what_is_wrong_with_them_is_said_as_ever() -> None:
    assert model_files("abacus:even").tokenizer == "wood/words"
    with pytest.raises(ConfigError, match="'abacus' does not exist"):
        model_files("abacus")
    with pytest.raises(ConfigError, match=r"device\.abacus: no abacus with odd beads; take even or all"):
        make_service(build_serve_recipe({**PAIR, "device": "abacus:odd"}, where="x"))
    with pytest.raises(ConfigError, match=r"strategy: unknown strategy 'alternat'; did you mean 'alternate'\?"):
        make_service(build_serve_recipe({**PAIR, "strategy": "alternat"}, where="x"))
    result = CliRunner().invoke(app, ["evaluate", str(ROOT / "recipes/countdown/evaluate.yaml"), "task=double"])
    assert "unknown task 'double'; did you mean 'doubles'?" in result.stderr


def test_a_toy_stands_in_a_dry_run_of_the_trainer(tmp_path: Path) -> None:
    """Task and cloud of GAPG's own recipe."""
    gapg = str(ROOT / "recipes/countdown/gapg.yaml")
    words = " ".join(run("train", gapg, "task=doubles", "cloud=abacus:all", "--dry-run").split())
    assert "doubles, 40 training rows" in words and "abacus:all, not called" in words
