from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.evaluation.counting.test_summary import ALL, made

from selfroute.config import STRATEGIES
from selfroute.evaluation.counting.columns import columns_of
from selfroute.evaluation.counting.costs import PriceTable
from selfroute.evaluation.counting.split import splits_of
from selfroute.evaluation.counting.summary import analyse, curves, summarise
from selfroute.evaluation.records import Key, Record, Sample
from selfroute.evaluation.report.figures import curve_png
from selfroute.evaluation.report.page import GLOSSARY, report_html
from selfroute.evaluation.report.picks import pick
from selfroute.evaluation.report.svg import curve_svg
from selfroute.evaluation.report.table import summary_table
from selfroute.evaluation.report.words import best, deployments, fixed_point, headline, money, percent, price, versus
from selfroute.prices import Price, Prices

ABOUT = {
    "command": "selfroute evaluate r.yaml seed=3",
    "commit": "abc123",
    "versions": {"python": "3.11"},
    "identity": {},
}
VOID = {"meta"}


def samples(device_text: str = "<think>x</think>") -> dict[Key, Sample]:
    return {
        r.key: Sample(
            strategy=r.strategy, id=r.id, question="Is <b>1 & 1</b> two?", gold="yes", device_text=device_text
        )
        for r in ALL
    }


PRICES = PriceTable(
    prices=Prices(cloud=Price(completion_usd=10.0)), as_of="2026-11-01", device_model="small", cloud_model="large"
)


def page(
    records: list[Record] = ALL,
    *,
    texts: dict[Key, Sample] | None = None,
    prices: PriceTable | None = None,
    axes: tuple[str, ...] = ("calls",),
    **about: Any,
) -> str:
    summary, drawn = analyse(records, share=0.3, seed=3, task="toy", resamples=50, prices=prices, axes=axes)
    picked = pick(splits_of(columns_of(records), seed=3), best(summary)["name"], share=0.3)
    texts = samples() if texts is None else texts
    return report_html(summary, drawn, picked, texts, about=ABOUT | about)


def with_tokens(records: list[Record]) -> list[Record]:
    """The same, with what each side reads and writes; hard prompts are longer."""
    spent = {"attempt_prompt_tokens": 10, "local_prompt_tokens": 10, "cloud_answer_prompt_tokens": 8}
    return [
        replace(r, **spent, attempt_tokens=0, local_tokens=40 + i % 9, cloud_answer_tokens=90 + i % 30)
        for i, r in enumerate(records)
    ]


class Reader(HTMLParser):
    """Checks that tags are closed in order, and gathers text by heading level."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_refers_to_nothing_outside() -> None:
    html = page()
    read(html)
    assert not re.search(r"https?:|//[a-z]|src=|href=|@import|url\(", html)
    assert "prefers-color-scheme: dark" in html
    assert len(html) < 200_000


def test_the_page_has_every_heading_and_explains_every_metric() -> None:
    reader = read(page())
    assert reader.texts["h2"] == [
        "What to deploy",
        "Accuracy against call share",
        "Accuracy against cost",
        "At the same call share",
        "As run",
        "Is the decision right?",
        "Prompts to read",
        "What the numbers mean",
        "How this was made",
    ]
    assert [re.sub(r" \(.*", "", text) for text in reader.texts["h3"]] == [
        "Kept, and should have been sent",
        "Sent, and need not have been",
        "Hardest: neither side solves it",
        "Solved on the device",
        "Sent, and the cloud solved it",
    ]
    assert set(GLOSSARY) <= set(reader.texts["dt"])
    told = " ".join(reader.texts["dd"])
    for fact in ("selfroute evaluate r.yaml seed=3", "abc123", "python 3.11", "200 compared"):
        assert fact in told


def test_model_text_is_escaped() -> None:
    html = page(command="<script>alert(1)</script>")
    assert "<script" not in html and "<b>" not in html and "<think>" not in html
    assert "&lt;think&gt;x&lt;/think&gt;" in html


def test_long_texts_are_cut_and_say_so() -> None:
    html = page(texts=samples("y" * 9000))
    assert "(9000 characters in all)" in html and "y" * 1600 not in html


def test_a_report_without_texts_still_names_the_rows() -> None:
    html = page(texts={})
    read(html)
    assert "its texts are not in samples.jsonl" in html and "row p0" in html


def test_costs_are_shown_where_they_are_known() -> None:
    assert "No prices were given" in page()
    html = page(with_tokens(ALL), prices=PRICES)
    read(html)
    assert "No prices were given" not in html
    assert "Prices of 2026-11-01 (no source given): small on the device, large in the cloud." in html
    for shown in ("$ per 1,000</th>", "AIQ</th>", "latency p95</th>", "cost of 1,000 requests, $"):
        assert shown in html


def test_every_axis_that_was_asked_for_has_a_figure_and_a_table() -> None:
    assert "Accuracy for the same resource" not in page(with_tokens(ALL))  # calls are in the figure of call shares
    html = page(with_tokens(ALL), prices=PRICES, axes=("calls", "cloud_tokens", "usd", "layer_tokens"))
    reader = read(html)
    own = [title for title in reader.texts["h3"] if "per request" in title or "Call share" in title or "$" in title]
    assert own == [
        "Call share: requests answered with the cloud, %",
        "Tokens that the cloud writes per request",
        "Cost of 1,000 requests, $",
        "Tokens times layers of the cloud per request",
    ]
    assert html.count("<svg viewBox") == 2 * (1 + 1 + 1 + 3), "each for a screen and for a phone"
    assert html.count("The records do not tell.") == 1
    for name in ("sees", "asks", "always_device", "device alone", "cloud alone", "oracle", "random"):
        assert html.count(f"<td>{name}</td>") >= 3


def test_what_to_deploy_is_the_best_at_each_budget() -> None:
    summary, drawn = analyse(with_tokens(ALL), share=0.3, seed=3, resamples=50, prices=PRICES)
    rows = deployments(drawn, summary)
    assert [row.share for row in rows] == [0.05, 0.1, 0.2, 0.3, 0.5]
    entries = {e["name"]: e for e in summary["strategies"]}
    at_target = next(row for row in rows if row.share == 0.3)
    assert at_target.name == "sees" and at_target.accuracy == pytest.approx(entries["sees"]["overall_accuracy"])
    assert at_target.usd_per_1000 == pytest.approx(entries["sees"]["usd_per_1000_at_share"])
    costs = [row.usd_per_1000 or 0 for row in rows if row.name == "sees"]
    assert costs == sorted(costs)


def test_a_cloud_that_hurts_is_called_so_first() -> None:
    swapped = [replace(r, device_correct=r.cloud_correct, cloud_correct=r.device_correct) for r in ALL]
    html = page(swapped)
    assert "Calling the cloud hurts here" in html and "APGR and CPT are not given: the cloud hurts: it gets" in html


def test_wrong_decisions_are_read_clearest_first() -> None:
    picked = pick(splits_of(columns_of(ALL), seed=3), "sees", share=0.3)
    kept = [p for p in picked if p.kind == "Kept, and should have been sent"]
    assert len(kept) == 3 and not any(p.sent or p.device_correct for p in kept) and all(p.cloud_correct for p in kept)
    scores = [p.score for p in kept]
    own = [r for r in ALL if r.strategy == "sees" and not r.device_correct and r.cloud_correct]
    assert scores == sorted(r.score for r in own if r.score is not None)[:3]
    sent = [p for p in picked if p.kind == "Sent, and need not have been"]
    assert all(p.sent and p.device_correct for p in sent) and sent[0].count >= len(sent)


def test_more_strategies_than_colours_are_left_to_the_table() -> None:
    many = [r for k in range(12) for r in made(f"s{k:02}", seed=k)]
    summary, drawn = analyse(many, share=0.3, seed=0, resamples=20)
    html = report_html(summary, drawn, [], {}, about=ABOUT)
    assert "4 strategies that are lower at the share are in the table only" in html
    assert "The other 55 pairs" in html and "15 more are in summary.json" in html


def test_names_with_commas_are_told_apart() -> None:
    named = [*made("asks", seed=1), *made("asks, alone", seed=2)]
    *_, compared = headline(summarise(named, share=0.3, seed=3, task="toy", resamples=20))
    assert "asks; asks, alone," in compared


def test_the_first_lines_say_what_was_compared_who_won_by_how_much_how_surely_and_at_what_cost() -> None:
    summary = summarise(with_tokens(ALL), share=0.3, seed=3, task="toy", resamples=100, prices=PRICES)
    won, ahead, costs, levels, compared = headline(summary)
    entries = {entry["name"]: entry for entry in summary["strategies"]}
    sees, asks = entries["sees"], entries["asks"]
    ways = "Of 2 ways to choose the 30 % of 200 toy prompts that the cloud answers"
    assert won.startswith(f"{ways}, sees gets the most right: {percent(sees['overall_accuracy'])} (95 % interval ")
    points = 100 * (sees["overall_accuracy"] - asks["overall_accuracy"])
    assert ahead.startswith(f"That is {points:.1f} points more than asks, the next best; the 95 % interval of the diff")
    assert "does not exclude zero: the two are not told apart" in ahead
    dear, cheap, alone = (
        price(usd)
        for usd in (
            sees["usd_per_1000_at_share"], asks["usd_per_1000_at_share"], entries["always_cloud"]["usd_per_1000"]
        )
    )  # fmt: skip
    assert costs == (
        f"1,000 requests at that share cost {dear} with sees; with asks {cheap}, with the cloud alone {alone}."
    )
    assert percent(summary["device_accuracy"]) in levels and percent(summary["oracle_accuracy"]) in levels
    assert all(name in compared for name in entries)
    shown = read(page(with_tokens(ALL), prices=PRICES)).texts["p"]
    assert shown[0].replace("\xa0", " ").startswith(f"{ways}, sees gets the most right")


def test_without_prices_the_first_lines_speak_of_tokens() -> None:
    summary = summarise(with_tokens(ALL), share=0.3, seed=3, task="toy", resamples=20)
    assert headline(summary)[2].startswith("No prices were given, so nothing is told of money; as run, sees has the")


@pytest.mark.parametrize(
    ("ci95", "corrected", "told"),
    [
        ([0.02, 0.2], 0.004, "2.0 to 20.0 points, excludes zero (p = 0.002, corrected 0.004)."),
        ([0.02, 0.2], 1.0, "excludes zero, but among so many pairs it may be chance (p = 0.002, corrected 1)."),
        (
            [-0.02, 0.2],
            1.0,
            "-2.0 to 20.0 points, does not exclude zero: the two are not told apart on so few prompts.",
        ),
    ],
)
def test_a_lead_that_may_be_chance_is_called_so(ci95: list[float], corrected: float, told: str) -> None:
    summary = summarise(ALL, share=0.3, seed=3, task="toy", resamples=20)
    summary["comparisons"][0] |= {"ci95": ci95, "p": 0.002, "p_holm": corrected}
    assert headline(summary)[1].endswith(told)


def test_one_way_alone_is_told_without_a_race() -> None:
    summary = summarise([r for r in ALL if r.strategy == "sees"], share=0.3, seed=3, task="toy", resamples=20)
    assert headline(summary)[0].startswith("At a call share of 30 %, sees answers ")


def test_money_stands_beside_accuracy() -> None:
    heads = re.findall(r"<th>([^<]*)</th>", page(with_tokens(ALL), prices=PRICES))
    assert heads[heads.index("accuracy at 30 %") + 1] == "$ per 1,000"
    assert heads.count("$ per 1,000") == 3 and heads[heads.index("deploy") + 2] == "$ per 1,000"
    assert "cloud tokens as run" in page(with_tokens(ALL))


@pytest.mark.parametrize(
    ("ci95", "p", "corrected", "told"),
    [
        ([0.02, 0.2], 0.0002, 0.004, "(2.0 to 20.0, p < 0.001, corrected 0.004)."),
        ([0.02, 0.2], 0.00002, 0.0004, "(2.0 to 20.0, p < 0.001, corrected < 0.001)."),
        ([0.02, 0.2], 0.03, 1.0, "(2.0 to 20.0, p = 0.03, corrected 1): may be chance among so many pairs."),
        ([-0.02, 0.2], 0.3, 1.0, "(-2.0 to 20.0, p = 0.3, corrected 1): not told apart at this n."),
    ],
)
def test_a_difference_is_told_with_both_of_its_p(ci95: list[float], p: float, corrected: float, told: str) -> None:
    said = versus({"a": "x", "b": "y", "difference": 0.1, "ci95": ci95, "p": p, "p_holm": corrected})
    assert said == f"x against y: +10.0 points {told}"


def test_only_fixed_strategies_still_make_a_report() -> None:
    records = [r for r in ALL if r.strategy.startswith("always")]
    html = page(records)
    read(html)
    assert "No strategy here chooses between device and cloud" in html


def test_refusals_and_left_out_prompts_are_told() -> None:
    even = [
        Record(strategy=r.strategy, id=r.id, source="device", wants_cloud=r.wants_cloud, score=r.score,
               device_correct=r.device_correct, cloud_correct=r.device_correct)
        for r in ALL
    ]  # fmt: skip
    even[0] = Record(strategy=even[0].strategy, id=even[0].id, source="device", wants_cloud=False, error="down")
    html = page(even)
    assert "APGR and CPT are not given: the cloud leads the device by 0.0 points, less than 2." in html
    assert "1 more prompts are left out" in html


def test_the_figure_is_well_formed_and_shows_every_strategy() -> None:
    drawn = curves(ALL, seed=3)
    svg = ET.fromstring(curve_svg(drawn, share=0.3))
    titles = [element.text or "" for element in svg.iter("title")]
    assert [title.split(":")[0] for title in titles] == [line.name for line in drawn.lines]
    moving = sum(not line.fixed for line in drawn.lines)
    assert len(list(svg.iter("polyline"))) == moving + 2
    (band,) = svg.iter("polygon")
    best_one = max(
        (line for line in drawn.lines if not line.fixed), key=lambda line: np.interp(0.3, drawn.shares, line.accuracy)
    )
    assert f"--c{drawn.lines.index(best_one)})" in band.attrib["style"], "the winner's alone"
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    for element in svg.iter("polyline"):
        for point in element.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width and 0 <= y <= height


def test_the_png_is_one_of_the_stated_size(tmp_path: Path) -> None:
    curve_png(curves(ALL, seed=3), tmp_path / "curve.png", share=0.3, title="toy")
    head = (tmp_path / "curve.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (1280, 800)


def test_the_terminal_table_fits_and_orders_by_accuracy() -> None:
    summary = summarise(ALL, share=0.3, seed=3, task="toy", resamples=50)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(summary))
    console.file.close()
    lines = console.export_text().splitlines()
    order = [name for line in lines for name in re.findall(r"^ (?!strategy)([a-z]\w+)  ", line)]
    assert order == ["oracle", "sees", "asks", "always_cloud", "always_device", "random"]
    assert "…" not in "".join(lines)


def test_the_terminal_table_shows_dollars_where_they_are_known() -> None:
    paid = [replace(r, usd=0.0345) if r.strategy == "always_cloud" else r for r in ALL]
    summary = summarise(paid, share=0.3, seed=3, task="toy", resamples=50)
    for entry in summary["strategies"]:
        entry["usd_per_1000_at_share"] = {"sees": 0.4567, "always_cloud": 99.0}.get(entry["name"])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    text = console.export_text()
    assert "USD /" in text and "APGR" not in text and "…" not in text
    shown = dict(re.findall(r"^ (\w+) .* ([0-9.]+) *$", text, re.MULTILINE))
    # At the share; of those that always or never send as run, and of those whose cost there is not known.
    assert [shown[name] for name in ("sees", "asks", "always_cloud", "always_device")] == [
        "0.457",
        "1.00",
        "34.50",
        "0.000",
    ]


def test_the_terminal_table_keeps_our_longest_name_on_one_line() -> None:
    longest = max(STRATEGIES, key=len)
    records = [replace(r, strategy=longest) for r in ALL if r.strategy == "sees"]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(summarise(records, share=0.3, seed=3, task="toy", resamples=50)))
    assert f" {longest} " in console.export_text()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.3), "30.0 %"),
        (percent(None), "–"),
        (fixed_point(-0.0004, digits=2), "0.00"),
        (fixed_point(-0.02, digits=2), "-0.02"),
        (fixed_point(None), "–"),
        (money(0.0), "–"),
        (money(5.0), "$5.00"),
        (price(0.0), "$0.00"),
        (price(0.0123), "$0.012"),
    ],
)
def test_numbers_as_words(shown: str, expected: str) -> None:
    assert shown == expected
