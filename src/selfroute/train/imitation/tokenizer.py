"""The embedded pair's tokenizer.

Byte-level BPE with SmolLM's pre-splitting (single digits, words), which llama.cpp can load, plus plain added
tokens for the sentences of the prompt, the tags and the hand-off, so that a prompt is about thirty tokens.
The added tokens are not special: they stay in decoded text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["CHAT_TEMPLATE", "build_tokenizer", "phrases", "task_tokenizer"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPELLED = ("think", "steps", "plain")  # the templates whose words the shipped pair's tokenizer was made of
_MARKS = (HANDOFF_TEXT, "<think>", "</think>", "<answer>", "</answer>", "assistant\n", "system\n", "user\n")
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def phrases() -> list[str]:
    """The fixed wording of a Countdown conversation, one token each."""
    template = TEMPLATES["think"]
    before, after = template.user.split("{question}")
    return [
        *(piece for piece in (before,) if piece),
        template.system,
        template.help,
        after,
        "Using the numbers [",
        "], create an equation that equals ",
        ". You can use basic arithmetic operations (+, -, *, /) and each number can only be used once",
        *_MARKS,
    ]


def build_tokenizer(vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the templates' own words; the same words give the same tokenizer."""
    templates = [TEMPLATES[name] for name in _SPELLED]
    words = [text for template in templates for text in (template.system, template.help, template.user)]
    return _trained(words, phrases(), vocabulary)


def task_tokenizer(template: str, corpus: Sequence[str], vocabulary: int = 1024) -> PreTrainedTokenizerFast:
    """A tokenizer of the same kind for a task with words of its own.

    Args:
        template: name of its prompt template, whose sentences become one token each.
        corpus: texts of the task.
    """
    words = TEMPLATES[template]
    asked = [piece for piece in words.user.split("{question}") if piece]
    return _trained(corpus, [*asked, words.system, words.help, *_MARKS], vocabulary)


def _trained(corpus: Sequence[str], added: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of a corpus, with added tokens that are not special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(added),
        special_tokens=[END, START, STOP],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=STOP,
        bos_token=END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
