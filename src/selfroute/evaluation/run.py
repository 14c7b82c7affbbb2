"""Run every strategy over every row, keep the facts as they come, and write the results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from selfroute import environment
from selfroute.backends.flight import closing
from selfroute.evaluation.answering import answer_here
from selfroute.evaluation.bench import Bench, Engine, settings_of
from selfroute.evaluation.checks import check_run, finished_rows, identity_of, open_folder
from selfroute.evaluation.records import append
from selfroute.evaluation.results import write_results
from selfroute.tasks.base import Row

__all__ = ["evaluate"]

Progress = Callable[[int, int], None]


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

    A strategy with a knob is run at each of its points. Writes `records.jsonl` and `samples.jsonl` row by row, then
    what `write_results` makes of them, and `run.json` with what they depend on. Called again with the same arguments it
    goes on where it was: finished rows are kept, failed ones are tried once more.

    A row that a strategy sends is answered a second time under a budget that allows no cloud, which gives the forced
    local attempt. A row on which both sides may write is put to the device alone, see
    `selfroute.evaluation.references`.

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
    check_run(bench.entrants, rows, share)
    identity = identity_of(bench, rows, share=share, seed=seed)
    about = {"command": command, "commit": environment.commit(), "versions": environment.versions()}
    open_folder(out, identity | {f"config.{key}": value for key, value in (config or {}).items()}, about)
    kept = finished_rows(out)
    settings = [entrant.setting for entrant in settings_of(bench.entrants)]
    todo = {setting: [row for row in rows if (*setting, row.id) not in kept] for setting in settings}
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


@contextmanager
def _appending(out: Path) -> Iterator[tuple[TextIO, TextIO]]:
    with (
        (out / "records.jsonl").open("a", encoding="utf-8") as records,
        (out / "samples.jsonl").open("a", encoding="utf-8") as samples,
    ):
        yield records, samples
