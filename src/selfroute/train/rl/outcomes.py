"""From rollouts to outcomes: verify what the device wrote, ask the cloud where it asked for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from selfroute.backends.base import Backend, complete_all, run_sync
from selfroute.errors import SelfRouteError
from selfroute.grading import Outcome, is_formatted, judge
from selfroute.handoff import parse
from selfroute.prices import Price
from selfroute.privacy.values import Values, leakage
from selfroute.prompts import PromptTemplate
from selfroute.scores.oracles import Judged
from selfroute.tasks.base import Row, Task, digest_of
from selfroute.types import Message, Sampling

__all__ = ["AnswersOfAll", "CloudAnswers", "Counted", "OutcomeGrader", "Scores", "credited"]

# A learned reward of questions and answers, as `selfroute.scores.reward_model.RewardModel.scores`.
Scores = Callable[[Sequence[tuple[str, str]]], Sequence[float | None]]


@runtime_checkable
class Counted(Protocol):
    """What a cloud did for one process of a run, and how a resumed run counts on."""

    def metrics(self) -> dict[str, float]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, states: Iterable[Mapping[str, Any]], *, count: bool = True) -> None: ...


class CloudAnswers:
    """Whether the cloud solves a row; asked at most once per row and only where a rollout asks.

    The paper assumes a cloud that decodes deterministically, so one greedy answer stands for all rollouts. Verdicts are
    kept by what a row says and not by its id, which may be the number of a line: rows that moved keep their own. Where
    the device writes the question, each different message is asked once.

    Attributes:
        calls: rows the cloud was asked for, or messages.
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

    def correct(self, rows: Sequence[Row], messages: Sequence[str] | None = None) -> list[float | None]:
        """One quality per row, as in `Outcome`; None where the cloud or the verifier failed.

        Args:
            messages: what the device wrote for the cloud, in place of the rows' own questions; an empty one is not
                sent, and solves nothing.
        """
        asked = [self._asked(row, None if messages is None else messages[i]) for i, row in enumerate(rows)]
        keys = [key for key, _, _ in asked]
        self._known.update({key: 0.0 for key, _, prompt in asked if not prompt})
        missing = {key: (row, prompt) for key, row, prompt in asked if self._known.get(key) is None}
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

    def _asked(self, row: Row, message: str | None) -> tuple[str, Row, list[Message]]:
        """Under what an answer is kept, and the conversation that it is to."""
        if message is None:
            return digest_of(row), row, self.template.conversation(row.question)
        return f"{digest_of(row)}/{message}", row, [Message("user", message)] if message else []

    def _ask(self, missing: Mapping[str, tuple[Row, list[Message]]]) -> None:
        prompts = [prompt for _, prompt in missing.values()]
        answers = run_sync(complete_all(self.backend, prompts, self.sampling, concurrency=self.concurrency))
        self.calls += len(missing)
        for (key, (row, _)), answer in zip(missing.items(), answers, strict=True):
            if isinstance(answer, SelfRouteError):
                self.failures += 1
                self._known[key] = None
            else:
                self.usd += 0.0 if self.price is None else self.price.cost_usd(answer.usage)
                self._known[key] = judge(self.task, row, answer.text)[0]


class AnswersOfAll:
    """What every process has got of the cloud, as one part of a checkpoint.

    Args:
        gather: joins a list of every process.
        counts: whether this process takes over what was counted; one of them does.
    """

    def __init__(self, answers: Counted, gather: Callable[[list[Any]], list[Any]], *, counts: bool) -> None:
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
        writes_question: the cloud gets the message behind a hand-off, and not the row's question.
        attributes: what completions are judged by beside right and wrong, by name.
        scores: a learned reward, of local answers; one that it cannot judge counts as one that could not be graded.
    """

    def __init__(
        self,
        task: Task,
        rows: Mapping[str, Row],
        cloud: CloudAnswers | None,
        *,
        writes_question: bool = False,
        attributes: Mapping[str, Judged] | None = None,
        scores: Scores | None = None,
    ) -> None:
        self.task = task
        self.scores = scores
        self.rows = rows
        self.cloud = cloud
        self.writes_question = writes_question
        self.attributes = dict(attributes or {})

    def __call__(self, row_ids: Sequence[str], completions: Sequence[str]) -> list[Outcome]:
        """Outcomes in order."""
        outcomes = [self._local(self.rows[i], text) for i, text in zip(row_ids, completions, strict=True)]
        self._score(row_ids, completions, outcomes)
        asking = [index for index, outcome in enumerate(outcomes) if outcome.wants_cloud]
        if self.cloud is None:
            for index in asking:
                outcomes[index] = replace(outcomes[index], cloud_correct=False)
            return outcomes
        messages = [parse(completions[index]).message for index in asking] if self.writes_question else None
        verdicts = self.cloud.correct([self.rows[row_ids[index]] for index in asking], messages)
        for index, verdict in zip(asking, verdicts, strict=True):
            outcomes[index] = replace(outcomes[index], cloud_correct=verdict)
        return outcomes

    def _score(self, row_ids: Sequence[str], completions: Sequence[str], outcomes: list[Outcome]) -> None:
        """Give local answers their learned scores, all at once."""
        local = [index for index, outcome in enumerate(outcomes) if not outcome.wants_cloud]
        if self.scores is None or not local:
            return
        found = self.scores([(self.rows[row_ids[index]].question, completions[index]) for index in local])
        for index, score in zip(local, found, strict=True):
            right = None if score is None else outcomes[index].device_correct
            outcomes[index] = replace(outcomes[index], score=score, device_correct=right)

    def _local(self, row: Row, text: str) -> Outcome:
        said = parse(text)
        violations = {name: rate for name, judged in self.attributes.items() if (rate := judged(text, row)) is not None}
        if not said.wants_cloud:
            right = judge(self.task, row, text)[0]
            found = Outcome(wants_cloud=False, device_correct=right, formatted=is_formatted(text))
        else:
            values = Values.of(row.fields) if self.writes_question and said.message else None
            told = None if values is None else leakage(said.message, values)
            found = Outcome(wants_cloud=True, device_correct=False, formatted=False, leakage=told)
        return replace(found, violations=violations) if violations else found


def credited(outcomes: Sequence[Outcome], facts: Mapping[str, Sequence[float]]) -> list[Outcome]:
    """Outcomes of attempts that the cloud may have had a part in, put down to the device alone where it had none.

    Args:
        outcomes: of the texts, as though all of them were the device's.
        facts: as in `Attempts`; without `cloud_tokens` nothing changes. An attempt in which the cloud failed was not
            graded.
    """
    if "cloud_tokens" not in facts:
        return list(outcomes)
    parts = zip(outcomes, facts["cloud_tokens"], facts["cloud_share"], strict=True)
    return [_credited(outcome, tokens, share) for outcome, tokens, share in parts]


def _credited(outcome: Outcome, tokens: float, share: float) -> Outcome:
    if math.isnan(tokens):
        return replace(outcome, wants_cloud=True, device_correct=None, cloud_correct=None, correct=None)
    correct = outcome.device_correct
    if not tokens:
        return replace(outcome, wants_cloud=False, correct=correct)
    together = replace(outcome, wants_cloud=True, device_correct=None, cloud_correct=correct, correct=correct)
    return replace(together, cloud_tokens=int(tokens), cloud_share=share)
