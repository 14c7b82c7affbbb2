"""Attribute-controlled training (arXiv 2410.05559): KL(q* ‖ p) beside the policy's loss.

q* is what the policy would be if it kept to an attribute; a critic that is fitted to the rollouts' own labels gives it
in closed form (`selfroute.backends.torch.critic`). The term pulls the policy towards it at every token of one channel,
with no policy gradient: q* is held fixed.

*Sequential*: the critic is fitted to a batch first, then the policy's loss is computed with it. *Parallel*: the loss
takes the critic as the batch before left it while a thread fits it to this one, so it is one batch old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfroute.backends.sessions import fingerprint
from selfroute.backends.torch.critic import Critic, expected, tilted
from selfroute.backends.torch.tokens import TokenTexts
from selfroute.handoff import Channel, ChannelReader
from selfroute.train.rl.constraints.critic import CriticFit, Places
from selfroute.train.rl.constraints.dual import Multiplier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from selfroute.grading import Outcome
    from selfroute.train.rl.view import Head, TokenView

__all__ = ["Regulariser", "pull"]

_AT_ONCE = 1 << 22  # numbers of places times vocabulary that are held together


def pull(logprobs: Tensor, odds: Tensor, *, allowed: float = 0.0, start: Tensor | None = None) -> Tensor:
    """KL(q* ‖ p) at each place, with a gradient through p alone; log p and log-odds (N, V) to (N,)."""
    with torch.no_grad():
        wanted = tilted(logprobs, odds, allowed=allowed, start=start)
    return (wanted.exp() * (wanted - logprobs)).sum(-1)


class Regulariser:
    """A constraint that pulls the policy towards what keeps to an attribute.

    Args:
        name: of the attribute, by which outcomes say how much they violate it.
        fit: the critic with its optimiser.
        tokenizer: of the policy.
        channel: where the text is pulled and judged.
        weight: λ.
        allowed: share of texts that may violate the attribute; 0 pulls towards none.
        adaptive: scale λ at each place by the risk there, 1 - R(y<i). The paper's own rule is not known.
        parallel: fit the critic in a thread and use it one batch later.
        dual: moves λ until the share of violations is met; None leaves it.
    """

    needs: ClassVar = frozenset({"hidden"})

    def __init__(
        self,
        name: str,
        fit: CriticFit,
        tokenizer: PreTrainedTokenizerBase,
        channel: Channel,
        *,
        weight: float,
        allowed: float = 0.0,
        adaptive: bool = False,
        parallel: bool = False,
        dual: Multiplier | None = None,
    ) -> None:
        self.name = name
        self.fit = fit
        self.channel = channel
        self.weight = weight
        self.allowed = allowed
        self.adaptive = adaptive
        self.dual = dual
        self._texts = TokenTexts(tokenizer)
        self._rates: list[float] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"critic-{name}") if parallel else None
        self._fitting: Future[float] | None = None
        self._stale: Critic | None = None

    @property
    def multiplier(self) -> float:
        return self.weight if self.dual is None else self.dual.price

    def watch(self, ids: Tensor, own: Tensor, outcomes: Sequence[Outcome]) -> Mapping[str, Tensor]:
        """What each rollout says on the channel: where it stands in the tokens (B, T), and its label (B,), NaN without.

        Args:
            ids, own: completion tokens, and whether the policy wrote them.
        """
        rates = [outcome.violations.get(self.name, float("nan")) for outcome in outcomes]
        self._rates += [rate for rate in rates if rate == rate]
        rows = zip(ids.tolist(), own.tolist(), strict=True)
        spans = torch.tensor([self._span(row, mask) for row, mask in rows], dtype=torch.bool, device=ids.device)
        return {"span": spans, "kept": 1.0 - torch.tensor(rates, device=ids.device)}

    def _span(self, ids: Sequence[int], own: Sequence[bool]) -> list[bool]:
        reader, found = ChannelReader(self.channel), []
        for token, is_own in zip(ids, own, strict=True):
            found.append(is_own and reader.is_open)
            reader.feed(self._texts[token] if is_own else "")
        return found

    def loss(self, view: TokenView) -> Tensor:
        """λ's factor: Σ KL(q* ‖ p) over the channel's tokens of each row, shape (B,)."""
        assert view.head is not None and view.hidden is not None
        span = view.facts["span"] & ~view.facts["kept"].isnan()[:, None]
        terms = view.logps.new_zeros(len(view.ids))
        if not bool(span.any()):
            return terms + 0.0 * view.logps.sum(1)
        rows, hidden = span.nonzero()[:, 0], view.hidden[span]
        critic = self._critic(view, span, rows, hidden) if torch.is_grad_enabled() else self.fit.critic
        starts = self._starts(view.head, critic, hidden, rows) if self.allowed else torch.zeros_like(rows)
        size = max(1, _AT_ONCE // critic.vocabulary)
        parts = list(zip(torch.split(hidden, size), torch.split(starts, size), strict=True))
        if len(parts) == 1:
            pulls = self._pulls(view.head, critic, hidden, starts)
        else:  # what a part holds of the vocabulary is made again going backward, by the critic as it is now
            fixed = deepcopy(critic)
            pulls = torch.cat([checkpoint(self._pulls, view.head, fixed, *part, use_reentrant=False) for part in parts])
        return terms.index_add(0, rows, pulls.to(terms.dtype))

    def _pulls(self, head: Head, critic: Critic, hidden: Tensor, starts: Tensor) -> Tensor:
        """KL(q* ‖ p) at places with these states (N, H), shape (N,)."""
        logprobs = head(hidden).log_softmax(-1)
        with torch.no_grad():
            odds = critic(hidden.detach())
            risk = 1.0 - expected(logprobs, odds) if self.adaptive else 1.0
        return pull(logprobs, odds, allowed=self.allowed, start=starts) * risk

    @torch.no_grad()
    def _starts(self, head: Head, critic: Critic, hidden: Tensor, rows: Tensor) -> Tensor:
        """R of each text before its channel, at all of its places: shape (N,)."""
        first = torch.ones_like(rows, dtype=torch.bool)
        first[1:] = rows[1:] != rows[:-1]
        return expected(head(hidden[first]).log_softmax(-1), critic(hidden[first]))[first.cumsum(0) - 1]

    def _critic(self, view: TokenView, span: Tensor, rows: Tensor, hidden: Tensor) -> Critic:
        """The critic that gives q* to this batch, which it is fitted to before or meanwhile."""
        places = self._places(view, span, rows, hidden.detach())
        if self._thread is None:
            self.fit.fit(places)
            return self.fit.critic
        self._join()
        self._stale = deepcopy(self.fit.critic)
        self._fitting = self._thread.submit(self.fit.fit, places)
        return self._stale

    def _places(self, view: TokenView, span: Tensor, rows: Tensor, hidden: Tensor) -> Places:
        kept = view.facts["kept"][rows].to(torch.float32)
        if not self.fit.consistency:
            return Places(hidden, view.ids[span], kept)
        before = torch.arange(len(rows), device=rows.device) - 1
        before[1:][rows[1:] != rows[:-1]] = -1
        assert view.head is not None
        with torch.no_grad():
            logprobs = view.head(hidden).log_softmax(-1)
        return Places(hidden, view.ids[span], kept, logprobs, before)

    def _join(self) -> None:
        if self._fitting is not None:
            self._fitting.result()
            self._fitting = None

    def update(self, measured: float) -> None:
        """Move λ by how many of the step's texts violate the attribute, where it is to meet a share."""
        if self.dual is not None and self._rates:
            self.dual.update(self._rates)
        self._rates = []

    def state(self) -> Any:
        """As in `selfroute.train.rl.checkpoint.Part`."""
        self._join()
        return {"fit": self.fit.state(), "dual": None if self.dual is None else self.dual.state()}

    def restore(self, state: Any) -> None:
        """As in `selfroute.train.rl.checkpoint.Part`."""
        self.fit.restore(state["fit"])
        if self.dual is not None:
            self.dual.restore(state["dual"])

    def save(self, file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the critic for decoding, with its channel and a fingerprint of the words that it knows."""
        self._join()
        words = fingerprint(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
        self.fit.critic.save(file, {"channel": self.channel, "words": words})
