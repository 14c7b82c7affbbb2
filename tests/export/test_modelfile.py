"""Ollama's Modelfile, with the part of Go's templates that it uses."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from tests.export.tiny import tokenizer

from selfroute.export.modelfile import Chat, Render, infer_chat, modelfile

TURNS = [("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "And 2 + 2?")]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are SmolLM<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ '<|endoftext|>' }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>\n{{ m['content'] }}</s>\n"
    "{% elif m['role'] == 'system' %}<|sys|>\n{{ m['content'] }}</s>\n"
    "{% else %}<|bot|>\n{{ m['content'] }}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def render(template: str) -> Render:
    words = tokenizer()

    def call(turns: Sequence[tuple[str, str]], answer: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return str(
            words.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=answer)
        )

    return call


def go(template: str, turns: Sequence[tuple[str, str]]) -> str:
    """What Go writes for a template of one range over messages, with `if eq .Role` in it."""
    before, body, after = re.fullmatch(  # type: ignore[union-attr]
        r"(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*?)", template, re.DOTALL
    ).groups()
    cases = re.findall(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ (?:else|end))', body, re.DOTALL)
    bodies = dict(cases) or dict.fromkeys(("system", "user", "assistant"), body)
    said = [bodies[role].replace("{{ .Role }}", role).replace("{{ .Content }}", content) for role, content in turns]
    return before + "".join(said) + after


@pytest.mark.parametrize("template", [CHATML, SMOLLM, LLAMA3, ZEPHYR, PLAIN])
def test_a_chat_template_as_one_of_ollama(template: str) -> None:
    bos = "<|endoftext|>" if template is LLAMA3 else ""
    chat = infer_chat(render(template), bos=bos)
    assert chat is not None
    for turns in (TURNS, TURNS[:2]):
        assert bos + go(chat.go_template(), turns) == render(template)(turns, True)
    alone = [("system", chat.system), *TURNS[1:2]] if chat.system else TURNS[1:2]
    assert bos + go(chat.go_template(), alone) == render(template)(TURNS[1:2], True)


def test_chatml_is_short() -> None:
    chat = infer_chat(render(CHATML))
    assert chat is not None and chat.go_template() == (
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system role') }}",
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}",
        "Today is Friday. " + CHATML.replace("<|im_start|>{{", "{{"),
        CHATML.replace("<|im_end|>", "{{ '{{' }}"),
    ],
)
def test_a_template_that_does_more_is_left_to_ollama(template: str) -> None:
    chat = infer_chat(render(template))
    # A fixed beginning belongs to the system prompt: without one it cannot be written.
    assert chat is None
    assert "TEMPLATE" not in modelfile("a.gguf", None, context_tokens=8, max_tokens=4)


def test_the_whole_file() -> None:
    around = {role: (f"<{role}>", "</>") for role in ("system", "user", "assistant")}
    text = modelfile(
        "a-f16.gguf", Chat(around, "<assistant>", "Default."), others=["a-q8_0.gguf"], stop=["</>"],
        context_tokens=1024, max_tokens=256,
    )  # fmt: skip
    assert text == (
        "FROM ./a-f16.gguf\n# FROM ./a-q8_0.gguf\n"
        'TEMPLATE """{{ range .Messages }}<{{ .Role }}>{{ .Content }}</>{{ end }}<assistant>"""\n'
        'SYSTEM """Default."""\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\nPARAMETER num_ctx 1024\n'
        'PARAMETER num_predict 256\nPARAMETER stop "</>"\n'
    )
    assert 'SYSTEM """Mine."""' in modelfile("a", None, system="Mine.", context_tokens=1, max_tokens=1)
    shown = [("user", "1 + 1?"), ("assistant", "2")]
    told = modelfile("a", None, shown=shown, context_tokens=1, max_tokens=1).splitlines()
    assert told[2:4] == ['MESSAGE user """1 + 1?"""', 'MESSAGE assistant """2"""']
