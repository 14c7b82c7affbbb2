"""Calls counted where they are made, between cache and model: device and cloud apart, in a file as they begin."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfroute.backends.base import Backend, Fold, as_backend, complete
from selfroute.backends.flight import closing
from selfroute.budget.estimate import most_used
from selfroute.errors import BudgetExceeded, ConfigError
from selfroute.prices import Price
from selfroute.types import Completion, Delta, Message, Sampling, Source

__all__ = ["Asking", "Counted", "Limits", "Meter", "Metered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Most calls to each side, and most USD on both; None sets no limit."""

    device: int | None = None
    cloud: int | None = None
    usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one side was asked, and used.

    Attributes:
        calls: that have begun; one that was cut off counts.
        usd: by the price, 0 without one.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0


class Meter:
    """Counts calls to both sides, and refuses those beyond the limits.

    Args:
        file: a line for each call as it begins, and one as it ends, so that a run that was killed counts on; None
            keeps them in memory alone.

    Raises:
        ConfigError: the file is damaged, or cannot be written to.
    """

    def __init__(self, limits: Limits, *, file: Path | None = None) -> None:
        self.limits = limits
        self.counted: dict[Source, Counted] = {"device": Counted(), "cloud": Counted()}
        self._held_usd = 0.0
        self._file = None
        if file is None:
            return
        try:
            for number, line in enumerate(_whole_lines(file), 1):
                self._count(json.loads(line), f"{file}:{number}")
            self._file = file.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise ConfigError(f"cannot write to '{file}': {error.strerror}; choose another folder") from None

    @property
    def usd(self) -> float:
        return sum(one.usd for one in self.counted.values())

    def begin(self, side: Source, most_usd: float) -> None:
        """Count a call that is about to leave.

        Args:
            most_usd: the most that it can cost.

        Raises:
            BudgetExceeded: it is one too many, or may cost too much.
        """
        cap, calls = getattr(self.limits, side), self.counted[side].calls
        if cap is not None and calls >= cap:
            raise BudgetExceeded(f"{side} calls of tuning", spent=calls, cap=cap)
        spent = self.usd + self._held_usd
        if self.limits.usd is not None and most_usd > 0 and spent + most_usd > self.limits.usd:
            raise BudgetExceeded("usd of tuning", spent=spent, cap=self.limits.usd, held=self._held_usd, call=most_usd)
        self._held_usd += most_usd
        self._write({"side": side, "calls": 1})

    def end(self, side: Source, most_usd: float, used: Mapping[str, float]) -> None:
        """Count what a call has used: tokens and USD, as `Counted` has them."""
        self._held_usd -= most_usd
        self._write({"side": side, **used})

    def facts(self) -> dict[str, dict[str, float]]:
        """What was counted, ready for JSON."""
        return {
            side: {name: getattr(one, name) for name in Counted.__dataclass_fields__}
            for side, one in self.counted.items()
        }

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._count(line, "")
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def _count(self, line: dict[str, Any], where: str) -> None:
        try:
            side: Source = line["side"]
            one = self.counted[side]
            added = {name: getattr(one, name) + line.get(name, 0) for name in Counted.__dataclass_fields__}
        except (KeyError, TypeError):
            raise ConfigError(
                f"{where}: no line of counted calls; restore the file, or tune in another folder"
            ) from None
        self.counted[side] = replace(one, **added)


def _whole_lines(file: Path) -> list[str]:
    """Lines of a file; the last one, which was being written when a run died, is cut off if it is not whole."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with file.open("r+b") as opened:
            opened.truncate(len(whole))
    return whole.decode("utf-8").splitlines()


class Metered(Backend):
    """A model whose calls are counted; put it behind the cache, so that known answers are none.

    Args:
        side: whose calls they are.
        price: of the model.
    """

    inner: Backend

    def __init__(self, backend: Backend, meter: Meter, side: Source, *, price: Price | None = None) -> None:
        self.inner = as_backend(backend)
        self.name = backend.name
        self.meter, self.side = meter, side
        self.price = price or Price()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """As the model's own.

        Raises:
            BudgetExceeded: the call is one too many.
        """
        most = most_used(messages, sampling, self.price).cost_usd
        self.meter.begin(self.side, most)
        fold = Fold()
        try:
            async with closing(self.inner.stream(messages, sampling)) as deltas:
                async for delta in deltas:
                    fold.add(delta)
                    yield delta
        finally:
            used = fold.used
            tokens = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
            usd = self.price.cost_usd(used) if fold.usd is None else fold.usd
            self.meter.end(self.side, most, {**tokens, "usd": usd})


@dataclass(slots=True)
class Asking:
    """A model as a tuner asks it; what it answers from the cache is counted apart.

    Attributes:
        asked: requests so far, those included that the cache answered.
        longest: tokens of the longest prompt so far, as the model counts them.
    """

    backend: Backend
    sampling: Sampling
    asked: int = 0
    longest: int = 0

    async def __call__(self, messages: Sequence[Message]) -> Completion:
        """One answer.

        Raises:
            SelfRouteError: there is none.
        """
        self.asked += 1
        answer = await complete(self.backend, messages, self.sampling)
        self.longest = max(self.longest, answer.usage.prompt_tokens)
        return answer

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"asked": self.asked, "longest": self.longest}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.asked, self.longest = int(state["asked"]), int(state["longest"])
