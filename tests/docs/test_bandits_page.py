"""The results of `benchmarks/bandits` and what the page on several clouds says of them are those that were measured."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from tests.scripts import scripts_of

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "benchmarks/bandits"
MODULES = ("page", "protocol", "real", "regret", "cells")
pytestmark = pytest.mark.docs


@pytest.fixture
def bench() -> dict[str, ModuleType]:
    """The modules of the benchmark, by name."""
    with scripts_of(BENCH):
        return {name: importlib.import_module(name) for name in MODULES}


def test_the_results_page_is_written_from_the_results(bench: dict[str, ModuleType]) -> None:
    results = json.loads((BENCH / "results.json").read_text(encoding="utf-8"))
    written = (BENCH / "results.md").read_text(encoding="utf-8")
    assert bench["page"].page(results) == written, "run python benchmarks/bandits/run.py --write"


def test_every_figure_of_the_docs_page_has_been_measured() -> None:
    text = (ROOT / "docs/several-clouds.md").read_text(encoding="utf-8")
    section = text.partition("## Results")[2].partition("\n## ")[0]
    measured = (BENCH / "results.md").read_text(encoding="utf-8")
    figures = re.findall(r"\d+\.\d+", section)
    assert len(figures) > 20
    assert [figure for figure in figures if figure not in measured] == []


def test_the_protocol_keeps_what_gains_and_kills_what_loses_somewhere(bench: dict[str, ModuleType]) -> None:
    protocol = bench["protocol"]
    base = [0.5 + 0.001 * (seed % 7) for seed in range(32)]

    def verdict(gain: float, loss: float) -> bool:
        worth = {
            name: {"Thompson": base, "mine": [value + (loss if name == "sessions" else gain) for value in base]}
            for name in protocol.SCENARIOS
        }
        return bool(protocol.verdict(worth, "mine")[0])

    assert verdict(0.02, 0.02)
    assert verdict(0.02, -0.009)
    assert not verdict(0.02, -0.02)
    assert not verdict(0.0, 0.0)


def test_a_scenario_of_the_protocol_is_the_same_for_all_policies(bench: dict[str, ModuleType]) -> None:
    protocol = bench["protocol"]
    for name in ("cold start", "low coverage", "poisoned feedback"):
        runs = [protocol.Run(protocol.SCENARIOS[name], 5) for _ in range(2)]
        assert (runs[0].worth == runs[1].worth).all()
        assert (runs[0].offered == runs[1].offered).all()
        assert runs[0].offered.any(1).all()
    assert not protocol.Run(protocol.SCENARIOS["cold start"], 5).offered[:700, 2].any()
    restarted, plain = (protocol.one_run(name, "Thompson", 1)["worth"] for name in ("restarts", "stationary"))
    assert restarted == plain


def test_a_benchmark_goes_on_where_it_was(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    cells, ran = bench["cells"], []

    def cell(seed: int) -> dict[str, float]:
        ran.append(seed)
        return {"value": float(seed)}

    cells.run_missing(tmp_path / "part", {"one": cell}, 3, commit="abc")
    path = tmp_path / "part/one.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")  # killed while it wrote
    cells.run_missing(tmp_path / "part", {"one": cell}, 4, commit="abc")
    assert ran == [0, 1, 2, 2, 3]
    found = cells.read(tmp_path / "part", 4)["one"]["value"]
    assert (found["mean"], found["n"]) == (1.5, 4)
