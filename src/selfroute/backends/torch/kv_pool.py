"""Keys and values of many sequences of one model, each of a length of its own, read on together.

The sequences at work lie in one block per layer, shape (rows, heads, tokens, head size): each row begins at 0 and is
appended to where it ends, and an explicit mask hides what lies behind its end. Forgetting tokens is lowering a length.
Rows that rest are moved out of the block into tensors of exactly their size. A new row takes over a beginning that it
has in common with one that is held, as samples of one prompt and prompts below one system message have.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_utils import PreTrainedModel

from selfroute.errors import ConfigError

__all__ = ["KVPool", "Pass", "Row", "Seen"]

# An append of more tokens than this is not padded to by everyone at work, but done apart.
NARROW = 8
# A common beginning shorter than this is not worth a forward pass of its own.
_MIN_SHARED_TOKENS = 16
# Room for growth: this share of what is needed, but at least so many tokens.
_SPARE, _SPARE_TOKENS = 16, 4
# A block with this share of its rows empty is made smaller.
_EMPTY = 12
# Passes that a row without work may ride along in the block before it is moved out.
_PATIENCE = 4
# Most logits of one pass, in bytes.
_LOGIT_BYTES = 2**28

States = list[tuple[Tensor, Tensor]]  # keys and values of one row, by layer, each (heads, tokens, head size)


@dataclass(eq=False, slots=True)
class Row:
    """One sequence.

    Attributes:
        tokens: how many of its tokens the pool holds.
        ids: these tokens, and perhaps some behind them that were cut off.
        block, slot: the block that it is in, and its place there; None outside of all.
        states: its keys and values outside of a block.
        idle: passes since it last had work.
    """

    tokens: int = 0
    ids: list[int] = field(default_factory=list)
    block: _Block | None = None
    slot: int | None = None
    states: States | None = None
    idle: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass made of all its rows.

    Attributes:
        logits: float32, shape (rows, places, vocabulary).
        hidden: the states that they were made from, shape (rows, places, width).
    """

    logits: Tensor
    hidden: Tensor


@dataclass(slots=True)
class Seen:
    """What a pass made of one row's last places.

    Attributes:
        whole: the pass.
        row: in it.
        first, end: its places in it.
    """

    whole: Pass
    row: int
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def logits(self) -> Tensor:
        """float32, shape (places, vocabulary)."""
        return self.whole.logits[self.row, self.first : self.end]

    @property
    def hidden(self) -> Tensor:
        """The states that they were made from, shape (places, width)."""
        return self.whole.hidden[self.row, self.first : self.end]

    @classmethod
    def of(cls, logits: Tensor, hidden: Tensor) -> Seen:
        """Places of one row, shapes (places, vocabulary) and (places, width)."""
        return cls(Pass(logits[None], hidden[None]), 0, 0, len(logits))

    def last(self, count: int) -> Seen:
        """The last places alone."""
        return Seen(self.whole, self.row, self.end - count, self.end)

    def without_last(self, count: int) -> Seen | None:
        """What is left without the last places; None if nothing is."""
        return Seen(self.whole, self.row, self.first, self.end - count) if count < len(self) else None

    def kept(self) -> Seen:
        """The same, and not the whole pass that it is a part of."""
        return Seen.of(self.logits.clone(), self.hidden.clone())


class KVPool:
    """The sequences of one model. For one thread, in torch's inference mode.

    Args:
        model: a causal language model with a plain key-value cache.
        rows: most rows in the block at once.

    Raises:
        ConfigError: the model keeps something else between tokens, or attends in a way that takes no mask.
    """

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model = model
        self.rows = rows
        self._windows = _windows(model)
        self._layered = _wants_masks_by_kind(model)
        self._block = _Block(len(self._windows), model.device)
        self._outside: set[Row] = set()

    @property
    def bytes(self) -> int:
        """Of all keys and values, room for growth included."""
        return self._block.bytes + sum(k.nbytes + v.nbytes for row in self._outside for k, v in row.states or [])

    @property
    def held(self) -> int:
        """How many rows it holds tokens of."""
        return len(self._block.rows) + len(self._outside)

    def free(self, row: Row) -> None:
        """Forget a row; further times do nothing."""
        if row.block is not None:
            row.block.remove(row)
        self._outside.discard(row)
        row.states, row.tokens, row.ids = None, 0, []

    def rest(self) -> None:
        """Move all rows out of the block: there is no work for them."""
        for row in list(self._block.rows):
            row.states = self._block.take(row)
            self._outside.add(row)

    def clear(self) -> None:
        """Forget all rows."""
        for row in [*self._block.rows, *self._outside]:
            self.free(row)

    def append(self, rows: Sequence[Row], appends: Sequence[Sequence[int]], keeps: Sequence[int]) -> list[Seen]:
        """Read tokens on to the end of different rows.

        Args:
            appends: at least one token for each row.
            keeps: of how many of its last places each row's logits are wanted, at most as many as it appends.
        """
        firsts: dict[tuple[int, ...], int] = {}
        again = [i for i, row in enumerate(rows) if not row.tokens and firsts.setdefault(tuple(appends[i]), i) != i]
        for row, append in zip(rows, appends, strict=True):
            row.ids[row.tokens :] = append
        first = sorted(set(range(len(rows))) - set(again))
        seen = dict(zip(first, self._append(*_pick(first, rows, appends, keeps)), strict=True))
        if again:
            seen |= zip(again, self._append(*_pick(again, rows, appends, keeps)), strict=True)
        return [seen[i] for i in range(len(rows))]

    def _append(self, rows: Sequence[Row], appends: Sequence[Sequence[int]], keeps: Sequence[int]) -> list[Seen]:
        # What is left of a new row is padded to by nobody: it would be read apart anyway.
        narrow = [NARROW if row.tokens else 1 for row in rows]
        appends = [self._left(*each) for each in zip(rows, appends, keeps, strict=True)]
        near = [i for i, append in enumerate(appends) if len(append) <= narrow[i] and rows[i].tokens]
        if len(near) == len(rows):
            return self._together(rows, appends, keeps)
        far = sorted(set(range(len(rows))) - set(near), key=lambda i: len(appends[i]))
        seen: dict[int, Seen] = {}
        for part in self._parts(far, appends, keeps):
            seen |= zip(part, self._apart(*_pick(part, rows, appends, keeps)), strict=True)
        if near:
            seen |= zip(near, self._together(*_pick(near, rows, appends, keeps)), strict=True)
        return [seen[i] for i in range(len(rows))]

    def _left(self, row: Row, append: Sequence[int], keep: int) -> Sequence[int]:
        """What a row has to read, a new one after it took over what a row that is held begins with alike."""
        if row.tokens:
            return append
        held = [(other, other.tokens) for other in (*self._block.rows, *self._outside)]
        alike = [(_alike(other.ids, append, min(tokens, len(append) - keep)), other) for other, tokens in held]
        shared, other = max(alike, key=lambda pair: pair[0], default=(0, row))
        if shared < _MIN_SHARED_TOKENS:
            return append
        row.states, row.tokens = _copy(other, shared), shared
        self._outside.add(row)
        return append[shared:]

    def _parts(self, far: Sequence[int], appends: Sequence[Sequence[int]], keeps: Sequence[int]) -> list[list[int]]:
        """Rows to be read apart, in parts whose logits fit into memory."""
        vocabulary = int(self.model.config.get_text_config(decoder=True).vocab_size)
        parts: list[list[int]] = []
        for i in far:
            part = parts[-1] if parts else []
            places = max([keeps[i], *(keeps[j] for j in part)]) * (len(part) + 1)
            if not part or places * vocabulary * 4 > _LOGIT_BYTES:
                parts.append([i])
            else:
                part.append(i)
        return parts

    # --- in the block

    def _together(self, rows: Sequence[Row], appends: Sequence[Sequence[int]], keeps: Sequence[int]) -> list[Seen]:
        """One pass over the block; rows without work ride along."""
        self._rest(rows)
        for row in rows:
            if row.block is None:
                self._enter(row)
        width = max(len(append) for append in appends)
        tokens = torch.zeros(len(self._block.rows), width, dtype=torch.long)
        slots = [cast(int, row.slot) for row in rows]
        if width == 1:
            tokens[slots, 0] = torch.tensor([append[0] for append in appends])
        else:
            for slot, append in zip(slots, appends, strict=True):
                tokens[slot, : len(append)] = torch.tensor(append)
        whole, kept = self._pass(self._block, tokens, appends, keeps)
        for row, append in zip(rows, appends, strict=True):
            row.tokens += len(append)
        return [_last(whole, slot, kept, len(a), k) for slot, a, k in zip(slots, appends, keeps, strict=True)]

    def _rest(self, working: Sequence[Row]) -> None:
        """Move rows out that have had no work for long, or whose place is needed."""
        busy = set(working)
        entering = sum(row.block is None for row in working)
        for row in list(self._block.rows):
            row.idle = 0 if row in busy else row.idle + 1
        crowd = len(self._block.rows) + entering - self.rows
        for row in sorted((r for r in self._block.rows if r.idle), key=lambda r: -r.idle):
            if row.idle > _PATIENCE or crowd > 0:
                row.states = self._block.take(row)
                self._outside.add(row)
                crowd -= 1

    def _enter(self, row: Row) -> None:
        assert row.states is not None
        self._block.put(row, row.states)
        self._outside.discard(row)
        row.states, row.idle = None, 0

    # --- apart from it

    def _apart(self, rows: Sequence[Row], appends: Sequence[Sequence[int]], keeps: Sequence[int]) -> list[Seen]:
        """One pass over a block of its own, whose rows then enter the common one."""
        block = _Block(len(self._windows), self.model.device)
        fresh = not any(row.tokens for row in rows)
        # With a window the tokens of a shared beginning are masked by their distance, as all others.
        shared = _shared_tokens(appends, keeps) if fresh and len(rows) > 1 else 0
        if shared:
            self._read_shared(block, list(appends[0][:shared]), rows)
            appends = [append[shared:] for append in appends]
        else:
            for row in rows:
                block.put(row, self._leave(row), exact=True)
        width = max(len(append) for append in appends)
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        for line, append in zip(tokens, appends, strict=True):
            line[: len(append)] = torch.tensor(append)
        whole, kept = self._pass(block, tokens, appends, keeps)
        for row, append in zip(rows, appends, strict=True):
            row.tokens += len(append)
        self._join(block)
        return [_last(whole, i, kept, len(a), k) for i, (a, k) in enumerate(zip(appends, keeps, strict=True))]

    def _read_shared(self, block: _Block, beginning: list[int], rows: Sequence[Row]) -> None:
        first = Row()
        block.put(first, None)
        self._pass(block, torch.tensor([beginning]), [beginning], [1])
        first.tokens = len(beginning)
        states = block.take(first)
        for row in rows:
            row.tokens = len(beginning)
            block.put(row, states, exact=True, room=len(rows))

    def _leave(self, row: Row) -> States | None:
        """A row's states, taken from wherever they are."""
        states = row.states if row.block is None else row.block.take(row)
        self._outside.discard(row)
        row.states = None
        return states if row.tokens else None

    def _join(self, block: _Block) -> None:
        if not self._block.rows:
            self._block = block
            return
        rows = list(block.rows)
        self._block.reserve(min(len(self._block.rows) + len(rows), self.rows), max(row.tokens for row in rows))
        for row in rows:
            states = block.take(row)
            if len(self._block.rows) < self.rows:
                self._block.put(row, states)
                row.idle = 0
            else:
                row.states = states
                self._outside.add(row)

    # --- the model

    def _pass(
        self, block: _Block, tokens: Tensor, appends: Sequence[Sequence[int]], keeps: Sequence[int]
    ) -> tuple[Pass, dict[int, int]]:
        """What the model makes of the places that any row wants, and where in it each place is."""
        places = sorted({at for append, keep in zip(appends, keeps, strict=True) for at in _places(append, keep)})
        device = self.model.device
        width = tokens.shape[1]
        positions = torch.tensor([row.tokens for row in block.rows])[:, None] + torch.arange(width)
        block.begin(positions)
        everything = width == 1 and block.where is None
        mask = None if everything and not any(self._windows) else self._mask(positions.to(device), block.seen)
        inputs: list[Tensor] = []
        head = cast(torch.nn.Module, cast(Any, self.model).get_output_embeddings())
        own = threading.get_ident()  # the model may be at work elsewhere

        def note(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
            if threading.get_ident() == own:
                inputs.append(args[0])

        hook = head.register_forward_pre_hook(note)
        try:
            output = self.model(
                input_ids=tokens.to(device),
                position_ids=positions.to(device),
                attention_mask=mask,
                past_key_values=block.cache,
                use_cache=True,
                logits_to_keep=1 if width == 1 else torch.tensor(places, device=device),  # not a view; see sampler
            )
        finally:
            hook.remove()
        return Pass(output.logits.float(), inputs[-1]), {place: at for at, place in enumerate(places)}

    def _mask(self, positions: Tensor, seen: int) -> Any:
        keys = torch.arange(seen, device=positions.device)
        masks: dict[int | None, Tensor] = {}
        for window in set(self._windows):
            visible = keys <= positions[..., None]
            if window is not None:
                visible &= keys > positions[..., None] - window
            masks[window] = self._as_taken(visible[:, None])
        if not self._layered:
            return masks[self._windows[0]]
        kinds = self.model.config.get_text_config(decoder=True).layer_types
        return {kind: masks[window] for kind, window in zip(kinds, self._windows, strict=True)}

    def _as_taken(self, visible: Tensor) -> Tensor:
        """A mask to be added, which every kind of attention takes; of one to be looked up each layer makes its own."""
        least = torch.finfo(self.model.dtype).min
        return torch.zeros_like(visible, dtype=self.model.dtype).masked_fill(~visible, least)


class _Block:
    """Rows that are read on together, and the cache through which the model sees them."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self.rows: list[Row] = []
        self.device = device
        self.layers = [_Layer(self) for _ in range(layers)]
        self.cache = Cache(layers=[*self.layers])
        self.capacity = (0, 0)  # rows, tokens
        self.seen = self.begun = 0  # tokens of the longest row after and before the pass
        self.where: tuple[Tensor, Tensor] | None = None  # rows and positions of what a pass appends; None: at the end

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for layer in self.layers for tensor in layer.block or ())

    def begin(self, positions: Tensor) -> None:
        """A pass appends to every row at its positions, shape (rows, width).

        What rows hold is not asked again: one that only rides along may be cut by its reader meanwhile.
        """
        lengths = positions[:, 0].tolist()
        self.begun = max(lengths)
        self.seen = self.begun + positions.shape[1]
        self.where = None
        if min(lengths) < self.begun:
            self.where = torch.arange(len(lengths))[:, None].to(self.device), positions.to(self.device)
        self.reserve(len(self.rows), self.seen)

    def reserve(self, rows: int, tokens: int, *, exact: bool = False) -> None:
        """Make room; what is there stays."""
        have_rows, have_tokens = self.capacity
        if rows <= have_rows and tokens <= have_tokens:
            return
        roomy = tokens + (0 if exact else max(_SPARE_TOKENS, tokens // _SPARE))
        self.capacity = (
            have_rows if rows <= have_rows else rows if exact else max(rows, have_rows + have_rows // 16),
            have_tokens if tokens <= have_tokens else roomy,
        )
        for layer in self.layers:
            layer.resize(self.capacity, len(self.rows))

    def put(self, row: Row, states: States | None, *, exact: bool = False, room: int = 0) -> None:
        """Take a row in; `states` of more tokens than the row has are cut.

        Args:
            exact: make no room for growth.
            room: for how many rows there is to be room.
        """
        row.block, row.slot = self, len(self.rows)
        self.reserve(max(room, row.slot + 1), row.tokens, exact=exact)
        self.rows.append(row)
        if states is not None:
            for layer, (keys, values) in zip(self.layers, states, strict=True):
                layer.put(row.slot, keys[:, : row.tokens], values[:, : row.tokens], self.capacity)

    def take(self, row: Row) -> States:
        """Take a row out, and give a copy of its states."""
        states = _copy(row, row.tokens)  # asked once: its reader may cut it meanwhile
        self.remove(row)
        return states

    def remove(self, row: Row) -> None:
        """Take a row out; the last one moves into its place."""
        slot, last = cast(int, row.slot), self.rows[-1]
        if last is not row:
            for layer in self.layers:
                layer.move(cast(int, last.slot), slot, last.tokens)
            last.slot, self.rows[slot] = slot, last
        self.rows.pop()
        row.block = row.slot = None
        self._shrink()

    def _shrink(self) -> None:
        rows, tokens = self.capacity
        if not self.rows:
            self.capacity = (0, 0)
        elif rows - len(self.rows) > rows // _EMPTY:
            longest = max(row.tokens for row in self.rows)
            self.capacity = (len(self.rows), min(tokens, longest + max(_SPARE_TOKENS, longest // _SPARE)))
        if self.capacity[0] != rows:
            for layer in self.layers:
                layer.resize(self.capacity, len(self.rows))


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer of a block."""

    def __init__(self, owner: _Block) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner
        self.block: tuple[Tensor, Tensor] | None = None
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.owner.begun

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows, seen = key_states.shape[0], self.owner.seen
        if self.block is None:
            self.block = self._room(key_states), self._room(value_states)
        for block, states in zip(self.block, (key_states, value_states), strict=True):
            if self.owner.where is None:
                block[:rows, :, self.owner.begun : seen] = states
            else:
                at, positions = self.owner.where
                block[at, :, positions] = states.transpose(1, 2)
        keys, values = self.block
        return keys[:rows, :, :seen], values[:rows, :, :seen]

    def _room(self, like: Tensor) -> Tensor:
        # Zeros, as what a mask hides is still multiplied by nought.
        rows, tokens = self.owner.capacity
        return like.new_zeros(rows, like.shape[1], tokens, like.shape[3])

    def resize(self, capacity: tuple[int, int], rows: int) -> None:
        if self.block is None:
            return
        if not rows and not capacity[0]:
            self.block = None
            return
        keys, values = self.block
        tokens = min(keys.shape[2], capacity[1])

        def resized(old: Tensor) -> Tensor:
            new = old.new_zeros(capacity[0], old.shape[1], capacity[1], old.shape[3])
            new[:rows, :, :tokens] = old[:rows, :, :tokens]
            return new

        self.block = resized(keys), resized(values)

    def put(self, slot: int, keys: Tensor, values: Tensor, capacity: tuple[int, int]) -> None:
        if self.block is None:
            self.block = (
                keys.new_zeros(capacity[0], keys.shape[0], capacity[1], keys.shape[2]),
                values.new_zeros(capacity[0], values.shape[0], capacity[1], values.shape[2]),
            )
        for block, states in zip(self.block, (keys, values), strict=True):
            block[slot, :, : states.shape[1]] = states

    def get(self, slot: int, tokens: int) -> tuple[Tensor, Tensor]:
        assert self.block is not None
        keys, values = self.block
        return keys[slot, :, :tokens].clone(), values[slot, :, :tokens].clone()

    def move(self, source: int, target: int, tokens: int) -> None:
        for block in self.block or ():  # of a pass that broke there is none
            block[target, :, :tokens] = block[source, :, :tokens]


def _pick(at: Sequence[int], *lists: Sequence[Any]) -> tuple[list[Any], ...]:
    return tuple([each[i] for i in at] for each in lists)


def _places(append: Sequence[int], keep: int) -> range:
    return range(len(append) - keep, len(append))


def _last(whole: Pass, row: int, kept: dict[int, int], tokens: int, keep: int) -> Seen:
    return Seen(whole, row, kept[tokens - keep], kept[tokens - 1] + 1)


def _shared_tokens(appends: Sequence[Sequence[int]], keeps: Sequence[int]) -> int:
    """How many first tokens all rows have in common, before those whose logits are wanted; 0 if too few to matter."""
    first, last = min(map(list, appends)), max(map(list, appends))
    most = min(len(append) - keep for append, keep in zip(appends, keeps, strict=True))
    shared = _alike(first, last, most)
    return shared if shared >= _MIN_SHARED_TOKENS else 0


def _alike(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many first tokens two have in common, of the first `most`."""
    pairs = zip(islice(one, most), other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), most)


def _copy(row: Row, tokens: int) -> States:
    """A row's states of its first tokens, wherever they are."""
    if row.block is not None:
        return [layer.get(cast(int, row.slot), tokens) for layer in row.block.layers]
    assert row.states is not None
    return [(keys[:, :tokens].clone(), values[:, :tokens].clone()) for keys, values in row.states]


def _windows(model: PreTrainedModel) -> list[int | None]:
    """How far back each layer sees, None for everything.

    Raises:
        ConfigError: as `KVPool`.
    """
    config = model.config.get_text_config(decoder=True)
    if "flash" in (attention := model.config._attn_implementation):
        raise ConfigError(f"attention '{attention}' takes no mask of its own; load the model with sdpa or eager")
    windows: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ConfigError(
                f"a {config.model_type} model keeps a {type(layer).__name__} between tokens, a session only keys and "
                "values; serve the model with llama.cpp or another server and use the openai_compatible backend"
            )
        windows.append(layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None)
    return windows or [None] * config.num_hidden_layers


def _wants_masks_by_kind(model: PreTrainedModel) -> bool:
    """Whether the model has layers of several kinds, and so takes a mask for each."""
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None)
    return kinds is not None and len(set(kinds)) > 1
