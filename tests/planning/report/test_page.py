"""The page: whole by itself, with what a reader must not miss in words."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from selfroute.assemble.placing import place_recipe
from selfroute.config import PlaceRecipe, build
from selfroute.planning.report.figures import pareto_svg
from selfroute.planning.report.page import GLOSSARY, placement_html
from selfroute.planning.report.table import plan_table
from selfroute.planning.report.words import amount, headline, seconds, share

RECIPE: dict[str, Any] = {
    "problem": "homes",
    "cluster": {"dragonfly": {"servers": 4, "per_router": 1}},
    "load": {"generated": {}},
    "model": {"layers": 3, "experts": 8, "top_k": 2},
    "pareto": [2, 1.6],
}


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = str(tmp_path_factory.mktemp("page"))
    return place_recipe(build(PlaceRecipe, RECIPE | {"out": out}, where="a test's recipe"))


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_by_itself(summary: dict[str, Any]) -> None:
    page = placement_html(summary)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=|https?://|url\(", page)
    assert "$" not in page


def test_the_page_has_a_row_and_a_bar_for_every_method(summary: dict[str, Any]) -> None:
    page = placement_html(summary)
    for entry in summary["methods"]:
        assert f"<td>{entry['method']}</td>" in page
        assert page.count(f">{entry['method']}</text>") == 2 * 2 + 3, "in both figures, on a phone beside every panel"


def test_words_that_a_load_brings_are_escaped(summary: dict[str, Any]) -> None:
    page = placement_html(summary | {"load": "<script>alert(1)</script>"})
    assert "<script>" not in page


def test_every_column_of_the_table_is_explained(summary: dict[str, Any]) -> None:
    page = placement_html(summary)
    heads = re.findall(r"<th>(.*?)</th>", page)
    assert {head.partition(" against")[0] for head in heads[1:]} <= set(GLOSSARY)
    assert {entry["method"] for entry in summary["methods"][1:]} <= set(GLOSSARY)


def test_the_first_sentence_is_the_result(summary: dict[str, Any]) -> None:
    told = headline(summary)
    assert re.match(r"assignment costs [\d.]+ hops per token, [\d.]+ % fewer hops than linear, and nothing", told[0])
    assert "no slack" in told[3]
    assert headline(summary | {"flat": True})[0].startswith("Nothing can be saved")
    best = min(summary["methods"], key=lambda entry: entry["busiest"])
    assert f"balance: {best['method']} has the lowest load" in headline(summary | {"flat": True})[0]
    assert headline(summary | {"gap": 0.0123})[0].endswith("at most 1.23 % above the least possible.")
    assert headline(summary | {"gap": None})[0].endswith("without a bound.")
    assert "9.0 % more time than" in headline(summary | {"unit": "seconds", "saved": -0.09})[0]
    slack = {"layer": 4, "total": 9, "redundant": 0, "equal": False}
    assert "2.00 times the even share, and 9 in all, 1.50 times" in headline(summary | {"slots": slack})[3]


def test_the_table_fits_a_terminal(summary: dict[str, Any]) -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(plan_table(summary))
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert any(line.startswith(" round_robin") for line in lines), "names stay on one line"


def test_a_curve_of_one_cost_is_drawn() -> None:
    points = [{"cap": None, "objective": 5.0, "bound": 5.0, "busiest": 1.5}]
    assert "no cap: 5.00, busiest 1.50" in pareto_svg(points, "hops", [], "all")


def test_numbers_are_written_for_people() -> None:
    assert [amount(v) for v in (None, 0.012345, 12.345, 1234.5)] == ["–", "0.0123", "12.35", "1,234.5"]
    assert [seconds(v) for v in (None, 2e-9, 4.54e-4, 0.5, 2.0)] == ["–", "2 ns", "454 µs", "500 ms", "2 s"]
    assert share(-1e-9) == "0.0 %"


def test_no_file_of_an_engine_is_said_too(summary: dict[str, Any]) -> None:
    assert "--init-expert-location sglang.json" in placement_html(summary)
    assert "No engine's file was written" in placement_html(summary | {"files": []})
