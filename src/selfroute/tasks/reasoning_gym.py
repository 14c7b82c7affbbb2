"""Any of reasoning-gym's procedural tasks by name (arXiv 2505.24760): problems are drawn, and it judges them itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from selfroute.errors import ConfigError
from selfroute.tasks.base import Row
from selfroute.tasks.data import SPLITS
from selfroute.verify.base import Verdict
from selfroute.verify.bounded import bounded
from selfroute.verify.extract import after_reasoning, tagged_answer

__all__ = ["ReasoningGym"]

_SIZES = {"train": 2_000, "validation": 200, "test": 500}
_MOST_ROWS = 1_000_000
_LONGEST_ANSWER = 20_000
_IMPORT_TIMEOUT_S = 60.0
_NONSENSE = "qzx"


class ReasoningGym:
    """Problems drawn by one of the 100+ generators of reasoning-gym; needs `pip install 'selfroute[tasks]'`.

    The answer is the first `<answer>` element, else all text outside the reasoning. It is right if the generator's own
    score is 1. The scorers are other people's code, some of which parses or computes what the model wrote: they run in
    a process that is killed when it is late. Where a scorer is content with nonsense too (that of
    `game_of_life_halting` takes any text for a "False"), only the generator's own answer is right.

    Args:
        path: name of the generator, e.g. `leg_counting`, as in `reasoning_gym:leg_counting`.
        options: arguments of the generator, e.g. `{min_animals: 3}`.
        seed: draws other problems; the splits of one seed do not share any draw.
        limit: problems per split; None for 2,000 / 200 / 500.

    Raises:
        ConfigError: reasoning-gym is not installed, or an unknown generator or option.
    """

    name = "reasoning_gym"
    template = "think"

    def __init__(
        self, *, path: str, options: Mapping[str, Any] | None = None, seed: int = 0, limit: int | None = None
    ) -> None:
        self.generator = path
        self.options = dict(options or {})
        self.seed = seed
        if limit is not None and not 1 <= limit <= _MOST_ROWS:
            raise ConfigError(f"reasoning_gym: limit must be from 1 to {_MOST_ROWS}, not {limit}")
        self.limit = limit
        self._make(0, 1)

    def rows(self, split: str) -> list[Row]:
        """Drawn rows, the same for the same seed; see `Task.rows` for the errors."""
        if split not in SPLITS:
            raise ConfigError(f"unknown split '{split}' of task '{self.name}'; use one of {', '.join(SPLITS)}")
        size = self.limit or _SIZES[split]
        # The library draws problem i from seed + i, so that seeds next to each other would share problems.
        data = self._make((self.seed * len(SPLITS) + SPLITS.index(split)) * _MOST_ROWS, size)
        return [
            Row(f"{self.generator}-{split}-{number}", str(entry["question"]), str(entry["answer"]), {"entry": entry})
            for number, entry in enumerate(data[index] for index in range(size))
        ]

    def verify(self, row: Row, completion: str) -> Verdict:
        """Judge by the generator's own score, in bounded time."""
        answer = tagged_answer(completion)
        answer = (after_reasoning(completion).strip() if answer is None else answer)[:_LONGEST_ANSWER]
        if not answer:
            return Verdict(False, reason="no answer")
        if answer == row.gold:
            return Verdict(True, answer[:200])
        entry = dict(row.fields["entry"])
        bounded(_warm, self.generator, self.options, timeout_s=_IMPORT_TIMEOUT_S)
        done, score = bounded(_score, self.generator, self.options, answer, entry)
        if not done:
            return Verdict(False, answer[:200], "timeout")
        if not _is_right(score):
            return Verdict(False, answer[:200], f"{answer[:40]} is not {row.gold[:40]}")
        if _is_right(bounded(_score, self.generator, self.options, _NONSENSE, entry)[1]):
            return Verdict(False, answer[:200], "its score takes any text, so that only the reference answer counts")
        return Verdict(True, answer[:200])

    def gold_completion(self, row: Row) -> str:
        """The generator's answer in an answer tag."""
        return f"<answer>{row.gold}</answer>"

    def _make(self, seed: int, size: int) -> Any:
        return _dataset(self.generator, self.options, seed=seed, size=size)


def _dataset(generator: str, options: Mapping[str, Any], *, seed: int, size: int) -> Any:
    try:
        factory: Any = import_module("reasoning_gym.factory")
        import_module("reasoning_gym")
    except ImportError:
        raise ConfigError("reasoning_gym needs reasoning-gym: pip install 'selfroute[tasks]'") from None
    if generator not in factory.DATASETS:
        near = difflib.get_close_matches(generator, factory.DATASETS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {len(factory.DATASETS)}, e.g. leg_counting"
        raise ConfigError(f"reasoning_gym: unknown generator '{generator}'; {hint}")
    try:
        return factory.create_dataset(generator, seed=seed, size=size, **options)
    except (TypeError, ValueError, AssertionError) as error:
        cause = " ".join(str(error).split())[:160]
        raise ConfigError(f"reasoning_gym: '{generator}' refuses {dict(options)}: {cause}") from None


def _is_right(score: object) -> bool:
    return isinstance(score, int | float) and score >= 1.0


def _warm(generator: str, options: Mapping[str, Any]) -> None:
    """Imports and some generators' word lists take seconds; they are not part of the time of a call."""
    _scorer(generator, options)


def _score(generator: str, options: Mapping[str, Any], answer: str, entry: dict[str, Any]) -> float:
    return float(_scorer(generator, options).score_answer(answer, entry))


_scorers: dict[str, Any] = {}


def _scorer(generator: str, options: Mapping[str, Any]) -> Any:
    """The generator in the process that judges; the last one is kept."""
    key = repr((generator, options))
    if key not in _scorers:
        _scorers.clear()
        _scorers[key] = _dataset(generator, options, seed=0, size=1)
    return _scorers[key]
