"""What a serving recipe and an evaluation make of the prompt that a model carries."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from selfroute.assemble.baselines import make_policies
from selfroute.assemble.prompting import ServedPrompt, evaluated_prompt, served_prompt
from selfroute.assemble.serving import make_service, prompt_lines
from selfroute.backends.as_trained import AsTrained
from selfroute.backends.function import FunctionBackend
from selfroute.calls import CALL_FORM
from selfroute.commands.main import app
from selfroute.config import EvaluateRecipe, Spec, build
from selfroute.config.serving import build_serve_recipe
from selfroute.errors import ConfigError
from selfroute.prompts import TEMPLATES, Demonstration, TrainedPrompt, write_prompt
from selfroute.strategies.base import Sides
from selfroute.strategies.inside.relay import Relay
from selfroute.strategies.self_route import SelfRoute

PROMPT = TrainedPrompt(template=TEMPLATES["steps"], name="steps", max_tokens=64, share=0.2)
Place = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder as training leaves it, without weights, which nothing here loads."""

    def make(prompt: TrainedPrompt | None = PROMPT, *, recipe: dict[str, Any] | None = None) -> str:
        folder = tmp_path / "run" / "checkpoint"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        if prompt is not None:
            write_prompt(folder, prompt)
        if recipe is not None:
            (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(recipe))
        return f"transformers:{folder}"

    return make


def served(device: str, **values: Any) -> ServedPrompt:
    return served_prompt(build_serve_recipe({"device": device, **values}, where="x"))


def test_the_device_is_asked_as_it_was_trained(place: Place) -> None:
    found = served(place())
    assert (found.template, found.wrap, found.device_last, found.max_tokens) == (TEMPLATES["steps"], True, True, 64)
    assert found.temperature == 0.0 and not found.warnings
    assert "template steps, question wrapped, last question alone, at most 64 tokens, call share 0.2" in found.lines[0]


def test_words_that_this_version_does_not_have_are_served_too(place: Place) -> None:
    words = replace(TEMPLATES["think"], system="Answer in verse.", user="Q: {question}")
    found = served(place(replace(PROMPT, template=words, name="verse")))
    assert found.template == words


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"prompt": {"template": "think"}}, "prompt.template: think contradicts the training of device transformers:"),
        ({"prompt": {"wrap": False}}, "prompt.wrap: False contradicts"),
        ({"prompt": {"turns": "all"}}, "prompt.turns: all contradicts"),
        ({"prompt": {"max_tokens": 512}}, "prompt.max_tokens: 512 contradicts"),
        ({"temperature": 0.7}, "temperature: 0.7 contradicts"),
        ({"limits": {"max_tokens": 32}}, "limits.max_tokens: 32 contradicts"),
        ({"limits": {"default_tokens": 32}}, "limits.default_tokens: 32 contradicts"),
        ({"strategy": {"self_route": {"told_share": 0.1}}}, "told_share: 0.1 contradicts"),
    ],
)
def test_an_option_that_contradicts_it_holds_and_is_told(place: Place, values: dict[str, Any], warning: str) -> None:
    found = served(place(), **values)
    assert [line for line in found.warnings if line.startswith(warning) or warning in line], found.warnings
    assert len(found.warnings) == 1
    if template := values.get("prompt", {}).get("template"):
        assert found.template == TEMPLATES[template]


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": {"template": "steps", "wrap": True, "turns": "last", "max_tokens": 64}},
        {"temperature": 0, "limits": {"max_tokens": 64, "default_tokens": 4096}},
    ],
)
def test_an_option_that_says_the_same_is_no_warning(place: Place, values: dict[str, Any]) -> None:
    assert served(place(), **values).warnings == ()


def test_a_policy_that_never_learned_to_ask_is_not_asked_to(place: Place) -> None:
    device = place(replace(PROMPT, offers=False, share=None))
    assert "was trained without" in served(device).warnings[0]
    assert served(device, strategy="always_device").warnings == ()


DEVICE = FunctionBackend("device", lambda messages, sampling: "1")
CALLING = replace(PROMPT, offers=False, handoff=CALL_FORM)


def test_a_policy_that_calls_for_tokens_is_served_by_what_follows_calls(place: Place) -> None:
    device = place(CALLING)
    assert "calls for tokens, share 0.2 of them" in served(device).lines[0]
    assert served(device, strategy="relay").warnings == ()
    assert "take relay" in served(device, strategy="self_route").warnings[0]
    assert served(device).calls
    assert served(device, strategy="always_device").warnings == ()


def test_a_policy_that_hands_off_is_no_relay(place: Place) -> None:
    assert "take self_route" in served(place(), strategy="relay").warnings[0]


def test_an_evaluation_follows_a_policy_as_it_asks(place: Place) -> None:
    spec = Spec("transformers", place(CALLING).partition(":")[2])
    found = evaluated_prompt(recipe(), spec, "policies.mine", TEMPLATES["think"])
    sides = found.sides(Sides(device=DEVICE), DEVICE)
    (entrant,) = make_policies({"mine": sides}, asks={"mine": found.asks})
    assert isinstance(entrant.strategy, Relay) and entrant.strategy.name == "mine"
    assert isinstance(sides.device, AsTrained) and sides.device.calls
    (other,) = make_policies({"mine": sides})
    assert isinstance(other.strategy, SelfRoute)


def test_a_policy_that_was_told_shares_is_told_one(place: Place) -> None:
    device = place(replace(PROMPT, told_shares=(0.1, 0.2, 0.4)))

    def told(**values: Any) -> float | None:
        strategy = make_service(build_serve_recipe({"device": device, **values}, where="x")).strategy
        assert isinstance(strategy, SelfRoute)
        return strategy.told_share

    assert told() == 0.2
    assert told(budget={"share": 0.4, "ledger": "memory"}) == 0.4
    assert told(strategy={"self_route": {"told_share": 0.3}}) == 0.3


def test_a_cloud_with_conversations_sees_all_of_one(place: Place) -> None:
    cloud = {"openai": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": None}}
    found = served(place(), cloud=cloud)
    assert (found.device_last, found.cloud_last, found.last_turn) == (True, False, False)
    assert (found.strip_cloud_tags, served("embedded:device").strip_cloud_tags) == (False, True)


def test_a_device_behind_a_server_is_asked_as_a_named_policy(place: Place) -> None:
    device = {"openai": {"base_url": "http://127.0.0.1:9/v1", "model": "mine", "api_key_env": None}}
    trained = place().partition(":")[2]
    found = served_prompt(build_serve_recipe({"device": device, "prompt": {"trained": trained}}, where="x"))
    assert found.template == TEMPLATES["steps"] and trained in found.lines[0]
    with pytest.raises(ConfigError, match=r"prompt\.trained: .* holds no prompt of a training"):
        served_prompt(build_serve_recipe({"device": device, "prompt": {"trained": "nowhere"}}, where="x"))


def test_a_checkpoint_of_version_0_1_works_and_says_so(place: Place, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1", "answer": 2}\n')
    task = {"jsonl": {"path": str(tmp_path / "rows.jsonl"), "template": "steps"}}
    device = place(None, recipe={"task": task, "algorithm": "gapg", "max_new_tokens": 96, "share": 0.25})
    found = served(device)
    assert (found.template, found.wrap, found.max_tokens) == (TEMPLATES["steps"], True, 96)
    assert "no selfroute.json beside the weights, so its run's config.yaml is followed" in found.lines[0]


@pytest.mark.parametrize("recipe", [None, {"task": "gone"}, {"task": {"jsonl": {"path": "/nowhere/rows.jsonl"}}}])
def test_a_model_of_unknown_training_works_and_says_so(place: Place, recipe: dict[str, Any] | None) -> None:
    found = served(place(None, recipe=recipe))
    assert (found.template, found.wrap, found.max_tokens) == (TEMPLATES["think"], False, None)
    assert re.search("how it was trained is not known.*template think.*prompt.wrap", found.lines[0])
    assert found.warnings == ()


def test_a_damaged_prompt_is_one_line(place: Place, tmp_path: Path) -> None:
    device = place()
    (tmp_path / "run" / "checkpoint" / "selfroute.json").write_text("{")
    result = CliRunner().invoke(app, ["serve", f"device={device}", "--check"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: device.transformers: ") and "restore the file" in line


def test_what_was_read_comes_first_and_what_contradicts_it_is_loud(place: Place) -> None:
    said = prompt_lines(served(place(), prompt={"template": "think"}))
    assert "asked as it was trained (template steps" in said[0]
    assert [line for line in said if line.startswith("WARNING: prompt.template: think contradicts")]


# --- evaluation ----------------------------------------------------------------------------------------------------


def recipe(**values: Any) -> EvaluateRecipe:
    return build(EvaluateRecipe, {"task": "countdown", **values}, where="x")


def test_an_evaluation_asks_a_policy_as_it_was_trained(place: Place) -> None:
    spec = Spec("transformers", place().partition(":")[2])
    found = evaluated_prompt(recipe(), spec, "policies.mine", TEMPLATES["think"])
    assert (found.template, found.max_tokens, found.told_share) == (TEMPLATES["steps"], 64, None)
    assert found.line.startswith("policies.mine transformers:") and not found.warnings


def test_an_evaluation_warns_of_what_contradicts_it(place: Place) -> None:
    spec = Spec("transformers", place().partition(":")[2])
    values = {"task": {"jsonl": {"path": "x", "template": "think"}}, "max_tokens": 128, "temperature": 0.5,
              "tell_share": True}  # fmt: skip
    found = evaluated_prompt(recipe(**values), spec, "policies.mine", TEMPLATES["think"])
    assert (found.template, found.max_tokens, found.told_share) == (TEMPLATES["think"], None, 0.3)
    keys = [warning.partition(":")[0] for warning in found.warnings]
    assert keys == ["template", "max_tokens", "temperature", "tell_share"]


def test_an_evaluation_tells_a_policy_its_share_if_it_was_told_one(place: Place) -> None:
    spec = Spec("transformers", place(replace(PROMPT, told_shares=(0.1, 0.2))).partition(":")[2])
    assert evaluated_prompt(recipe(share=0.4), spec, "p", TEMPLATES["steps"]).told_share == 0.4
    untold = evaluated_prompt(recipe(share=0.4, tell_share=False), spec, "p", TEMPLATES["steps"])
    assert untold.told_share is None and untold.warnings


def test_without_a_prompt_an_evaluation_asks_as_the_task_does() -> None:
    found = evaluated_prompt(recipe(), Spec("recorded", "answers.jsonl"), "device", TEMPLATES["plain"])
    assert (found.template, found.max_tokens, found.line) == (TEMPLATES["plain"], None, "")


# --- a program of selfroute tune -----------------------------------------------------------------------------------

SHOWN = replace(TEMPLATES["plain"], demonstrations=(Demonstration("1 + 1?", "2"),))
FIXED = Spec("embedded", "device")


def program(tmp_path: Path, **values: Any) -> str:
    file = tmp_path / "program.json"
    given = {"template": SHOWN, "max_tokens": 16, "tuned_for": "embedded:device", "prompt_tokens": 60, **values}
    file.write_text(TrainedPrompt(**given).text())
    return f"tuned:{file}"


def test_a_tuned_program_is_served_as_it_was_tuned(tmp_path: Path) -> None:
    found = served("embedded:device", prompt={"template": program(tmp_path)})
    assert (found.template, found.wrap, found.max_tokens, found.device_last) == (SHOWN, True, 16, True)
    assert not found.warnings and "program.json says" in found.lines[0] and "1 demonstrations" in found.lines[0]


def test_a_program_for_another_model_warns(tmp_path: Path) -> None:
    found = served("embedded:device-gapg", prompt={"template": program(tmp_path)})
    (warning,) = found.warnings
    assert "was tuned for embedded:device, and device embedded:device-gapg is embedded:device-gapg" in warning


def test_a_program_that_the_device_has_no_room_for_is_refused_with_both_numbers(tmp_path: Path) -> None:
    name = program(tmp_path, prompt_tokens=90_000)
    with pytest.raises(ConfigError, match=r"^prompt\.template: .* up to 90,016 tokens, and .* holds 1,024; give it"):
        served("embedded:device", prompt={"template": name})


def test_a_program_is_evaluated_as_it_was_tuned(tmp_path: Path) -> None:
    recipe = build(EvaluateRecipe, {"task": "countdown", "template": program(tmp_path)}, where="x")
    found = evaluated_prompt(recipe, FIXED, "device", SHOWN)
    assert (found.template, found.max_tokens, found.warnings) == (SHOWN, 16, ())


def test_a_program_that_asks_in_words_of_its_own_is_served(tmp_path: Path) -> None:
    found = served("embedded:device", prompt={"template": program(tmp_path, handoff="I need external assistance.")})
    assert not found.warnings
