"""The page on tuning: the paper's ranks by its own table, and figures that the benchmark has measured."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/tuning.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.docs


def cells(head: str, page: str = PAGE) -> list[list[str]]:
    """Rows of the table whose first cell of the head is given."""
    (found,) = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\|\n((?:\|.*\|\n)+)", page, re.MULTILINE)
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in found.splitlines()]


def test_the_papers_ranks_are_recomputed_from_its_table() -> None:
    rows = cells("accuracy, %")
    accuracy = np.array([[float(cell) for cell in row[1:7]] for row in rows])
    ranks = rankdata(-accuracy, axis=0).mean(axis=1)
    assert [f"{rank:.2f}" for rank in ranks] == [row[8] for row in rows]


def test_figures_of_the_page_are_those_of_the_results() -> None:
    measured = (ROOT / "benchmarks/tuning/results.md").read_text(encoding="utf-8")
    shown = [cell for row in cells("after 2,000 calls") for cell in row[1:] if "±" in cell]
    assert len(shown) == 12
    assert all(cell in measured for cell in shown), [cell for cell in shown if cell not in measured]
