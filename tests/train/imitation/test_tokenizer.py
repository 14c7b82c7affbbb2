"""The embedded pair's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from selfroute.handoff import HANDOFF_TEXT, parse
from selfroute.prompts import TEMPLATES
from selfroute.tasks.countdown import Countdown, question
from selfroute.train.imitation.tokenizer import build_tokenizer, phrases

TOKENIZER = build_tokenizer()


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(ids(text)) == text


@given(st.lists(st.sampled_from([*phrases(), "12-10=2,", "?18n\n", " ", "é"]), max_size=8).map("".join))
def test_mixtures_of_phrases_come_back(text: str) -> None:
    assert TOKENIZER.decode(ids(text), skip_special_tokens=True) == text


@given(st.integers(0, 10**12))
def test_every_digit_is_a_token(number: int) -> None:
    assert len(ids(str(number))) == len(str(number))


@pytest.mark.parametrize("phrase", phrases())
def test_a_fixed_phrase_is_one_token_that_is_not_special(phrase: str) -> None:
    (token,) = ids(phrase)
    assert token not in TOKENIZER.all_special_ids
    assert TOKENIZER.decode([token], skip_special_tokens=True) == phrase


def test_the_hand_off_survives_the_decoding_of_rollouts() -> None:
    (token,) = ids(HANDOFF_TEXT)
    assert parse(TOKENIZER.decode([*ids("<think>"), token], skip_special_tokens=True)).wants_cloud


def test_a_prompt_is_short() -> None:
    template = TEMPLATES["think"]
    problem = next(iter(Countdown(limit=1).problems("train", 1)))
    messages = template.device_messages(template.conversation(question(problem.numbers, problem.target)))
    prompt = TOKENIZER.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages], add_generation_prompt=True
    )["input_ids"]
    assert len(prompt) < 50


def test_the_same_words_give_the_same_tokenizer() -> None:
    assert build_tokenizer().get_vocab() == TOKENIZER.get_vocab()


def test_a_saved_tokenizer_reads_the_same(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = f"<think>12-10=2,16+2=18?18y\n</think>{HANDOFF_TEXT}"
    assert list(loaded(text)["input_ids"]) == ids(text)
    assert (loaded.eos_token, loaded.pad_token) == (TOKENIZER.eos_token, TOKENIZER.pad_token)
    assert loaded.chat_template == TOKENIZER.chat_template
