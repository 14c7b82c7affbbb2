"""One turn: the policy writes until it stops."""

from __future__ import annotations

from collections.abc import Sequence

from selfroute.train.rl.rollouts.base import Attempts, Prompt, Sampler

__all__ = ["Single"]


class Single:
    """The attempts of the paper, each in one go."""

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        ids = sampler.encode(prompts)
        written = sampler.write(ids, group=sampler.group)
        return Attempts(prompts=ids, completions=written.ids, logprobs=written.logprobs)
