"""Run every strategy over every row, keep the facts as they come, and write the results."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from selfroute import environment
from selfroute.backends.base import Backend, BatchBackend, complete_all, find_capability
from selfroute.backends.flight import closing, in_flight
from selfroute.budget.base import NoCloud
from selfroute.errors import BackendError, ConfigError, RecordingMissing, SelfRouteError, UnsupportedByBackend
from selfroute.evaluation import provenance
from selfroute.evaluation.counting.columns import read_columns
from selfroute.evaluation.counting.metrics import calls_at
from selfroute.evaluation.counting.split import splits_of
from selfroute.evaluation.counting.summary import analyse
from selfroute.evaluation.files import write_text
from selfroute.evaluation.provenance import read_about
from selfroute.evaluation.records import Record, Sample, append, find_samples, repair
from selfroute.evaluation.report.picks import pick
from selfroute.evaluation.report.words import best
from selfroute.grading import grade, judge
from selfroute.prompts import PromptTemplate
from selfroute.strategies.always import AlwaysDevice
from selfroute.strategies.base import Sides, Strategy, answer, check_sides
from selfroute.tasks.base import Row, Task
from selfroute.types import Completion, Sampling, Trace, Usage
from selfroute.verify.base import right_or_wrong

__all__ = ["Answered", "Bench", "Engine", "Entrant", "answer_here", "evaluate", "write_results"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A strategy and the sides that it is judged over; its name is the strategy's."""

    strategy: Strategy
    sides: Sides

    @property
    def name(self) -> str:
        return self.strategy.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything that a row is answered with. Where rows are answered elsewhere, each place makes its own.

    Attributes:
        entrants: the strategies with their sides; their names differ.
        sampling: for both sides; greedy unless you mean otherwise.
        cloud: asked for every row, also those that are kept; in a cache, so that strategies find its answers there.
        concurrency: rows in flight; a backend that batches wants at least 256.
        solve_samples: answers of each device to sample per row, for its solve rate; 0 for none.
        solve_temperature: of these samples.
        seed: of the samples.
    """

    entrants: Sequence[Entrant]
    task: Task
    sampling: Sampling
    template: PromptTemplate
    cloud: Backend
    concurrency: int = 256
    solve_samples: int = 0
    solve_temperature: float = 1.0
    seed: int = 0

    @property
    def passes(self) -> int:
        """How often every row is put to something: the cloud, the strategies, and the devices' samples."""
        return 1 + len(self.entrants) + self.solve_samples * len(self.devices())

    def devices(self) -> list[Backend]:
        """The devices whose solve rates are sampled, once each."""
        if not self.solve_samples:
            return []
        return list({id(entrant.sides.device): entrant.sides.device for entrant in self.entrants}.values())


Answered = tuple[Record, Sample]
# Answers rows with strategies, and gives what happened as it happens; reports how many passes of rows are done.
Engine = Callable[[Bench, Mapping[str, Sequence[Row]], Callable[[int], None]], AsyncIterator[Sequence[Answered]]]


async def evaluate(
    bench: Bench,
    rows: Sequence[Row],
    *,
    share: float,
    seed: int,
    out: Path,
    engine: Engine | None = None,
    on_progress: Progress | None = None,
    on_count: Progress | None = None,
    command: str = "",
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Answer every row with every strategy and grade both sides.

    Writes `records.jsonl` and `samples.jsonl` row by row, then what `write_results` makes of them, and `run.json` with
    what they depend on. Called again with the same arguments it goes on where it was: finished rows are kept, failed
    ones are tried once more.

    A row that a strategy sends is answered a second time under a budget that allows no cloud, which gives the forced
    local attempt.

    Args:
        share: call share at which the strategies are compared, in [0, 1].
        seed: breaks ties of scores and draws the bootstrap samples.
        out: folder of the results; made if missing.
        engine: who answers the rows; this process without.
        on_progress: called with answers done and answers in all.
        on_count: called with bootstrap samples done and in all, when the answers are there.
        command: how the run was started, for the report.
        config: the resolved recipe, for `run.json` and the check that a folder is not mixed.
        options: for `write_results`, e.g. prices; they change no record.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        ConfigError: bad arguments, a folder of another evaluation, a cloud that answers nothing, or no graded row.
        RecordingMissing: a replayed model was never asked one of the prompts.
    """
    _check(bench.entrants, rows, share)
    identity = _identity(bench, rows, share=share, seed=seed)
    about = {"command": command, "commit": environment.commit(), "versions": environment.versions()}
    _open(out, identity | {f"config.{key}": value for key, value in (config or {}).items()}, about)
    kept = _finished(out)
    todo = {s.name: [row for row in rows if (s.name, row.id) not in kept] for s in bench.entrants}
    progress = _Progress(on_progress, total=len(rows) * bench.passes)
    progress.advance(sum(len(rows) - len(missing) for missing in todo.values()))
    with _appending(out) as (records, samples):
        async with closing((engine or answer_here)(bench, todo, progress.advance)) as parts:
            async for answered in parts:
                for record, sample in answered:
                    append(samples, sample)  # first the text: a record promises that its sample is there
                    append(records, record)
    progress.finish()
    return await asyncio.to_thread(
        write_results, out, share=share, seed=seed, task=bench.task.name, on_progress=on_count, **options
    )


# --- answering -------------------------------------------------------------------------------------------------


async def answer_here(
    bench: Bench, todo: Mapping[str, Sequence[Row]], advance: Callable[[int], None]
) -> AsyncIterator[Sequence[Answered]]:
    """Answer rows in this process, in the order in which they finish.

    Args:
        todo: the rows of each strategy, by its name.
        advance: told how many answers more are done.

    Raises:
        ConfigError: the cloud answers none of the first rows, or a backend cannot do what a strategy asks.
    """
    missing = list({row.id: row for rows in todo.values() for row in rows}.values())
    work = _Work(bench, advance)
    by_cloud = await work.ask_cloud(missing)
    solved = {id(device): await work.sample(device, missing) for device in bench.devices()}
    for entrant in bench.entrants:
        rates = solved.get(id(entrant.sides.device), {})
        async with closing(work.ask_entrant(entrant, todo[entrant.name], by_cloud, rates)) as pairs:
            async for answered in pairs:
                yield [answered]


@dataclass(frozen=True, slots=True)
class _CloudAnswer:
    """What the cloud makes of a row; None where it or the verifier failed."""

    correct: bool | None = None
    usage: Usage | None = None


@dataclass(slots=True)
class _Progress:
    on_progress: Progress | None
    total: int
    done: int = field(default=0)

    def advance(self, count: int) -> None:
        self.done += count
        if self.on_progress is not None and count:
            self.on_progress(self.done, self.total)

    def finish(self) -> None:
        """Passes that a resumed run had no need of are done as well."""
        self.advance(self.total - self.done)


@dataclass(frozen=True, slots=True)
class _Work:
    bench: Bench
    advance: Callable[[int], None]

    async def ask_cloud(self, rows: Sequence[Row]) -> dict[str, _CloudAnswer]:
        """The cloud's answers by row id."""
        bench, found = self.bench, dict[str, _CloudAnswer]()
        # Backends that batch get blocks. Of others only the first block is one, to see whether the cloud answers.
        size = len(rows) if find_capability(bench.cloud, BatchBackend) is None else bench.concurrency
        starts = [0, *range(min(bench.concurrency, len(rows)), len(rows), max(1, size))] if rows else []
        for start, end in pairwise([*starts, len(rows)]):
            block = rows[start:end]
            answers = await complete_all(
                bench.cloud,
                [bench.template.conversation(row.question) for row in block],
                bench.sampling,
                concurrency=bench.concurrency,
                on_done=lambda: self.advance(1),
            )
            if missing := next((found for found in answers if isinstance(found, RecordingMissing)), None):
                raise missing
            if not start:
                _refuse_dead_cloud(bench.cloud, answers)
            found |= await asyncio.to_thread(self._judge_all, block, answers)
        return found

    def _judge_all(self, rows: Sequence[Row], answers: Sequence[object]) -> dict[str, _CloudAnswer]:
        return {
            row.id: _CloudAnswer(right_or_wrong(judge(self.bench.task, row, found.text)[0]), found.usage)
            if isinstance(found, Completion)
            else _CloudAnswer()
            for row, found in zip(rows, answers, strict=True)
        }

    async def sample(self, device: Backend, rows: Sequence[Row]) -> dict[str, tuple[float, int]]:
        """The solve rate of a device by row id, with the samples behind it; rows without any are left out."""
        bench = self.bench
        alone, sides = AlwaysDevice(), Sides(device=device, template=bench.template)
        tries = [(row, number) for row in rows for number in range(bench.solve_samples)]
        verdicts: dict[str, list[bool]] = {}

        async def one(item: tuple[Row, int]) -> tuple[str, bool | None]:
            row, number = item
            # A seed of its own for each sample: the same one is found in the cache again, another one is asked.
            sampling = replace(
                bench.sampling, temperature=bench.solve_temperature, seed=bench.seed * bench.solve_samples + number
            )
            try:
                trace = await answer(alone, sides, bench.template.conversation(row.question), sampling)
            except BackendError:
                return row.id, None
            return row.id, right_or_wrong((await asyncio.to_thread(judge, bench.task, row, trace.text))[0])

        async for row_id, verdict in in_flight(tries, one, limit=bench.concurrency):
            self.advance(1)
            if verdict is not None:
                verdicts.setdefault(row_id, []).append(verdict)
        return {row_id: (sum(found) / len(found), len(found)) for row_id, found in verdicts.items()}

    async def ask_entrant(
        self,
        entrant: Entrant,
        rows: Sequence[Row],
        by_cloud: Mapping[str, _CloudAnswer],
        rates: Mapping[str, tuple[float, int]],
    ) -> AsyncIterator[Answered]:
        """Answer rows, in the order in which they finish."""

        async def one(row: Row) -> Answered:
            record, sample = await self._record(entrant, row, by_cloud[row.id])
            rate, samples = rates.get(row.id, (None, 0))
            return replace(record, solve_rate=rate, solve_samples=samples), sample

        async with closing(in_flight(rows, one, limit=self.bench.concurrency)) as pairs:
            async for answered in pairs:
                self.advance(1)
                yield answered

    async def _record(self, entrant: Entrant, row: Row, by_cloud: _CloudAnswer) -> Answered:
        bench = self.bench
        try:
            prompt = bench.template.conversation(row.question)
            trace = await answer(entrant.strategy, entrant.sides, prompt, bench.sampling)
            forced = await self._forced(entrant, row, trace)
        except (ConfigError, UnsupportedByBackend, RecordingMissing):
            raise  # every row would fail alike, or the recording is of another set
        except SelfRouteError as error:
            failed = Record(
                strategy=entrant.name, id=row.id, source="device", wants_cloud=False, cloud_correct=by_cloud.correct,
                error=f"{type(error).__name__}: {error}",
            )  # fmt: skip
            return failed, Sample(strategy=entrant.name, id=row.id, question=row.question, gold=row.gold)
        return await asyncio.to_thread(self._graded, entrant.name, row, trace, forced, by_cloud)

    async def _forced(self, entrant: Entrant, row: Row, trace: Trace) -> Trace | None:
        """What the device answers without a cloud, where the trace does not already say so."""
        if trace.source == "device":
            return trace if trace.wants_cloud else None  # asked and was refused: the trace is the forced attempt
        prompt = self.bench.template.conversation(row.question)
        alone = replace(entrant.sides, budget=NoCloud())
        return await answer(entrant.strategy, alone, prompt, self.bench.sampling)

    def _graded(self, name: str, row: Row, trace: Trace, forced: Trace | None, by_cloud: _CloudAnswer) -> Answered:
        bench = self.bench
        outcome = grade(bench.task, row, trace)
        local, failure = (None, None) if forced is None else judge(bench.task, row, forced.text)
        device, cloud = trace.usage("device"), trace.usage("cloud")
        record = Record(
            strategy=name,
            id=row.id,
            source=trace.source,
            wants_cloud=trace.wants_cloud,
            score=trace.score,
            correct=right_or_wrong(outcome.correct),
            device_correct=right_or_wrong(outcome.device_correct if forced is None else local),
            # A cloud that answered may have seen more than the question: its own answer counts before that to it alone.
            cloud_correct=by_cloud.correct if outcome.cloud_correct is None else right_or_wrong(outcome.cloud_correct),
            local_correct=right_or_wrong(local),
            device_tokens=device.completion_tokens,
            cloud_tokens=cloud.completion_tokens,
            usd=trace.cost_usd,
            seconds=trace.seconds,
            error=outcome.error or failure,
            device_prompt_tokens=device.prompt_tokens,
            cloud_prompt_tokens=cloud.prompt_tokens,
            **_tokens("attempt", _attempt(trace)),
            **_tokens("local", (forced or trace).usage("device")),
            **_tokens("cloud_answer", cloud if trace.source == "cloud" else by_cloud.usage),
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


def _attempt(trace: Trace) -> Usage | None:
    """What the device spent before the decision fell; None where it is decided all along."""
    if trace.decided_after is None:
        return None
    before = trace.segments[: trace.decided_after]
    return sum((segment.usage for segment in before if segment.source == "device"), Usage())


def _tokens(name: str, usage: Usage | None) -> dict[str, Any]:
    prompt, written = (None, None) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return {f"{name}_prompt_tokens": prompt, f"{name}_tokens": written}


def _text(trace: Trace, source: str) -> str:
    return "\n".join(segment.text for segment in trace.segments if segment.source == source)


# --- results ---------------------------------------------------------------------------------------------------


def write_results(
    out: Path,
    *,
    share: float,
    seed: int,
    task: str,
    command: str = "",
    on_progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Make `summary.json`, `report.html` and the figures beside it from the records in `out`; returns the summary.

    Each file is written whole or not at all.

    Args:
        command: if it is not that of the run.
        on_progress: called with bootstrap samples done and in all.
        options: of `analyse`, e.g. prices.

    Raises:
        ConfigError: the records are missing or broken, or matplotlib is not installed.
    """
    from selfroute.evaluation.report.figures import write_figures
    from selfroute.evaluation.report.page import report_html

    path = out / "records.jsonl"
    shared = splits_of(read_columns(path), seed=seed, where=str(path))
    summary, drawn = analyse(shared, share=share, seed=seed, task=task, on_progress=on_progress, **options)
    picked = pick(shared, best(summary)["name"], share=share)
    texts = find_samples(out / "samples.jsonl", {(p.strategy, p.id) for p in picked})
    about = read_about(out / "run.json") | ({"command": command} if command else {})
    write_text(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_figures(summary, drawn, out)
    write_text(out / "report.html", report_html(summary, drawn, picked, texts, about=about))
    return summary


# --- before any work -------------------------------------------------------------------------------------------


def _check(entrants: Sequence[Entrant], rows: Sequence[Row], share: float) -> None:
    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib is not installed; run: pip install 'selfroute[eval]'")
    if not entrants:
        raise ConfigError("no strategy to evaluate; name at least one, e.g. strategies=[always_device]")
    if not rows:
        raise ConfigError("no row to evaluate; choose another split or a limit above 0")
    calls_at(share, len(rows))
    for kind, names in (("strategy", [entrant.name for entrant in entrants]), ("row id", [row.id for row in rows])):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(f"{kind} '{twice[0]}' occurs more than once; names must differ")
    for entrant in entrants:
        check_sides(entrant.strategy, entrant.sides)


def _refuse_dead_cloud(cloud: Backend, answers: Sequence[Completion | SelfRouteError]) -> None:
    failed = [found for found in answers if isinstance(found, SelfRouteError)]
    if len(failed) == len(answers) > 0:
        raise ConfigError(f"cloud '{cloud.name}' answered none of {len(answers)} prompts; the first error: {failed[0]}")


def _identity(bench: Bench, rows: Sequence[Row], *, share: float, seed: int) -> dict[str, Any]:
    """Everything a record depends on, as plain data a person can compare."""
    return {
        "task": bench.task.name,
        "rows": provenance.rows_digest(rows),
        "sampling": asdict(bench.sampling),
        "template": provenance.digest(asdict(bench.template)),
        "cloud": bench.cloud.name,
        "share": share,
        "seed": seed,
        "strategies": {entrant.name: _described(entrant) for entrant in bench.entrants},
    }


def _described(entrant: Entrant) -> str:
    """Class, device and plain options of a strategy."""
    strategy, options = entrant.strategy, {"device": entrant.sides.device.name}
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
    if not path.exists():
        return set()
    found = read_columns(path)
    done = np.flatnonzero(found.finished)
    return {(found.strategies[found.strategy[i]], found.ids[found.id[i]]) for i in done}


@contextmanager
def _appending(out: Path) -> Iterator[tuple[TextIO, TextIO]]:
    with (
        (out / "records.jsonl").open("a", encoding="utf-8") as records,
        (out / "samples.jsonl").open("a", encoding="utf-8") as samples,
    ):
        yield records, samples
