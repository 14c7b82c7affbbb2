"""Supervised warm-up of the embedded pair."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfroute.calls import CallText
from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT, parse
from selfroute.prompts import TEMPLATES, share_sentence, with_attempt
from selfroute.tasks.countdown import Countdown, Problem, question, split_of
from selfroute.train.imitation.searches import Searches
from selfroute.train.imitation.tokenizer import build_tokenizer
from selfroute.train.imitation.warmup import IGNORED, QUESTION, TraceBatches, build_model, prompt_of, warm_up
from selfroute.train.imitation.writers import TOLD_SHARES, Role, TraceStyle

TOKENIZER = build_tokenizer()


def batches(**options: Any) -> TraceBatches:
    given: dict[str, Any] = {"seed": 0, "batch_tokens": 512, "chunk": 64, **options}
    writer = searches(given.pop("style", TraceStyle(handoff_rate=0.3)), given.pop("role", "device"))
    return TraceBatches(TOKENIZER, writer, **given)


def searches(style: TraceStyle, role: Role = "device") -> Searches:
    return Searches(Countdown(), style, role)


def first(data: TraceBatches, count: int = 12) -> list[dict[str, torch.Tensor]]:
    return list(islice(data, count))


def rows(data: TraceBatches) -> list[tuple[str, str]]:
    """Prompt and completion texts of the first batches."""
    found = []
    for batch in first(data):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            learnt = labels != IGNORED
            begin = int(learnt.int().argmax())
            found.append((TOKENIZER.decode(ids[:begin]), TOKENIZER.decode(ids[learnt])))
    return found


def test_batches_are_those_of_the_seed() -> None:
    one, again, other = (first(batches(seed=seed)) for seed in (5, 5, 6))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(one, again, strict=True))
    assert not all(a["input_ids"].equal(b["input_ids"]) for a, b in zip(one, other, strict=True))


def test_a_batch_holds_about_the_tokens_asked_for() -> None:
    sizes = [batch["input_ids"].numel() for batch in batches(batch_tokens=2048).chunk_batches(random.Random(0))]
    assert max(sizes) <= 2048 * 1.2
    assert sorted(sizes)[1] > 1024  # all but the last of a chunk are full


def test_the_prompt_and_the_padding_are_not_learnt_and_the_end_is() -> None:
    for batch in first(batches()):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            learnt = (labels != IGNORED).nonzero()[:, 0]
            assert torch.equal(learnt, torch.arange(int(learnt[0]), int(learnt[-1]) + 1))
            assert torch.equal(labels[learnt], ids[learnt])
            assert int(ids[learnt[-1]]) == TOKENIZER.eos_token_id
            assert (ids[int(learnt[-1]) + 1 :] == TOKENIZER.pad_token_id).all()


def test_only_problems_of_the_train_split_are_used() -> None:
    drawn: list[Problem] = []
    rng = random.Random(0)
    writer = searches(TraceStyle())
    for _ in range(300):
        drawn.append(writer.problem(rng))
    assert {split_of(problem.numbers, problem.target) for problem in drawn} == {"train"}
    plain = [Countdown().draw(random.Random(i)) for i in range(300)]
    assert {split_of(problem.numbers, problem.target) for problem in plain} == {"train", "validation", "test"}


def test_a_prompt_is_what_the_trainer_and_the_backend_render() -> None:
    template = TEMPLATES["think"]
    offered = plain = 0
    for prompt, completion in rows(batches()):
        assert completion.endswith("<|im_end|>")
        if template.help in prompt:
            offered += 1
        else:
            plain += 1
            assert not parse(completion).wants_cloud
    assert offered > 10 and plain > 10
    problem = Countdown().draw(random.Random(0))
    asked = question(problem.numbers, problem.target)
    messages = template.device_messages(template.conversation(asked))
    rendered = TOKENIZER.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages], tokenize=False, add_generation_prompt=True
    )
    assert batches()._offered[True].replace(QUESTION, asked) == rendered


@pytest.mark.parametrize("told", ["each", "last"])
def test_a_device_that_is_told_a_share_hands_off_at_that_rate(told: Literal["each", "last"]) -> None:
    template = TEMPLATES["think"]
    style = TraceStyle(told_rate=0.5, told=told, handoff_rate=0.0)
    asks: dict[float, list[bool]] = {}
    untold = 0
    for prompt, completion in rows(batches(style=style, batch_tokens=16_000, chunk=1000)):
        said = next((share for share in TOLD_SHARES if share_sentence(share) in prompt), None)
        untold += said is None and template.help in prompt
        if said:
            before = completion.startswith(f"<think>{HANDOFF_TEXT}")  # the first decision, and with "last" the only one
            asked = before if told == "each" else parse(completion).wants_cloud
            asks.setdefault(said, []).append(asked)
    assert untold > 100 and set(asks) == set(TOLD_SHARES)
    few, many = ([ask for share in shares for ask in asks[share]] for shares in (TOLD_SHARES[:5], TOLD_SHARES[-5:]))
    assert sum(few) / len(few) < 0.3 and sum(many) / len(many) > 0.7
    problem = Countdown().draw(random.Random(0))
    asked = question(problem.numbers, problem.target)
    messages = template.device_messages(template.conversation(asked), share=0.35)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    rendered = TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert batches()._told[0.35].replace(QUESTION, asked) == rendered


def test_the_cloud_reads_no_system_prompt_and_never_hands_off() -> None:
    for prompt, completion in rows(batches(role="cloud")):
        assert TEMPLATES["think"].system not in prompt
        assert HANDOFF_TEXT not in completion


def test_a_cloud_is_shown_attempts_as_a_hand_off_shows_them() -> None:
    style = TraceStyle(shown_rate=0.5)
    shown = [prompt for prompt, _ in rows(batches(role="cloud", style=style)) if "<attempt>" in prompt]
    assert 0 < len(shown) < len(rows(batches(role="cloud", style=style)))
    for prompt in shown:
        asked = re.search(r"Using the numbers.*? only be used once", prompt)
        tried = re.search(r"<attempt>\n(.*)\n</attempt>", prompt, re.DOTALL)
        assert asked and tried
        messages = with_attempt(TEMPLATES["think"].conversation(asked[0]), tried[1])
        turns = [{"role": message.role, "content": message.content} for message in messages]
        assert prompt == TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def test_a_device_learns_how_a_call_is_written_and_not_when() -> None:
    """Calls stand anywhere, with any count, and without them the completion is as it was."""
    plain, calling = batches(), batches(style=TraceStyle(call_rate=0.05, call_tokens=3))
    ids = plain._encode([plain._texts(random.Random(i))[1] for i in range(200)])
    rng, counts = random.Random(0), Counter[str]()
    for completion in ids:
        text = TOKENIZER.decode(calling._calling(completion, rng))
        counts.update(re.findall(r"<call>(\d)</call>", text))
        assert CallText.of(text) == TOKENIZER.decode(completion)
    assert set(counts) == {"1", "2", "3"}
    assert counts.total() == pytest.approx(0.05 * sum(map(len, ids)), rel=0.2)
    assert prompt_of(calling.writer).calls and not prompt_of(plain.writer).calls


def test_sizes_are_those_documented() -> None:
    small = build_model(TOKENIZER, hidden_size=128, layers=5).num_parameters()
    assert small == pytest.approx(0.9e6, rel=0.1)


def make(out: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"steps": 3, "resume": False, **options}
    return warm_up(
        out=out,
        tokenizer=TOKENIZER,
        writer=searches(TraceStyle(attempts=2)),
        hidden_size=32,
        layers=1,
        batch_tokens=512,
        learning_rate=1e-3,
        seed=0,
        workers=0,
        **given,
    )


def test_three_steps_leave_a_folder_that_loads_and_a_longer_run_goes_on(tmp_path: Path) -> None:
    made = make(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    words = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert loaded.config.hidden_size == 32
    assert made["parameters"] == loaded.num_parameters()
    assert words(HANDOFF_TEXT)["input_ids"] == TOKENIZER(HANDOFF_TEXT)["input_ids"]
    longer = make(tmp_path, steps=5, resume=True)
    assert longer["steps"] == json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["steps"] == 5
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match="--resume"):
        make(tmp_path)
    with pytest.raises(ConfigError, match="nothing to resume"):
        make(tmp_path, resume=True)
