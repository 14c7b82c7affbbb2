"""GEPA, which has a model rewrite the instruction from what went wrong (arXiv 2507.19457); needs the package gepa."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from selfroute.errors import BudgetExceeded
from selfroute.prompts import PromptTemplate
from selfroute.tasks.base import Row
from selfroute.tuning.objective import Attempt

__all__ = ["Texts"]

Grade = Callable[[Sequence[tuple[PromptTemplate, Row]]], Awaitable[Sequence[Attempt]]]
_PARTS = ("system", "help")


class Texts:
    """Standalone GEPA over the same rows, rewards and backends as the other methods; demonstrations stay out.

    Args:
        validation: rows that every candidate it keeps is judged on; the others are what it reflects on.
        minibatch: rows of one reflection.
        seed: of its draws.

    Raises:
        ModuleNotFoundError: gepa is not installed.
    """

    def __init__(self, *, seed: int = 0, validation: int = 20, minibatch: int = 3) -> None:
        self._gepa: Any = import_module("gepa")
        self.seed, self.validation, self.minibatch = seed, validation, minibatch

    async def evolve(
        self,
        base: PromptTemplate,
        rows: Sequence[Row],
        grade: Grade,
        worth: Callable[[Attempt], float | None],
        reflect: Callable[[str], Awaitable[str]],
        *,
        most: int,
    ) -> PromptTemplate:
        """The template with the words that GEPA ends with.

        Args:
            grade: attempts on rows; may end the run by its budget.
            worth: of an attempt.
            reflect: the model that rewrites, from a prompt to its answer.
            most: attempts that it may make, by its own count.
        """
        loop = asyncio.get_running_loop()

        def here(call: Awaitable[Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(_awaited(call), loop).result()

        adapter = _Adapter(base, lambda asked: here(grade(asked)), worth)

        def run() -> Any:
            return self._gepa.optimize(
                seed_candidate={part: getattr(base, part) for part in _PARTS},
                trainset=list(rows[self.validation :]) or list(rows),
                valset=list(rows[: self.validation]),
                adapter=adapter,
                reflection_lm=lambda prompt: here(reflect(_as_text(prompt))),
                reflection_minibatch_size=self.minibatch,
                max_metric_calls=most,
                seed=self.seed,
                logger=_Silent(),
                stop_callbacks=lambda state: adapter.is_spent,
            )

        found = await asyncio.to_thread(run)
        return adapter.template(found.best_candidate)


class _Adapter:
    """GEPA's view of a device; once the budget is spent every attempt is worth 0 and `is_spent` ends the run."""

    propose_new_texts = None

    def __init__(
        self,
        base: PromptTemplate,
        grade: Callable[[Sequence[tuple[PromptTemplate, Row]]], Sequence[Attempt]],
        worth: Callable[[Attempt], float | None],
    ) -> None:
        self.base, self.grade, self.worth, self.is_spent = base, grade, worth, False
        self._batch: Any = import_module("gepa.core.adapter").EvaluationBatch

    def template(self, candidate: Mapping[str, str]) -> PromptTemplate:
        return replace(self.base, system=candidate["system"], help=candidate["help"])

    def evaluate(self, batch: Sequence[Row], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """See gepa's `GEPAAdapter`."""
        template = self.template(candidate)
        try:
            attempts = list(self.grade([(template, row) for row in batch]))
        except BudgetExceeded:
            self.is_spent = True
            return self._batch([None] * len(batch), [0.0] * len(batch), [None] * len(batch))
        return self._batch(attempts, [self.worth(attempt) or 0.0 for attempt in attempts], attempts)

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], eval_batch: Any, components_to_update: Sequence[str]
    ) -> dict[str, list[dict[str, str]]]:
        """See gepa's `GEPAAdapter`."""
        shown = [_shown(attempt) for attempt in eval_batch.trajectories or [] if attempt is not None]
        return dict.fromkeys(components_to_update, shown)


def _shown(attempt: Attempt) -> dict[str, str]:
    outcome, row = attempt.outcome, attempt.row
    if outcome.wants_cloud:
        said = "It asked for help, which costs money" + ("." if outcome.cloud_correct else ", and did not solve it.")
    elif outcome.device_correct:
        said = "Right."
    else:
        said = f"Wrong: the answer is {row.gold}. It should have asked for help."
    return {"Inputs": row.question, "Generated Outputs": attempt.text or "", "Feedback": said}


class _Silent:
    def log(self, message: str) -> None:
        """GEPA logs every step; the run's own progress says enough."""


def _as_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(str(turn.get("content", "")) for turn in prompt)


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call
