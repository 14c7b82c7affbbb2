"""`ask`, `chat` and `key` in the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from selfroute.commands.main import app
from selfroute.gateway.access import hash_key


def invoke(*arguments: str, **options: str):
    return CliRunner().invoke(app, list(arguments), **options)


def test_ask_shows_who_speaks(tmp_path: Path) -> None:
    from selfroute.handoff import HANDOFF_TEXT
    from selfroute.prompts import TEMPLATES

    template, question = TEMPLATES["think"], "Using the numbers [3, 5, 7], create an equation that equals 26"
    conversation = template.conversation(question)
    device = [{"role": m.role, "content": m.content} for m in template.device_messages(conversation)]
    cloud = [{"role": m.role, "content": m.content} for m in conversation]
    (tmp_path / "device.jsonl").write_text(
        json.dumps({"messages": device, "text": f"<think>3+5</think>{HANDOFF_TEXT}"}) + "\n"
    )
    (tmp_path / "cloud.jsonl").write_text(
        json.dumps({"messages": cloud, "text": "<think>3*7+5</think><answer>3*7+5</answer>"}) + "\n"
    )
    result = invoke(
        "ask", question, "--device", f"recorded:{tmp_path}/device.jsonl", "--cloud", f"recorded:{tmp_path}/cloud.jsonl"
    )
    assert result.exit_code == 0, result.output
    output = result.stdout
    assert output.index("3+5") < output.index("the device asks for the cloud") < output.index("3*7+5")
    assert "answered by cloud (hand-off)" in output
    assert "external assistance" not in output


def pair(folder: Path) -> str:
    """A recipe whose device answers the first question, and the second one only in sight of the first."""
    from selfroute.prompts import TEMPLATES

    template = TEMPLATES["think"]
    first = [{"role": "user", "content": "2+2"}]
    second = [*first, {"role": "assistant", "content": "4"}, {"role": "user", "content": "twice that"}]
    (system,) = template.device_messages([])
    rows = [
        {"messages": [{"role": "system", "content": system.content}, *turns], "text": f"<answer>{text}</answer>"}
        for turns, text in ((first, "4"), (second, "8"))
    ]
    (folder / "device.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "cloud.jsonl").write_text(json.dumps({"prompt": "2+2", "text": "four"}) + "\n")
    recipe = folder / "pair.yaml"
    recipe.write_text(f"device: recorded:{folder}/device.jsonl\ncloud: recorded:{folder}/cloud.jsonl\n")
    return str(recipe)


def test_ask_uses_the_recipe_and_the_mode(tmp_path: Path) -> None:
    recipe = pair(tmp_path)
    auto = invoke("ask", "2+2", "--config", recipe)
    cloud = invoke("ask", "2+2", "--config", recipe, "--mode", "cloud")
    wrong = invoke("ask", "2+2", "--config", recipe, "--mode", "clod")
    assert "answered by device (answered)" in auto.output, auto.output
    assert "four" in cloud.output and "answered by cloud (mode)" in cloud.output
    assert wrong.exit_code == 2 and "--mode: 'clod' is not one of" in wrong.output


def test_chat_remembers_and_goes_on_after_an_error(tmp_path: Path) -> None:
    result = invoke("chat", "--config", pair(tmp_path), input="2+2\nunheard of\ntwice that\n\n")
    assert result.exit_code == 0, result.output
    assert re.search(r"device\s+4\s.*error: .*has no answer to 'unheard of'.*device\s+8\s", result.output, re.DOTALL)


def test_a_key_is_shown_once_and_kept_as_a_hash() -> None:
    output = invoke("key", "app").output
    key = re.search(r"sr-\S+", output)
    assert key is not None
    assert f"app: {hash_key(key[0])}" in output
    assert invoke("key", "app").output != output
