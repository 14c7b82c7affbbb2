"""What a plan comes to, in sentences; the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["amount", "headline", "ratio", "seconds", "share", "starts"]

Summary = Mapping[str, Any]

_PROBLEMS = {
    "homes": "Problem homes, the paper's: the attention of a layer is on one rank, and tokens go from there to the "
    "experts and on to the home of the next layer.",
    "sources": "Problem sources, the engines': tokens start on every rank, go to the experts and come back.",
}
_STARTS = {
    "sglang.json": "python -m sglang.launch_server … --ep-size {ranks} --init-expert-location sglang.json",
    "vllm-ascend.json": 'vllm serve … --additional-config \'{{"expert_map_path": "vllm-ascend.json"}}\'',
    "vllm-pr49572.json": "a proposal, vLLM pull request 49572: initial_expert_map_path, no release reads it",
    "vllm-pr41141.jsonl": "a proposal, vLLM pull request 41141: initial_mapping_path, no release reads it",
}


def headline(summary: Summary) -> list[str]:
    """What matters, most important first; the first sentence is the result."""
    sentences = [_result(summary), _PROBLEMS[summary["problem"]], _balance(summary), _room(summary)]
    if summary["network_s_per_token"] is not None:
        sentences.append(
            f"A token spends {seconds(summary['network_s_per_token'])} on the network if it waits for the mean of its "
            f"experts in every layer, and at most {seconds(summary['seconds'])} if it waits for one after the other, "
            "without queues."
        )
    if summary["usd_per_million_tokens"] is not None:
        price = summary["usd_per_million_tokens"]
        sentences.append(f"A million tokens cost ${price:.2f} at the price and the speed that were given.")
    return sentences


def _result(summary: Summary) -> str:
    unit, cost = summary["unit"], _in_unit(summary["objective"], summary["unit"])
    if summary["flat"]:
        return (
            f"Nothing can be saved: every placement costs {cost} per token. Seen from all sources together every rank "
            "is equally far, and the sources are alike; only sources that differ, an asymmetric network or redundant "
            f"copies would change that. What is left to choose by is balance: {_best_balanced(summary)}."
        )
    proof = _proof(summary)
    reference = summary["reference"]
    if reference == summary["method"]:
        return f"{summary['method']} costs {cost} per token, {proof}."
    saved = summary["saved"]
    less = "more" if saved < 0 else "less" if unit == "seconds" else "fewer"
    than = f"{share(abs(saved))} {less} {'time' if unit == 'seconds' else unit}"
    return f"{summary['method']} costs {cost} per token, {than} than {reference}, {proof}."


def _best_balanced(summary: Summary) -> str:
    best = min(summary["methods"], key=lambda entry: float(entry["busiest"]))
    return (
        f"{best['method']} has the lowest load on the busiest rank of a layer, {ratio(best, 'busiest')} times the mean"
    )


def _proof(summary: Summary) -> str:
    gap = summary["gap"]
    if gap is None:
        return "without a bound"
    within = "" if summary["cap"] is None else f" within {summary['cap']:g} times the mean load"
    return (
        f"and nothing can cost less{within}"
        if gap < 1e-6
        else f"at most {share(gap, digits=2)} above the least possible"
    )


def _balance(summary: Summary) -> str:
    own = summary["busiest"] / summary["mean"]
    before = next(m for m in summary["methods"] if m["method"] == summary["reference"])
    return (
        f"The busiest rank of a layer has {own:.2f} times the mean load, on average over layers "
        f"({before['method']}: {before['busiest'] / before['mean']:.2f}); over all layers together the busiest has "
        f"{summary['busiest_total'] / summary['mean']:.2f} times the mean."
    )


def _room(summary: Summary) -> str:
    slots, model, ranks = summary["slots"], summary["model"], summary["ranks"]
    even = (model["experts"] + slots["redundant"]) / ranks
    if slots["equal"]:
        copies = f", {slots['redundant']} of them redundant copies" if slots["redundant"] else ""
        return f"Every rank has {slots['layer']} slots in every layer, as engines want{copies}: no slack."
    total = slots["total"] / (model["layers"] * even)
    return (
        f"Slack: up to {slots['layer']} experts of a layer on a rank, {slots['layer'] / even:.2f} times the even "
        f"share, and {slots['total']} in all, {total:.2f} times. Engines have equal slots, and cannot take this plan."
    )


def starts(summary: Summary) -> Sequence[tuple[str, str]]:
    """Each engine's file, and what starts the engine with it."""
    return [(name, _STARTS[name].format(ranks=summary["ranks"])) for name in summary["files"] if name in _STARTS]


def share(value: float, *, digits: int = 1) -> str:
    """0.123 → "12.3 %"; no minus before a zero."""
    return f"{round(100 * value, digits) + 0.0:.{digits}f} %"


def amount(value: float | None) -> str:
    """Hops, with about four figures; a dash for None."""
    return (
        "–" if value is None else f"{value:,.1f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.2f}"
    )


def seconds(value: float | None) -> str:
    """A time in the unit that suits it; a dash for None."""
    if value is None:
        return "–"
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if value >= s), (1e-9, "ns"))
    return f"{value / scale:.3g} {unit}"


def ratio(entry: Mapping[str, Any], name: str) -> str:
    """A load as a multiple of the mean."""
    return f"{entry[name] / entry['mean']:.2f}"


def _in_unit(value: float, unit: str) -> str:
    return seconds(value) if unit == "seconds" else f"{amount(value)} hops"
