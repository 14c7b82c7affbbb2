"""Run every strategy over every row, keep the facts as they come, and write the results."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from selfroute import environment
from selfroute.backends.base import Backend, complete_all
from selfroute.budget.base import Budget, NoCloud
from selfroute.errors import ConfigError, SelfRouteError, UnsupportedByBackend
from selfroute.evaluation import provenance
from selfroute.evaluation.metrics import calls_at
from selfroute.evaluation.records import Record, Sample, append, read_records, read_samples, repair
from selfroute.evaluation.summary import curves, summarise
from selfroute.grading import grade, judge
from selfroute.handoff import PromptTemplate
from selfroute.strategies.base import Strategy, answer
from selfroute.tasks.base import Row, Task
from selfroute.types import Completion, Sampling, Trace

__all__ = ["Budgeted", "evaluate", "write_results"]

Progress = Callable[[int, int], None]


@runtime_checkable
class Budgeted(Protocol):
    """A strategy that can be run under another budget; without any cloud it shows what the device does alone."""

    def with_budget(self, budget: Budget) -> Strategy: ...


async def evaluate(
    strategies: Sequence[Strategy],
    task: Task,
    rows: Sequence[Row],
    sampling: Sampling,
    *,
    template: PromptTemplate,
    cloud: Backend,
    share: float,
    seed: int,
    out: Path,
    concurrency: int = 256,
    on_progress: Progress | None = None,
    command: str = "",
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Answer every row with every strategy and grade both sides.

    Writes `records.jsonl` and `samples.jsonl` row by row, then `summary.json`, `curve.png` and `report.html`, and
    `run.json` with what they depend on. Called again with the same arguments it goes on where it was: finished rows
    are kept, failed ones are tried once more.

    Every row is put to the cloud as well, whether or not it is sent, so wrap `cloud` in a cache: the strategies then
    find its answers there. A row that a strategy sends is answered a second time under a budget that allows no
    cloud, which gives the forced local attempt.

    Args:
        strategies: with `with_budget`, and names that differ.
        sampling: for both sides; greedy unless you mean otherwise.
        share: call share at which the strategies are compared, in [0, 1].
        seed: breaks ties of scores and draws the bootstrap samples.
        out: folder of the results; made if missing.
        concurrency: rows in flight; a backend that batches wants at least 256.
        on_progress: called with answers done and answers in all.
        command: how the run was started, for the report.
        config: the resolved recipe, for `run.json` and the check that a folder is not mixed.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        ConfigError: bad arguments, a folder of another evaluation, a cloud that answers nothing, or no graded row.
    """
    _check(strategies, rows, share)
    identity = _identity(strategies, task, rows, sampling, template, cloud, share=share, seed=seed)
    about = {"command": command, "commit": environment.commit(), "versions": environment.versions()}
    _open(out, identity | {f"config.{key}": value for key, value in (config or {}).items()}, about)
    kept = _finished(out)
    run = _Run(task, sampling, template, concurrency, on_progress, total=len(rows) * (len(strategies) + 1))
    missing = [row for row in rows if any((strategy.name, row.id) not in kept for strategy in strategies)]
    run.advance(len(rows) - len(missing))
    by_cloud = await run.ask_cloud(cloud, missing)
    with _appending(out) as files:
        for strategy in strategies:
            todo = [row for row in missing if (strategy.name, row.id) not in kept]
            run.advance(len(rows) - len(todo))
            await run.ask_strategy(strategy, todo, by_cloud, *files)
    return await asyncio.to_thread(write_results, out, share=share, seed=seed, task=task.name)


def write_results(out: Path, *, share: float, seed: int, task: str) -> dict[str, Any]:
    """Make `summary.json`, `curve.png` and `report.html` from the records in `out`; returns the summary.

    Raises:
        ConfigError: the records are missing or broken, or matplotlib is not installed.
    """
    from selfroute.evaluation.plots import curve_png
    from selfroute.evaluation.report import report_html

    records, samples = read_records(out / "records.jsonl"), read_samples(out / "samples.jsonl")
    about = json.loads((out / "run.json").read_text(encoding="utf-8"))
    summary = summarise(records, share=share, seed=seed, task=task)
    drawn = curves(records, seed=seed)
    (out / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    curve_png(drawn, out / "curve.png", share=share, title=f"{task}, n = {summary['n']}")
    report = report_html(summary, drawn, records, samples, about=about)
    (out / "report.html").write_text(report, encoding="utf-8")
    return summary


# --- the work --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    task: Task
    sampling: Sampling
    template: PromptTemplate
    concurrency: int
    on_progress: Progress | None
    total: int
    done: int = field(default=0)

    def advance(self, count: int) -> None:
        self.done += count
        if self.on_progress is not None and count:
            self.on_progress(self.done, self.total)

    async def ask_cloud(self, cloud: Backend, rows: Sequence[Row]) -> dict[str, bool | None]:
        """Whether the cloud solves each row, by row id; None where it or the verifier failed."""
        verdicts: dict[str, bool | None] = {}
        for start in range(0, len(rows), self.concurrency):
            block = rows[start : start + self.concurrency]
            prompts = [self.template.conversation(row.question) for row in block]
            answers = await complete_all(cloud, prompts, self.sampling, concurrency=self.concurrency)
            if not start:
                _refuse_dead_cloud(cloud, answers)
            verdicts |= await asyncio.to_thread(self._judge_all, block, answers)
            self.advance(len(block))
        return verdicts

    def _judge_all(self, rows: Sequence[Row], answers: Sequence[object]) -> dict[str, bool | None]:
        return {
            row.id: judge(self.task, row, found.text)[0] if isinstance(found, Completion) else None
            for row, found in zip(rows, answers, strict=True)
        }

    async def ask_strategy(
        self,
        strategy: Strategy,
        rows: Sequence[Row],
        by_cloud: Mapping[str, bool | None],
        records: TextIO,
        samples: TextIO,
    ) -> None:
        """Answer rows and append what happened to the files, in the order in which rows finish."""
        gate = asyncio.Semaphore(self.concurrency)

        async def one(row: Row) -> None:
            async with gate:
                record, sample = await self._record(strategy, row, by_cloud[row.id])
            append(samples, sample)  # first the text: a record promises that its sample is there
            append(records, record)
            self.advance(1)

        try:
            async with asyncio.TaskGroup() as group:
                for row in rows:
                    group.create_task(one(row))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _record(self, strategy: Strategy, row: Row, by_cloud: bool | None) -> tuple[Record, Sample]:
        try:
            trace = await answer(strategy, self.template.conversation(row.question), self.sampling)
            forced = await self._forced(strategy, row, trace)
        except (ConfigError, UnsupportedByBackend):
            raise  # every row would fail alike
        except SelfRouteError as error:
            failed = Record(
                strategy=strategy.name, id=row.id, source="device", wants_cloud=False, cloud_correct=by_cloud,
                error=f"{type(error).__name__}: {error}",
            )  # fmt: skip
            return failed, Sample(strategy=strategy.name, id=row.id, question=row.question, gold=row.gold)
        return await asyncio.to_thread(self._graded, strategy.name, row, trace, forced, by_cloud)

    async def _forced(self, strategy: Strategy, row: Row, trace: Trace) -> Trace | None:
        """What the device answers without a cloud, where the trace does not already say so."""
        if trace.source == "device":
            return trace if trace.wants_cloud else None  # asked and was refused: the trace is the forced attempt
        assert isinstance(strategy, Budgeted)
        return await answer(strategy.with_budget(NoCloud()), self.template.conversation(row.question), self.sampling)

    def _graded(
        self, name: str, row: Row, trace: Trace, forced: Trace | None, by_cloud: bool | None
    ) -> tuple[Record, Sample]:
        outcome = grade(self.task, row, trace)
        local, failure = (None, None) if forced is None else judge(self.task, row, forced.text)
        record = Record(
            strategy=name,
            id=row.id,
            source=trace.source,
            wants_cloud=trace.wants_cloud,
            score=trace.score,
            correct=outcome.correct,
            device_correct=outcome.device_correct if forced is None else local,
            cloud_correct=outcome.cloud_correct if by_cloud is None else by_cloud,
            local_correct=local,
            device_tokens=outcome.device_tokens,
            cloud_tokens=outcome.cloud_tokens,
            usd=trace.cost_usd,
            seconds=trace.seconds,
            error=outcome.error or failure,
        )
        return record, Sample(
            strategy=name,
            id=row.id,
            question=row.question,
            gold=row.gold,
            device_text=_text(trace, "device"),
            cloud_text=_text(trace, "cloud"),
            local_text="" if forced is None else forced.text,
        )


def _text(trace: Trace, source: str) -> str:
    return "\n".join(segment.text for segment in trace.segments if segment.source == source)


# --- before any work -------------------------------------------------------------------------------------------


def _check(strategies: Sequence[Strategy], rows: Sequence[Row], share: float) -> None:
    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib is not installed; run: pip install 'selfroute[eval]'")
    if not strategies:
        raise ConfigError("no strategy to evaluate; name at least one, e.g. strategies=[always_device]")
    if not rows:
        raise ConfigError("no row to evaluate; choose another split or a limit above 0")
    calls_at(share, len(rows))
    for kind, names in (("strategy", [s.name for s in strategies]), ("row id", [row.id for row in rows])):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(f"{kind} '{twice[0]}' occurs more than once; names must differ")
    for strategy in strategies:
        if not isinstance(strategy, Budgeted):
            raise ConfigError(
                f"strategy '{strategy.name}' has no with_budget(); it is needed for forced local attempts"
            )


def _refuse_dead_cloud(cloud: Backend, answers: Sequence[Completion | SelfRouteError]) -> None:
    failed = [found for found in answers if isinstance(found, SelfRouteError)]
    if len(failed) == len(answers) > 0:
        raise ConfigError(f"cloud '{cloud.name}' answered none of {len(answers)} prompts; the first error: {failed[0]}")


def _identity(
    strategies: Sequence[Strategy],
    task: Task,
    rows: Sequence[Row],
    sampling: Sampling,
    template: PromptTemplate,
    cloud: Backend,
    *,
    share: float,
    seed: int,
) -> dict[str, Any]:
    """Everything a record depends on, as plain data a person can compare."""
    return {
        "task": task.name,
        "rows": provenance.rows_digest(rows),
        "sampling": asdict(sampling),
        "template": provenance.digest(asdict(template)),
        "cloud": cloud.name,
        "share": share,
        "seed": seed,
        "strategies": {strategy.name: _described(strategy) for strategy in strategies},
    }


def _described(strategy: Strategy) -> str:
    """Class, device and plain options of a strategy."""
    device = getattr(strategy, "device", None)
    options = {"device": device.name} if device is not None else {}
    if is_dataclass(strategy):
        values = {f.name: getattr(strategy, f.name) for f in fields(strategy)}
        options |= {k: v for k, v in values.items() if k != "name" and isinstance(v, (bool, int, float, str))}
    return f"{type(strategy).__name__}({', '.join(f'{k}={v}' for k, v in options.items())})"


def _open(out: Path, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        provenance.open_run(out / "run.json", identity, about)
    except OSError as error:
        raise ConfigError(f"cannot write to out='{out}': {error.strerror}; choose another folder") from None


def _finished(out: Path) -> set[tuple[str, str]]:
    """Keys of the rows that need no second try."""
    for name in ("records.jsonl", "samples.jsonl"):
        repair(out / name)
    path = out / "records.jsonl"
    records = read_records(path) if path.exists() else []
    return {r.key for r in records if r.error is None and None not in (r.device_correct, r.cloud_correct)}


@contextmanager
def _appending(out: Path) -> Iterator[tuple[TextIO, TextIO]]:
    with (
        (out / "records.jsonl").open("a", encoding="utf-8") as records,
        (out / "samples.jsonl").open("a", encoding="utf-8") as samples,
    ):
        yield records, samples
