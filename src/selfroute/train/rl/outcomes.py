"""From rollouts to outcomes: verify what the device wrote, ask the cloud where it asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfroute.backends.base import Backend, complete_all, run_sync
from selfroute.errors import SelfRouteError
from selfroute.grading import Outcome, is_formatted, judge
from selfroute.handoff import parse
from selfroute.prices import Price
from selfroute.prompts import PromptTemplate
from selfroute.tasks.base import Row, Task, digest_of
from selfroute.types import Sampling

__all__ = ["AnswersOfAll", "CloudAnswers", "OutcomeGrader"]


class CloudAnswers:
    """Whether the cloud solves a row; asked at most once per row and only where a rollout asks.

    The paper assumes a cloud that decodes deterministically, so one greedy answer stands for all rollouts. Verdicts are
    kept by what a row says and not by its id, which may be the number of a line: rows that moved keep their own.

    Attributes:
        calls: rows the cloud was asked for.
        failures: rows it did not answer; a failed row is asked again when it comes up again.
        usd: what its answers cost by `price`, those that a cache file held too; 0 without a price.
    """

    def __init__(
        self,
        task: Task,
        backend: Backend,
        template: PromptTemplate,
        *,
        max_tokens: int,
        concurrency: int = 32,
        price: Price | None = None,
    ) -> None:
        self.task = task
        self.backend = backend
        self.template = template
        self.sampling = Sampling(max_tokens=max_tokens)
        self.concurrency = concurrency
        self.price = price
        self.calls = 0
        self.failures = 0
        self.usd = 0.0
        self._known: dict[str, float | None] = {}

    def correct(self, rows: Sequence[Row]) -> list[float | None]:
        """One quality per row, as in `Outcome`; None where the cloud or the verifier failed."""
        keys = [digest_of(row) for row in rows]
        missing = {key: row for key, row in zip(keys, rows, strict=True) if self._known.get(key) is None}
        if missing:
            self._ask(missing)
        return [self._known[key] for key in keys]

    def metrics(self) -> dict[str, float]:
        """What was asked so far."""
        found = {"cloud/calls": float(self.calls), "cloud/failures": float(self.failures)}
        return found if self.price is None else {**found, "cloud/usd": self.usd}

    def state(self) -> dict[str, Any]:
        """What was learnt so far, ready for JSON."""
        return {"calls": self.calls, "failures": self.failures, "usd": self.usd, "known": self._known}

    def restore(self, states: Iterable[Mapping[str, Any]], *, count: bool = True) -> None:
        """Take over states, of one or several processes; with `count` also their calls, failures and costs."""
        for state in states:
            self._known.update({row: verdict for row, verdict in state["known"].items() if verdict is not None})
            if count:
                self.calls += state["calls"]
                self.failures += state["failures"]
                self.usd += state["usd"]

    def _ask(self, rows: Mapping[str, Row]) -> None:
        prompts = [self.template.conversation(row.question) for row in rows.values()]
        answers = run_sync(complete_all(self.backend, prompts, self.sampling, concurrency=self.concurrency))
        self.calls += len(rows)
        for (key, row), answer in zip(rows.items(), answers, strict=True):
            if isinstance(answer, SelfRouteError):
                self.failures += 1
                self._known[key] = None
            else:
                self.usd += 0.0 if self.price is None else self.price.cost_usd(answer.usage)
                self._known[key] = judge(self.task, row, answer.text)[0]


class AnswersOfAll:
    """The answers that every process has got, as one part of a checkpoint.

    Args:
        gather: joins a list of every process.
        counts: whether this process takes over what was counted; one of them does.
    """

    def __init__(self, answers: CloudAnswers, gather: Callable[[list[Any]], list[Any]], *, counts: bool) -> None:
        self.answers = answers
        self.gather = gather
        self.counts = counts

    def metrics(self) -> dict[str, float]:
        """Of all processes together."""
        found = self.gather([self.answers.metrics()])
        return {name: sum(one[name] for one in found) for name in found[0]}

    def state(self) -> list[dict[str, Any]]:
        """Of each process."""
        return self.gather([self.answers.state()])

    def restore(self, state: Sequence[Mapping[str, Any] | None]) -> None:
        """Every process learns all answers; what was counted is counted on, once."""
        self.answers.restore([one for one in state if one], count=self.counts)


class OutcomeGrader:
    """Turns completions of known rows into outcomes.

    Args:
        rows: every row that may come up, by id.
        cloud: None where no hand-off is offered; a completion that asks all the same has no correct answer.
    """

    def __init__(self, task: Task, rows: Mapping[str, Row], cloud: CloudAnswers | None) -> None:
        self.task = task
        self.rows = rows
        self.cloud = cloud

    def __call__(self, row_ids: Sequence[str], completions: Sequence[str]) -> list[Outcome]:
        """Outcomes in order."""
        outcomes = [self._local(self.rows[i], text) for i, text in zip(row_ids, completions, strict=True)]
        asking = [index for index, outcome in enumerate(outcomes) if outcome.wants_cloud]
        if self.cloud is None:
            for index in asking:
                outcomes[index] = replace(outcomes[index], cloud_correct=False)
            return outcomes
        verdicts = self.cloud.correct([self.rows[row_ids[index]] for index in asking])
        for index, verdict in zip(asking, verdicts, strict=True):
            outcomes[index] = replace(outcomes[index], cloud_correct=verdict)
        return outcomes

    def _local(self, row: Row, text: str) -> Outcome:
        if parse(text).wants_cloud:
            return Outcome(wants_cloud=True, device_correct=False, formatted=False)
        return Outcome(wants_cloud=False, device_correct=judge(self.task, row, text)[0], formatted=is_formatted(text))
