"""One self-contained HTML page: what the plan saves, what it costs in balance, and how to start an engine with it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from selfroute.pages.html import definitions, page, scrolling, table_line
from selfroute.pages.svg import on_both
from selfroute.planning.report.figures import bars_svg, pareto_svg
from selfroute.planning.report.words import amount, headline, ratio, seconds, share, starts

__all__ = ["GLOSSARY", "placement_html"]

GLOSSARY = {
    "hops": "Links that the visits of one token's experts cross, there and back or on, summed over layers: traffic.",
    "time": "The same ways in seconds: latency of every link and the time it takes to pass a token's hidden state on, "
    "without queues.",
    "saved": "Part of the cost that is saved, in the unit that was kept low.",
    "above bound": "How far the cost is above what no placement can go below; 0 is proven optimal. Empty: the method "
    "proves nothing.",
    "busiest of layer": "Visits of the busiest rank of each layer over those of the mean rank, summed over layers: "
    "ranks wait for the busiest after every layer.",
    "busiest of all": "Visits of the rank that is busiest over all layers together, over the mean.",
    "moved": "Experts whose weights a rank has to fetch to get there from today's placement.",
    "CPU s": "Processor time of the solver on this machine, all threads.",
    "greedy": "Heaviest expert first, each to the cheapest rank with a free slot.",
    "unweighted": "Exact, but as if every expert were visited alike: the paper's program without loads.",
    "eplb": "DeepSeek's balancer, which engines deploy: it balances load and knows no network.",
    "linear": "Experts in their own order, a block to each rank: what engines start with.",
    "round_robin": "Experts dealt out like cards.",
}


def placement_html(summary: Mapping[str, Any]) -> str:
    """The page; it refers to nothing outside itself.

    Args:
        summary: the content of `plan.json`.
    """
    body = Template(files("selfroute.planning.report").joinpath("report.html").read_text(encoding="utf-8"))
    model = summary["model"]
    filled = body.substitute(
        bars=on_both(lambda canvas: bars_svg(summary["methods"], canvas)),
        table=_table(summary),
        pareto=_pareto(summary),
        engines=_engines(summary),
        glossary=definitions(GLOSSARY),
        origin=definitions(_origin(summary)),
    )
    title = f"{model['layers']} layers of {model['experts']} experts on {summary['ranks']} ranks"
    return page(title, headline(summary), filled)


def _table(summary: Mapping[str, Any]) -> str:
    saved = f"saved against {summary['reference']}"
    heads = ("method", "hops", "time", saved, "above bound", "busiest of layer", "busiest of all", "moved", "CPU s")
    lines = [_line(entry, is_plan=i == 0) for i, entry in enumerate(summary["methods"])]
    left_out = "".join(
        f'<p class="faint">{escape(name)} is left out. {escape(reason)}</p>'
        for name, reason in summary["left_out"].items()
    )
    return f"{scrolling(heads, lines, kind='wide')}{left_out}"


def _line(entry: Mapping[str, Any], *, is_plan: bool) -> str:
    cells = [
        amount(entry["hops"]),
        seconds(entry["seconds"]),
        share(entry["saved"]),
        "" if entry["gap"] is None else share(entry["gap"], digits=2),
        ratio(entry, "busiest"),
        ratio(entry, "busiest_total"),
        "–" if entry["moved"] is None else f"{entry['moved']:,}",
        f"{entry['cpu_s']:.2f}",
    ]
    return table_line(entry["method"], *cells, kind="best" if is_plan else "own")


def _pareto(summary: Mapping[str, Any]) -> str:
    points = summary["pareto"]
    if not points:
        return ""
    others, over = summary["methods"], summary["cap_over"]
    figure = on_both(lambda canvas: pareto_svg(points, summary["unit"], others, over, canvas))
    note = (
        "Dots: placements under a cap on the busiest rank, from none to the tightest; squares: the methods of the "
        "table. Left and low is good."
    )
    title = "Cost against the busiest rank"
    return f"<h2>{title}</h2><figure>{figure}<figcaption>{note}</figcaption></figure>"


def _engines(summary: Mapping[str, Any]) -> str:
    told = starts(summary)
    if not told:
        return "<p>No engine's file was written: engines want the same number of slots on every rank.</p>"
    return "".join(f"<p><code>{escape(name)}</code></p><pre>{escape(text)}</pre>" for name, text in told)


def _origin(summary: Mapping[str, Any]) -> dict[str, str]:
    return {
        "command": summary["command"] or "called from Python",
        "commit": summary.get("commit") or "not in a checkout",
        "versions": ", ".join(f"{name} {value}" for name, value in summary.get("versions", {}).items()),
        "network": summary["cluster"],
        "load": summary["load"],
        "model": _listed(summary["model"]),
        "slots": _listed(summary["slots"]),
        "files": "plan.json (every number here, and the placement), " + ", ".join(summary["files"]),
    }


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
