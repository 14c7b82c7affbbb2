"""Tokens per second of selfroute's sampler beside transformers.generate.

Same random Llama of about 1 M parameters, same prompts, batch, lengths and thread, turn about in one process::

    python benchmarks/sampler.py            # under a minute
    python benchmarks/sampler.py --repeats 5 --threads 2

"full": every completion runs to the limit. "early": ten tokens end a completion, so that lengths differ as they do
in rollouts; only tokens that belong to a completion count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from selfroute.backends.torch.sampler import sample

PAD = 0
ENDINGS: dict[str, list[int]] = {"full": [], "early": list(range(10, 20))}


def build_model(vocabulary: int = 640) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config).eval()


def build_prompts(count: int, vocabulary: int = 640) -> list[list[int]]:
    """Random prompts of 30 to 50 tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(30, 51, (count,), generator=generator).tolist()
    return [torch.randint(20, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def ours(
    model: LlamaForCausalLM, prompts: Sequence[list[int]], samples: int, steps: int, eos: list[int], temperature: float
) -> int:
    """Tokens written."""
    groups = sample(
        model,
        prompts,
        samples_per_prompt=samples,
        max_new_tokens=steps,
        temperature=temperature,
        eos_token_ids=eos,
        pad_token_id=PAD,
    )
    return sum(len(row.token_ids) for group in groups for row in group)


def theirs(
    model: LlamaForCausalLM, prompts: Sequence[list[int]], samples: int, steps: int, eos: list[int], temperature: float
) -> int:
    """Tokens written, padding behind an ending left out."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    written = model.generate(
        input_ids=ids.repeat_interleave(samples, 0),
        attention_mask=mask.repeat_interleave(samples, 0),
        max_new_tokens=steps,
        eos_token_id=eos or None,
        pad_token_id=PAD,
        **options,
    )[:, width:]
    ended = torch.isin(written, torch.tensor(eos, dtype=torch.long)).long().cumsum(1)
    return int((ended.cumsum(1) <= 1).sum())


def rate(write: Callable[..., int], *work: Any) -> float:
    """Tokens per second of one run."""
    started = time.perf_counter()
    tokens = write(*work)
    return tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="completions per prompt")
    parser.add_argument("--tokens", type=int, default=120, help="most new tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    model, prompts = build_model(), build_prompts(args.prompts)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    table = Table(
        title=f"{millions:.2f} M parameters, {args.prompts} prompts × {args.samples}, ≤ {args.tokens} tokens, "
        f"{args.threads} thread, {args.repeats} repeats; tokens/s: median (least to most)"
    )
    for column in ("lengths", "decoding", "selfroute", "transformers.generate", "ratio"):
        table.add_column(column, justify="left" if column in ("lengths", "decoding") else "right")
    for lengths, temperature in (("full", 0.0), ("full", 1.0), ("early", 1.0)):
        eos = ENDINGS[lengths]
        work = (model, prompts, args.samples, args.tokens, eos, temperature)
        ours(model, prompts, args.samples, 2, eos, temperature)  # warm up
        theirs(model, prompts, args.samples, 2, eos, temperature)
        # Turn about, so that a busy machine slows both.
        pairs = [(rate(ours, *work), rate(theirs, *work)) for _ in range(args.repeats)]
        mine, other = ([pair[side] for pair in pairs] for side in (0, 1))
        ratios = [a / b for a, b in pairs]
        decoding = "sampled" if temperature else "greedy"
        table.add_row(lengths, decoding, spread(mine), spread(other), spread(ratios, digits=2))
    Console(width=120).print(table)


def spread(values: Sequence[float], digits: int = 0) -> str:
    middle, least, most = (f"{v:,.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


if __name__ == "__main__":
    main()
