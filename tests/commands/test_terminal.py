"""What commands show while they work."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.color import Color
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfroute.commands import terminal
from selfroute.commands.terminal import (
    WRITERS,
    boxed,
    console,
    in_words,
    listing,
    progress,
    say,
    training_view,
    visible,
    written,
)

OUTSIDE = "[red]a[/red] [/b] [link=x]y[/link] :warning: \\[z] [1, 9]"

STEP = {
    "rollouts/call_share": 0.31,
    "rollouts/device_correct": 0.6,
    "rollouts/kept_and_wrong": 0.09,
    "cloud/calls": 1234.0,
    "cloud/usd": 0.5,
}


def screen(*steps: tuple[int, dict[str, float]], total: int = 20) -> str:
    out = Console(file=io.StringIO(), force_terminal=True, width=100, legacy_windows=False)
    with out.capture() as captured, training_view(out=out) as show:
        for step, metrics in steps:
            show(step, total, metrics)
    return captured.get()


def test_a_training_run_as_it_goes() -> None:
    steps = [(step, {**STEP, "rollouts/call_share": step / 20}) for step in range(1, 16)]
    shown = screen(*steps).splitlines()
    asks = next(line for line in reversed(shown) if line.startswith("asks"))
    assert asks.split() == ["asks", "28%", "52%", "75%"]  # of steps 1 to 10, 6 to 15, and 15
    calls = next(line for line in reversed(shown) if line.startswith("cloud calls"))
    assert calls.split() == ["cloud", "calls", "1,234"]
    assert any("15/20" in line for line in shown)


def test_a_metric_that_a_run_does_not_have_is_not_shown() -> None:
    assert "loss" in screen((1, {"loss": 2.5}))
    assert "asks" not in screen((1, {"loss": 2.5}))


def test_a_metric_that_comes_late_is_the_mean_of_where_it_was() -> None:
    shown = screen((1, {"reward": 1.0}), (2, {"reward": 1.0, "device_tokens/handed_off": 80.0}))
    line = next(line for line in reversed(shown.splitlines()) if line.startswith("tokens before it asks"))
    assert line.split()[-3:] == ["80", "80", "80"]


def test_nothing_is_shown_of_a_run_that_never_starts() -> None:
    assert screen() == ""


def test_a_log_gets_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with training_view(out=Console(file=io.StringIO())) as show:
        for done in range(0, 101, 5):
            show(0, 20, {"cloud/answered_ahead": done / 100})
        for step in range(1, 21):
            show(step, 20, STEP)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["preparing 0/100  % of the cloud's answers", "preparing 10/100  % of the cloud's answers"]
    assert lines[-1].startswith("training 20/20  asks  31%  solves  60%")
    assert len(lines) == 22


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (STEP, "asks  31%  solves  60%  kept and wrong   9%  0.5000 USD"),
        ({"loss": 1.5}, "loss 1.500"),
        ({}, ""),
    ],
)
def test_a_step_in_words(metrics: dict[str, float], words: str) -> None:
    assert in_words(metrics) == words


def test_outside_text_is_shown_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=OUTSIDE)
    table.add_column(OUTSIDE)
    table.add_row(OUTSIDE)
    for what in (OUTSIDE, table, listing(OUTSIDE, ("name", OUTSIDE), [(OUTSIDE, OUTSIDE)]), written(OUTSIDE, "cloud")):
        say(what)
    boxed(console(), OUTSIDE, OUTSIDE)
    assert capsys.readouterr().out.count(OUTSIDE) == 1 + 3 + 4 + 1 + 2


@pytest.mark.parametrize("where", ["pipe", "terminal"])
def test_outside_text_in_progress_is_shown_as_it_is_written(
    where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "160")
    with progress(OUTSIDE) as show:
        show(1, 1, OUTSIDE)
    assert capsys.readouterr().err.count(OUTSIDE) >= 2


def test_control_characters_are_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert visible("a\x1b[2J\x07b\x9bc\td\r\ne\x7f") == "a\\x1b[2J\\x07b\\x9bc\td\ne\\x7f"
    say("a\x1b]0;title\x07")
    say(written("a\x1b]0;title\x07", "device"))
    assert capsys.readouterr().out == "a\\x1b]0;title\\x07\n" * 2


def test_lines_fold_in_a_terminal_and_not_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    rows, path = [("name", "word " * 60)], "out/" + "long-folder-name/" * 8
    say(listing("Things.", ("name", "what it is"), rows))
    assert capsys.readouterr().out == f"Things.\nname  what it is\nname  {' '.join(['word'] * 60)}\n"
    monkeypatch.setenv("COLUMNS", "60")
    say(listing("Things.", ("name", "what it is"), rows))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
    say(f"report: {path}report.html")
    assert f"{path}report.html" in capsys.readouterr().out, "a path is copied: it stays whole"


def test_no_colour_where_it_is_not_wanted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    say(written("word", "cloud"))
    assert "38;5;98" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    say(written("word", "cloud"))
    assert "38;5" not in capsys.readouterr().out


def test_writers_can_be_read_on_black_and_on_white() -> None:
    for style in WRITERS.values():
        parts = [part / 255 for part in Color.parse(style).get_truecolor()]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert min(1.05 / (light + 0.05), (light + 0.05) / 0.05) >= 4.5


def test_commands_print_through_one_door() -> None:
    folder = Path(terminal.__file__).parent
    for file in folder.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        if file.name != "terminal.py":
            assert " Console(" not in text and "=Console(" not in text, f"{file.name} makes a console of its own"


def test_a_box_is_a_heading_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boxed(console(), "handed off", Text("text"))
    assert capsys.readouterr().out == "--- handed off\ntext\n\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    boxed(console(), "handed off", "text")
    assert "╭─ handed off ─" in capsys.readouterr().out


def test_a_table_that_does_not_fit_is_told_line_by_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(title=Text("Results"), title_justify="left")
    table.add_column("strategy", overflow="fold")
    for head in ("right\nas run", "95 %\ninterval", "cost"):
        table.add_column(head, no_wrap=True)
    table.add_row("always_[b]device", "58.0", "52 to 64", "")
    monkeypatch.setenv("COLUMNS", "60")
    say(table)
    assert "┏━━" in capsys.readouterr().out, "a table as it is"
    monkeypatch.setenv("COLUMNS", "30")
    say(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["Results", "always_[b]device", "  right as run   58.0", "  95 % interval  52 to 64"]
