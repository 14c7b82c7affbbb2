"""Strategies of an evaluation by name, fitted on train rows where they learn."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from selfroute.assemble.pieces import first_rows, quiet_libraries, template_of
from selfroute.backends.base import Backend, complete_all
from selfroute.config import LEARNED, SCORED, STRATEGIES, resolve
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.grading import judge
from selfroute.handoff import PromptTemplate
from selfroute.strategies.base import Strategy
from selfroute.tasks.base import Row, Task
from selfroute.types import Completion, Sampling

__all__ = [
    "check_baselines",
    "make_baselines",
    "make_policies",
]

_AT_ONCE = 64
_THRESHOLD_ROWS = 200


def make_policies(
    policies: Mapping[str, Backend],
    *,
    cloud: Backend,
    template: PromptTemplate,
    alone: bool = False,
    told_share: float | None = None,
    context: Literal["prompt", "attempt"] = "prompt",
) -> dict[str, Strategy]:
    """One self-routing strategy per device model, by its name in the report.

    Args:
        alone: add each model once more with the hand-off disabled.
        told_share, context: as in `SelfRoute`.
    """
    self_route = partial(
        resolve(STRATEGIES, "self_route", kind="strategy", where="policies"), told_share=told_share, context=context
    )
    always_device = resolve(STRATEGIES, "always_device", kind="strategy", where="policies")
    made: dict[str, Strategy] = {}
    for name, device in policies.items():
        made[name] = self_route(name=name, device=device, cloud=cloud, template=template)
    for name, device in policies.items() if alone else ():
        made[f"{name}, alone"] = always_device(name=f"{name}, alone", device=device, cloud=cloud, template=template)
    return made


def check_baselines(names: Iterable[str]) -> None:
    """Refuse an unknown strategy before any model is loaded.

    Raises:
        ConfigError: a name is not in `STRATEGIES`, or is self_route, which needs a policy.
    """
    for name in names:
        if name == "self_route":
            raise ConfigError("strategies: self_route needs a device model; write policies: {self_route: <model>}")
        resolve(STRATEGIES, name, kind="strategy", where="strategies")


async def make_baselines(
    names: Sequence[str],
    *,
    device: Backend,
    cloud: Backend,
    task: Task,
    share: float,
    seed: int,
    router_rows: int,
    sampling: Sampling,
    rows: Sequence[Row] = (),
    folds: int | None = None,
    encoder: str = "microsoft/deberta-v3-base",
    embedding: str = "minilm",
) -> dict[str, Strategy]:
    """The baselines by name; those that learn are fitted on the first `router_rows` rows of the train split.

    Args:
        rows: those that will be evaluated.
        folds: fit on `rows` themselves, each judged by a fit without its fold; None fits on the train split.
    """
    template = template_of(task)
    sides: dict[str, Any] = {"device": device, "cloud": cloud, "template": template}
    taught = LEARNED.keys() | SCORED
    train: list[Row] = []
    if taught & set(names):
        train = list(rows) if folds is not None else first_rows(task, "train", router_rows)
    examples = await _examples(task, train, device, cloud, sampling) if LEARNED.keys() & set(names) else None
    strategies: dict[str, Strategy] = {}
    for name in names:
        factory = resolve(STRATEGIES, name, kind="strategy", where="strategies")
        options: dict[str, Any] = {"share": share, "seed": seed} if name == "random_offload" else {}
        if name in LEARNED:
            fit = partial(_fit, name, seed=seed, encoder=encoder, embedding=embedding)
            options = await asyncio.to_thread(_learned, fit, examples, share=share, seed=seed, folds=folds)
        elif name in SCORED:
            probe = factory(**sides, threshold=math.inf)
            options = {"threshold": await _threshold(probe, train, template, share, sampling)}
        strategies[name] = factory(**sides, **options)
    return strategies


async def _examples(task: Task, rows: Sequence[Row], device: Backend, cloud: Backend, sampling: Sampling) -> Any:
    """What both sides answer to train rows, with the verdicts."""
    from selfroute.train.router import Examples

    template = template_of(task)
    conversations = [template.conversation(row.question) for row in rows]
    prompts = [template.device_messages(messages, offer_handoff=False) for messages in conversations]
    by_device = await complete_all(device, prompts, sampling)
    by_cloud = await complete_all(cloud, conversations, sampling)
    for side, backend, found in (("device", device, by_device), ("cloud", cloud, by_cloud)):
        failed = [answer for answer in found if isinstance(answer, SelfRouteError)]
        if len(failed) == len(found) > 0:
            raise ConfigError(f"{side} '{backend.name}' answered none of {len(found)} train rows: {failed[0]}")
    return Examples.of(
        [row.question for row in rows],
        await _correct(task, rows, by_device),
        await _correct(task, rows, by_cloud),
        [answer.text if isinstance(answer, Completion) else "" for answer in by_device],
    )


def _fit(name: str, examples: Any, *, seed: int, encoder: str, embedding: str) -> Any:
    """The fitted score of one strategy."""
    if name == "encoder_router":
        from selfroute.train.encoder import fit_encoder

        quiet_libraries()
        return fit_encoder(examples, encoder=encoder, seed=seed)
    from selfroute.train.router import fit_scorer

    return fit_scorer(name, examples, seed=seed, embedding=embedding)


def _learned(fit: Callable[[Any], Any], examples: Any, *, share: float, seed: int, folds: int | None) -> dict[str, Any]:
    """Score and threshold of a strategy that learns."""
    from selfroute.strategies.scorers import threshold_at

    if folds is not None:
        from selfroute.train.router import cross_fit

        score, scores = cross_fit(fit, examples, folds=folds, seed=seed)
        return {"score": score, "threshold": threshold_at(scores, share)}
    scorer = fit(examples)
    return {"score": scorer, "threshold": threshold_at(scorer.scores(examples.questions, examples.answers), share)}


async def _threshold(
    strategy: Strategy, rows: Sequence[Row], template: PromptTemplate, share: float, sampling: Sampling
) -> float:
    """The threshold of a score that is not learned: the device answers some train rows."""
    from selfroute.strategies.base import answer
    from selfroute.strategies.scorers import threshold_at

    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(row: Row) -> float | None:
        async with gate:
            return (await answer(strategy, template.conversation(row.question), sampling)).score

    scores = await asyncio.gather(*(one(row) for row in rows[:_THRESHOLD_ROWS]))
    return threshold_at([score for score in scores if score is not None], share)


async def _correct(task: Task, rows: Sequence[Row], answers: Sequence[object]) -> list[bool | None]:
    """One verdict per row; None where the side or the verifier failed."""

    def one(row: Row, answer: object) -> bool | None:
        return judge(task, row, answer.text)[0] if isinstance(answer, Completion) else None

    return await asyncio.to_thread(lambda: [one(row, answer) for row, answer in zip(rows, answers, strict=True)])
