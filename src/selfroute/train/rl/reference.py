"""The model that an objective measures the policy by, and the step that makes it follow the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfroute.backends.torch.sampler import evaluating
from selfroute.errors import ConfigError
from selfroute.train.pretrained import load_network
from selfroute.train.rl.options import MStepOptions
from selfroute.train.rl.rows import Batch, own_tokens

__all__ = ["MStep", "Reference", "has_adapter", "read_tokens", "whole"]

FILE = "reference.pt"  # of a checkpoint whose reference moves


def has_adapter(model: Any) -> bool:
    """Whether a model has an adapter that can be switched off."""
    return hasattr(model, "disable_adapter")


class Reference:
    """The policy as it was before training: with its adapter switched off, or a frozen copy.

    Args:
        model: the policy before a trainer has changed anything about it, or its path.
        adapter: whether it has an adapter, or is to get one; then nothing is copied.

    Attributes:
        copy: None where the adapter is switched off instead.
    """

    def __init__(self, model: str | PreTrainedModel, *, adapter: bool) -> None:
        self.copy: PreTrainedModel | None = None
        if not adapter:
            self.copy = load_network(model) if isinstance(model, str) else deepcopy(model)
            self.copy.requires_grad_(False).train(False)

    def to(self, device: torch.device) -> None:
        """Move the copy beside the policy."""
        if self.copy is not None:
            cast(Any, self.copy).to(device)

    @contextmanager
    def opened(self, policy: Any) -> Iterator[Any]:
        """The reference, in eval mode and without gradients; meanwhile the policy is not itself."""
        if self.copy is not None:
            with torch.no_grad():
                yield self.copy
            return
        with torch.no_grad(), policy.disable_adapter(), evaluating(policy):
            yield policy


def read_tokens(model: Any, ids: Tensor, mask: Tensor, tokens: int, ends: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Log-probability of each of the last `tokens` tokens, and of ending in its place, shape (B, tokens) each.

    Args:
        ids, mask: prompt and completion, shape (B, P + T).
        ends: tokens that end an attempt.
    """
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -tokens - 1 : -1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    every = logits.logsumexp(-1)
    said = logits.gather(-1, ids[:, -tokens:, None])[..., 0] - every
    return said, logits[..., list(ends)].logsumexp(-1) - every


def whole(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of prompts with their completions, shape (B, P + T)."""
    ids, mask = ([batch[f"{part}_{kind}"] for part in ("prompt", "completion")] for kind in ("ids", "mask"))
    return torch.cat(ids, dim=1), torch.cat(mask, dim=1)


class MStep:
    """Fine-tunes a reference on sampled attempts.

    Args:
        network: the frozen copy; its weights move.
    """

    def __init__(self, network: PreTrainedModel, options: MStepOptions) -> None:
        self.network = network
        self.options = options
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=0.0)

    def is_due(self, step: int) -> bool:
        """Whether the step after so many is followed by one of the reference."""
        return (step + 1) % self.options.every == 0

    def fit(self, batch: Batch, *, rows: int) -> float:
        """One step up the mean log-probability of the own tokens of a batch; their mean loss before, in nats.

        Args:
            rows: of one forward and backward pass.
        """
        ids, mask = whole(batch)
        own, tokens = own_tokens(batch), batch["completion_ids"].shape[1]
        total, found = int(own.sum()), 0.0
        self.network.requires_grad_(True)
        with torch.enable_grad():
            for start in range(0, len(ids), rows):
                part = slice(start, start + rows)
                said, _ = read_tokens(self.network, ids[part], mask[part], tokens, [0])
                loss = -torch.where(own[part], said, 0.0).sum() / max(1, total)
                loss.backward()  # type: ignore[no-untyped-call]
                found += float(loss.detach())
        self._share_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.network.requires_grad_(False)
        return found

    def _share_gradients(self) -> None:
        """The mean over processes, so that all keep the same reference."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return
        for weight in self.network.parameters():
            if weight.grad is not None:
                torch.distributed.all_reduce(weight.grad)
                weight.grad /= torch.distributed.get_world_size()

    def save(self, folder: Path) -> None:
        """Keep weights and optimiser in a checkpoint."""
        torch.save({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on where a checkpoint was written.

        Raises:
            ConfigError: by a run whose reference did not move.
        """
        if not (folder / FILE).exists():
            raise ConfigError(f"'{folder}' holds no {FILE}: it was written by a run without m_step; start anew")
        state: dict[str, Any] = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
