"""`selfroute tune`, from a recipe to a program: what it finds, what it counts, how it goes on, what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from selfroute.assemble.serving import make_service
from selfroute.assemble.tuning import tune_recipe
from selfroute.backends.function import FunctionBackend
from selfroute.commands.main import app
from selfroute.config import BACKENDS, BackendEntry, TuneRecipe, build, make_task
from selfroute.config.serving import build_serve_recipe
from selfroute.errors import ConfigError
from selfroute.prompts import find_template, read_tuned
from selfroute.strategies.base import Sides, answer
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.run import prompt_of, prompt_writer
from selfroute.types import Message, Sampling

ASK = "I need external assistance."
ROOT = Path(__file__).resolve().parents[2]
asked: list[Sequence[Message]] = []


def ask(question: str) -> list[Message]:
    return [Message("user", question)]


def number_in(messages: Sequence[Message]) -> int:
    return int(messages[-1].content.split()[0])


def device(name: str = "pupil", slow_s: float = 0.0) -> FunctionBackend:
    """Right below 6, if it is told to be careful; with a demonstration of a hand-off it hands off from 6 on."""

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(messages)
        time.sleep(slow_s)
        number = number_in(messages)
        shown = any(message.role == "assistant" and message.content == ASK for message in messages)
        if number >= 6:
            return ASK if shown else "no idea"
        return str(number + 1) if "Be careful." in messages[0].content else str(number + 2)

    return FunctionBackend(name, answer)


def cloud(name: str = "teacher") -> FunctionBackend:
    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        assert [message.role for message in messages] == ["user"], "the cloud saw the device's prompt"
        return str(number_in(messages) + 1)

    return FunctionBackend(name, answer)


HERE = "tests.assemble.test_tuning"
ENTRIES = (
    BackendEntry(name="pupil", place=f"{HERE}:device"),
    BackendEntry(name="teacher", place=f"{HERE}:cloud"),
    BackendEntry(name="tiny", place=f"{HERE}:device", window=f"{HERE}:tiny_window"),
)


def tiny_window() -> int:
    return 64


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in ENTRIES:
        monkeypatch.setitem(BACKENDS, entry.name, entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    write_rows()
    asked.clear()


def write_rows() -> None:
    Path("data").mkdir(exist_ok=True)
    rows = [{"question": f"{i % 9} + 1? ({i})", "answer": str(i % 9 + 1)} for i in range(60)]
    for split in ("train", "test"):
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


RECIPE: dict[str, Any] = {
    "task": {"jsonl": {"path": "data", "verifier": "exact", "template": "plain", "validation_share": 0.0}},
    "device": "pupil",
    "cloud": "teacher",
    "slots": {"care": ["", "Be careful."], "tone": ["Be kind.", "Be brief."]},
    "shots": ["solved", "wrongly_kept"],
    "pools": {"solved": [{"question": "0 + 1?", "reply": "1"}]},
    "pool": 2,
    "mine_rows": 12,
    "handoff_reply": ASK,
    "step": {"sentences": 0.1, "demonstrations": 0.1},
    "batch": 6,
    "max_tokens": 8,
    "max_calls": 2000,
    "updates": 40,
    "out": "out",
}


def recipe(**values: Any) -> TuneRecipe:
    return build(TuneRecipe, {**RECIPE, **values}, where="x")


def slot(file: str, name: str) -> dict[str, Any]:
    slots = json.loads(Path(file).read_text())["program"]["slots"]
    found: dict[str, Any] = next(one for one in slots if one["name"] == name)
    return found


# --- what it finds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["consensus", "ridge", "gradient", "random_search", {"best_of": {"candidates": 12}}])
async def test_it_finds_what_the_device_needs(method: Any) -> None:
    summary = await tune_recipe(recipe(method=method))
    (file,) = summary["programs"].values()
    template = find_template(f"tuned:{file}")
    assert "Be careful." in template.system
    assert ASK in [one.reply for one in template.demonstrations]
    tuned = read_tuned(f"tuned:{file}")
    assert tuned.max_tokens == 8 and tuned.tuned_for == "pupil:" and tuned.prompt_tokens
    assert summary["ended"] == "enough" and summary["updates"] == 40


async def test_workers_agree_on_sentences_and_keep_their_demonstrations() -> None:
    pools = {"wrongly_kept": [{"question": "secret of b?", "reply": ASK}]}
    summary = await tune_recipe(recipe(workers={"a": {"rows": 30}, "b": {"pools": pools}}, any_order=True))
    assert set(summary["programs"]) == {"a", "b", "consensus"}
    both = [find_template(f"tuned:{summary['programs'][name]}") for name in ("a", "b")]
    assert both[0].system == both[1].system and "secret of b?" not in repr(both[0])
    orders = [slot(summary["programs"][name], "order") for name in ("a", "b")]
    assert orders[0]["kind"] == "order" and orders[0]["chosen"] == orders[1]["chosen"]
    shared = find_template(f"tuned:{summary['programs']['consensus']}")
    assert shared.demonstrations == () and "secret" not in Path("out/program.json").read_text()


async def test_hand_offs_become_as_frequent_as_wanted() -> None:
    await tune_recipe(recipe(share=1 / 3, updates=60))
    template = find_template("tuned:out/program.json")
    answers = [device().fn(template.device_messages(template.conversation(f"{n} + 1?")), Sampling()) for n in range(9)]
    assert answers.count(ASK) == 3


async def test_each_choice_is_written_with_its_probability() -> None:
    summary = await tune_recipe(recipe())
    (file,) = summary["programs"].values()
    care = slot(file, "care")
    assert care["chosen"] == 1 and care["choices"][1]["probability"] > 0.9
    assert sum(choice["probability"] for choice in care["choices"]) == pytest.approx(1.0, abs=1e-3)
    assert slot(file, "shot2")["choices"][-1]["choice"] is None, "showing nothing counts as a choice"


async def test_a_program_is_tuned_on_from() -> None:
    await tune_recipe(recipe(updates=30))
    summary = await tune_recipe(recipe(updates=1, start="out/program.json", out="on"))
    assert slot("on/program.json", "care")["choices"][1]["probability"] > 0.8 and summary["updates"] == 1


# --- where a program is used ---------------------------------------------------------------------------------------


def test_a_program_is_asked_and_trained_with() -> None:
    summary = asyncio.run(tune_recipe(recipe()))
    (file,) = summary["programs"].values()
    name = f"tuned:{file}"
    asked.clear()
    said = CliRunner().invoke(app, ["ask", "--device", "pupil", "--cloud", "teacher", "--template", name, "7 + 1? (x)"])
    assert said.exit_code == 0 and "8" in said.stdout, said.output
    (told,) = asked
    shown = [message.content for message in told if message.role == "assistant"]
    assert ASK in shown and told[-1].content == "7 + 1? (x)"

    trained = make_task(recipe().task, template=name)
    write = prompt_writer(trained.rows("train"), trained)
    row = next(iter(trained.rows("train")))
    turns = write(row.id, offer_handoff=True)
    assert [turn["content"] for turn in turns if turn["role"] == "assistant"] == shown
    assert prompt_of(trained, GAPGOptions(), 8).template == find_template(name)


async def test_as_many_rows_are_handed_off_behind_the_gateway_as_in_the_tuning() -> None:
    """The share of a program as it runs, beside the wanted one."""
    await tune_recipe(recipe(share=1 / 3, updates=60))
    values = {"device": "pupil", "cloud": "teacher", "prompt": {"template": "tuned:out/program.json"}}
    service = make_service(build_serve_recipe(values, where="x"))
    for _, guard in service.guards():
        await guard.load()
    sides = Sides(device=service.device, cloud=service.cloud, template=service.template)
    asked.clear()
    traces = [await answer(service.strategy, sides, ask(f"{n} + 1?"), Sampling(max_tokens=8)) for n in range(9)]
    assert sum(trace.wants_cloud for trace in traces) == 3, (asked[7], traces[7])
    assert [trace.text for trace in traces] == [str(n + 1) for n in range(9)]


# --- what it counts ------------------------------------------------------------------------------------------------


async def test_calls_are_counted_at_the_endpoint_and_end_the_run() -> None:
    summary = await tune_recipe(recipe(max_calls=100, updates=None))
    assert summary["ended"] == "budget" and len(asked) == summary["calls"]["device"]["calls"] == 100
    assert summary["calls"]["cloud"]["calls"] > 0
    again = await tune_recipe(recipe(max_calls=100, updates=1, out="again", cache="out/answers.sqlite"))
    assert len(asked) == 100 and again["calls"]["device"]["calls"] == 0 and again["calls"]["device"]["cached"] > 12


async def test_a_run_that_draws_nothing_new_ends_too() -> None:
    """Two templates on six rows are twelve prompts; the cache answers all others, and no budget would end it."""
    few = {"slots": {"care": ["", "Be careful."]}, "shots": [], "limit": 6}
    summary = await tune_recipe(recipe(updates=None, max_calls=40, **few))
    assert summary["ended"] == "enough" and summary["updates"] == 40 and len(asked) == 12


# --- how it goes on ------------------------------------------------------------------------------------------------


def program() -> Any:
    held = json.loads(Path("out/program.json").read_text())
    held["program"].pop("calls")
    return held


async def test_a_run_in_two_parts_is_the_same_run() -> None:
    await tune_recipe(recipe(updates=12, workers={"a": {}, "b": {}}))
    whole, calls = program(), len(asked)
    Path("out").rename("whole")
    asked.clear()
    await tune_recipe(recipe(updates=5, workers={"a": {}, "b": {}}))
    summary = await tune_recipe(recipe(updates=12, workers={"a": {}, "b": {}}, resume=True))
    assert program() == whole and len(asked) == calls == summary["calls"]["device"]["calls"]


async def test_another_recipe_is_not_gone_on_with() -> None:
    await tune_recipe(recipe(updates=2))
    with pytest.raises(ConfigError, match=r"^out: 'out' holds a run already; add --resume to go on with it"):
        await tune_recipe(recipe(updates=2))
    with pytest.raises(ConfigError, match="holds a run with another batch; give the recipe as it was"):
        await tune_recipe(recipe(updates=2, batch=5, resume=True))


KILLED = f"""
import sys
from selfroute.config import BACKENDS
from selfroute.commands.main import main
from {HERE} import ENTRIES
for entry in ENTRIES:
    BACKENDS[entry.name] = entry
sys.argv[0] = "selfroute"
main()
"""


def test_a_killed_run_goes_on_as_the_same_run(tmp_path: Path) -> None:
    values = {**RECIPE, "updates": 10, "device": {"pupil": {"slow_s": 0.004}}}
    Path("recipe.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-c", KILLED, "tune", "recipe.yaml"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    subprocess.run([*command, "out=whole"], env=environment, check=True, capture_output=True, timeout=120)

    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    late = time.monotonic() + 60
    while not (Path("out/state.json").exists() and len(Path("out/calls.jsonl").read_text().splitlines()) > 150):
        assert process.poll() is None and time.monotonic() < late, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    subprocess.run([*command, "--resume"], env=environment, check=True, capture_output=True, timeout=120)

    held = [json.loads(Path(out, "program.json").read_text()) for out in ("whole", "out")]
    calls = [one["program"].pop("calls")["device"]["calls"] for one in held]
    assert held[0] == held[1]
    assert 0 <= calls[1] - calls[0] <= RECIPE["batch"] * 4, "at most what was under way was asked twice"


# --- what it refuses -----------------------------------------------------------------------------------------------

LONG = [{"question": "word " * 60, "reply": "1"}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slots": {"care": []}}, r"slots\.care: \[\] has no choices; give sentences"),
        ({"any_order": True, "shots": ["solved"]}, "any_order: 1 shots have no order to choose"),
        ({"slots": {}, "shots": []}, "slots: there is nothing to choose"),
        ({"pools": {"solved": []}}, r"pools\.solved: the pool is empty; give demonstrations"),
        ({"pools": {"solvd": []}}, r"pools: 'solvd' is not one of solved, .*; did you mean 'solved'"),
        ({"step": {"quorum": 2}}, r"step\.quorum: 2 is more than the 1 workers; take at most that, or name more"),
        ({"step": {"patience": 0}}, r"step\.patience: 0 is below 1"),
        ({"workers": {"a": {}, "b": {"rows": 0}}}, r"workers\.b\.rows: 0 leaves it without rows; give it some"),
        ({"workers": {"a": {"rows": 60}, "b": {}}}, r"workers\.b\.rows: 0 leaves it without rows"),
        ({"workers": {"a": {"rows": 61}}}, r"workers: they want 61 rows, and there are 60; give them fewer"),
        ({"workers": {}}, r"workers: \{\} names nobody"),
        ({"handoff_reply": "well"}, "handoff_reply: 'well' asks for nothing"),
        ({"max_usd": 1.0}, "max_usd: 1 needs prices; add prices: FILE"),
        ({"engine": "ray", "method": "ridge"}, "engine: ray runs workers, which ridge has none of; use engine=local"),
        ({"method": "rigde"}, "method: unknown method 'rigde'; did you mean 'ridge'"),
        ({"method": {"ridge": {"penaltie": 1}}}, r"method\.ridge: unknown key 'penaltie'; did you mean 'penalty'"),
        ({"context_tokens": 40}, r"shots: .* take about \d+ tokens, and device pupil holds 40; show fewer"),
        ({"device": "tiny", "pools": {"solved": LONG}}, r"shots: .* about \d+ tokens, and device tiny holds 64; show"),
        ({"start": "nowhere.json"}, r"start: 'nowhere\.json' is no program"),
        ({"template": "plian"}, "unknown template 'plian'; did you mean 'plain'"),
    ],
)
async def test_what_cannot_be_is_refused_before_any_call(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        await tune_recipe(recipe(**values))
    assert re.search(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value) and not asked


async def test_a_pool_that_stays_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^workers\.device\.pools\.handed_off: the pool is empty; .* mine more rows"):
        await tune_recipe(recipe(shots=["handed_off"], pools={}))


def test_the_command_ends_with_what_was_chosen_and_refuses_in_one_line() -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    done = CliRunner().invoke(app, ["tune", "recipe.yaml"])
    assert done.exit_code == 0, done.output
    assert re.search(r"care +0\.\d\d +\(none\)", done.stdout) and re.search(r"→ +0\.\d\d +Be careful\.", done.stdout)
    assert "device: tuned:out/program.json" in done.stdout and re.search(
        r"device: [\d,]+ calls, \d+ answers", done.stdout
    )
    wrong = CliRunner().invoke(app, ["tune", "recipe.yaml", "step.quorum=3"])
    assert wrong.exit_code == 2 and wrong.stderr.count("\n") == 1 and "step.quorum: 3" in wrong.stderr
