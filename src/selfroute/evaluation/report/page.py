"""One self-contained HTML page for a person: what to deploy, how sure that is, and how to get it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import Any

from selfroute.evaluation.counting.curves import Curves
from selfroute.evaluation.records import Key, Sample
from selfroute.evaluation.report.axes import axes_section
from selfroute.evaluation.report.choice import has_costs, leader, shown
from selfroute.evaluation.report.picks import KINDS, Pick
from selfroute.evaluation.report.svg import cost_svg, curve_svg, legend, legend_mark, reliability_svg
from selfroute.evaluation.report.words import (
    Deployment,
    best,
    deployments,
    fixed_point,
    headline,
    interval,
    is_matched,
    label,
    money,
    percent,
    price,
    share_of,
    versus,
)
from selfroute.pages.html import code, definitions, page, scrolling, sentence, table, table_line
from selfroute.pages.svg import on_both

__all__ = ["GLOSSARY", "report_html"]

_LONGEST_TEXT = 1500
_MOST_PAIRS = 40

GLOSSARY = {
    "call share": "Requests answered by the cloud, over all requests.",
    "accuracy at the share": "Right answers over all requests when exactly that share is sent: the prompts a strategy "
    "scores highest, or, without a score, its own choice cut down or filled up at random. Requests beyond the share "
    "get a forced local attempt.",
    "excess wrong": "The same, but a request that asked for the cloud and did not get it counts as wrong.",
    "oracle gain": "(accuracy − random) / (oracle − random) at the share, for the strategy's own device: 0 is chance, "
    "1 is a perfect choice.",
    "APGR": "Average performance gap recovered: mean accuracy over all shares, where 0 is the device and 1 the cloud; "
    "random gives 0.5. Not given where the cloud leads by less than 2 points or perhaps not at all.",
    "CPT 50, CPT 80": "The smallest call share that closes 50 % or 80 % of the gap between device and cloud.",
    "AUROC": "Chance that a prompt the device gets wrong is ranked above one it gets right; 0.5 is chance.",
    "AURC, excess": "Mean share of wrong answers among the prompts kept, over all numbers of prompts kept, those it "
    "wants to keep most first; the excess is above a perfect order. Low is good.",
    "AIQ": "Mean accuracy over the range of costs, for the best mix of a strategy's own settings (RouterBench).",
    "kept and right": "Of the prompts a strategy chose to keep on the device, those answered right (conditional local "
    "accuracy).",
    "local accuracy": "Prompts kept on the device and answered right, over all prompts.",
    "without a cloud": "Right answers over all prompts if no call is allowed: own answers, and forced attempts in "
    "place of hand-offs.",
    "tokens, $": "Completion tokens per request on each side, and the price of 1,000 requests.",
    "for nothing": "Tokens the device wrote per request for requests that were then handed off.",
    "leaking, values leaked": "Requests of which the cloud was told a private value that nobody else has to know, over "
    "all requests, and such values per request. Given for tasks that name private values.",
    "needed lost": "Private values per request that the answer needs, and that a cloud which was asked was not told.",
    "latency": "Median and 95th percentile at the share of a stated model: device speed, network and cloud speed as "
    "given below, not the machine that evaluated.",
    "errors": "Requests with a failure on the way, also where the device could still answer.",
    "p": "Exact McNemar test on the prompts that one of two strategies gets right and the other wrong; corrected for "
    "the number of pairs (Holm).",
    "intervals": "Small figures are 95 % bootstrap intervals over prompts. Differences are paired by prompt. Neither "
    "covers the chance of another training run.",
}


def report_html(
    summary: Mapping[str, Any],
    drawn: Curves,
    picked: Sequence[Pick],
    texts: Mapping[Key, Sample],
    *,
    about: Mapping[str, Any],
) -> str:
    """The page; it refers to nothing outside itself.

    Args:
        picked, texts: prompts to read, and what was written for them.
        about: the content of `run.json`.
    """
    body = Template(files("selfroute.evaluation.report").joinpath("report.html").read_text(encoding="utf-8"))
    share = summary["call_share_target"]
    seen = shown(drawn, share)
    filled = body.substitute(
        excluded=_excluded(summary),
        deploy=_deploy_table(summary, drawn),
        figure=on_both(lambda canvas: curve_svg(seen, share=share, canvas=canvas)),
        legend=_key(seen, share, bounds=True),
        figure_note=_figure_note(seen, drawn),
        cost=_cost(summary, seen),
        axes=axes_section(summary, drawn.charts),
        matched=_matched_table(summary),
        comparisons=_comparisons(summary),
        raw=_raw_table(summary),
        decision=_decision(summary, seen),
        transcripts=_transcripts(picked, texts),
        glossary=definitions(GLOSSARY),
        origin=definitions(_origin(summary, about)),
    )
    return page(f"Device and cloud on {summary['task'] or 'your task'}", headline(summary), filled)


def _figure_note(seen: Curves, drawn: Curves) -> str:
    note = (
        "Lines: accuracy when the share is varied. Band: pointwise 95 % interval of the best one at the share that is "
        "compared. Marks: each strategy as run."
    )
    left_out = len(drawn.lines) - len(seen.lines)
    return f"{note} {left_out} strategies that are lower at the share are in the table only." if left_out else note


def _key(drawn: Curves, share: float, *, bounds: bool) -> str:
    first = leader(drawn, share)
    own = [(legend_mark(i, fixed=s.fixed, first=i == first), s.name) for i, s in enumerate(drawn.lines)]
    return legend(own, bounds=bounds)


# --- what to deploy --------------------------------------------------------------------------------------------


def _deploy_table(summary: Mapping[str, Any], drawn: Curves) -> str:
    rows = deployments(drawn, summary)
    if not rows:
        return "<p>No strategy here chooses between device and cloud.</p>"
    priced = any(row.usd_per_1000 is not None for row in rows)
    names = ["calls", "deploy", "accuracy", *(["$ per 1,000"] if priced else []), "at random"]
    lines = [_deploy_line(row, priced=priced, is_target=row.share == summary["call_share_target"]) for row in rows]
    note = (
        "The highest accuracy at each call share. Strategies named below it are not told apart from it by a paired "
        "95 % interval: prefer the simplest. `selfroute calibrate` gives the threshold for a share or a sum of money."
    )
    return f'{scrolling(names, lines, of="deploy")}<p class="faint">{code(note)}</p>'


def _deploy_line(row: Deployment, *, priced: bool, is_target: bool) -> str:
    band = interval(row.band, scale=100, digits=1)
    also = f"<small>or {escape(', '.join(row.also))}</small>" if row.also else ""
    cells = [
        f"{100 * row.share:g}&nbsp;%",
        f"{escape(row.name)}{also}",
        f"{percent(row.accuracy)}<small>{band}</small>",
        *([price(row.usd_per_1000)] if priced else []),
        percent(row.random),
    ]
    kind = "best" if is_target else "own"
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _cost(summary: Mapping[str, Any], seen: Curves) -> str:
    if not has_costs(seen):
        return f"<p>{code(_NO_COSTS)}</p>"
    prices = summary["prices"]
    told = (
        f"Prices of {prices['as_of']} ({prices['source'] or 'no source given'}): "
        f"{prices['device_model']} on the device, {prices['cloud_model']} in the cloud. Each strategy pays for what "
        f"its device writes before it decides."
    )
    share = summary["call_share_target"]
    figure = on_both(lambda canvas: cost_svg(seen, share=share, canvas=canvas)) + _key(seen, share, bounds=False)
    return f"<figure>{figure}<figcaption>{escape(told)}</figcaption></figure>"


_NO_COSTS = (
    "No prices were given, or the records do not hold the tokens of both sides. Add a price table to the recipe, "
    "`prices: prices.yaml`, or to finished records: `selfroute report FOLDER prices=prices.yaml`."
)


# --- is the decision right -------------------------------------------------------------------------------------


def _decision(summary: Mapping[str, Any], seen: Curves) -> str:
    """Reliability of the best strategy's score, and of its decision where solve rates were sampled."""
    top = best(summary)
    number = next((i for i, line in enumerate(seen.lines) if line.name == top["name"]), 0)
    parts: list[str] = []
    if len(top["reliability"]) > 1:
        parts.append(_reliability(top, number))
    if top["solve_rate"] is not None:
        parts.append(_solve_rates(top, number))
    return "".join(parts) or "<p>The best strategy has no score, and no solve rates were sampled.</p>"


def _reliability(top: Mapping[str, Any], number: int) -> str:
    labels = {"x_label": "score", "y_label": "device wrong, %"}
    figure = on_both(lambda canvas: reliability_svg(top["reliability"], number=number, canvas=canvas, **labels))
    error = top["calibration_error"]
    read = (
        "The score is not between 0 and 1, so only its order means something."
        if error is None
        else f"Read as a chance of failing, the score is off by {percent(error)} on average."
    )
    note = f"{top['name']}: share of wrong device answers by tenths of the score, with exact 95 % intervals. {read}"
    return f"<figure>{figure}<figcaption>{escape(note)}</figcaption></figure>"


def _solve_rates(top: Mapping[str, Any], number: int) -> str:
    found = top["solve_rate"]
    labels = {"x_label": "solve rate of the device, q(x)", "y_label": "handed off, %"}
    figure = on_both(lambda canvas: reliability_svg(found["levels"], number=number, canvas=canvas, **labels))
    note = (
        f"{top['name']}: how often it hands off prompts of each solve rate ({found['samples']} samples of the device "
        f"per prompt, {found['n']} prompts, mean {percent(found['mean'])}). A good policy falls from left to right; "
        f"AUROC against the solve rates {fixed_point(found['auroc'], digits=2)}. {_rule(found['threshold_rule'])}"
    )
    return f"<figure>{figure}<figcaption>{escape(note)}</figcaption></figure>"


def _rule(compared: Sequence[Mapping[str, float]]) -> str:
    """The rule that comes nearest to the decisions."""
    nearest = max(compared, key=lambda rule: rule["agreement"])
    return (
        f"Nearest to it is the rule to ask below a solve rate of {nearest['threshold']:.1f}, best where a hand-off is "
        f"worth as much of a local answer: both agree on {percent(nearest['agreement'])} of the prompts, and the rule "
        f"is worth {nearest['regret']:.3f} of a local answer more per prompt."
    )


def _excluded(summary: Mapping[str, Any]) -> str:
    count = summary["n_excluded"]
    if not count:
        return ""
    return f"<p>{count} more prompts are left out: a side or the verifier failed on them for at least one strategy.</p>"


# --- tables ----------------------------------------------------------------------------------------------------

Column = tuple[str, Callable[[Mapping[str, Any]], str]]


def _banded(
    name: str, shown: Callable[[float | None], str], *, scale: float = 1, digits: int = 3
) -> Callable[..., str]:
    """A cell with its interval beneath."""

    def cell(entry: Mapping[str, Any]) -> str:
        band = interval(entry["ci95"].get(name), scale=scale, digits=digits)
        return shown(entry[name]) + (f"<small>{band}</small>" if band else "")

    return cell


def _rate(name: str) -> Callable[..., str]:
    return _banded(name, percent, scale=100, digits=1)


def _ratio(name: str) -> Callable[..., str]:
    return _banded(name, lambda value: fixed_point(value, digits=2), digits=2)


def _matched_table(summary: Mapping[str, Any]) -> str:
    columns: list[Column] = [
        (f"accuracy at {share_of(summary)}", _rate("overall_accuracy")),
        _cost_column(summary, summary["n"]),
        ("excess wrong", _rate("overall_accuracy_excess_wrong")),
        ("oracle gain", _ratio("oracle_gain")),
        ("APGR", _ratio("apgr")),
        ("CPT 50", _rate("cpt50")),
        ("CPT 80", _rate("cpt80")),
        ("AUROC", _ratio("auroc")),
        ("AURC", _rate("aurc")),
        ("excess", _rate("aurc_excess")),
        *_optional(summary),
    ]
    entries = sorted(
        (e for e in summary["strategies"] if is_matched(e)), key=lambda e: e["overall_accuracy"], reverse=True
    )
    empty = [""] * (len(columns) - 8)
    lines = [table_line("oracle", percent(summary["oracle_accuracy"]), "", "", "1.00", *[""] * 4, *empty)]
    lines += [_cells(entry, columns, is_best=i == 0) for i, entry in enumerate(entries)]
    lines.append(
        table_line(
            "random", percent(summary["random_accuracy"]), "", "", "0.00", "0.50", "50.0 %", "80.0 %", "0.50", *empty
        )
    )
    refused = sorted({e["apgr_refused"] for e in entries if e["apgr_refused"]})
    notes = [f"Oracle and random split between the cloud and the reference device ({summary['reference']})."]
    notes += [f"APGR and CPT are not given: {reason}." for reason in refused]
    return table([name for name, _ in columns], lines, " ".join(notes))


def _cost_column(summary: Mapping[str, Any], n: int) -> Column:
    """What a strategy costs, beside what it gets right: money at the share, or the cloud's tokens as run."""
    if any(entry["usd_per_1000_at_share"] is not None for entry in summary["strategies"]):
        return "$ per 1,000", _banded("usd_per_1000_at_share", price, digits=2)
    return "cloud tokens as run", lambda entry: f"{entry['cloud_tokens'] / n:.0f}"


def _optional(summary: Mapping[str, Any]) -> list[Column]:
    """Columns for what was asked for, or is known."""
    columns: list[Column] = [
        ("APGR, RouteLLM's bins", lambda e: fixed_point(e["apgr_routellm"])),
        ("AIQ", lambda e: percent(e["aiq"])),
        ("latency p50", lambda e: _seconds(e["latency_p50_s"])),
        ("latency p95", lambda e: _seconds(e["latency_p95_s"])),
    ]
    fields = ("apgr_routellm", "aiq", "latency_p50_s", "latency_p95_s")
    known = [any(entry[name] is not None for entry in summary["strategies"]) for name in fields]
    return [column for column, is_known in zip(columns, known, strict=True) if is_known]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _raw_table(summary: Mapping[str, Any]) -> str:
    n = summary["n"]
    columns: list[Column] = [
        ("call share", _rate("raw_call_share")),
        ("accuracy", _rate("raw_overall_accuracy")),
        ("$ per 1,000", lambda e: money(e["usd_per_1000"])),
        ("kept and right", _rate("conditional_local_accuracy")),
        ("local accuracy", _rate("local_accuracy")),
        ("without a cloud", _rate("forced_local_accuracy")),
        ("device tokens", lambda e: f"{e['device_tokens'] / n:.0f}"),
        ("for nothing", lambda e: f"{e['device_tokens_handed_off'] / n:.0f}"),
        ("cloud tokens", lambda e: f"{e['cloud_tokens'] / n:.0f}"),
        *_told_columns(summary),
        ("errors", lambda e: str(e["errors"])),
    ]
    lines = [_cells(entry, columns, is_best=False) for entry in summary["strategies"]]
    return table(
        [name for name, _ in columns], lines, "Each strategy's own decisions, no share imposed. Tokens are per request."
    )


def _told_columns(summary: Mapping[str, Any]) -> list[Column]:
    """Private values that left and that were missing, where the task knows them."""
    if all(entry["values_leaked"] is None for entry in summary["strategies"]):
        return []
    n = summary["n"]
    return [
        ("leaking", lambda e: percent(e["leaking_share"])),
        ("values leaked", lambda e: f"{e['values_leaked'] / n:.2f}"),
        ("needed lost", lambda e: f"{e['values_lost'] / n:.2f}"),
    ]


def _cells(entry: Mapping[str, Any], columns: Sequence[Column], *, is_best: bool) -> str:
    return table_line(label(entry), *(cell(entry) for _, cell in columns), kind="best" if is_best else "own")


def _comparisons(summary: Mapping[str, Any]) -> str:
    """The best strategy against each other one; the other pairs folded away."""
    top = best(summary)["name"]
    own = [c for c in summary["comparisons"] if top in (c["a"], c["b"])]
    others = [c for c in summary["comparisons"] if c not in own]
    told = "".join(f"<p>{sentence(versus(c))}</p>" for c in own)
    if not others:
        return told
    rest = "".join(f"<p>{sentence(versus(c))}</p>" for c in others[:_MOST_PAIRS])
    more = f"<p>{len(others) - _MOST_PAIRS} more are in summary.json.</p>" if len(others) > _MOST_PAIRS else ""
    return f"{told}<details><summary>The other {len(others)} pairs</summary>{rest}{more}</details>"


# --- prompts to read -------------------------------------------------------------------------------------------


def _transcripts(picked: Sequence[Pick], texts: Mapping[Key, Sample]) -> str:
    """What was written for the picked prompts, by kind."""
    by_kind = {kind: list(found) for kind, found in groupby(picked, key=lambda p: p.kind)}
    name = picked[0].strategy if picked else "the best strategy"
    parts = [
        f'<p class="faint">Decided by {escape(name)} at the share; the clearest cases first, then in the order of '
        "ids.</p>"
    ]
    for kind in KINDS:
        found = by_kind.get(kind, [])
        count = f" ({found[0].count} of {found[0].n})" if found else ""
        body = "".join(_transcript(p, texts.get(p.key)) for p in found) or "<p>None.</p>"
        parts.append(f"<article><h3>{escape(kind)}{count}</h3>{body}</article>")
    return "".join(parts)


def _transcript(picked: Pick, sample: Sample | None) -> str:
    facts = [
        f"row {escape(picked.id)}",
        f"device {'right' if picked.device_correct else 'wrong'}, cloud {'right' if picked.cloud_correct else 'wrong'}",
        *([] if picked.score is None else [f"score {picked.score:.3f}"]),
        *([] if picked.solve_rate is None else [f"solve rate {picked.solve_rate:.2f}"]),
        *([f"reference {escape(sample.gold)}"] if sample else ["its texts are not in samples.jsonl"]),
    ]
    parts = [] if sample is None else _written(sample)
    blocks = "".join(f'<p class="faint">{name}</p><pre>{_short(text)}</pre>' for name, text in parts if text)
    question = _short(sample.question) if sample else escape(picked.id)
    return f'<details><summary>{question}</summary>{blocks}<p class="faint">{" · ".join(facts)}</p></details>'


def _written(sample: Sample) -> list[tuple[str, str]]:
    forced = "" if sample.local_text == sample.device_text else sample.local_text
    return [("Device", sample.device_text), ("Cloud", sample.cloud_text), ("Device, forced to answer", forced)]


def _short(text: str) -> str:
    cut = text.strip()
    return escape(cut if len(cut) <= _LONGEST_TEXT else f"{cut[:_LONGEST_TEXT]} … ({len(cut)} characters in all)")


# --- origin ----------------------------------------------------------------------------------------------------


def _origin(summary: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, str]:
    identity = about.get("identity", {})
    sampling = identity.get("sampling", {})
    return {
        "command": about.get("command") or "called from Python",
        "commit": about.get("commit") or "not in a checkout",
        "versions": ", ".join(f"{name} {value}" for name, value in about.get("versions", {}).items()),
        "rows": f"{identity.get('rows', '?')} of {summary['task']}",
        "n": f"{summary['n']} compared, {summary['n_excluded']} left out",
        "seed": str(summary["seed"]),
        "intervals": f"{summary['resamples']} bootstrap samples over prompts",
        "decoding": f"temperature {sampling.get('temperature', '?')}, at most {sampling.get('max_tokens', '?')} tokens",
        "cloud": str(identity.get("cloud", "?")),
        "latency model": ", ".join(f"{name} {value:g}" for name, value in summary["network"].items()),
        "strategies": "\n".join(f"{name} = {what}" for name, what in identity.get("strategies", {}).items()),
        "files": "records.jsonl (facts), samples.jsonl (texts), summary.json (every number here), run.json",
    }
