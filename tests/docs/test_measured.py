"""The figures of `docs/beyond-the-paper.md` are those that `benchmarks/beyond` has measured."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/beyond-the-paper.md"
MEASURED = ROOT / "benchmarks/beyond/results.json"
KNOWING = ROOT / "benchmarks/beyond/knowing.md"  # as its script wrote it
OF_THE_TRAINING_RUN = ("asks, training prompts", "asks, validation prompts")  # from metrics.jsonl, which is not kept

pytestmark = pytest.mark.docs


def tables(page: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Heads and rows of each table of a page."""
    for found in re.findall(r"(?:^\|.*\|\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
        yield heads, rows


def measured() -> set[str]:
    """Mean ± standard deviation of every figure of every run, in % and as it is, with one digit and with none."""
    runs = json.loads(MEASURED.read_text(encoding="utf-8")).values()
    figures = [values for run in runs for at_share in run["figures"].values() for values in at_share.values()]
    return {
        f"{scale * np.mean(values):{form}} ± {scale * np.std(values, ddof=1):{form}}"
        for values in figures
        if len(values) > 1 and None not in values
        for scale in (1, 100)
        for form in (".0f", ".1f")
    }


def test_every_mean_and_spread_has_been_measured() -> None:
    known = measured() | set(re.findall(r"\d+\.\d+ ± \d+\.\d+", KNOWING.read_text(encoding="utf-8")))
    checked = 0
    for heads, rows in tables(PAGE):
        for row in rows:
            for head, cell in zip(heads, row, strict=True):
                if " ± " in cell and head not in OF_THE_TRAINING_RUN:
                    assert cell in known, f"{row[0]}, {head}: it was not measured: {cell}"
                    checked += 1
    assert checked > 100


def test_the_figure_shows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = tmp_path / "ablations.svg"
    monkeypatch.setattr("sys.argv", ["ablations.py", str(drawn)])
    with matplotlib.rc_context():  # the script sets sizes of its own
        runpy.run_path(str(ROOT / "docs/figures/ablations.py"), run_name="__main__")
    assert marks(drawn) == pytest.approx(marks(ROOT / "docs/figures/ablations.svg"), abs=0.5)


def marks(figure: Path) -> list[float]:
    """Where dots, bars and ticks stand, in points."""
    return [float(place) for place in re.findall(r' [xy]="(-?[\d.]+)"', figure.read_text(encoding="utf-8"))]
