"""Prompts outside the training data, on which a call share is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from selfroute.grading import Outcome
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.outcomes import credited
from selfroute.train.rl.rollouts.base import Prompt
from selfroute.train.rl.shares import ShareTargets

__all__ = ["HeldOut", "WritePrompt", "held_out_of"]

Grader = Callable[[Sequence[str], Sequence[str]], list[Outcome]]
Tried = tuple[Sequence[str], Mapping[str, Sequence[float]]]  # texts and facts of attempts


class WritePrompt(Protocol):
    """The messages of a row's prompt, as TRL wants them."""

    def __call__(self, row_id: str, *, offer_handoff: bool, share: float | None) -> Prompt: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """One attempt at each of a few other prompts per step.

    The policy asks less often for problems that it was trained on than for others, so a price that is moved by the
    rollouts meets the share on these alone. No gradient comes from here. A cloud is asked only where it writes within
    attempts.

    Attributes:
        rows: ids to draw from.
        count: prompts of a step, over all processes.
        tells: whether the prompts say the share.
        offers: whether they offer the hand-off.
        grader: of attempts for which there is no cloud.
    """

    rows: Sequence[str]
    count: int
    tells: bool
    offers: bool
    write_prompt: WritePrompt
    grader: Grader

    def draw(self, targets: ShareTargets, step: int) -> list[tuple[str, float]]:
        """Rows of a step, and the share that each is measured for; the same on every process."""
        ids = targets.draw(self.rows, self.count, step)
        return list(zip(ids, targets.deal(len(ids), step), strict=True))

    def measure(
        self, drawn: Sequence[tuple[str, float]], attempt: Callable[[Sequence[Prompt]], Tried]
    ) -> list[tuple[Outcome, float]]:
        """What happens in an attempt at each row, and the share that it is measured for."""
        prompts = [
            self.write_prompt(row_id, offer_handoff=self.offers, share=share if self.tells else None)
            for row_id, share in drawn
        ]
        texts, facts = attempt(prompts)
        outcomes = credited(self.grader([row_id for row_id, _ in drawn], texts), facts)
        return [(outcome, share) for outcome, (_, share) in zip(outcomes, drawn, strict=True)]


def held_out_of(
    options: GAPGOptions, rows: Sequence[str] | None, write_prompt: WritePrompt | None, grader: Grader | None
) -> HeldOut | None:
    """The held-out prompts of a run; None where no price is moved by any."""
    if not rows or not options.is_dual or write_prompt is None or grader is None:
        return None
    tells = bool(options.told_shares)
    return HeldOut(
        rows=rows,
        count=options.share_prompts,
        tells=tells,
        offers=options.method.offer_handoff,
        write_prompt=write_prompt,
        grader=grader,
    )
