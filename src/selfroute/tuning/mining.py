"""Demonstrations from the device's own attempts on train rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.prompts import Demonstration
from selfroute.tuning.objective import Attempt
from selfroute.tuning.program import Outcome as Kind

__all__ = ["check_pools", "mined", "outcome_of"]


def outcome_of(outcome: Outcome) -> Kind | None:
    """What an attempt shows: solved, handed off in time, or wrongly kept; None for one that shows nothing.

    A hand-off that the cloud does not solve, and what could not be graded, show nothing.
    """
    if outcome.wants_cloud:
        return "handed_off" if _is_right(outcome.cloud_correct) else None
    if outcome.device_correct is None:
        return None
    return "solved" if _is_right(outcome.device_correct) else "wrongly_kept"


def mined(attempts: Sequence[Attempt], *, handoff: str, most: int) -> dict[Kind, list[Demonstration]]:
    """Demonstrations of each outcome, at most `most`, from attempts in their order.

    A solved row is shown with what the device wrote, a hand-off likewise, and a row that was wrongly kept with the
    hand-off that it should have been.

    Args:
        handoff: the text of that hand-off.
    """
    found: dict[Kind, list[Demonstration]] = {"solved": [], "handed_off": [], "wrongly_kept": []}
    for attempt in attempts:
        kind = outcome_of(attempt.outcome)
        if kind is not None and attempt.text is not None and len(found[kind]) < most:
            reply = handoff if kind == "wrongly_kept" else attempt.text.strip()
            found[kind].append(Demonstration(attempt.row.question, reply))
    return found


def check_pools(pools: Mapping[Kind, Sequence[Demonstration]], wanted: Sequence[Kind], *, where: str) -> None:
    """See that there is a demonstration of each outcome that is to be shown.

    Raises:
        ConfigError: there is none of one.
    """
    for kind in dict.fromkeys(wanted):
        if not pools.get(kind):
            raise ConfigError(
                f"{where}.{kind}: the pool is empty; give demonstrations, mine more rows, or leave it out of shots"
            )


def _is_right(quality: float | None) -> bool:
    return quality is not None and quality >= 1.0
