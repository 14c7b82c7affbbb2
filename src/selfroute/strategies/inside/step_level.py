"""The device writes an answer step by step; a step that is doubted too much is written anew, by the cloud or by itself.

After "AdaSwitch: Adaptive Switching between Small and Large Agents" (arXiv 2410.13181), whose trained tag is one of the
checkers; see docs/step-level.md.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfroute.backends.base import Backend, capability, find_capability
from selfroute.backends.sessions import Encodes, Session, Sessions, Written
from selfroute.backends.translated import Translated, can_translate
from selfroute.errors import BackendError, ConfigError
from selfroute.scores.steps import Tags, tag_of
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.inside.checkers import Asked, Checker, Doubt
from selfroute.strategies.inside.joint import check_limit, check_pair, joint
from selfroute.types import Event, Finished, Message, Sampling, TextDelta

__all__ = ["Mode", "StepLevel"]

Mode = Literal["cloud", "reflection"]
_DEVICE = frozenset({"ids", "spell", "until"})
_CLOUD = frozenset({"ids", "until"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLevel:
    """A step of the device stands if its doubt is at most δ; else the cloud writes one in its place.

    The cloud reads the clean history: no step that was turned down, and no tag. A device that was trained to tag its
    steps keeps both in its own history, as in training. A cloud that refuses or fails leaves the step where it is, and
    the rest to the device.

    Args:
        checker: doubts steps.
        threshold: δ, the most doubt with which a step stands; below 0 the cloud writes every step.
        mode: who writes a step that is doubted: the cloud, or the device once more ("reflection", which needs `tags`).
        step_end: the text that ends a step.
        tags: of a trained device; None for one that writes none.
        max_step_tokens: most tokens of one step.
        max_cloud_tokens: most that the cloud writes of an answer; None for all.
        points: values of δ in an evaluation.

    Raises:
        ConfigError: a number is out of range, no mark, or a mode that cannot be.
    """

    checker: Checker
    threshold: float
    mode: Mode = "cloud"
    step_end: str = "\n"
    tags: Tags | None = None
    max_step_tokens: int = 128
    max_cloud_tokens: int | None = None
    points: Sequence[float] = field(default=(1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01, -1.0))
    name: str = "step_level"

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise ConfigError(f"threshold: {self.threshold} is no threshold; give the most doubt that stands, e.g. 0.5")
        if not self.step_end:
            raise ConfigError("step_end: it is empty; give the text that ends a step, e.g. a line break")
        if self.mode == "reflection" and self.tags is None:
            raise ConfigError("mode: reflection needs a device that tags its steps; name its folder in tags")
        if self.mode == "reflection" and self.checker.asks:
            raise ConfigError("mode: reflection asks no cloud, and this checker does; take checker: tag")
        if self.max_step_tokens < 1:
            raise ConfigError(f"max_step_tokens: {self.max_step_tokens} is below 1; give the longest step in tokens")
        check_limit(self.max_cloud_tokens)

    @property
    def knob(self) -> str:
        """See `selfroute.strategies.base.Knobbed`."""
        return "threshold"

    @property
    def needs(self) -> Needs:
        return Needs(device=(Sessions,), cloud=None if self.mode == "reflection" else ())

    @property
    def oracle(self) -> bool:
        """See `selfroute.strategies.base.Oracle`."""
        return self.checker.oracle

    def at(self, point: float) -> StepLevel:
        """See `selfroute.strategies.base.Knobbed`."""
        return replace(self, threshold=point)

    def check(self, sides: Sides) -> None:
        """See `selfroute.strategies.base.Checked`.

        Raises:
            ConfigError: the sides' sessions lack something, the device cannot write the mark, or the tags are another
                device's.
        """
        device = _DEVICE | self.checker.look.gives
        if sides.cloud is None:
            _check_device(self.name, sides, device)
        else:
            sides = translated(sides)
            check_sessions(self.name, sides.cloud)
            check_pair(self.name, sides, device=device, cloud=_CLOUD | self.checker.cloud)
        if find_capability(sides.device, Encodes) is not None:
            _check_mark(sides, self.step_end)
        if self.tags is not None:
            self.tags.check(sides.device)
            _tag_ids(self.tags, sides)

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        sides = translated(sides)
        async with joint(
            sides,
            messages,
            sampling,
            strategy=self.name,
            look=self.checker.look,
            max_cloud_tokens=self.max_cloud_tokens,
            beside=self.checker.most(messages, sampling),
        ) as answer:
            asked = Asked(answer, sides, messages, sampling)
            history = _History(answer.device, None if self.tags is None else _tag_ids(self.tags, sides))
            async with self.checker.exam(asked) as doubt:
                steps = _Steps(self, asked, history, doubt)
                while not answer.over:
                    for said in await steps.next():
                        yield said
            yield Finished(await answer.finish())


@dataclass(frozen=True, slots=True)
class _History:
    """What the device's session holds: the steps of the answer alone, or also tags and the steps they turned down.

    Args:
        tags: ids of RIGHT and WRONG; None for a device that writes none.
    """

    session: Session
    tags: tuple[int, int] | None

    async def stands(self) -> None:
        """The last step stands."""
        if self.tags is not None:
            await self.session.read(self.tags[:1])

    async def instead(self, step: Sequence[Written], ids: Sequence[int], *, rejected: bool, whole: bool) -> None:
        """Others' tokens in place of what the device wrote last; that stays where they cannot be read.

        Args:
            rejected: that was a whole step, which a device that writes tags keeps with the tag WRONG.
            whole: they are a whole step.
        """
        right = self.tags[:1] if self.tags is not None and whole else ()
        if self.tags is not None and rejected:
            await self.session.read([self.tags[1], *ids, *right])
            return
        await self.session.drop(len(step))
        try:
            await self.session.read([*ids, *right])
        except BackendError:
            await self.session.read([token.token_id for token in step])
            raise


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of one answer."""

    strategy: StepLevel
    asked: Asked
    history: _History
    doubt_of: Doubt

    async def next(self) -> list[TextDelta]:
        """Write and settle one step."""
        strategy = self.strategy
        if not self._may_ask():
            return await self._stands(await self._written(), None)
        step = await self._begun() if strategy.checker.before else await self._written()
        doubt = await self.doubt_of(step)
        if doubt is not None and doubt > strategy.threshold:
            if strategy.mode == "reflection":
                return await self._again(step, doubt)
            if (said := await self._replaced(step, doubt)) is not None:
                return said
        if strategy.checker.before and not self._is_whole(step):
            step += await self._written(len(step))
        return await self._stands(step, doubt)

    def _may_ask(self) -> bool:
        answer = self.asked.answer
        return self.strategy.mode == "reflection" or (not answer.failed and answer.cloud_left > 0)

    async def _written(self, already: int = 0) -> list[Written]:
        """The device's step, to its end.

        Args:
            already: how many tokens of it are there.
        """
        limit = min(self.strategy.max_step_tokens, self.asked.answer.left) - already
        until = (self.strategy.step_end,)
        return await self.asked.answer.device_writes(limit, until=until, shown=False) if limit > 0 else []

    async def _begun(self) -> list[Written]:
        return await self.asked.answer.device_writes(1, shown=False)

    async def _stands(self, step: list[Written], doubt: float | None) -> list[TextDelta]:
        if self._is_whole(step):
            await self.history.stands()
        return self.asked.answer.settle("device", _scored(step, doubt))

    async def _again(self, step: list[Written], doubt: float) -> list[TextDelta]:
        """The device writes the step anew, behind the one that it turned down."""
        await self.history.instead(step, (), rejected=self._is_whole(step), whole=False)
        second = await self._written()
        self.asked.answer.throw("device", step)
        return await self._stands(second, doubt)

    async def _replaced(self, step: list[Written], doubt: float) -> list[TextDelta] | None:
        """The cloud's step in place of the device's; None if it refuses or fails."""

        async def take(ids: Sequence[int]) -> None:
            await self.history.instead(step, ids, rejected=self._is_whole(step), whole=self._ends(ids))

        written = await self.asked.answer.cloud_writes(
            self.strategy.max_step_tokens, score=doubt, until=(self.strategy.step_end,), take=take
        )
        if written is None:
            return None
        self.asked.answer.throw("device", step)
        return self.asked.answer.settle("cloud", _scored(written, doubt))

    def _is_whole(self, step: Sequence[Written]) -> bool:
        return bool(step) and (step[-1].ends or self._ends([token.token_id for token in step]))

    def _ends(self, ids: Sequence[int]) -> bool:
        speller = capability(self.asked.sides.device, Sessions).speller()
        speller.extend(ids)
        speller.finish()
        return self.strategy.step_end in speller.take(last=True)[0]


def _scored(written: Sequence[Written], doubt: float | None) -> list[Written]:
    """The same, with the doubt as the score of the first token: 1 − doubt, as scores of tokens say what to keep."""
    if doubt is None or not written:
        return list(written)
    return [replace(written[0], score=1 - doubt), *written[1:]]


def translated(sides: Sides) -> Sides:
    """The sides, with texts going between where they have no vocabulary in common."""
    cloud = sides.cloud
    if cloud is None or not can_translate(cloud, sides.device):
        return sides
    sessions = find_capability(cloud, Sessions)
    ours = capability(sides.device, Sessions).vocabulary
    if sessions is not None and "ids" in sessions.gives and sessions.vocabulary in ("", ours):
        return sides  # one that cannot be reached yet is compared with its first answer
    return replace(sides, cloud=Translated(cloud, sides.device))


def check_sessions(strategy: str, cloud: Backend | None) -> None:
    """See that a cloud can go on with what others wrote.

    Raises:
        ConfigError: it cannot.
    """
    if cloud is not None and find_capability(cloud, Sessions) is None:
        raise ConfigError(
            f"strategy: '{strategy}' needs a cloud with Sessions, and {cloud.name} has none; name another model, or in "
            "continues the way in which the chat endpoint goes on with an assistant's turn"
        )


def _tag_ids(tags: Tags, sides: Sides) -> tuple[int, int]:
    encodes = capability(sides.device, Encodes)
    right, wrong = (tag_of(encodes.ids_of(tag), tag, "tags") for tag in (tags.right, tags.wrong))
    return right, wrong


def _check_device(strategy: str, sides: Sides, wanted: frozenset[str]) -> None:
    if missing := sorted(wanted - capability(sides.device, Sessions).gives):
        raise ConfigError(
            f"strategy: '{strategy}' needs a device whose sessions give {', '.join(missing)}, and those of "
            f"{sides.device.name} do not; name another device or checker"
        )


def _check_mark(sides: Sides, mark: str) -> None:
    """See that the device can write the mark at all."""
    ids = capability(sides.device, Encodes).ids_of(mark)
    speller = capability(sides.device, Sessions).speller()
    speller.extend(ids)
    speller.finish()
    if mark not in speller.take(last=True)[0]:
        raise ConfigError(
            f"step_end: {mark!r} never occurs, as {sides.device.name} has no tokens for it; give a mark that ends its "
            "steps, e.g. a line break"
        )
