"""What several commands show in a terminal: outside text as it is, lists, progress, a training run as it goes.

Model text, file names, keys and questions may hold brackets, `:names:` and control characters. Rich would read the
first two, a terminal obeys the third. So every command prints through `console`, which shows all three.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import OverflowMethod
    from rich.progress import Progress

__all__ = [
    "WRITERS",
    "OnTraining",
    "boxed",
    "console",
    "example",
    "in_words",
    "listing",
    "next_step",
    "note",
    "progress",
    "say",
    "training_view",
    "visible",
    "written",
]

OnTraining = Callable[[int, int, Mapping[str, float]], None]
# Colours of 256 that stand out as much from black as from white: 4.5 to 1.
WRITERS = {"device": "color(29)", "cloud": "color(98)"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNFOLDED = 100_000  # columns of what is no terminal
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
_AHEAD = "cloud/answered_ahead"
_TOTALS = ("cloud/calls", "cloud/failures", "cloud/usd")  # counted since the start: a mean says nothing


class _Console(Console):
    """Shows text as it is written; styles come from `Text` and `style=` alone."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


def console(*, stderr: bool = False) -> Console:
    """Where commands print to.

    Lines fold at the terminal's width. In a file or a pipe they do not, unless COLUMNS is set: what reads them wants
    one line per thing. Colours stay away where NO_COLOR is set or no terminal is.
    """
    stream = sys.stderr if stderr else sys.stdout
    folds = stream.isatty() or "COLUMNS" in os.environ
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=None if folds else _UNFOLDED)


def say(what: RenderableType, *, stderr: bool = False) -> None:
    """Print a line or a table. Words longer than the terminal is wide, such as paths, stay whole: they get copied.

    A table that does not fit is told line by line, its heads beside the values.
    """
    out = console(stderr=stderr)
    if isinstance(what, Table) and out.measure(what, options=out.options.update(width=_UNFOLDED)).minimum > out.width:
        what = _told(what)
    overflow: OverflowMethod | None = "ignore" if isinstance(what, str) else None
    if out.is_terminal:
        out.print(what, overflow=overflow, crop=False)
        return
    with out.capture() as captured:
        out.print(what, overflow=overflow, crop=False)
    out.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))  # tables are padded on the right
    out.file.flush()


def visible(text: str) -> str:
    """Text with its control characters written out, as `\\x1b`: a terminal would obey them.

    Tabs and new lines stay, carriage returns go.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r", ""))


def written(text: str, writer: str, *, thought: bool = False) -> Text:
    """What a side wrote, in its colour; reasoning leans.

    Args:
        writer: "device" or "cloud".
    """
    return Text(visible(text), style=f"{WRITERS[writer]}{' italic' if thought else ''}")


def _told(table: Table) -> Group:
    """Every line of a table as a block: its first cell, and under it a line for each other cell that is not empty."""
    heads = [" ".join(str(column.header).split()) for column in table.columns]
    blocks: list[RenderableType] = [] if table.title is None else [table.title]
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        block = Table.grid(padding=(0, 2, 0, 0))
        for head, cell in zip(heads[1:], cells, strict=True):
            if str(cell):
                block.add_row(Text(f"  {head}", style="dim"), cell)
        blocks += [name if isinstance(name, Text) else Text(visible(str(name)), style="bold"), block]
    return Group(*blocks)


def listing(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A list of things: what they are, and a line for each, its name first."""
    shown = Table(title=Text(title), title_justify="left", title_style="", show_header=any(heads), box=None,
                  padding=(0, 2, 0, 0), pad_edge=False)  # fmt: skip
    for number, head in enumerate(heads):
        shown.add_column(head, overflow="fold", no_wrap=number == 0, header_style="dim")
    for name, *cells in rows:
        shown.add_row(Text(visible(name), style="bold"), *cells)
    return shown


def boxed(out: Console, title: str, text: str | Text) -> None:
    """A text under its title, in a box where there is a terminal."""
    from rich.panel import Panel

    body = text if isinstance(text, Text) else Text(visible(text))
    if out.is_terminal:
        out.print(Panel(body, title=Text(visible(title)), title_align="left"))
    else:
        out.print(Text(f"--- {visible(title)}"), body, "", sep="\n")


def example(*lines: str) -> str:
    """Examples under a command's help, in rich's markup, which help texts are written in."""
    return "Examples:\n\n" + "\n\n".join(f"[bold]{escape(line)}[/bold]" for line in lines)


def note(line: str) -> None:
    """A line on stderr, beside what a command gives."""
    say(line, stderr=True)


def next_step(*commands: str) -> None:
    """End a command with what to type next, on stderr."""
    for command, head in zip(commands, ("next:", *[" " * 5] * len(commands)), strict=False):
        note(f"{head} {command}")


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """Progress on stderr, a bar or, in a log, a line per tenth; gives `on_progress(done, total, what)`."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield _log_progress(title)
        return
    bar = _bar(out)
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
def training_view(title: str = "training", *, out: Console | None = None) -> Iterator[OnTraining]:
    """A training run on stderr as it goes: a bar with the time left, and under it what the metrics were and are.

    In a log it is a line per tenth. Gives `on_training(step, steps, metrics)`.

    Args:
        out: where to; None takes stderr.
    """
    from rich.live import Live  # loaded here: a gateway shows no progress and need not pay for it

    out = out or console(stderr=True)
    if not out.is_terminal:
        yield _log_training(title)
        return
    bar = _bar(out)
    task = bar.add_task(title, total=None, what="")
    seen: list[Mapping[str, float]] = []
    live = Live(bar, console=out, refresh_per_second=4)

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
    if _AHEAD in metrics:
        return f"the cloud answers ahead: {metrics[_AHEAD]:.0%}"
    shown = {"asks": "call_share", "solves": "device_correct", "kept and wrong": "kept_and_wrong"}
    shares = {words: metrics.get(f"rollouts/{name}") for words, name in shown.items()}
    if any(share is None for share in shares.values()):
        return f"loss {metrics['loss']:.3f}" if "loss" in metrics else ""
    spent = [f"{metrics['cloud/usd']:.4f} USD"] if "cloud/usd" in metrics else []
    return "  ".join([*(f"{words} {share:4.0%}" for words, share in shares.items()), *spent])


def _bar(out: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=12), MofNCompleteColumn(),
               TimeRemainingColumn(compact=True), TextColumn("{task.fields[what]}", markup=False))  # fmt: skip
    return Progress(*columns, console=out)


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


def _log_training(title: str) -> OnTraining:
    """A line per tenth of the answers before the first step, and of the steps."""
    ahead, show = _log_progress("preparing"), _log_progress(title)

    def on_training(step: int, steps: int, metrics: Mapping[str, float]) -> None:
        if step == 0 and _AHEAD in metrics:
            ahead(round(100 * metrics[_AHEAD]), 100, "% of the cloud's answers")
        else:
            show(step, steps, in_words(metrics))

    return on_training


def _log_progress(title: str) -> Any:
    out, said = console(stderr=True), -1

    def on_progress(done: int, total: int, what: str = "") -> None:
        nonlocal said
        tenth = 10 * done // max(1, total)
        if tenth > said:
            said = tenth
            out.print(f"{title} {done}/{total}  {what}".rstrip())

    return on_progress
