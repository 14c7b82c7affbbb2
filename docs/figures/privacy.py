"""Draws privacy.svg from the table of benchmarks/privacy/results.md: of each kind of value, how many are found where.

python docs/figures/privacy.py             # privacy.svg beside this file
python docs/figures/privacy.py out.png     # anywhere, as SVG or PNG
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figure_style import INK, canvas, save

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "privacy" / "results.md"


def table(text: str) -> tuple[list[str], list[str], np.ndarray]:
    """Kinds, countries, and recall in percent, from the first table of a page."""
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    countries = [name for name in rows[0] if re.fullmatch("[A-Z]{2}", name)]
    found = [row for row in rows[2:] if len(row) == len(rows[0]) and re.fullmatch(r"[\d.]+", row[1])]
    recall = [[float(cell) for cell in row[1 : 1 + len(countries)]] for row in found]
    return [row[0] for row in found], countries, np.array(recall)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "privacy.svg"
    kinds, countries, recall = table(RESULTS.read_text(encoding="utf-8"))
    figure = canvas(6.4, 3.2)
    axes = figure.subplots()
    axes.imshow(recall, vmin=50, vmax=100, cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(recall):
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="black" if value > 85 else "white")
    axes.set_xticks(range(len(countries)), countries, color=INK)
    axes.set_yticks(range(len(kinds)), kinds, color=INK)
    axes.set_title("found, % of 200 generated values each", color=INK, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save(figure, out)


if __name__ == "__main__":
    main()
