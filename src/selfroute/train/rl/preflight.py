"""What is looked at before a run's first step: prompts that fit, tags that survive, options that TRL takes."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from selfroute.backends.torch.sampler import sample
from selfroute.backends.torch.tokens import decode
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.grading import Outcome
from selfroute.train.rl.arguments import build_arguments, is_sharded, processes_here
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.options import GAPGOptions, LoopOptions
from selfroute.train.rl.rollouts.base import Prompt

__all__ = ["check_tags", "check_window", "longest_prompt", "rehearse", "try_device", "window_of"]

_TAGS = re.compile(r"</?[a-z]+>|\\boxed")
_ROLLOUT_TOKENS = 4
# Options of TRL that reach beyond this machine, or that a rehearsal must not follow.
_OUTWARD = ("hub_model_id", "hub_strategy", "hub_token", "hub_private_repo")


def window_of(config: PretrainedConfig) -> int | None:
    """Most tokens of prompt and answer together; None where the model names no limit."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def longest_prompt(words: PreTrainedTokenizerBase, prompts: Mapping[str, Prompt]) -> tuple[str, int]:
    """Row id and tokens of the longest prompt.

    No tokenizer in use writes more tokens than a text has bytes, so only texts of more bytes than the longest so far
    has tokens are read.
    """
    texts = {
        row: str(words.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        for row, prompt in prompts.items()
    }
    found, most = "", 0
    for row, text in sorted(texts.items(), key=lambda item: -len(item[1].encode())):
        if len(text.encode()) <= most:
            break
        if (size := len(words(text, add_special_tokens=False)["input_ids"])) > most:
            found, most = row, size
    return found, most


def check_window(row: str, tokens: int, config: PretrainedConfig, *, max_new_tokens: int) -> None:
    """See that the longest prompt and an attempt behind it fit the model.

    Args:
        row, tokens: as `longest_prompt` found them.

    Raises:
        ConfigError: they do not. Behind its window a model writes anything, and is served nothing as long.
    """
    window = window_of(config)
    if window is None or tokens + max_new_tokens <= window:
        return
    if tokens >= window:
        raise ConfigError(
            f"the prompt of row '{row}' has {tokens} tokens, and the model's window is {window}; leave such rows out, "
            "or take a model with a longer one"
        )
    raise ConfigError(
        f"max_new_tokens: {max_new_tokens} after the {tokens} tokens of row '{row}' is longer than the model's window "
        f"of {window}; set it to {window - tokens} or less, or leave such rows out"
    )


def check_tags(words: PreTrainedTokenizerBase, prompt: Prompt, *, tokenizer: str) -> None:
    """See that what the prompt asks to be written can be read again.

    Args:
        tokenizer: names it in the message.

    Raises:
        ConfigError: a tag is a special token, which is left out of every text, so that no answer would be seen.
    """
    asked = " ".join(str(message["content"]) for message in prompt)
    for tag in dict.fromkeys(_TAGS.findall(asked)):
        if tag not in "".join(decode(words, words(tag, add_special_tokens=False)["input_ids"]).split()):
            raise ConfigError(
                f"the tokenizer of '{tokenizer}' loses '{tag}', as a special token, which is left out of all that the "
                'model writes; set its "special" to false in tokenizer.json, or take a template without it'
            )


def try_device(network: PreTrainedModel, words: PreTrainedTokenizerBase, prompt: Prompt) -> None:
    """Have the model write a few tokens, before the cloud is asked for anything.

    Raises:
        SelfRouteError: it cannot, or its numbers are not finite.
    """
    text = str(words.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
    ids: list[int] = words(text, add_special_tokens=False)["input_ids"]
    try:
        with torch.no_grad():
            ((written,),) = sample(
                network,
                [ids],
                max_new_tokens=2,
                eos_token_ids=frozenset({words.eos_token_id}),
                pad_token_id=words.pad_token_id,
                temperature=1.0,
                top_p=1.0,
                seed=0,
            )
    except Exception as error:  # a network fails in as many ways as it has layers
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SelfRouteError(f"the device model cannot write an answer: {reason}; the cloud was not asked") from error
    if any(number != number for number in written.logprobs):
        raise SelfRouteError(
            "the device model computes numbers that are not finite; the cloud was not asked; are its weights whole?"
        )


def rehearse(loop: LoopOptions, options: GAPGOptions, words: PreTrainedTokenizerBase) -> None:
    """Go through one step with TRL's options of the recipe and a network of one layer.

    Most of these options are read by nobody before the first step, or the first checkpoint. What is left to vLLM or to
    several processes cannot be rehearsed in one.

    Raises:
        ConfigError: the step fails; with what TRL or transformers says.
    """
    if not loop.trl or processes_here() > 1:
        return
    with tempfile.TemporaryDirectory(prefix="selfroute-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short = replace(
            loop,
            steps=1,
            prompts_per_step=2,
            rows_per_pass=None,
            max_new_tokens=_ROLLOUT_TOKENS,
            save_steps=1,
            out=Path(folder),
            report_to=(),
            trl={name: value for name, value in loop.trl.items() if name not in _OUTWARD},
        )
        arguments = build_arguments(short, options)
        if arguments.use_vllm or arguments.deepspeed or is_sharded(arguments):
            return
        try:
            _one_step(arguments, options, words)
        except Exception as error:  # of any library between here and the optimiser
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(f"trl ({', '.join(loop.trl)}): a first step fails: {said}") from error


def _one_step(arguments: Any, options: GAPGOptions, words: PreTrainedTokenizerBase) -> None:
    data = Dataset.from_list([{"prompt": _prompt(), "row_id": str(number)} for number in range(4)])
    trainer = GAPGTrainer(
        _small(words),
        _in_turn,
        arguments,
        data,
        words,
        options=options,
        write_prompt=lambda row_id, *, offer_handoff, share=None: _prompt(),
        local_grader=_in_turn,
        worked=dict.fromkeys(data["row_id"], "1"),
        eval_dataset=data if arguments.eval_strategy != "no" else None,
    )
    trainer.train()
    if arguments.eval_strategy != "no":
        trainer.evaluate()


def _prompt() -> Prompt:
    return [{"role": "user", "content": "1"}]


def _in_turn(rows: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    """Every other attempt is right: there is a gradient."""
    return [Outcome(wants_cloud=False, device_correct=bool(place % 2)) for place, _ in enumerate(texts)]


def _small(words: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
    )
    return LlamaForCausalLM(config)
