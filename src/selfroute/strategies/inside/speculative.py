"""The device drafts, and the cloud checks a block in one pass: the cloud's own answer, with fewer of its turns.

The bound for quality and traffic. Where speculative decoding (arXiv 2211.17192) sends distributions and corrects the
draft's, here both sides draw with one luck: the cloud's view says which token it would write itself, and a draft token
stands if it is that one. What is written is then exactly what the cloud alone writes with that luck, greedy or sampled,
and only ids travel (after arXiv 2408.07978).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfroute.backends.sessions import Session, View, Written
from selfroute.errors import BackendError, ConfigError
from selfroute.strategies.base import Sides
from selfroute.strategies.inside.joint import ExchangesIds, Joint, check_limit, joint
from selfroute.types import Event, Finished, Message, Sampling, TextDelta

__all__ = ["Speculative"]

_LUCK_BITS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculative(ExchangesIds):
    """The cloud's answer, drafted by the device in blocks.

    A cloud that refuses or fails leaves the rest to the device.

    Args:
        block: tokens of a draft.
        max_cloud_tokens: most that the cloud writes of an answer; None for all.

    Raises:
        ConfigError: a number is out of range.
    """

    of_cloud: ClassVar[frozenset[str]] = frozenset({"ids", "every"})

    block: int = 4
    max_cloud_tokens: int | None = None
    name: str = "speculative"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ConfigError(f"block: {self.block} is below 1; give how many tokens the device drafts at a time")
        check_limit(self.max_cloud_tokens)

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        luck = secrets.randbits(_LUCK_BITS) if sampling.seed is None else sampling.seed
        async with joint(
            sides,
            messages,
            sampling,
            strategy=self.name,
            luck=luck,
            max_cloud_tokens=self.max_cloud_tokens,
            reads=lambda most: (self.block + 2) * most,
        ) as answer:
            unread: list[int] = []
            while not answer.over:
                for said in await self._turn(answer, unread):
                    yield said
            yield Finished(await answer.finish())

    async def _turn(self, answer: Joint, unread: list[int]) -> list[TextDelta]:
        """One draft and its check.

        Args:
            unread: the token that the cloud gave last and has not read yet; changed.
        """
        draft = await answer.device_writes(min(self.block, answer.left), shown=False)
        ids = [token.token_id for token in draft]

        async def check(cloud: Session) -> list[View]:
            views = (await cloud.read([*unread, *ids], every=True))[len(unread) :]
            kept = agreed(ids, views)
            await cloud.drop(len(ids) - kept)
            if kept < len(ids) or not draft[-1].ends:
                await _take_over(answer.device, ids[kept:], views[kept].drawn)
            return views

        views = await answer.asking(check) if answer.cloud_left > 0 else None
        if views is None:
            return answer.settle("device", draft)
        kept = agreed(ids, views)
        said = answer.settle("device", draft[:kept]) if kept else []
        answer.throw("device", draft[kept:])
        if not answer.over:
            view = views[kept]
            said += answer.settle("cloud", [Written(view.drawn, view.logprob, view.ends)], drawn=1)
            unread[:] = [view.drawn]
        return said


async def _take_over(device: Session, wrong: Sequence[int], right: int) -> None:
    """Put the cloud's token in the place of a draft's end; an id that the device does not have leaves the draft."""
    await device.drop(len(wrong))
    try:
        await device.read([right])
    except BackendError:
        await device.read(wrong)
        raise


def agreed(ids: Sequence[int], views: Sequence[View]) -> int:
    """How many tokens of a draft the cloud would have written itself, up to the first that it would not."""
    return next((i for i, (token, view) in enumerate(zip(ids, views, strict=False)) if token != view.drawn), len(ids))
