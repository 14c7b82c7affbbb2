"""An agent for `lookup` that is small enough to train by the hundred: its words, how it is begun, and its errands."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.actions import CALL_CLOSE, CALL_OPEN, Action, result_text
from selfroute.grading import Outcome
from selfroute.handoff import HANDOFF_TEXT, parse
from selfroute.tasks.base import Environment, Observation, Restorable, Row, Tool
from selfroute.tasks.lookup import CALC, LOOKUP, VALUES, Lookup
from selfroute.train.imitation.optimizer import MuonAdamW
from selfroute.train.rl.rollouts.base import Prompt

TASK = Lookup()
END, PAD = "[end]", "[pad]"
LOOK, COMPUTE = f"{CALL_OPEN}{LOOKUP.name} ", f"{CALL_OPEN}{CALC.name} "
WORDS = [
    END, PAD, LOOK, COMPUTE, CALL_CLOSE, "<result>", "</result>", "<answer>", "</answer>", HANDOFF_TEXT,
    "Add ", " and ", "see ", "~", "+", *(f"{n:02}" for n in range(100)), *map(str, range(10)),
]  # fmt: skip
# How the agent is begun: an errand that follows links and computes, but slips, and seldom reads a noisy value again.
SLIP, AGAIN, GIVES_UP = 0.12, 0.25, 0.06
LEARN = 1e-2


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each tag and each two digits; what it does not know is left out."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=PAD))
    marks = sorted((word for word in WORDS if not word.isdigit()), key=len, reverse=True)
    known = "|".join([*map(_quoted, marks), r"\d\d", r"\d"])
    words.pre_tokenizer = pre_tokenizers.Split(Regex(known), behavior="removed", invert=True)
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=END,
        pad_token=PAD,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )


def _quoted(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "[]+.?*()|" else sign for sign in text)


def network(seed: int, *, width: int = 64, layers: int = 2) -> LlamaForCausalLM:
    """A decoder with nothing learned."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=160,
            tie_word_embeddings=True,
            initializer_range=width**-0.5,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


# --- how it is begun ----------------------------------------------------------------------------------------------


def begun(folder: Path, seed: int, steps: int) -> Path:
    """The agent of a seed, which has imitated errands; trained unless it is there."""
    if not (folder / "config.json").exists():
        model, words = network(seed), tokenizer()
        rows, rng = list(TASK.rows("train")), random.Random(f"errands/{seed}")
        optimizer = MuonAdamW(model, lr=LEARN, weight_decay=0.0, betas=(0.9, 0.98))
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = LEARN * min(1.0, 10 * (step + 1) / steps, 2 * (1 - step / steps))
            ids, mask, labels = _batch(words, [errand(rng.choice(rows), rng) for _ in range(32)])
            model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    return folder


Part = tuple[str, bool]  # a text, and whether the agent wrote it


def errand(row: Row, rng: random.Random) -> list[Part]:
    """A question and what a careless agent did about it, part by part."""
    world = TASK.environment(row)
    parts: list[Part] = [(row.question, False)]
    found = [_looked_up(world, key, parts, rng) for key in row.fields["keys"]]
    if None in found or rng.random() < GIVES_UP:
        return [*parts, (HANDOFF_TEXT + END, True)]
    total = str(rng.randrange(2 * VALUES - 1))
    if rng.random() >= SLIP:
        total = _called(world, Action(f"{found[0]}+{found[1]}", CALC.name), parts)
    return [*parts, (str(Action(total)) + END, True)]


def _looked_up(world: Environment, key: str, parts: list[Part], rng: random.Random) -> int | None:
    """The value under a key as it was read; None for an errand that gave up."""
    while True:
        if rng.random() < SLIP:
            key = f"{rng.randrange(10_000):04}"
        said = _called(world, Action(key, LOOKUP.name), parts)
        if said.startswith("see "):
            key = said.removeprefix("see ")
        elif not said.startswith("~") or rng.random() >= AGAIN:
            return int(said.lstrip("~"))
        if rng.random() < GIVES_UP:
            return None


def _called(world: Environment, action: Action, parts: list[Part]) -> str:
    said = world.step(action).text
    parts += [(str(action), True), (result_text(said), False)]
    return said


def _batch(words: PreTrainedTokenizerFast, errands: Sequence[Sequence[Part]]) -> tuple[torch.Tensor, ...]:
    """Ids, what is no padding, and labels of the agent's own tokens."""
    rows, labels = [], []
    for parts in errands:
        ids = [words(text, add_special_tokens=False)["input_ids"] for text, _ in parts]
        rows.append([i for some in ids for i in some])
        labels.append([i if own else -100 for some, (_, own) in zip(ids, parts, strict=True) for i in some])
    width = max(map(len, rows))

    def padded(lists: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        return torch.tensor([[*one, *[value] * (width - len(one))] for one in lists])

    ids = padded(rows, WORDS.index(PAD))
    return ids, padded([[1] * len(row) for row in rows], 0), padded(labels, -100)


# --- its errands --------------------------------------------------------------------------------------------------


class Counted:
    """An environment whose calls of tools are counted."""

    def __init__(self, world: Any, counts: Counts) -> None:
        self.world, self.counts = world, counts
        self.tools: Sequence[Tool] = world.tools

    def reset(self) -> str:
        return str(self.world.reset())

    def step(self, action: Action) -> Observation:
        self.counts.calls += bool(action.tool)
        return self.world.step(action)  # type: ignore[no-any-return]

    def score(self) -> float | None:
        return self.world.score()  # type: ignore[no-any-return]

    def snapshot(self) -> Any:
        return self.world.snapshot()

    def restore(self, at: Any) -> None:
        self.world.restore(at)


class Counts:
    """Opens environments and counts what is called in them."""

    def __init__(self) -> None:
        self.calls = 0

    def open(self, prompt: Prompt) -> Restorable:
        return Counted(TASK.environment(Row("", prompt[-1]["content"], "")), self)


def outcomes(rows: dict[str, Row], ids: Sequence[str], texts: Sequence[str]) -> Iterator[Outcome]:
    """What came of attempts, with a cloud that is always right."""
    for row_id, text in zip(ids, texts, strict=True):
        asks = parse(text).wants_cloud
        right = None if asks else TASK.verify(rows[row_id], text).correct
        yield Outcome(wants_cloud=asks, device_correct=right, cloud_correct=True if asks else None)
