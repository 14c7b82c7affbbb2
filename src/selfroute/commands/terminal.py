"""What several commands show in a terminal: progress, a training run as it goes, and examples under their help."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group
from rich.table import Table

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["OnTraining", "example", "in_words", "progress", "training_view"]

OnTraining = Callable[[int, int, Mapping[str, float]], None]
RECENT = 10  # steps that the middle column of a training view is the mean of
# What a training view shows of a step, if the step has it: words, metric, how it is written.
_SHOWN = (
    ("asks", "rollouts/call_share", "{:.0%}"),
    ("asks beyond the wanted share", "handoff/gap", "{:+.0%}"),
    ("price of asking", "handoff/price", "{:+.2f}"),
    ("solves", "rollouts/device_correct", "{:.0%}"),
    ("kept and wrong", "rollouts/kept_and_wrong", "{:.0%}"),
    ("solves without the offer", "rollouts/forced_correct", "{:.0%}"),
    ("tokens before it asks", "device_tokens/handed_off", "{:.0f}"),
    ("groups without a gradient", "rollouts/no_gradient_groups", "{:.0%}"),
    ("prompts that the device solves", "filter/device_prompts", "{:.0f}"),
    ("prompts let in for the cloud", "filter/cloud_prompts", "{:.0f}"),
    ("cloud calls", "cloud/calls", "{:,.0f}"),
    ("cloud failures", "cloud/failures", "{:,.0f}"),
    ("cloud, USD", "cloud/usd", "{:.4f}"),
    ("reward", "reward", "{:.2f}"),
    ("loss", "loss", "{:.3f}"),
    ("seconds a step", "step_time", "{:.1f}"),
)
_TOTALS = ("cloud/calls", "cloud/failures", "cloud/usd")  # counted since the start: a mean says nothing


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
    bar = _bar(console)
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


@contextmanager
def training_view(title: str = "training", *, console: Console | None = None) -> Iterator[OnTraining]:
    """A training run on stderr as it goes: a bar with the time left, and under it what the metrics were and are.

    In a log it is a line per tenth. Gives `on_training(step, steps, metrics)`.

    Args:
        console: where to; None takes stderr.
    """
    from rich.live import Live  # loaded here: a gateway shows no progress and need not pay for it

    console = console or Console(stderr=True)
    if not console.is_terminal:
        show = _log_progress(title)
        yield lambda step, steps, metrics: show(step, steps, in_words(metrics))
        return
    bar = _bar(console)
    task = bar.add_task(title, total=None, what="")
    seen: list[Mapping[str, float]] = []
    live = Live(bar, console=console, refresh_per_second=4)

    def on_training(step: int, steps: int, metrics: Mapping[str, float]) -> None:
        if not live.is_started:
            live.start()  # not before: bad input gets one line and nothing else
        if step == 0:  # before the first step
            bar.update(task, total=None, what=in_words(metrics))
            return
        if not seen:
            bar.reset(task, total=steps, completed=step - 1, what="")  # the time left is that of steps alone
        seen.append(metrics)
        bar.update(task, completed=step)
        live.update(Group(bar, _training_table(seen)))

    try:
        yield on_training
    finally:
        if live.is_started:
            live.stop()


def in_words(metrics: Mapping[str, float]) -> str:
    """A training step in a few words: the three shares of its rollouts, or the loss where there are none."""
    if "cloud/answered_ahead" in metrics:
        return f"the cloud answers ahead: {metrics['cloud/answered_ahead']:.0%}"
    shown = {"asks": "call_share", "solves": "device_correct", "kept and wrong": "kept_and_wrong"}
    shares = {words: metrics.get(f"rollouts/{name}") for words, name in shown.items()}
    if any(share is None for share in shares.values()):
        return f"loss {metrics['loss']:.3f}" if "loss" in metrics else ""
    spent = [f"{metrics['cloud/usd']:.4f} USD"] if "cloud/usd" in metrics else []
    return "  ".join([*(f"{words} {share:4.0%}" for words, share in shares.items()), *spent])


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(),
               TimeRemainingColumn(compact=True), TextColumn("{task.fields[what]}"))  # fmt: skip
    return Progress(*columns, console=console)


def _training_table(seen: list[Mapping[str, float]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for head in (f"first {min(RECENT, len(seen))}", f"last {min(RECENT, len(seen))}", "now"):
        table.add_column(head, justify="right")
    for words, name, form in _SHOWN:
        if name in seen[-1]:
            means = [_mean(part, name) for part in (seen[:RECENT], seen[-RECENT:])]
            cells = ["", ""] if name in _TOTALS else [form.format(mean) for mean in means]
            table.add_row(words, *cells, form.format(seen[-1][name]))
    return table


def _mean(steps: list[Mapping[str, float]], name: str) -> float:
    values = [step[name] for step in steps if name in step]
    return sum(values) / len(values) if values else float("nan")


def _log_progress(title: str) -> Any:
    said = -1

    def on_progress(done: int, total: int, what: str = "") -> None:
        nonlocal said
        tenth = 10 * done // max(1, total)
        if tenth > said:
            said = tenth
            typer.echo(f"{title} {done}/{total}  {what}".rstrip(), err=True)

    return on_progress
