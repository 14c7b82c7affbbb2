"""What the README says in numbers is what the pages of results say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.scripts import load_script

which = load_script("docs/make_which.py")
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMOLLM2 = "docs/results/atlas-smollm2.md"
CALLS = "Call share: requests answered with the cloud, %"
COUNTDOWN = "benchmarks/countdown/results.md"
pytestmark = pytest.mark.docs


def mean(cell: str) -> str:
    return cell.split(" ")[0]


def test_the_first_screen_has_the_cells_of_the_real_model() -> None:
    first = README.partition("## Try it")[0]
    told = re.findall(r"\d+\.\d", first)
    rows = ("always_device (free)", "answer_blend", "mean_logprob", "random_offload (free)")
    assert told == [mean(which.number(SMOLLM2, CALLS, row, "30 %")) for row in rows]
    ends = re.search(r"device alone (\S+) ±.*cloud alone (\S+) ±", (ROOT / SMOLLM2).read_text(encoding="utf-8"))
    assert ends is not None and ends.group(1) == told[0]
    assert f"right in {float(ends.group(2)):.0f} %" in first


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("**GAPG, self_route**", "gapg"),
        ("GAPG without the filter", "gapg_no_filter"),
        ("Dr. GRPO, same reward", "dr_grpo"),
        ("GRPO, same reward", "grpo"),
        ("task tuning + prompt router", "prompt_router"),
    ],
)
def test_the_table_of_countdown_has_the_cells_of_its_benchmark(row: str, name: str) -> None:
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith(f"| {row} |")]
    assert len(rows) == 1
    told = [cell.strip("* ") for cell in rows[0][1:]]
    columns = ("overall at share", "calls as run", "right as run", "kept and right")
    alone = "always_device" if name == "prompt_router" else f"{name}, alone"
    expected = [which.number(COUNTDOWN, "", name, column) for column in columns]
    expected += [which.number(COUNTDOWN, "", alone, "right as run"), which.number(COUNTDOWN, "", name, "oracle gain")]
    assert told[:-1] == expected
    assert told[-1] == mean(which.number(COUNTDOWN, "", name, "AUROC"))


def test_what_beats_them_is_a_cell_too() -> None:
    best = which.number("docs/results/atlas-countdown.md", CALLS, "best of 8", "5 %")
    assert f"{best} % right with 5 % of the calls" in README.replace("\n", " ")
