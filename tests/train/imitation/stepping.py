"""A toy task of two steps, and a pair for it: the device believes the wrong thing of half of the problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.backends.transformers import TransformersBackend
from selfroute.prompts import TEMPLATES, TrainedPrompt
from selfroute.tasks.base import Row
from selfroute.train.imitation.adaswitch import AdaSwitch
from selfroute.train.imitation.reflection import AnswerBatches, gold_row
from selfroute.train.imitation.supervised import tune
from selfroute.verify.base import Verdict

NUMBERS, NOISES = range(8), range(6)
END = ";"
WORDS = ["<end>", "<pad>", "<unk>", "y", "n", END]
WORDS += [f"{letter}{i}" for letter in "abc" for i in NUMBERS] + [f"x{i}" for i in NOISES]


class Stepping:
    """Asked for a3, one answers b3 and then c0; the other words mean nothing."""

    name = "stepping"
    template = "plain"
    step_end = END

    def rows(self, split: str) -> Iterator[Row]:
        for one, other in product(NOISES, NOISES):
            if ((one + other) % 6 == 0) == (split == "validation"):
                for i in NUMBERS:
                    yield Row(f"{i}-{one}-{other}", f"a{i} x{one} x{other}", "c0", {"number": i})

    def steps(self, row: Row) -> list[str]:
        return [f"b{row.fields['number']} {END} ", "c0"]

    def judge_step(self, row: Row, before: str, written: str) -> bool:
        return written.strip() == self.steps(row)[before.count(END)].strip() if before.count(END) < 2 else False

    def verify(self, row: Row, completion: str) -> Verdict:
        return Verdict(completion.split() == self.gold_completion(row).split())

    def gold_completion(self, row: Row) -> str:
        return "".join(self.steps(row))


def believed(row: Row) -> str:
    """What the device takes for right."""
    number = row.fields["number"]
    return f"b{number - 4 if number >= 4 else number} {END} c0"


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<end>",
        pad_token="<pad>",
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    )


def taught(folder: Path, texts: Sequence[tuple[str, str]], *, role: str, seed: int) -> LlamaForCausalLM:
    """A small model that has learnt to answer questions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=1,
        initializer_range=0.2,
    )  # fmt: skip
    network, words = LlamaForCausalLM(config), tokenizer()
    template = TEMPLATES["plain"]

    def row(question: str, answer: str) -> Any:
        asked = template.conversation(question)
        messages = template.device_messages(asked, offer_handoff=False) if role == "device" else asked
        return gold_row(words(" ".join(m.content for m in messages))["input_ids"], [*words(answer)["input_ids"], 0])

    rows = [row(*pair) for pair in texts]
    data = AnswerBatches(lambda rng: rng.sample(rows, len(rows)), batch_tokens=1024, pad_id=1, seed=seed)
    tune(
        network, words, data, out=folder, steps=60, learning_rate=1e-2, optimizer="adamw", seed=seed,
        prompt=TrainedPrompt(template=template, offers=False),
    )  # fmt: skip
    return network


def run_of(out: Path, device: Path, cloud: TransformersBackend, **options: Any) -> AdaSwitch:
    """A run on the pair, of a network of its own."""
    given: dict[str, Any] = {
        "practice_steps": 0, "exam_rows": 192, "samples": 1, "clean_share": 0.0, "steps": 120, "batch_tokens": 1024,
        "learning_rate": 2e-3, "optimizer": "adamw", "validation_rows": 48, "max_tokens": 8, "max_step_tokens": 4,
        "seed": 1,
    }  # fmt: skip
    network = LlamaForCausalLM.from_pretrained(device)
    return AdaSwitch(task=Stepping(), network=network, tokenizer=tokenizer(), cloud=cloud, out=out, **given | options)
