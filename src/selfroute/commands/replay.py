"""The command that asks a log what another policy would have been worth."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfroute.commands.terminal import example, next_step, say
from selfroute.commands.values import spec_of

if TYPE_CHECKING:
    from rich.table import Table

    from selfroute.bandits.log import Decision
    from selfroute.bandits.replay import Estimate, Feedback, Replayed

__all__ = ["add_to"]

LogFile = Annotated[Path, typer.Argument(metavar="LOG.jsonl", help="Decisions with propensities, and their outcomes.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog=example(
            "selfroute replay decisions.jsonl --policy thompson",
            "selfroute replay decisions.jsonl --policy 'ucb: {alpha: 0.15, discount: 0.995}' --policy linucb "
            "--out replayed.json",
        )
    )(replay)


def replay(
    log: LogFile,
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy, or {policy: {option: value}}; repeat it for several.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of a policy's draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
) -> None:
    """Estimate from a log what other policies would have been worth, beside every fixed arm and their best mix."""
    from selfroute import config
    from selfroute.bandits.log import read_log
    from selfroute.bandits.replay import check_support, feedback
    from selfroute.bandits.replay import replay as estimate

    specs = {text: spec_of(text, "--policy") for text in policy or []}
    decisions = read_log(log)
    arms = list(dict.fromkeys(arm.name for decision in decisions for arm in decision.arms))
    make = partial(config.make_policy, arms=arms, features=len(decisions[0].context.features), seed=seed)
    asked = {text: make(spec, where="--policy") for text, spec in specs.items()}
    check_support(decisions)
    fixed = {f"always {arm}": make(config.Spec("fixed", arm)) for arm in arms}
    found = {name: estimate(decisions, target) for name, target in {**fixed, **asked}.items()}
    judged = feedback(decisions)
    mixes = _mixes(found, list(fixed))
    _tell(decisions, judged, found, mixes)
    if out is not None:
        from selfroute.evaluation.files import write_text

        write_text(out, json.dumps(_plain(decisions, judged, found, mixes), indent=2) + "\n")
        say(f"written: {out}")
    for name in asked:
        found[name].check(name)
    next_step(*(shlex.join(["selfroute", "serve", "CONFIG.yaml", f"choose.policy={name}"]) for name in asked))


def _mixes(found: Mapping[str, Replayed], fixed: Sequence[str]) -> dict[str, float | None]:
    """Quality of the best mix of fixed arms at the cost of each policy, where costs are known."""
    from selfroute.bandits.static import static_mix

    known = [found[name].doubly_robust for name in fixed if "cost_usd" in found[name].doubly_robust]
    costs, qualities = ([one[metric].value for one in known] for metric in ("cost_usd", "quality"))
    return {
        name: static_mix(costs, qualities, one.doubly_robust["cost_usd"].value)
        if "cost_usd" in one.doubly_robust and costs
        else None
        for name, one in found.items()
    }


def _tell(
    decisions: Sequence[Decision],
    judged: Feedback,
    found: Mapping[str, Replayed],
    mixes: Mapping[str, float | None],
) -> None:
    say(_table(decisions, found, mixes))
    shares = ", ".join(f"{arm} {share:.0%}" for arm, share in judged.by_arm.items())
    say(f"feedback: {judged.share:.1%} of the free decisions ({shares})")
    if judged.depends_on_arm:
        say(
            f"note: whether there is feedback depends on the arm (p {judged.p:.1g}); all estimates lean towards arms "
            f"whose good answers are judged more often"
        )


def _table(decisions: Sequence[Decision], found: Mapping[str, Replayed], mixes: Mapping[str, float | None]) -> Table:
    from rich.table import Table

    shown = Table(box=None, padding=(0, 2, 0, 0))
    shown.add_column("policy", overflow="fold")
    for column in ("effective n", "quality, self-normalised", "quality, doubly robust", "worth", "USD", "static mix"):
        shown.add_column(column, justify="right")
    qualities = [d.outcome.quality for d in decisions if d.outcome.quality is not None]
    shown.add_row("the log's own", str(len(qualities)), f"{sum(qualities) / len(qualities):.3f}", "", "", "", "")
    for name, one in found.items():
        shown.add_row(name, *_cells(one, mixes[name]))
    return shown


def _cells(one: Replayed, mix: float | None) -> list[str]:
    from selfroute.bandits.replay import LEAST_EFFECTIVE

    effective = f"{one.effective_n:.0f}"
    if one.effective_n < LEAST_EFFECTIVE:
        return [f"{effective}: refused", *["–"] * 5]
    robust = one.doubly_robust
    return [
        effective,
        _interval(one.self_normalised["quality"]),
        _interval(robust["quality"]),
        _interval(robust["worth"]) if "worth" in robust else "–",
        f"{robust['cost_usd'].value:.3g}" if "cost_usd" in robust else "–",
        "–" if mix is None else f"{mix:.3f}",
    ]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _plain(
    decisions: Sequence[Decision],
    judged: Feedback,
    found: Mapping[str, Replayed],
    mixes: Mapping[str, float | None],
) -> dict[str, Any]:
    """For JSON."""
    from dataclasses import asdict

    return {
        "decisions": len(decisions),
        "forced": sum(decision.choice.forced for decision in decisions),
        "feedback": {**asdict(judged), "depends_on_arm": judged.depends_on_arm},
        "policies": {name: {**asdict(one), "static_mix": mixes[name]} for name, one in found.items()},
    }
