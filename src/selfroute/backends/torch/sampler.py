"""A batched sampler in plain torch, for training rollouts and for serving.

Against `transformers.generate` it writes keys and values into pre-allocated blocks instead of growing them by
concatenation, reads equal prompts and a common beginning of all prompts only once, and lets a finished row leave the
batch at once. It works with every causal language model of transformers whose cache is plain keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_utils import PreTrainedModel

from selfroute.errors import ConfigError

__all__ = ["Guide", "Sampled", "Step", "check_heat", "draw", "evaluating", "sample"]

# Room in the cache beyond the prompt, in tokens; a longer completion makes it grow.
_SPARE_TOKENS = 128
# A common beginning shorter than this is not worth a forward pass of its own.
_MIN_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Sampled:
    """One completion as token ids.

    Attributes:
        token_ids: everything written, the end-of-sequence token included.
        logprobs: natural-log probability of each token under the model at the sampling temperature (the plain
            model for greedy decoding), before `top_p` and `forbid` cut anything off.
        finish_reason: "stop" if the model or `on_step` ended it, "length" if the token limit did.
        top: per token the likeliest ids and their log-probabilities, likeliest first; None if not asked for.
        entropies: in nats, of the distributions that the first tokens were drawn from, as many as were asked for.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    top: list[dict[int, float]] | None = None
    entropies: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """One new token for each row that is still being written; lists of equal length.

    Attributes:
        rows: which completions; row `i * samples_per_prompt + k` is sample `k` of prompt `i`.
        token_ids: the new tokens.
        logprobs: their natural-log probabilities, as in `Sampled`.
        top: the likeliest alternatives, as in `Sampled`.
    """

    rows: list[int]
    token_ids: list[int]
    logprobs: list[float]
    top: list[dict[int, float]] | None


class Guide(Protocol):
    """Changes what tokens are drawn from, e.g. `selfroute.backends.torch.critic.Guide`."""

    def steer(self, rows: Sequence[int], logprobs: Tensor, hidden: Tensor) -> Tensor:
        """Log-probabilities (rows, V) to draw from, given the model's and its last hidden states (rows, H)."""
        ...

    def read(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """Take the tokens that were drawn for the rows."""
        ...


def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    eos_token_ids: Collection[int],
    pad_token_id: int,
    samples_per_prompt: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | Sequence[int | None] | None = None,
    forbid: Tensor | None = None,
    top_logprobs: int | None = None,
    on_step: Callable[[Step], Collection[int]] | None = None,
    guide: Guide | None = None,
    entropies: int = 0,
) -> list[list[Sampled]]:
    """Write completions for a batch of prompts.

    Args:
        model: any causal language model with a plain key-value cache, on any device; put into eval mode meanwhile.
        prompts: token ids of each prompt, at least one token each.
        max_new_tokens: most tokens per completion, for all prompts or for each.
        eos_token_ids: tokens that end a completion.
        pad_token_id: any valid id; padded positions are masked.
        samples_per_prompt: completions per prompt (G of a rollout group).
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        seed: an int makes the whole call repeatable; one per prompt makes each prompt's randomness its own,
            whatever it is batched with; None draws from torch's default CPU generator.
        forbid: int table of shape (states, vocabulary): the state that a token leads to, negative where it
            must not be written. Rows begin in state 0. See `selfroute.backends.torch.tokens.forbid_table`.
        top_logprobs: how many alternatives per position to report; None reports none.
        on_step: called after each step with the new tokens; returns the rows that shall end with them.
        guide: changes what tokens are drawn from; log-probabilities stay those of the plain model.
        entropies: of how many first tokens of each completion to report the entropy, as in `Sampled`.

    Returns:
        For each prompt its completions.

    Raises:
        ConfigError: an argument is out of range, or the model's cache is not plain keys and values.
    """
    limits = _check(prompts, max_new_tokens, samples_per_prompt, temperature, top_p)
    if not prompts:
        return []
    rows = len(prompts) * samples_per_prompt
    device = model.device
    with torch.inference_mode(), evaluating(model):
        look = guide is not None
        batch, logits = _prefill(model, prompts, samples_per_prompt, pad_token_id, max(limits), look=look)
        limit = torch.tensor(limits, device=device).repeat_interleave(samples_per_prompt)
        uniforms = _uniforms(limits, samples_per_prompt, seed).to(device) if temperature > 0 else None
        eos = torch.tensor(sorted(eos_token_ids), dtype=torch.long, device=device)
        record = _Record(rows, max(limits), device, top_logprobs, entropies)
        table = None if forbid is None else forbid.to(device)
        states = torch.zeros(rows, dtype=torch.long, device=device)

        for step in range(max(limits)):
            scores = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
            moves = None if table is None else table[states]
            steered = scores if guide is None else guide.steer(batch.rows.tolist(), scores, batch.seen())
            allowed = steered if moves is None else steered.masked_fill(moves < 0, float("-inf"))
            luck = None if uniforms is None else uniforms[batch.rows, step]
            tokens = allowed.argmax(-1) if luck is None else draw(allowed.exp(), luck, top_p)
            new = record.write(step, batch.rows, tokens, scores, wanted=on_step is not None)
            if guide is not None:
                guide.read(batch.rows.tolist(), tokens.tolist())
            ended = torch.isin(tokens, eos)
            if on_step is not None and new is not None:
                ended |= _as_mask(new.rows, on_step(new), device)
            record.stopped[batch.rows] = ended
            leaving = ended | (limit[batch.rows] <= step + 1)
            record.lengths[batch.rows] = step + 1
            if moves is not None:
                states = moves.gather(1, tokens[:, None])[:, 0].long().clamp_(min=0)
            if bool(leaving.any()):
                tokens, states = batch.leave(leaving, tokens, states)
                if not len(batch.rows):
                    break
            logits = batch.forward(model, tokens)
    completions = record.completions()
    return [completions[i : i + samples_per_prompt] for i in range(0, rows, samples_per_prompt)]


def _check(
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    samples_per_prompt: int,
    temperature: float,
    top_p: float,
) -> list[int]:
    """Token limit of each prompt, after checking every argument's range."""
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(limits) != len(prompts):
        raise ConfigError(f"max_new_tokens has {len(limits)} values for {len(prompts)} prompts; give one for each")
    if any(limit < 1 for limit in limits):
        raise ConfigError(f"max_new_tokens is {min(limits)}; give at least 1")
    if samples_per_prompt < 1:
        raise ConfigError(f"samples_per_prompt is {samples_per_prompt}; give at least 1")
    check_heat(temperature, top_p)
    empty = next((i for i, prompt in enumerate(prompts) if not len(prompt)), None)
    if empty is not None:
        raise ConfigError(f"prompt {empty} has no tokens; give at least one, such as the beginning-of-sequence token")
    return limits


def check_heat(temperature: float, top_p: float) -> None:
    """See that a distribution can be drawn from.

    Raises:
        ConfigError: a number is out of range.
    """
    if temperature < 0:
        raise ConfigError(f"temperature is {temperature}; give 0 for greedy decoding or a positive number")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p is {top_p}; give a number above 0 and at most 1")


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode meanwhile; a model that is in it is not told, which costs as much as a small pass."""
    if not model.training:
        yield
        return
    model.train(False)
    try:
        yield
    finally:
        model.train(True)


# --- randomness and choice


def _uniforms(limits: Sequence[int], samples: int, seed: int | Sequence[int | None] | None) -> Tensor:
    """One uniform number in [0, 1) per row and step, drawn beforehand: a row's luck is then its own, whichever rows
    leave the batch around it, and the same on every device. Shape (rows, steps)."""
    steps = max(limits)
    if seed is None:
        return torch.rand(len(limits) * samples, steps)
    if isinstance(seed, int):
        return torch.rand(len(limits) * samples, steps, generator=torch.Generator().manual_seed(seed))
    if len(seed) != len(limits):
        raise ConfigError(f"seed has {len(seed)} values for {len(limits)} prompts; give one for each, or one for all")
    rows = torch.zeros(len(limits), samples, steps)
    for row, limit, own in zip(rows, limits, seed, strict=True):
        generator = None if own is None else torch.Generator().manual_seed(own)
        row[:, :limit] = torch.rand(samples, limit, generator=generator)
    return rows.flatten(0, 1)


def draw(probs: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """One token per row by inverting the cumulative distribution.

    Args:
        probs: shape (rows, vocabulary); rows need not sum to one.
        uniforms: in [0, 1), shape (rows,).
        top_p: only the smallest set of likeliest tokens whose mass reaches this share is drawn from.

    Returns:
        Token ids of shape (rows,), never one of zero probability.
    """
    order = None
    if top_p < 1:
        probs, order = probs.sort(dim=-1, descending=True)
        before = probs.cumsum(-1) - probs
        probs = probs.masked_fill(before >= top_p * probs.sum(-1, keepdim=True), 0.0)
    cumulative = probs.cumsum(-1)
    target = uniforms.to(probs.dtype)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True).clamp_(max=probs.shape[-1] - 1)
    # A parallel cumulative sum can wobble in its last bit and point at a token without probability.
    drawn = torch.where(probs.gather(1, drawn) > 0, drawn, probs.argmax(-1, keepdim=True))
    return (drawn if order is None else order.gather(1, drawn))[:, 0]


def _as_mask(rows: Sequence[int], chosen: Collection[int], device: torch.device) -> Tensor:
    wanted = set(chosen)
    return torch.tensor([row in wanted for row in rows], device=device)


# --- the cache


class _Block(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, written into a block with room to spare.

    `keys` and `values` are views of the filled part, shape (rows, heads, tokens, head size), so that everything
    `DynamicLayer` answers about sizes stays right.
    """

    def __init__(self, spare: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spare = spare
        self.blocks: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if self.blocks is None or end > self.blocks[0].shape[-2]:
            old = (key_states[:, :, :0], value_states[:, :, :0]) if self.blocks is None else self._filled()
            self.blocks = self._roomier(*old, capacity=max(end, begin + begin // 2) + self.spare)
        for block, states in zip(self.blocks, (key_states, value_states), strict=True):
            block[:, :, begin:end] = states
        self._show(end)
        return self._filled()

    def spread(self, owners: Tensor) -> None:
        """Give each new row a copy of the row that it comes from."""
        tokens = self.get_seq_length()
        keys, values = self._filled()
        self.blocks = self._roomier(keys[owners], values[owners], capacity=tokens + self.spare)
        self._show(tokens)

    def leave(self, holes: Tensor, movers: Tensor, count: int) -> None:
        """Move the rows `movers` into `holes` and keep the first `count` rows: copies only what must move."""
        if self.blocks is None:
            return
        for filled in self._filled():
            filled[holes] = filled[movers]
        self.blocks = (self.blocks[0][:count], self.blocks[1][:count])
        self._show(self.get_seq_length())

    def _filled(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def _show(self, tokens: int) -> None:
        assert self.blocks is not None
        self.keys, self.values = (block[:, :, :tokens] for block in self.blocks)
        self.is_initialized = True

    @staticmethod
    def _roomier(keys: Tensor, values: Tensor, *, capacity: int) -> tuple[Tensor, Tensor]:
        def grown(states: Tensor) -> Tensor:
            rows, heads, tokens, size = states.shape
            block = states.new_empty(rows, heads, capacity, size)
            block[:, :, :tokens] = states
            return block

        return grown(keys), grown(values)


def _block_cache(model: PreTrainedModel, spare: int) -> tuple[Cache, bool]:
    """A cache for the model, and whether all of its layers attend to everything before."""
    kinds = [type(layer) for layer in DynamicCache(config=model.config).layers]
    unfit = next((kind for kind in kinds if kind not in (DynamicLayer, DynamicSlidingWindowLayer)), None)
    if unfit is not None:
        raise ConfigError(
            f"a {model.config.model_type} model keeps a {unfit.__name__} between tokens, this sampler only keys and "
            "values; serve the model with llama.cpp or another server and use the openai_compatible backend"
        )
    # A sliding window is cut by the attention mask; the blocks keep every token.
    return Cache(layers=[_Block(spare) for _ in kinds]), all(kind is DynamicLayer for kind in kinds)


class _Batch:
    """The rows that are still being written: their ids, cache, attention mask and next position."""

    def __init__(
        self, cache: Cache, rows: Tensor, mask: Tensor | None, positions: Tensor, hidden: Tensor | None
    ) -> None:
        self.cache = cache
        self.rows = rows
        self.mask = mask
        self.positions = positions
        self.hidden = hidden

    def seen(self) -> Tensor:
        """Last hidden states before the next tokens, shape (rows, H)."""
        assert self.hidden is not None
        return self.hidden

    def forward(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        """Append one token to each row; logits of shape (rows, vocabulary)."""
        seen = self.cache.get_seq_length() + 1
        logits, self.hidden = _forward(
            model,
            tokens[:, None],
            self.positions[:, None],
            self.cache,
            None if self.mask is None else self.mask[:, :seen],
            look=self.hidden is not None,
        )
        self.positions = self.positions + 1
        return logits

    def leave(self, leaving: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Take rows out; `others` are per-row tensors to be rearranged alike. The order of rows changes."""
        count = len(leaving) - int(leaving.sum())
        holes = leaving[:count].nonzero()[:, 0]
        movers = (~leaving[count:]).nonzero()[:, 0] + count

        def rearranged(tensor: Tensor) -> Tensor:
            tensor[holes] = tensor[movers]
            return tensor[:count]

        for layer in self.cache.layers:
            cast(_Block, layer).leave(holes, movers, count)
        self.rows, self.positions = rearranged(self.rows), rearranged(self.positions)
        self.mask = None if self.mask is None else rearranged(self.mask)
        return tuple(rearranged(other) for other in others)


def _forward(
    model: PreTrainedModel,
    tokens: Tensor,
    positions: Tensor,
    cache: Cache,
    mask: Tensor | None,
    *,
    look: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Logits behind the last token of each row, and with `look` the hidden states that they come from."""
    width = tokens.shape[1]
    # An index makes a copy where a number makes a view. Of a view in bfloat16, the product on a CPU copies the weights
    # of the head for every row.
    keep = 1 if width == 1 else torch.tensor([width - 1], device=tokens.device)
    output = model(
        input_ids=tokens,
        position_ids=positions,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
        **({"output_hidden_states": True} if look else {}),
    )
    return cast(Tensor, output.logits)[:, -1], output.hidden_states[-1][:, -1] if look else None


def _prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int, pad: int, steps: int, *, look: bool
) -> tuple[_Batch, Tensor]:
    """Read every different prompt once and spread it over its rows; the logits of each row's first token."""
    device = model.device
    different = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    where = {prompt: index for index, prompt in enumerate(different)}
    owners = torch.tensor([where[tuple(prompt)] for prompt in prompts], device=device).repeat_interleave(samples)
    cache, shareable = _block_cache(model, min(steps, _SPARE_TOKENS))
    # With a sliding window the padding behind a shared beginning would count as tokens of the window.
    shared = _shared_tokens(different) if shareable and len(different) > 1 else 0
    if shared:
        beginning = torch.tensor([different[0][:shared]], device=device)
        _forward(model, beginning, torch.arange(shared, device=device)[None], cache, None)
        _spread(cache, torch.zeros(len(different), dtype=torch.long, device=device))

    lengths = torch.tensor([len(prompt) for prompt in different], device=device)
    width = int(lengths.max()) - shared
    rests = [[pad] * (width - len(rest)) + list(rest) for rest in (prompt[shared:] for prompt in different)]
    tokens = torch.tensor(rests, device=device)
    real = torch.arange(width, device=device) >= (width + shared - lengths)[:, None]
    positions = shared + (real.long().cumsum(-1) - 1).clamp_(min=0)
    mask = None
    if not bool(real.all()):
        ahead = torch.ones(len(different), shared, dtype=torch.bool, device=device)
        after = torch.ones(len(different), steps, dtype=torch.bool, device=device)
        mask = torch.cat([ahead, real, after], dim=1)
    seen = None if mask is None else mask[:, : shared + width]
    logits, hidden = _forward(model, tokens, positions, cache, seen, look=look)
    _spread(cache, owners)
    rows = torch.arange(len(owners), device=device)
    mask, hidden = (None if rest is None else rest[owners] for rest in (mask, hidden))
    batch = _Batch(cache, rows, mask, lengths[owners], hidden)
    return batch, logits[owners]


def _spread(cache: Cache, owners: Tensor) -> None:
    for layer in cache.layers:
        block = cast(_Block, layer)
        if block.is_initialized:
            block.spread(owners)


def _shared_tokens(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many first tokens all prompts have in common, leaving at least one of each; 0 if too few to matter."""
    first, last = min(prompts), max(prompts)
    most = min(len(prompt) for prompt in prompts) - 1
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), most)
    shared = min(shared, most)
    return shared if shared >= _MIN_SHARED_TOKENS else 0


# --- what is written


class _Record:
    """Everything written so far, as tensors on the model's device; lists are made once, at the end."""

    def __init__(self, rows: int, steps: int, device: torch.device, top: int | None, entropies: int) -> None:
        self.tokens = torch.zeros(rows, steps, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(rows, steps, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.stopped = torch.zeros(rows, dtype=torch.bool, device=device)
        self.count = top
        self.top_ids = torch.zeros(rows, steps, top or 0, dtype=torch.long, device=device)
        self.top_logprobs = torch.zeros(rows, steps, top or 0, device=device)
        self.entropies = torch.zeros(rows, min(steps, entropies), device=device)

    def write(self, step: int, rows: Tensor, tokens: Tensor, scores: Tensor, *, wanted: bool) -> Step | None:
        """Keep one token per row; a `Step` of it if wanted."""
        logprobs = scores.gather(1, tokens[:, None])[:, 0]
        self.tokens[rows, step] = tokens
        self.logprobs[rows, step] = logprobs
        if step < self.entropies.shape[1]:
            self.entropies[rows, step] = -(scores.exp() * scores).nan_to_num().sum(-1)
        top = None
        if self.count is not None:
            values, ids = scores.topk(min(self.count, scores.shape[-1]), dim=-1)
            self.top_ids[rows, step, : ids.shape[1]] = ids
            self.top_logprobs[rows, step, : ids.shape[1]] = values
            top = _pairs(ids, values) if wanted else None
        return Step(rows.tolist(), tokens.tolist(), logprobs.tolist(), top) if wanted else None

    def completions(self) -> list[Sampled]:
        lengths = self.lengths.tolist()
        tokens, logprobs = self.tokens.tolist(), self.logprobs.tolist()
        stopped, entropies = self.stopped.tolist(), self.entropies.tolist()
        return [
            Sampled(
                tokens[row][:length],
                logprobs[row][:length],
                "stop" if stopped[row] else "length",
                None if self.count is None else _pairs(self.top_ids[row, :length], self.top_logprobs[row, :length]),
                entropies[row][:length],
            )
            for row, length in enumerate(lengths)
        ]


def _pairs(ids: Tensor, values: Tensor) -> list[dict[int, float]]:
    return [dict(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
