"""A model of transformers whose layers run apart: any stretch of them, on hidden states, with its own keys and values.

The model stays as it is, so that stretches with other borders, and whole answers, share it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from selfroute.backends.torch.sampler import draw
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Cut", "Part", "drawn", "weights_of"]

# How far the logits of a model in parts may be from its own, as a part of the largest one, by the type of its weights.
_EXACT = {torch.float32: 1e-4, torch.float64: 1e-8}
_ROUNDED = 0.05
_PROBE = 12  # tokens


class Cut:
    """A causal language model as an embedding, layers, and a head.

    Attributes:
        layers: how many.
        width: of its hidden states.
        vocabulary: how many tokens it knows.

    Args:
        name: for errors.
        model: in eval mode; its layers take a state and give the next one, as those of Llama and its kin do.

    Raises:
        ConfigError: it is built otherwise, does more between its layers, or attends to a part of the text alone.
    """

    def __init__(self, name: str, model: PreTrainedModel) -> None:
        self.model, self.config = model, model.config.get_text_config(decoder=True)
        whole: Any = model
        base, head = whole.base_model, whole.get_output_embeddings()
        missing = [part for part in ("embed_tokens", "layers", "norm", "rotary_emb") if not hasattr(base, part)]
        if missing or head is None:
            what = missing[0] if missing else "head"
            raise ConfigError(
                f"{name}: a {self.config.model_type} model has no {what} where a cut needs it; name another"
            )
        window = getattr(self.config, "sliding_window", None)
        kinds = set(getattr(self.config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
        if kinds != {"full_attention"}:
            kind = min(kinds - {"full_attention"})
            raise ConfigError(f"{name}: its layers have {kind}, and a cut needs full_attention; name another model")
        self.base, self.head = base, head
        self.layers, self.width = len(base.layers), int(self.config.hidden_size)
        self.vocabulary = int(self.config.vocab_size)
        self._check(name)

    def embed(self, ids: list[int]) -> Tensor:
        """States before the first layer, shape (ids, width)."""
        embedded: Tensor = self.base.embed_tokens(torch.tensor(ids, device=self.model.device))
        return embedded

    def logits(self, states: Tensor) -> Tensor:
        """Of states behind the last layer, shape (positions, vocabulary)."""
        logits: Tensor = self.head(self.base.norm(states))
        return logits

    def part(self, first: int, last: int) -> Part:
        """Layers `first` to `last`, from 0, the last one left out."""
        return Part(self, first, last)

    @torch.inference_mode()
    def _check(self, name: str) -> None:
        """See that the parts make up the model, on a few tokens."""
        ids = [(7 * i + 1) % int(self.config.vocab_size) for i in range(_PROBE)]
        whole = self.model(torch.tensor([ids], device=self.model.device), use_cache=False).logits[0].float()
        middle = self.layers // 2
        states = self.part(middle, self.layers).run(self.part(0, middle).run(self.embed(ids)))
        error = float((self.logits(states).float() - whole).abs().max() / whole.abs().max())
        if not error <= _EXACT.get(self.model.dtype, _ROUNDED):
            raise ConfigError(
                f"{name}: a {self.config.model_type} model is more than its layers: in parts its logits are wrong by "
                f"{error:.2g} of the largest; name another model"
            )


class Part:
    """Some layers of a model over the positions of one answer, which come block by block.

    Attributes:
        length: positions that went through.
        computed: layers times positions that were computed.
    """

    def __init__(self, cut: Cut, first: int, last: int) -> None:
        self.length = self.computed = 0
        self._cut, self._layers = cut, cut.base.layers[first:last]
        self._cache = _From(first)

    def run(self, states: Tensor) -> Tensor:
        """States of the next positions before these layers to those behind them, both of shape (positions, width)."""
        if not len(states):
            return states
        hidden, positions, rotary = self._placed(states)
        mask = None  # one position may look at all before it
        if len(states) > 1:
            mask = create_causal_mask(
                config=self._cut.config,
                inputs_embeds=hidden,
                attention_mask=None,
                past_key_values=self._cache,
                position_ids=positions,
            )
        for layer in self._layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                position_embeddings=rotary,
            )
        self.length += len(states)
        self.computed += len(states) * len(self._layers)
        return hidden[0]

    def copy(self, states: Tensor) -> None:
        """Take the next positions for read, with keys and values made from states before these layers.

        Two of a layer's seven matrices; what it would make of the states is not computed.
        """
        if not len(states):
            return
        hidden, _, rotary = self._placed(states)
        for layer in self._layers:
            key, value = _keys_and_values(layer, hidden, rotary)
            self._cache.update(key, value, layer.self_attn.layer_idx)
        self.length += len(states)

    def _placed(self, states: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        hidden = states.to(self._cut.model.dtype)[None]
        positions = torch.arange(self.length, self.length + len(states), device=hidden.device)[None]
        return hidden, positions, self._cut.base.rotary_emb(hidden, position_ids=positions)


class _From(DynamicCache):
    """Keys and values of a stretch of layers: masks and lengths are read from layer 0, which is its first one."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        return super().update(key_states, value_states, layer_idx - self._first, *args, **kwargs)


def copies(cut: Cut) -> bool:
    """Whether `Part.copy` knows how the layers of a model make keys and values."""
    layer = cut.base.layers[0]
    attention = getattr(layer, "self_attn", None)
    parts = hasattr(layer, "input_layernorm") and hasattr(attention, "k_proj") and hasattr(attention, "v_proj")
    return parts and _turn(attention) is not None


def _keys_and_values(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    key = attention.k_proj(normed).view(shape)
    if hasattr(attention, "k_norm"):
        key = attention.k_norm(key)
    key, value = key.transpose(1, 2), attention.v_proj(normed).view(shape).transpose(1, 2)
    turn = _turn(attention)
    assert turn is not None
    _, key = turn(key, key, *rotary)
    return key, value


def _turn(attention: Any) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """How a model turns keys by their position: a function of its own module."""
    return getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)


# --- tokens and fingerprints ---------------------------------------------------------------------------------------


def drawn(logits: Tensor, *, temperature: float, top_p: float, luck: float) -> tuple[int, float]:
    """A token and its log-probability at this temperature (the plain one for greedy decoding).

    Args:
        logits: shape (vocabulary,).
        luck: number in [0, 1) that draws it.
    """
    scores = torch.log_softmax(logits / temperature if temperature not in (0.0, 1.0) else logits, dim=-1)
    if temperature > 0:
        token = int(draw(scores.exp()[None], torch.tensor([luck], device=scores.device), top_p)[0])
    else:
        token = int(scores.argmax())
    return token, float(scores[token])


def weights_of(model: PreTrainedModel) -> str:
    """Fingerprint of all weights, byte for byte: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        data = weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(data)
    return digest.hexdigest()[:16]
