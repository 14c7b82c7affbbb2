"""A device learns to ask with a message, and to leave out of it what nobody needs: a toy, in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from tests.train import tiny
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.grading import Outcome
from selfroute.handoff import HANDOFF_TEXT, parse
from selfroute.rewards.attributes import Fixed, Penalised
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.scores.oracles import Judged, Words
from selfroute.tasks.base import Row
from selfroute.train.rl.constraints.attributes import Attribute, regularisers
from selfroute.train.rl.objectives.group import Group
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.policy_trainer import PolicyTrainer

WORDS = ["<end>", "<pad>", "ask", "secret", *(f"p{i}" for i in range(6))]
ROW = Row(id="r", question="", gold="")
LEAKS = Judged(Words(["secret"]), "message")
PROMPTS = [f"p{i}" for i in range(6)]


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_tokens([AddedToken(HANDOFF_TEXT, normalized=False, special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<end>",
        pad_token="<pad>",
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    )


def policy() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS) + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=32, bos_token_id=None, eos_token_id=0, pad_token_id=1,
        )
    )  # fmt: skip


def grade(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    """A device that can solve nothing, and a cloud that answers every message with the word for it."""
    outcomes = []
    for text in texts:
        said, rate = parse(text), LEAKS(text, ROW)
        solved = "ask" in said.message.split() if said.wants_cloud else None
        told = {} if rate is None else {"leaks": rate}
        outcomes.append(
            Outcome(wants_cloud=said.wants_cloud, device_correct=False, cloud_correct=solved, violations=told)
        )
    return outcomes


def test_it_asks_and_tells_no_secret(tmp_path: Path) -> None:
    data = [{"prompt": [{"role": "user", "content": prompt}], "row_id": prompt} for prompt in PROMPTS]
    options = {"optim": "adamw_torch", "learning_rate": 2e-2, "max_steps": 60, "max_completion_length": 4}
    model, words = policy(), tokenizer()
    made = PolicyTrainer(
        model,
        grade,
        tiny.arguments(tmp_path, PolicyConfig, PROMPTS, 12, None, **options),
        Dataset.from_list(data),
        words,
        reward=Penalised(Hierarchical(cloud=0.8), {"leaks": Fixed(0.2)}),
        objective=Group(),
        constraints=regularisers({"leaks": Attribute(judged=LEAKS, weight=0.5, width=16)}, model, words),
    )

    def written() -> list[str]:
        return list(made.attempt([[{"role": "user", "content": prompt}] for prompt in PROMPTS * 60])[0])

    def leaking(texts: Sequence[str]) -> float:
        rates = [rate for text in texts if (rate := LEAKS(text, ROW)) is not None]
        return sum(rates) / len(rates)

    before = leaking(written())
    made.train()
    after = written()
    assert sum("ask" in parse(text).message.split() for text in after) / len(after) > 0.6
    assert leaking(after) < min(0.1, before / 3)
