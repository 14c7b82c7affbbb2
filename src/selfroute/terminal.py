"""What several commands show in a terminal: progress, and examples under their help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

__all__ = ["example", "progress"]


def example(*lines: str) -> str:
    """Examples under a command's help."""
    return "Examples:\n\n" + "\n\n".join(f"[bold]{line}[/bold]" for line in lines)


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """Progress on stderr, a bar or, in a log, a line per tenth; gives `on_progress(done, total, what)`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_progress(title)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(),
               TimeRemainingColumn(compact=True), TextColumn("{task.fields[what]}"))  # fmt: skip
    bar = Progress(*columns, console=console)
    task = bar.add_task(title, total=None, what="")

    def on_progress(done: int, total: int, what: str = "") -> None:
        bar.start()  # not before: bad input gets one line and nothing else
        bar.update(task, completed=done, total=total, what=what)
        if done >= total:
            bar.stop()  # so that the next one has the last line to itself

    try:
        yield on_progress
    finally:
        if bar.live.is_started:
            bar.stop()


def _log_progress(title: str) -> Any:
    said = -1

    def on_progress(done: int, total: int, what: str = "") -> None:
        nonlocal said
        tenth = 10 * done // max(1, total)
        if tenth > said:
            said = tenth
            typer.echo(f"{title} {done}/{total}  {what}".rstrip(), err=True)

    return on_progress
