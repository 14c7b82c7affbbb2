"""Supervised warm-up: make the embedded pair from nothing by imitating written searches, or teach a model the form.

A model that starts at random shows no group with both a right and a wrong answer, so reinforcement learning has
nothing to learn from; a short imitation of searches gives it skill to sharpen and an even chance of asking. A
pretrained model has the skill and may lack the tags and the hand-off, which a much shorter imitation gives it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from selfroute.calls import CALL_FORM, call_text
from selfroute.prompts import TEMPLATES, TrainedPrompt, with_attempt
from selfroute.train import folder
from selfroute.train.imitation.batches import IGNORED, Batch, cut
from selfroute.train.imitation.supervised import Optimizer, tune
from selfroute.train.imitation.writers import TOLD_SHARES
from selfroute.train.pretrained import load_network

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from selfroute.train.imitation.writers import Writer
    from selfroute.types import Message

__all__ = ["TraceBatches", "build_model", "warm_up"]

QUESTION, ATTEMPT = "\0", "\1"  # stand for them in a rendered prompt


def build_model(
    tokenizer: PreTrainedTokenizerBase, *, hidden_size: int, layers: int, head_size: int = 32
) -> LlamaForCausalLM:
    """A small Llama with tied embeddings and one key-value head; 128 x 5 is about 0.9 M parameters.

    With one key-value head instead of one per query head, sampling on a CPU is about twice as quick: it is bound by
    reading the cache.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=-(-hidden_size * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // head_size,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # at this size the plain products are quicker than the fused kernel
    return model


class TraceBatches(IterableDataset[Batch]):
    """Endless batches of fresh traces, each padded to its own length.

    Traces are drawn in chunks and sorted by length, so that padding wastes little; the same seed gives the same
    batches in the same order for the same number of workers.

    Args:
        writer: of the traces. A device reads the paper's system prompt, with the offer to hand off or a wanted call
            share where the writer says so; a cloud reads the user turn alone, or with a device's attempt.
        batch_tokens: padded tokens per batch.
        chunk: traces drawn at a time.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        writer: Writer,
        *,
        seed: int,
        batch_tokens: int,
        chunk: int = 4096,
    ) -> None:
        self.tokenizer = tokenizer
        self.writer = writer
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.chunk = chunk
        # Rendering each prompt anew costs more than its trace.
        template = TEMPLATES[writer.template]
        asked = template.conversation(QUESTION)
        self._offered = {o: self._render(template.device_messages(asked, offer_handoff=o)) for o in (False, True)}
        self._told = {s: self._render(template.device_messages(asked, share=s)) for s in TOLD_SHARES}
        self._plain, self._shown = self._render(asked), self._render(with_attempt(asked, ATTEMPT))
        style = writer.style
        calls = range(1, style.call_tokens + 1) if style.call_rate and writer.role == "device" else ()
        self._calls = self._encode([call_text(count) for count in calls]) if calls else []

    def _render(self, messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _texts(self, rng: random.Random) -> tuple[str, str]:
        """Prompt and completion of one trace."""
        example = self.writer.example(rng)
        if self.writer.role == "device":
            frame = self._offered[example.offer] if example.share is None else self._told[example.share]
        else:
            frame = self._shown if example.attempt else self._plain
        return frame.replace(QUESTION, example.question).replace(ATTEMPT, example.attempt), example.completion

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return list(self.tokenizer(list(texts), add_special_tokens=False)["input_ids"])

    def chunk_batches(self, rng: random.Random) -> list[Batch]:
        """Draw one chunk and cut it into batches of about `batch_tokens`."""
        pairs = [self._texts(rng) for _ in range(self.chunk)]
        end = [self.tokenizer.eos_token_id]
        prompts, completions = self._encode([p for p, _ in pairs]), self._encode([c for _, c in pairs])
        if self._calls:
            completions = [self._calling(completion, rng) for completion in completions]
        rows = [(p + c + end, [IGNORED] * len(p) + c + end) for p, c in zip(prompts, completions, strict=True)]
        pad_id = int(self.tokenizer.pad_token_id or 0)
        return cut(rows, batch_tokens=self.batch_tokens, pad_id=pad_id, rng=rng)

    def _calling(self, completion: Sequence[int], rng: random.Random) -> list[int]:
        """A completion with calls in it, between tokens of its own."""
        written: list[int] = []
        for token_id in completion:
            if rng.random() < self.writer.style.call_rate:
                written += rng.choice(self._calls)
            written.append(token_id)
        return written

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number = worker.id if worker is not None else 0
        rng = random.Random(f"traces/{self.writer.role}/{self.seed}/{number}")
        while True:
            yield from self.chunk_batches(rng)


def prompt_of(writer: Writer) -> TrainedPrompt:
    """How a model of the pair is asked, as `TraceBatches` does."""
    template = TEMPLATES[writer.template]
    if writer.role == "cloud":
        return TrainedPrompt(template=template, name=writer.template, role="cloud", offers=False, handoff="")
    if writer.style.call_rate:
        return TrainedPrompt(template=template, name=writer.template, offers=False, handoff=CALL_FORM)
    return TrainedPrompt(template=template, name=writer.template)


def warm_up(
    *,
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    writer: Writer,
    hidden_size: int,
    layers: int,
    steps: int,
    batch_tokens: int,
    learning_rate: float,
    seed: int,
    optimizer: Optimizer = "adamw",
    start: str | None = None,
    workers: int = 1,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    on_progress: folder.Progress | None = None,
) -> dict[str, Any]:
    """Train one model of the pair; writes the folder described in `selfroute.train.folder`.

    Args:
        writer: of what it imitates.
        steps: optimiser steps; each sees about `batch_tokens` padded tokens.
        learning_rate: peak of a cosine schedule with 2 % linear warm-up; 1e-3 to 3e-3 suits these sizes.
        optimizer: "muon" takes `MuonAdamW`.
        start: folder, hub repository or GGUF file of a model to go on with, in place of a new one of `hidden_size` and
            `layers`; `tokenizer` is that model's.
        workers: processes that draw traces.
        resume: go on from the newest checkpoint in `out`.
        config: the resolved recipe, written beside the result.
        on_progress: called with step, steps and the step's metrics.

    Returns:
        What stands in `run.json`.

    Raises:
        ConfigError: `out` holds a run and `resume` is off, or there is nothing to resume.
    """
    checkpoint = folder.start_from(out, steps, resume=resume)
    if checkpoint is not None:
        folder.check_config(out, config or {})
    torch.manual_seed(seed)
    if start is None:
        model: PreTrainedModel = build_model(tokenizer, hidden_size=hidden_size, layers=layers)
    else:
        model = load_network(start, attention="eager")
    data = TraceBatches(tokenizer, writer, seed=seed, batch_tokens=batch_tokens)
    origin = folder.begin(out, config or {}, checkpoint)
    wall_s = tune(
        model,
        tokenizer,
        data,
        out=out,
        steps=steps,
        learning_rate=learning_rate,
        optimizer=optimizer,
        seed=seed,
        prompt=prompt_of(writer),
        workers=workers,
        checkpoint=checkpoint,
        on_progress=on_progress,
    )
    return folder.finish(
        out,
        {
            "algorithm": "warm_up",
            "role": writer.role,
            "parameters": model.num_parameters(),
            "seed": seed,
            "steps": steps,
            "batch_tokens": batch_tokens,
            "learning_rate": learning_rate,
            "optimizer": optimizer,
            "hidden_size": model.config.hidden_size,
            "layers": model.config.num_hidden_layers,
            "start": start,
            "traces": asdict(writer.style),
            "wall_s": round(wall_s, 1),
        },
        origin,
    )
