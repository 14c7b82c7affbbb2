"""One policy decides both whether and which: the device is one more arm beside several clouds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from selfroute.backends.clouds import DEVICE, Clouds, Pick
from selfroute.backends.flight import closing
from selfroute.errors import BackendError
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.sides import Decision, ask_cloud, keep_on_device, pick_cloud
from selfroute.types import Event, Finished, Message, Sampling

__all__ = ["BanditRouter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditRouter:
    """A bandit chooses among the device and several clouds, by what each was worth so far.

    Its quality is learnt as that of a cloud is, from verifiers, users and failures.
    """

    name: str = "bandit_router"

    @property
    def needs(self) -> Needs:
        return Needs(cloud=(Clouds,))

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        pick = pick_cloud(sides, messages, sampling, None, device=True)
        decision = Decision(strategy=self.name, reason="routed")
        if pick.arm == DEVICE:
            events = _on_device(pick, sides, messages, sampling, decision)
        else:
            events = ask_cloud(sides, messages, sampling, decision, pick=pick)
        async with closing(events) as told:
            async for event in told:
                yield event


async def _on_device(
    pick: Pick, sides: Sides, messages: Sequence[Message], sampling: Sampling, decision: Decision
) -> AsyncIterator[Event]:
    """The device answers, and what came of it is learnt."""
    try:
        async with closing(keep_on_device(sides, messages, sampling, decision, propensity=pick.propensity)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    used = event.trace.usage("device")
                    pick.ended(
                        usd=event.trace.cost_usd,
                        seconds=event.trace.seconds,
                        written_tokens=used.completion_tokens,
                    )
                yield event
    except BackendError as failure:
        pick.failed(failure)
        raise
