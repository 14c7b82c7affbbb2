"""How attempts are made: the contract of a rollout, and the sampler that it is given."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from selfroute.backends.sessions import Speller

__all__ = ["Attempts", "Prompt", "Rollout", "Sampler", "Turns"]

Prompt = list[dict[str, Any]]  # messages, as TRL has them
Ids = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """One attempt for each prompt that was given, in their order.

    Attributes:
        prompts: token ids that the attempts go on from.
        completions: token ids behind them, at least one each.
        own: for each completion token 1 if the policy wrote it, 0 if it was read from elsewhere (a tool, a cloud) and
            carries no gradient; None if all are the policy's.
        logprobs: log-probability of each completion token under the policy that wrote it; None if not known.
        texts: what each attempt says, for its grader; None where that is its decoded completion.
        facts: numbers of each attempt for the objective, by name: a tree's leaf `weight`, its `parent` and `fork`, a
            `cost`. `cloud_tokens` and `cloud_share` say what the cloud wrote of it, see `Outcome`; NaN where it failed.
    """

    prompts: Ids
    completions: Ids
    own: Ids | None = None
    logprobs: Sequence[Sequence[float]] | None = None
    texts: Sequence[str] | None = None
    facts: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What the policy wrote behind some prompts.

    Attributes:
        ids: token ids, at least one each.
        logprobs: of each token; None if not known.
        entropies: mean entropy of the distributions that the first tokens of each were drawn from, as a part of log V;
            empty where nobody asked.
    """

    ids: list[list[int]]
    logprobs: list[list[float]] | None = None
    entropies: Sequence[float] = ()


class Sampler(Protocol):
    """The policy as it is now, in token ids.

    Attributes:
        group: G, how many neighbours in the prompts of a rollout ask for attempts at the same problem.
        limit: most tokens of an attempt.
        ends: tokens that end one.
    """

    group: int
    limit: int
    ends: frozenset[int]

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Conversations through the chat template, up to where the policy writes."""
        ...

    def decode(self, ids: Ids) -> list[str]:
        """Texts without special tokens."""
        ...

    def read(self, text: str) -> list[int]:
        """Token ids of a text that stands within an attempt, such as what a tool said."""
        ...

    def luck(self) -> random.Random:
        """Chance that a resumed run draws again; each call begins another row of it."""
        ...

    def speller(self) -> Speller:
        """Spells token ids; one for each text."""
        ...

    def write(
        self,
        prompts: Ids,
        *,
        group: int = 1,
        until: Sequence[str] = (),
        limits: Sequence[int] | None = None,
        entropies: int = 0,
    ) -> Turns:
        """One completion for each prompt, at the temperature of the run.

        Args:
            group: how many neighbours have the same prompt, which a server then reads once.
            until: a completion ends with the token that completes one of these marks.
            limits: most tokens of each completion; None allows those of a whole attempt.
            entropies: of how many first tokens of each completion the mean entropy is wanted.
        """
        ...


class Rollout(Protocol):
    """Makes a step's attempts.

    Attributes:
        gives: optional, and empty without it: names of the facts that objectives read of its attempts.
    """

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        """One attempt for each of this process's prompts, the G of a group being neighbours."""
        ...
