"""The reports in a real browser: whole on a phone, by day and by night, with words for what is drawn."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright
from tests.browser.test_dashboard import CONTRAST
from tests.evaluation.report.test_page import ALL, PRICES, made, page, with_tokens
from tests.planning.report.test_page import RECIPE

from selfroute.assemble.placing import place_recipe
from selfroute.config import PlaceRecipe, build
from selfroute.planning.report.page import placement_html

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]
AXES = ("calls", "cloud_tokens", "usd")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        await launched.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = str(tmp_path_factory.mktemp("place"))
    placed = place_recipe(build(PlaceRecipe, RECIPE | {"out": out}, where="a test's recipe"))
    records = with_tokens(ALL + [r for k in range(4) for r in made(f"a_strategy_{k:02}", seed=k)])
    return {
        "evaluation": page(records, prices=PRICES, axes=AXES),
        "placement": placement_html(placed),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1280])
@pytest.mark.parametrize("name", ["evaluation", "placement"])
async def test_a_report_is_whole_at_every_width(
    browser: Browser, reports: dict[str, str], name: str, width: int, scheme: Any, tmp_path: Path
) -> None:
    (file := tmp_path / "report.html").write_text(reports[name], encoding="utf-8")
    shown = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    await shown.goto(file.as_uri())
    assert await shown.evaluate("document.documentElement.scrollWidth") <= width
    figures = await shown.evaluate(FIGURES)
    assert figures, "there are some"
    for figure in figures:
        assert figure["left"] >= 0 and figure["right"] <= width
        assert figure["cut"] == [], "every word of a figure is inside it"
        assert figure["letters"] >= 9, "and can be read"
        assert figure["label"]
    for over, told in await shown.evaluate(TABLES):
        assert told or not over, "a table that is wider than the screen says so"
    assert await shown.evaluate(CONTRAST) == []
    await shown.close()


# Of each figure that is shown: its edges, words that are cut off, the size of its letters, its label.
FIGURES = """() => [...document.querySelectorAll("figure svg[role=img]")].filter(e => e.checkVisibility()).map(e => {
  const box = e.getBoundingClientRect(), words = [...e.querySelectorAll("text")];
  const outside = t => { const b = t.getBoundingClientRect();
    return b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1 };
  return { left: box.left, right: box.right, label: e.getAttribute("aria-label"),
    cut: words.filter(outside).map(t => t.textContent), letters: 12 * box.width / e.viewBox.baseVal.width } })"""
# Of each table: whether it is wider than its place, and whether that is said.
TABLES = """() => [...document.querySelectorAll(".scroll")].map(e =>
  [e.scrollWidth > e.clientWidth, e.previousElementSibling.checkVisibility()])"""


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        (
            "evaluation",
            ["call share: requests answered by the cloud, %", "overall accuracy, %", "cost of 1,000 requests, $"],
        ),
        ("placement", ["hops per token", "time per token"]),
    ],
)
async def test_axes_say_what_they_show(browser: Browser, reports: dict[str, str], name: str, labels: list[str]) -> None:
    shown = await browser.new_page(viewport={"width": 390, "height": 900})
    await shown.set_content(reports[name])
    words = await shown.evaluate(
        "[...document.querySelectorAll('svg text')].filter(e => e.checkVisibility()).map(e => e.textContent)"
    )
    assert set(labels) <= set(words)
    await shown.close()
