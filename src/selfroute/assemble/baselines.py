"""Strategies of an evaluation by name, fitted on train rows where they learn."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from selfroute.assemble.pieces import first_rows, quiet_libraries
from selfroute.backends.base import Backend, BatchBackend, complete_all, find_capability
from selfroute.config import STRATEGIES, Spec, StrategyEntry, asked_for, at, make_strategy, policy_entry
from selfroute.errors import ConfigError, RecordingMissing, SelfRouteError
from selfroute.grading import judge
from selfroute.handoff import HANDOFF_TEXT
from selfroute.strategies.always import AlwaysDevice
from selfroute.strategies.base import Sides, Strategy
from selfroute.strategies.self_route import Context
from selfroute.tasks.base import Row, Task
from selfroute.types import Completion, Message, Sampling
from selfroute.verify.base import right_or_wrong

if TYPE_CHECKING:
    from selfroute.evaluation.bench import Entrant
    from selfroute.train.fit.scorer import Fitted

__all__ = [
    "Baseline",
    "Measured",
    "check_baselines",
    "check_entrants",
    "make_baselines",
    "make_entrants",
    "make_policies",
]

_THRESHOLD_ROWS = 200


@dataclass(frozen=True, slots=True)
class Baseline:
    """A strategy of a recipe, made.

    Attributes:
        name: in `STRATEGIES`.
        scorer: a fitted one, of all train rows; None if nothing was fitted.
        threshold: least score that is sent; None for a strategy without a score.
        measured: what a fit has seen, for a look at how well it does; None without one.
    """

    name: str
    strategy: Strategy
    scorer: Fitted | None = None
    threshold: float | None = None
    measured: Measured | None = None

    @property
    def suffix(self) -> str:
        """Of the file or folder in which its scorer is kept."""
        return "" if STRATEGIES[self.name].stored_in_folder else ".npz"


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores of train rows and the verdicts behind them, arrays of shape (n,).

    Attributes:
        score: of a fit without the row where there are folds, else of the fit itself.
        device, cloud: whether each side is right.
    """

    score: Any
    device: Any
    cloud: Any


def make_policies(
    policies: Mapping[str, Sides],
    *,
    asks: Mapping[str, str | None] | None = None,
    alone: bool = False,
    told_shares: Mapping[str, float | None] | None = None,
    context: Context = "prompt",
) -> list[Entrant]:
    """The strategy that follows what a device model asks for, by the model's name in the report.

    Args:
        asks: what a policy writes to ask for the cloud; those of which nothing is known hand off.
        alone: add each model once more with the hand-off disabled.
        told_shares: share to name in the prompt of a policy; those that are left out are told none.
        context: as in `SelfRoute`.
    """
    from selfroute.evaluation.bench import Entrant

    told, said = told_shares or {}, asks or {}
    made = []
    for name, sides in policies.items():
        factory = at(policy_entry(said.get(name) or HANDOFF_TEXT).place)
        options = asked_for(factory, {"told_share": told.get(name), "context": context})
        made.append(Entrant(strategy=_named(factory(**options), name), sides=sides))
    if alone:
        made += [Entrant(strategy=AlwaysDevice(name=f"{name}, alone"), sides=sides) for name, sides in policies.items()]
    return made


def check_entrants(entrants: Mapping[str, Spec]) -> None:
    """Refuse an entrant before any model is loaded.

    Raises:
        ConfigError: an unknown strategy or option, or one with a name of its own.
    """
    for name, spec in entrants.items():
        if "name" in spec.options:
            raise ConfigError(f"entrants.{name}: name: {spec.options['name']} is one name too many; leave it out")
        STRATEGIES.resolve(spec.name, where=f"entrants.{name}")
        make_strategy(spec, where=f"entrants.{name}")


def make_entrants(entrants: Mapping[str, Spec], sides: Sides) -> list[Entrant]:
    """The strategies of a recipe that it names itself, with their options.

    Raises:
        ConfigError: as `check_entrants`.
    """
    from selfroute.evaluation.bench import Entrant

    check_entrants(entrants)
    made = {name: make_strategy(spec, where=f"entrants.{name}") for name, spec in entrants.items()}
    return [Entrant(strategy=_named(strategy, name), sides=sides) for name, strategy in made.items()]


def _named(strategy: Any, name: str) -> Strategy:
    renamed: Strategy = replace(strategy, name=name)  # every strategy is a dataclass
    return renamed


def check_baselines(names: Iterable[str]) -> None:
    """Refuse an unknown strategy before any model is loaded.

    Raises:
        ConfigError: a name is not in `STRATEGIES`, or is of a strategy that needs a policy or several clouds.
    """
    for name in names:
        STRATEGIES.resolve(name, where="strategies")
        if STRATEGIES[name].policy:
            raise ConfigError(f"strategies: {name} needs a device model; write policies: {{{name}: <model>}}")
        if STRATEGIES[name].several:
            raise ConfigError(f"strategies: {name} chooses among several clouds, which only selfroute serve has")


async def make_baselines(
    names: Sequence[str],
    sides: Sides,
    *,
    task: Task,
    share: float,
    seed: int,
    router_rows: int,
    sampling: Sampling,
    rows: Sequence[Row] = (),
    folds: int | None = None,
    encoder: str = "microsoft/deberta-v3-base",
    embedding: str = "minilm",
    concurrency: int = 64,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Baseline]:
    """The baselines that are named; those that learn are fitted on the first `router_rows` rows of the train split.

    Args:
        sides: what they are fitted over.
        rows: those that will be evaluated.
        folds: fit on `rows` themselves, each judged by a fit without its fold; None fits on the train split.
        concurrency: requests in flight.
        on_progress: called with steps done and in all: answers to train rows, and fits.
    """
    entries = {name: STRATEGIES.find(name, where="strategies") for name in names}
    learned = [entry for entry in entries.values() if entry.fitted]
    scored = [entry for entry in entries.values() if entry.reads is not None and not entry.fitted]
    train: list[Row] = []
    if learned or scored:
        train = list(rows) if folds is not None else first_rows(task, "train", router_rows)
    total = 2 * len(train) * bool(learned) + len(learned) + len(scored) * len(train[:_THRESHOLD_ROWS])
    work = _Preparation(task, train, sampling, concurrency, total, on_progress)
    examples = await work.examples(sides) if learned else None
    made: list[Baseline] = []
    for name in names:
        factory, entry = STRATEGIES.resolve(name, where="strategies"), entries[name]
        if entry.fitted:
            fit = partial(_fit, entry, seed=seed, encoder=encoder, embedding=embedding)
            fitted = await asyncio.to_thread(_learned, fit, examples, share=share, seed=seed, folds=folds)
            made.append(fitted.as_baseline(name, factory))
            work.advance()
        elif entry.reads is not None:
            threshold = await work.threshold(factory(threshold=math.inf), sides, share)
            made.append(Baseline(name, factory(threshold=threshold), threshold=threshold))
        else:
            made.append(Baseline(name, factory(**asked_for(factory, {"share": share, "seed": seed}))))
    return made


@dataclass(slots=True)
class _Preparation:
    """What is asked of the models before any row is judged."""

    task: Task
    rows: Sequence[Row]
    sampling: Sampling
    concurrency: int
    total: int
    on_progress: Callable[[int, int], object] | None
    done: int = 0

    def advance(self) -> None:
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)

    async def examples(self, sides: Sides) -> Any:
        """What both sides answer to train rows, with the verdicts."""
        from selfroute.train.fit.scorer import Examples

        assert sides.cloud is not None
        conversations = [sides.template.conversation(row.question) for row in self.rows]
        prompts = [sides.template.device_messages(messages, offer_handoff=False) for messages in conversations]
        # The device first: one that answers nothing must not cost a bill.
        by_device = await self._answers("device", sides.device, prompts)
        by_cloud = await self._answers("cloud", sides.cloud, conversations)
        return Examples.of(
            [row.question for row in self.rows],
            await _correct(self.task, self.rows, by_device),
            await _correct(self.task, self.rows, by_cloud),
            [answer.text if isinstance(answer, Completion) else "" for answer in by_device],
        )

    async def _answers(
        self, side: str, backend: Backend, prompts: Sequence[Sequence[Message]]
    ) -> list[Completion | SelfRouteError]:
        """Raises `ConfigError` if all prompts fail."""
        # A batch is kept when it is whole: in blocks, a run that is stopped loses one of them.
        batches = find_capability(backend, BatchBackend) is not None
        size = self.concurrency if batches else max(1, len(prompts))
        answers: list[Completion | SelfRouteError] = []
        for start in range(0, len(prompts), size):
            answers += await complete_all(
                backend,
                prompts[start : start + size],
                self.sampling,
                concurrency=self.concurrency,
                on_done=self.advance,
            )
        if missing := next((found for found in answers if isinstance(found, RecordingMissing)), None):
            raise missing
        failed = [answer for answer in answers if isinstance(answer, SelfRouteError)]
        if len(failed) == len(answers) > 0:
            raise ConfigError(f"{side} '{backend.name}' answered none of {len(answers)} train rows: {failed[0]}")
        return answers

    async def threshold(self, strategy: Strategy, sides: Sides, share: float) -> float:
        """The threshold of a score that is not learned: the device answers some train rows."""
        from selfroute.scores.scorers import threshold_at
        from selfroute.strategies.base import answer

        gate = asyncio.Semaphore(self.concurrency)

        async def one(row: Row) -> float | None:
            async with gate:
                conversation = sides.template.conversation(row.question)
                score = (await answer(strategy, sides, conversation, self.sampling)).score
            self.advance()
            return score

        scores = await asyncio.gather(*(one(row) for row in self.rows[:_THRESHOLD_ROWS]))
        return threshold_at([score for score in scores if score is not None], share)


def _fit(entry: StrategyEntry, examples: Any, **given: Any) -> Any:
    """The fitted score of one strategy; `fit` of its entry gets what it asks for."""
    if entry.pretrained:
        quiet_libraries()
    assert entry.fit is not None
    fit = at(entry.fit)
    return fit(**asked_for(fit, {"kind": entry.name, "examples": examples, **given}))


@dataclass(frozen=True, slots=True)
class _Learned:
    """A fit: the score to evaluate with, the scorer to keep, and its scores of the train rows."""

    score: Any
    scorer: Fitted
    threshold: float
    measured: Measured

    def as_baseline(self, name: str, factory: Callable[..., Strategy]) -> Baseline:
        strategy = factory(score=self.score, threshold=self.threshold)
        return Baseline(name, strategy, self.scorer, self.threshold, self.measured)


def _learned(fit: Callable[[Any], Any], examples: Any, *, share: float, seed: int, folds: int | None) -> _Learned:
    """Score and threshold of a strategy that learns; with folds, what is kept is a fit of all rows."""
    from selfroute.scores.scorers import threshold_at

    scorer = fit(examples)
    score, scores = scorer, None
    if folds is not None:
        from selfroute.train.fit.scorer import cross_fit

        score, scores = cross_fit(fit, examples, folds=folds, seed=seed)
    else:
        scores = scorer.scores(examples.questions, examples.answers)
    return _Learned(score, scorer, threshold_at(scores, share), Measured(scores, examples.device, examples.cloud))


async def _correct(task: Task, rows: Sequence[Row], answers: Sequence[object]) -> list[bool | None]:
    """One verdict per row; None where the side or the verifier failed."""

    def one(row: Row, answer: object) -> bool | None:
        return right_or_wrong(judge(task, row, answer.text)[0]) if isinstance(answer, Completion) else None

    return await asyncio.to_thread(lambda: [one(row, answer) for row, answer in zip(rows, answers, strict=True)])
