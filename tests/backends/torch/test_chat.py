"""Chat templates that know no system turn: transformers, llama.cpp and Ollama write the same conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from tests.export.tiny import model, tokenizer

from selfroute.backends.base import complete, run_sync
from selfroute.backends.torch.chat import keep_system_turn
from selfroute.errors import ConfigError
from selfroute.prompts import TEMPLATES
from selfroute.types import Message, Sampling

ROLES = (
    "{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}</turn>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% endfor %}" + ROLES
)
DROPS = ROLES.replace("messages %}<turn>", "messages if m['role'] != 'system' %}<turn>")
WORDS_OF_POLICY = TEMPLATES["think"].device_messages(TEMPLATES["think"].conversation("What is 1 + 1"))
CONVERSATIONS = [
    WORDS_OF_POLICY,
    [Message("user", "1 + 1?"), Message("assistant", "2"), Message("user", "And 2 + 2?")],
    [Message("system", "Be brief."), Message("user", "1?"), Message("assistant", "2"), Message("user", "3?")],
    [Message("developer", "Be brief."), Message("user", "1?")],
]


def plain(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def made(template: str) -> Any:
    words = tokenizer()
    words.chat_template = template
    return words


def in_users_turn(messages: list[Message]) -> list[Message]:
    """The system's text, which stands first if there is any, on a line in front of the user's."""
    if messages[0].role == "user":
        return messages
    system, user, *rest = messages
    return [Message("user", f"{system.content}\n{user.content}"), *rest]


def text(words: Any, messages: list[Message]) -> str:
    return str(words.apply_chat_template(plain(messages), tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("template", [REFUSES, DROPS])
def test_the_systems_text_stands_in_front_of_the_users(template: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    words, before = made(template), made(template)
    keep_system_turn(words, where="mine")
    for messages in CONVERSATIONS:
        assert text(words, messages) == text(before, in_users_turn(messages))
    keep_system_turn(words, where="mine")  # once is enough
    words.save_pretrained(tmp_path)
    assert text(AutoTokenizer.from_pretrained(tmp_path), WORDS_OF_POLICY) == text(words, WORDS_OF_POLICY)


def test_a_template_that_keeps_it_is_left_alone() -> None:
    words = made(ROLES)
    keep_system_turn(words, where="mine")
    assert words.chat_template == ROLES


def test_a_template_that_writes_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match="the chat template of 'mine' writes no prompt of a system's and a user's"):
        keep_system_turn(made("{{ raise_exception('no') }}"), where="mine")


GO = (
    '{{ $said := "" }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $said = print .Content ',
    ' }}{{ else if eq .Role "user" }}',
    '{{ $said = "" }}{{ else if eq .Role "assistant" }}',
    "{{ end }}{{ end }}",
)


def go(template: str, turns: list[dict[str, str]]) -> str:
    """What Go writes for the template, by the steps of its own that it uses."""
    before, joint, asked, answered, after = _cut(template, *GO)
    written, said = before, ""
    for turn in turns:
        if turn["role"] == "system":
            said = turn["content"] + json.loads(joint)
        elif turn["role"] == "user":
            written += asked.replace("{{ $said }}", said).replace("{{ .Content }}", turn["content"])
            said = ""
        else:
            written += answered.replace("{{ .Content }}", turn["content"])
    return written + after


def _cut(text: str, *marks: str) -> list[str]:
    pieces = []
    for mark in marks:
        piece, found, text = text.partition(mark)
        assert found, mark
        pieces.append(piece)
    return [*pieces, text]


@pytest.mark.parametrize("template", [REFUSES, DROPS])
def test_every_program_writes_the_same_prompt(template: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; pip install 'selfroute[llamacpp]'")
    from selfroute.backends.llama_cpp import LlamaCppBackend
    from selfroute.export.run import export

    words = made(template)
    keep_system_turn(words, where="mine")
    network = model("llama", words)
    export(network, words, tmp_path / "out", name="tiny", formats=["gguf"], types=["f16"])
    written = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    ollama = written.partition('TEMPLATE """')[2].partition('"""\n')[0]
    asked = [CONVERSATIONS[i] for i in (0, 1, 2)]
    with LlamaCppBackend(tmp_path / "out" / "tiny-f16.gguf", slots=1, context_tokens=256, threads=1) as backend:
        url = f"{backend.base_url.removesuffix('/v1')}/apply-template"
        for messages in asked:
            body = json.dumps({"messages": plain(messages)}).encode()
            with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=60) as response:
                assert json.load(response)["prompt"] == text(words, messages)
            assert go(ollama, plain(messages)) == text(words, messages)


def test_llama_cpp_does_the_same_with_a_file_of_elsewhere(tmp_path: Path) -> None:
    """Whose template is as it was."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; pip install 'selfroute[llamacpp]'")
    from selfroute.backends.llama_cpp import LlamaCppBackend
    from selfroute.export.run import export

    for template, name in ((REFUSES, "refuses"), (DROPS, "drops")):
        words = made(template)
        export(model("llama", words), words, tmp_path / name, name="tiny", formats=["gguf"], types=["f16"])
        with LlamaCppBackend(tmp_path / name / "tiny-f16.gguf", slots=1, context_tokens=256, threads=1) as backend:
            messages = [Message("system", "Be brief."), Message("user", "1?")]
            answer = run_sync(complete(backend, messages, Sampling(max_tokens=2)))
            expected = len(words(text(words, in_users_turn(messages)), add_special_tokens=False)["input_ids"])
            assert answer.usage.prompt_tokens == expected, name
