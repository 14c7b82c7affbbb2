"""Agents small enough to train by the hundred: a token for each of their words, and imitation of what is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.train.imitation.optimizer import MuonAdamW

END, PAD = "[end]", "[pad]"
Part = tuple[str, bool]  # a text, and whether the agent wrote it


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for each word, the longest first; what it does not know is left out.

    Args:
        words: `END` and `PAD` first.
    """
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=PAD))
    known = "|".join(_quoted(word) for word in sorted(words, key=len, reverse=True))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(known), behavior="removed", invert=True)
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=END,
        pad_token=PAD,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )


def _quoted(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "[]+-.?*()|" else sign for sign in text)


def network(words: Sequence[str], seed: int, *, width: int = 64, layers: int = 2) -> LlamaForCausalLM:
    """A decoder of these words with nothing learned."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
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


def imitate(
    model: LlamaForCausalLM,
    words: PreTrainedTokenizerFast,
    shown: Callable[[int], Sequence[Sequence[Part]]],
    *,
    steps: int,
    rate: float,
) -> None:
    """Learn the agent's own parts of what is shown.

    Args:
        shown: the examples of a step.
        rate: highest step size, that of Muon; it rises for a tenth of the steps and falls in the second half.
    """
    optimizer = MuonAdamW(model, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 10 * (step + 1) / steps, 2 * (1 - step / steps))
        ids, mask, labels = _batch(words, shown(step))
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _batch(words: PreTrainedTokenizerFast, shown: Sequence[Sequence[Part]]) -> tuple[torch.Tensor, ...]:
    """Ids, what is no padding, and labels of the agent's own tokens."""
    rows, labels = [], []
    for parts in shown:
        ids = [words(text, add_special_tokens=False)["input_ids"] for text, _ in parts]
        rows.append([i for some in ids for i in some])
        labels.append([i if own else -100 for some, (_, own) in zip(ids, parts, strict=True) for i in some])
    width = max(map(len, rows))

    def padded(lists: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        return torch.tensor([[*one, *[value] * (width - len(one))] for one in lists])

    return padded(rows, 1), padded([[1] * len(row) for row in rows], 0), padded(labels, -100)
