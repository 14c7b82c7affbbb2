"""One self-contained HTML page for a person: what was found, how sure it is, and how to get it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from selfroute.evaluation.plots import curve_svg, leader, legend_mark
from selfroute.evaluation.records import Record, Sample
from selfroute.evaluation.summary import Curves
from selfroute.evaluation.words import (
    best,
    fixed_point,
    headline,
    interval,
    money,
    percent,
    share_of,
    versus,
)

__all__ = ["GLOSSARY", "report_html"]

_LONGEST_TEXT = 1500

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
    "kept and right": "Of the prompts a strategy chose to keep on the device, those answered right (conditional local "
    "accuracy).",
    "local accuracy": "Prompts kept on the device and answered right, over all prompts.",
    "without a cloud": "Right answers over all prompts if no call is allowed: own answers, and forced attempts in "
    "place of hand-offs.",
    "tokens, $": "Completion tokens per request on each side, and the price of 1,000 requests, as run.",
    "errors": "Requests with a failure on the way, also where the device could still answer.",
    "intervals": "Small figures are 95 % bootstrap intervals over prompts. Differences are paired by prompt. Neither "
    "covers the chance of another training run.",
}


def report_html(
    summary: Mapping[str, Any],
    drawn: Curves,
    records: Sequence[Record],
    samples: Iterable[Sample],
    *,
    about: Mapping[str, Any],
) -> str:
    """The page; it refers to nothing outside itself.

    Args:
        about: the content of `run.json`.
    """
    page = Template(files("selfroute.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    first, *rest = headline(summary)
    left_out = _excluded(summary)
    comparisons = [f"<p>{_sentence(versus(c))}</p>" for c in summary["comparisons"]]
    return page.substitute(
        title=escape(f"Device and cloud on {summary['task'] or 'your task'}"),
        lead=f'<p class="lead">{_sentence(first)}</p>' + "".join(f"<p>{_sentence(s)}</p>" for s in rest) + left_out,
        figure=curve_svg(drawn, share=summary["call_share_target"]),
        legend=_legend(drawn, summary["call_share_target"]),
        figure_note="Lines: accuracy when the share is varied, with pointwise 95 % bands. Marks: each strategy as run.",
        matched=_matched_table(summary),
        comparisons="".join(comparisons),
        raw=_raw_table(summary),
        transcripts=_transcripts(best(summary)["name"], records, samples),
        glossary=_definitions(GLOSSARY),
        origin=_definitions(_origin(summary, about)),
    )


def _sentence(text: str) -> str:
    """Escaped, and with no line break between a number and its per cent sign."""
    return escape(text).replace(" %", "&nbsp;%")


def _excluded(summary: Mapping[str, Any]) -> str:
    count = summary["n_excluded"]
    if not count:
        return ""
    return f"<p>{count} more prompts are left out: a side or the verifier failed on them for at least one strategy.</p>"


def _legend(drawn: Curves, share: float) -> str:
    line = '<svg width="36" height="16" aria-hidden="true"><path d="M1 8H35" style="stroke:var({});{}"/></svg>'
    bounds = [
        (line.format("--ink", "stroke-width:1.2"), "oracle, reference device"),
        (line.format("--faint", "stroke-dasharray:5 4"), "random, reference device"),
    ]
    first = leader(drawn, share)
    own = [(legend_mark(i, fixed=s.fixed, first=i == first), s.name) for i, s in enumerate(drawn.lines)]
    items = "".join(f"<li>{sign} {escape(name)}</li>" for sign, name in own + bounds)
    return f'<ul class="legend">{items}</ul>'


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
        ("excess wrong", _rate("overall_accuracy_excess_wrong")),
        ("oracle gain", _ratio("oracle_gain")),
        ("APGR", _ratio("apgr")),
        ("CPT 50", _rate("cpt50")),
        ("CPT 80", _rate("cpt80")),
        ("AUROC", _ratio("auroc")),
    ]
    entries = sorted(
        (e for e in summary["strategies"] if not e["fixed"]), key=lambda e: e["overall_accuracy"], reverse=True
    )
    lines = [_line("oracle", percent(summary["oracle_accuracy"]), "", "1.00", *[""] * 4)]
    lines += [_cells(entry, columns, is_best=i == 0) for i, entry in enumerate(entries)]
    lines.append(_line("random", percent(summary["random_accuracy"]), "", "0.00", "0.50", "50.0 %", "80.0 %", "0.50"))
    refused = sorted({e["apgr_refused"] for e in entries if e["apgr_refused"]})
    notes = [f"Oracle and random split between the cloud and the reference device ({summary['reference']})."]
    notes += [f"APGR and CPT are not given: {reason}." for reason in refused]
    return _table([name for name, _ in columns], lines, " ".join(notes))


def _raw_table(summary: Mapping[str, Any]) -> str:
    n = summary["n"]
    columns: list[Column] = [
        ("call share", _rate("raw_call_share")),
        ("accuracy", _rate("raw_overall_accuracy")),
        ("kept and right", _rate("conditional_local_accuracy")),
        ("local accuracy", _rate("local_accuracy")),
        ("without a cloud", _rate("forced_local_accuracy")),
        ("device tokens", lambda e: f"{e['device_tokens'] / n:.0f}"),
        ("cloud tokens", lambda e: f"{e['cloud_tokens'] / n:.0f}"),
        ("$ per 1,000", lambda e: money(e["usd"], n)),
        ("errors", lambda e: str(e["errors"])),
    ]
    lines = [_cells(entry, columns, is_best=False) for entry in summary["strategies"]]
    return _table(
        [name for name, _ in columns], lines, "Each strategy's own decisions, no share imposed. Tokens are per request."
    )


def _cells(entry: Mapping[str, Any], columns: Sequence[Column], *, is_best: bool) -> str:
    cells = "".join(f"<td>{cell(entry)}</td>" for _, cell in columns)
    kind = "best" if is_best else "own"
    return f'<tr class="{kind}"><td>{escape(entry["name"])}</td>{cells}</tr>'


def _line(name: str, *cells: str) -> str:
    return f'<tr class="bound"><td>{name}</td>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _table(names: Sequence[str], lines: Sequence[str], caption: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in ("strategy", *names))
    body = "".join(lines)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# --- transcripts -----------------------------------------------------------------------------------------------

_KINDS: tuple[tuple[str, Callable[[Record], bool]], ...] = (
    ("Solved on the device", lambda r: not r.wants_cloud and r.device_correct is True),
    ("Handed off, and the cloud solved it", lambda r: r.source == "cloud" and r.correct is True),
    ("Kept, and wrong", lambda r: not r.wants_cloud and r.device_correct is False),
)


def _transcripts(strategy: str, records: Sequence[Record], samples: Iterable[Sample]) -> str:
    """One example of each kind for the best strategy; the first by row id, so that nobody picked it."""
    texts = {sample.key: sample for sample in samples}
    own = sorted((r for r in records if r.strategy == strategy and r.key in texts), key=lambda r: r.id)
    parts = [f'<p class="faint">By {escape(strategy)}; the first prompt of each kind in the order of ids.</p>']
    for title, fits in _KINDS:
        count = sum(fits(r) for r in own)
        found = next((r for r in own if fits(r)), None)
        body = "<p>None.</p>" if found is None else _transcript(found, texts[found.key])
        parts.append(f"<article><h3>{title} ({count} of {len(own)})</h3>{body}</article>")
    return "".join(parts)


def _transcript(record: Record, sample: Sample) -> str:
    score = "" if record.score is None else f" · score {record.score:.3f}"
    parts = [("Question", sample.question), ("Device", sample.device_text), ("Cloud", sample.cloud_text)]
    blocks = "".join(f'<p class="faint">{name}</p><pre>{_short(text)}</pre>' for name, text in parts if text)
    return f'{blocks}<p class="faint">row {escape(record.id)} · reference {escape(sample.gold)}{score}</p>'


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
        "strategies": "; ".join(f"{name} = {what}" for name, what in identity.get("strategies", {}).items()),
        "files": "records.jsonl (facts), samples.jsonl (texts), summary.json (every number here), run.json",
    }


def _definitions(terms: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
