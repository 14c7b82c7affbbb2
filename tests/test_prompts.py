"""The prompt that stays with a model, and conversations that are put into its words."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from selfroute.backends.carried import GGUF_KEY, MODELFILE_MARK, carried_prompt, gguf_text
from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import (
    PROMPT_FILE,
    TEMPLATES,
    Demonstration,
    PromptTemplate,
    TrainedPrompt,
    find_template,
    parse_prompt,
    read_prompt,
    read_tuned,
    share_sentence,
    wrap_question,
    write_prompt,
)
from selfroute.types import Message

PROMPT = TrainedPrompt(template=TEMPLATES["steps"], name="steps", max_tokens=64, share=0.2)
SHARES = st.floats(0, 1)
WORDS = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]))
PROMPTS = st.builds(
    TrainedPrompt,
    template=st.builds(
        PromptTemplate,
        system=WORDS,
        help=WORDS,
        user=st.tuples(WORDS, WORDS).map(lambda around: "{question}".join(around)),
        demonstrations=st.lists(st.builds(Demonstration, question=WORDS, reply=WORDS), max_size=2).map(tuple),
    ),
    name=WORDS,
    role=st.sampled_from(["device", "cloud"]),
    offers=st.booleans(),
    wrap=st.booleans(),
    turns=st.sampled_from(["all", "last"]),
    max_tokens=st.none() | st.integers(1, 10**6),
    share=st.none() | SHARES,
    told_shares=st.lists(SHARES, max_size=3).map(tuple),
    temperature=st.floats(0, 2),
    tuned_for=st.just(""),
)


@given(PROMPTS)
def test_what_is_written_is_read(prompt: TrainedPrompt) -> None:
    assert parse_prompt(prompt.text(), "x") == prompt
    assert "\n" not in prompt.text(), "or a comment of a Modelfile could not hold it"


def test_it_lies_beside_the_weights(tmp_path: Path) -> None:
    assert read_prompt(tmp_path) is None
    write_prompt(tmp_path / "run" / "checkpoint", PROMPT)
    assert read_prompt(tmp_path / "run" / "checkpoint") == PROMPT
    for place in (tmp_path / "run", tmp_path / "run" / "checkpoint", tmp_path / "run" / "checkpoint" / PROMPT_FILE):
        assert carried_prompt(place) == PROMPT


def test_keys_of_a_later_version_are_passed_over() -> None:
    assert parse_prompt(json.dumps({**json.loads(PROMPT.text()), "mood": "good"}), "x") == PROMPT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selfroute": 2}, "its prompt has format 2, this version reads 1; upgrade selfroute"),
        ({"template": {"system": "s", "help": "h"}}, "cannot be read ('user')"),
        ({"template": {"system": "s", "help": "h", "user": "no place"}}, "{question} must stand in it once"),
        ({"turns": "some"}, "turns: 'some'"),
        ({"wrap": "yes"}, "wrap: 'yes'"),
        ({"max_tokens": 0}, "max_tokens: 0"),
        ({"share": 3}, "share: 3"),
        ({"told_shares": 0.3}, "cannot be read"),
        ({"handoff": "<help/>"}, "asks for the cloud with '<help/>', which this version does not read"),
    ],
)
def test_a_damaged_one_is_named_with_the_next_step(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / PROMPT_FILE
    file.write_text(json.dumps({**json.loads(PROMPT.text()), **change}))
    with pytest.raises(ConfigError) as caught:
        read_prompt(tmp_path)
    assert str(caught.value).startswith(f"{file}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", '{"selfroute": "one"}'])
def test_what_is_no_prompt_is_no_crash(tmp_path: Path, text: str) -> None:
    (tmp_path / PROMPT_FILE).write_text(text)
    with pytest.raises(ConfigError, match="restore the file, or delete it"):
        read_prompt(tmp_path)


def test_a_gguf_file_and_a_modelfile_hold_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 0.25])
    writer.add_bool("x.flag", True)
    writer.add_float32("x.scale", 1.0)
    writer.add_string(GGUF_KEY, PROMPT.text())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert carried_prompt(file) == PROMPT
    assert gguf_text(file, "no.such.key") is None
    (tmp_path / "Modelfile").write_text(f"FROM ./mine.gguf\n{MODELFILE_MARK}{PROMPT.text()}\n")
    assert carried_prompt(tmp_path / "Modelfile") == PROMPT
    (tmp_path / "Modelfile").write_text("FROM ./mine.gguf\n")
    assert carried_prompt(tmp_path / "Modelfile") is None


@pytest.mark.parametrize("rest", [b"", struct.pack("<IQQ", 3, 0, 9), struct.pack("<IQQQ", 3, 0, 1, 2**40)])
def test_a_gguf_file_that_is_cut_is_one_line(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + rest)
    with pytest.raises(ConfigError, match=r"is damaged .* is the file whole"):
        gguf_text(tmp_path / "cut.gguf", GGUF_KEY)


def test_a_name_without_a_file_carries_nothing() -> None:
    assert carried_prompt("nowhere") is None
    assert carried_prompt("no/such/place") is None


def test_system_and_words_are_those_of_the_training() -> None:
    template = TEMPLATES["steps"]
    assert PROMPT.system == f"{template.system} {template.help}"
    assert replace(PROMPT, offers=False).system == template.system
    assert replace(PROMPT, role="cloud").system == ""
    assert PROMPT.conversation("1 + 1") == template.conversation("1 + 1")
    assert replace(PROMPT, wrap=False).conversation("1 + 1") == [Message("user", "1 + 1")]
    assert HANDOFF_TEXT in PROMPT.system


def test_told_shares_name_the_one_it_is_evaluated_at() -> None:
    assert PROMPT.told_share is None
    assert replace(PROMPT, told_shares=(0.1, 0.2)).told_share == 0.2
    assert replace(PROMPT, share=None, told_shares=(0.1, 0.2)).told_share == 0.1


@pytest.mark.parametrize("form", ["text", "parts", "named"])
def test_a_question_is_wrapped_in_whichever_form_it_comes(form: str) -> None:
    raws: dict[str, Any] = {
        "text": None,
        "parts": {"role": "user", "content": [{"type": "text", "text": "1 "}, {"type": "text", "text": "+ 1"}]},
        "named": {"role": "user", "content": "1 + 1", "name": "Ann"},
    }
    (wrapped,) = wrap_question([Message("user", "1 + 1", raws[form])], TEMPLATES["steps"])
    words = TEMPLATES["steps"].user.format(question="1 + 1")
    assert wrapped.content == words
    assert wrapped.raw is None or (wrapped.raw["content"] == words and wrapped.raw["role"] == "user")
    assert wrap_question([wrapped], TEMPLATES["steps"]) == [wrapped], "once"


def test_a_turn_with_an_image_stays_as_it_is() -> None:
    raw = {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {}}]}
    turn = Message("user", "what", raw)
    assert wrap_question([turn], TEMPLATES["steps"]) == [turn]


SHOWN = replace(
    TEMPLATES["plain"],
    user="Q: {question}",
    demonstrations=(Demonstration("1 + 1?", "2"), Demonstration("17 * 23?", f"No. {HANDOFF_TEXT}")),
)


def test_demonstrations_stand_before_the_conversation_of_the_device_alone() -> None:
    asked = SHOWN.conversation("2 + 2?")
    assert asked == [Message("user", "Q: 2 + 2?")]
    told = SHOWN.device_messages([Message("system", "Be kind."), *asked])
    assert [message.role for message in told] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert told[0].content.endswith("Be kind.") and told[1].content == "Q: 1 + 1?" and told[-1] == asked[0]


def test_a_forced_attempt_is_shown_no_hand_off() -> None:
    told = SHOWN.device_messages(SHOWN.conversation("2 + 2?"), offer_handoff=False)
    assert [message.content for message in told if message.role == "assistant"] == ["2"]


def test_a_template_without_demonstrations_is_written_as_before() -> None:
    assert set(json.loads(PROMPT.text())["template"]) == {"system", "help", "user"}
    assert "tuned_for" not in json.loads(PROMPT.text())


def test_a_template_is_found_by_name_or_file(tmp_path: Path) -> None:
    file = tmp_path / "program.json"
    file.write_text(replace(PROMPT, template=SHOWN, tuned_for="a model", prompt_tokens=40).text())
    assert find_template("plain") == TEMPLATES["plain"]
    assert find_template(f"tuned:{file}") == SHOWN
    found = read_tuned(f"tuned:{file}")
    assert (found.name, found.tuned_for, found.prompt_tokens) == (f"tuned:{file}", "a model", 40)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plian", "prompt.template: unknown template 'plian'; did you mean 'plain'?"),
        ("tuned:nowhere.json", "prompt.template: cannot read 'nowhere.json'; name what selfroute tune wrote"),
    ],
)
def test_a_template_that_is_none_is_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_template(name, where="prompt.template")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("text", ["{", "{}", '{"selfroute": 1, "template": {"system": ""}}'])
def test_a_damaged_program_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "program.json").write_text(text)
    with pytest.raises(ConfigError, match=r"^template: .*program\.json: the prompt of the training cannot be read"):
        find_template(f"tuned:{tmp_path / 'program.json'}")


def test_a_template_without_words_of_its_own_adds_no_system_turn() -> None:
    bare = PromptTemplate("", "", "{question}.")
    asked = bare.conversation("why")
    assert bare.device_messages(asked) == bare.device_messages(asked, offer_handoff=False) == [Message("user", "why.")]
    own = [Message("system", "be brief"), *asked]
    assert bare.device_messages(own) == own
    assert bare.device_messages(asked, share=0.3)[0] == Message("system", share_sentence(0.3))
    helped = PromptTemplate("", "you may ask", "{question}")
    assert [message.role for message in helped.device_messages(asked, offer_handoff=False)] == ["user"]
    assert helped.device_messages(asked)[0] == Message("system", "you may ask")


def test_a_cloud_in_a_devices_place_is_asked_as_it_was_trained() -> None:
    cloud = replace(PROMPT, role="cloud")
    assert PROMPT.as_device() is PROMPT
    asked = cloud.as_device()
    assert (asked.role, asked.system, asked.asks, asked.max_tokens) == ("device", "", "", PROMPT.max_tokens)
    question = asked.conversation("why")
    assert asked.template.device_messages(question) == question == cloud.conversation("why")
