"""What commands show while they work."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from selfroute.commands.terminal import in_words, training_view

STEP = {
    "rollouts/call_share": 0.31,
    "rollouts/device_correct": 0.6,
    "rollouts/kept_and_wrong": 0.09,
    "cloud/calls": 1234.0,
    "cloud/usd": 0.5,
}


def screen(*steps: tuple[int, dict[str, float]], total: int = 20) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, legacy_windows=False)
    with console.capture() as captured, training_view(console=console) as show:
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
    with training_view(console=Console(file=io.StringIO())) as show:
        show(0, 20, {"cloud/answered_ahead": 0.5})
        for step in range(1, 21):
            show(step, 20, STEP)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training 0/20  the cloud answers ahead: 50%"
    assert lines[-1].startswith("training 20/20  asks  31%  solves  60%")
    assert len(lines) == 11


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
