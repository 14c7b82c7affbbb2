"""The device writes, a score judges each token before it stands, and the cloud writes those that do not.

After "Efficient Hybrid Inference for LLMs: Reward-Based Token Modelling with Selective Cloud Assistance" (arXiv
2409.13757), whose reward head is one of the scores; see docs/inside.md.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from selfroute.backends.sessions import NO_LOOK, Judge, Written
from selfroute.errors import ConfigError
from selfroute.scores.tokens import TokenHead, TokenScorer
from selfroute.strategies.base import Sides
from selfroute.strategies.inside.foresight import Foreseer
from selfroute.strategies.inside.joint import ExchangesIds, Joint, check_limit, check_pair, joint
from selfroute.types import Event, Finished, Message, Sampling, TextDelta

__all__ = ["Foresight", "TokenLevel"]

_CHUNK = 256  # most tokens that the device writes before they are shown


@dataclass(frozen=True, slots=True)
class Foresight:
    """p_c(y) / max p_c of the cloud itself at every place: what a head for "rel" learns to say. A bound, not a method:
    what it asks the cloud for its scores is not counted.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLevel(ExchangesIds):
    """The device's token stands if its score reaches a threshold; else the cloud writes in its place.

    At threshold 0 the answer is the device's, above 1 the cloud's, token for token. A cloud that refuses or fails, or
    has written its most, leaves the rest to the device.

    Args:
        scorer: of tokens, from 0 to 1.
        threshold: least score that stands.
        tokens: how many the cloud writes at a time; more save round trips.
        max_cloud_tokens: most that it writes of an answer; None for all.
        points: thresholds of an evaluation.

    Raises:
        ConfigError: a number is out of range.
    """

    scorer: TokenScorer | Foresight
    threshold: float
    tokens: int = 1
    max_cloud_tokens: int | None = None
    points: Sequence[float] = field(default=(0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 1.01))
    name: str = "token_level"

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise ConfigError(f"threshold: {self.threshold} is no threshold; give the least score that stands, 0 to 1")
        if self.tokens < 1:
            raise ConfigError(f"tokens: {self.tokens} is below 1; give how many the cloud writes at a time")
        check_limit(self.max_cloud_tokens)

    @property
    def knob(self) -> str:
        """See `selfroute.strategies.base.Knobbed`."""
        return "threshold"

    @property
    def oracle(self) -> bool:
        """See `selfroute.strategies.base.Oracle`."""
        return isinstance(self.scorer, Foresight)

    def at(self, point: float) -> TokenLevel:
        """See `selfroute.strategies.base.Knobbed`."""
        return replace(self, threshold=point)

    def check(self, sides: Sides) -> None:
        """See `selfroute.strategies.base.Checked`.

        Raises:
            ConfigError: the sides' sessions lack something, or the head was trained for another pair.
        """
        look = frozenset[str]() if isinstance(self.scorer, Foresight) else self.scorer.look.gives
        cloud = frozenset({"ids", "every", "top"} if isinstance(self.scorer, Foresight) else {"ids"})
        check_pair(self.name, sides, device=look | {"ids", "judge", "spell"}, cloud=cloud)
        if isinstance(self.scorer, TokenHead) and sides.cloud is not None:
            self.scorer.check(sides.device, sides.cloud)

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        judged = None if isinstance(self.scorer, Foresight) else self.scorer
        look = NO_LOOK if judged is None else judged.look
        async with joint(
            sides, messages, sampling, strategy=self.name, look=look, max_cloud_tokens=self.max_cloud_tokens
        ) as answer:
            foreseer = Foreseer(sides, messages, sampling)
            writer = _Judged(answer, Judge(judged, self.threshold)) if judged else _Foreseen(self, answer, foreseer)
            async with writer:
                while not answer.over:
                    for said in await self._turn(answer, writer):
                        yield said
            yield Finished(await answer.finish())

    async def _turn(self, answer: Joint, writer: _Judged | _Foreseen) -> list[TextDelta]:
        """The device writes until it is shown or turned down; then the cloud takes its turn."""
        if answer.failed or answer.cloud_left < 1:
            written = await answer.device_writes(min(_CHUNK, answer.left))
        else:
            written = await writer.write()
        standing = [token for token in written if token.kept]
        said = answer.settle("device", standing) if standing else []
        if len(standing) < len(written) and not answer.over:
            score = written[-1].score
            doubt = None if score is None else 1 - score
            replaced = await answer.cloud_writes(self.tokens, score=doubt)
            if replaced is not None:
                replaced[0] = replace(replaced[0], score=score)
                said += answer.settle("cloud", replaced)
        return said


class _Judged:
    """The device's tokens, judged where they are written."""

    def __init__(self, answer: Joint, judge: Judge) -> None:
        self._answer, self._judge = answer, judge

    async def __aenter__(self) -> _Judged:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def write(self) -> list[Written]:
        return await self._answer.device_writes(min(_CHUNK, self._answer.left), judge=self._judge)


class _Foreseen:
    """The device's tokens, judged one by one by the cloud itself."""

    def __init__(self, strategy: TokenLevel, answer: Joint, foreseer: Foreseer) -> None:
        self._answer, self._foreseer, self._least = answer, foreseer, strategy.threshold

    async def __aenter__(self) -> _Foreseen:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._foreseer.__aexit__(*exc_info)

    async def write(self) -> list[Written]:
        [token] = await self._answer.device_writes(1)
        [score] = await self._foreseer.scores(self._answer.ids, [token.token_id])
        if score < self._least:
            await self._answer.device.drop(1)
        return [replace(token, score=score, kept=score >= self._least)]
