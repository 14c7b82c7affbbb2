"""What a head of tokens learns from: places of answers that the device writes, with what the cloud makes of each.

The device answers training prompts itself. In a part of the answers the cloud writes a token here and there, as it will
when the head decides: on histories of the device alone a head never sees what comes after a token of the cloud. The
cloud reads each answer once, with every token in view (teacher forcing): no call per token, except where it writes one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfroute.backends.base import Backend, capability
from selfroute.backends.sessions import Look, Session, Sessions, View, Written
from selfroute.errors import BackendError
from selfroute.prompts import PromptTemplate
from selfroute.types import Sampling

__all__ = ["Mixing", "Place", "collect"]


@dataclass(frozen=True, slots=True)
class Place:
    """One place of an answer, before a token stands there.

    Attributes:
        written: the device's token y, with its view of the place.
        given: log p_c(y), natural, of the cloud.
        best: log max_v p_c(v).
        cloud_token: argmax p_c.
    """

    written: Written
    given: float
    best: float
    cloud_token: int

    @property
    def agrees(self) -> bool:
        """Whether y is the cloud's token."""
        return self.written.token_id == self.cloud_token


@dataclass(frozen=True, slots=True)
class Mixing:
    """How many answers hold tokens of the cloud, and how many each.

    Attributes:
        share: of the answers.
        least, most: part of such an answer's places at which the cloud writes, drawn between both.
    """

    share: float = 0.5
    least: float = 0.1
    most: float = 0.2

    def gaps(self, rng: random.Random) -> float:
        """The part of one answer's places at which the cloud writes."""
        return rng.uniform(self.least, self.most) if rng.random() < self.share else 0.0


async def collect(
    device: Backend,
    cloud: Backend,
    questions: Sequence[str],
    *,
    template: PromptTemplate,
    sampling: Sampling,
    look: Look,
    mixing: Mixing,
    seed: int,
    concurrency: int = 64,
    on_done: Callable[[], object] = lambda: None,
) -> list[list[Place]]:
    """The places of one answer to each question, in order; an answer that failed has none.

    Args:
        look: what the device's views show.
        seed: draws where the cloud writes.

    Raises:
        UnsupportedByBackend: the sessions of a side cannot do it.
    """
    gate = asyncio.Semaphore(concurrency)

    async def one(question: str) -> list[Place]:
        rng = random.Random(f"places/{seed}/{question}")
        asked = template.conversation(question)
        prompt = template.device_messages(asked, offer_handoff=False)
        async with gate:
            small = capability(device, Sessions).session(prompt, sampling, look=look)
            large = capability(cloud, Sessions).session(asked, sampling, look=Look(top=1))
            try:
                return await _answer(small, large, sampling.max_tokens, mixing.gaps(rng), rng)
            except BackendError:
                return []
            finally:
                await small.close()
                await large.close()
                on_done()

    return list(await asyncio.gather(*map(one, questions)))


async def _answer(small: Session, large: Session, most: int, part: float, rng: random.Random) -> list[Place]:
    places: list[Place] = []
    while len(small.ids) < most:
        written = await small.write(_gap(rng, part, most - len(small.ids)))
        views = await large.read([token.token_id for token in written], every=True)
        places += [_place(token, view) for token, view in zip(written, views, strict=False)]
        if written[-1].ends or len(small.ids) >= most:
            break
        # The last token has been judged as the rest; in its place the cloud writes its own.
        await small.drop(1)
        await large.drop(1)
        (own,) = await large.write(1)
        await small.read([own.token_id])
        if own.ends:
            break
    return places


def _gap(rng: random.Random, part: float, left: int) -> int:
    """Tokens until the next one that the cloud replaces, that one included; all that are left if there is none."""
    if part <= 0:
        return left
    gap = 1
    while rng.random() >= part and gap < left:
        gap += 1
    return gap


def _place(token: Written, view: View) -> Place:
    assert view.given is not None
    (cloud_token, best), *_ = view.top.items()
    return Place(token, given=view.given, best=best, cloud_token=cloud_token)
