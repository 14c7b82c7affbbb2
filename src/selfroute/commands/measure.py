"""The commands that read results: a threshold for a budget, and the report anew."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfroute.commands.terminal import example, progress, say
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from selfroute.evaluation.counting.calibration import Calibration

__all__ = ["add_to"]

LogFile = Annotated[Path, typer.Argument(metavar="LOG.jsonl", help="records.jsonl, or a log of requests with scores.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog=example(
            "selfroute calibrate out/evaluate/records.jsonl --strategy self_route --share 0.3",
            "selfroute calibrate traces.jsonl --share 0.3 --next 1000 --check traces-this-week.jsonl",
            "selfroute calibrate out/evaluate/records.jsonl --strategy self_route --usd-per-1000 0.50 "
            "--prices recipes/prices.yaml",
        )
    )(calibrate)
    app.command(
        epilog=example(
            "selfroute report out/evaluate share=0.2",
            "selfroute report out/evaluate prices=recipes/prices.yaml network.rtt_s=0.2 routellm_bins=10",
        )
    )(report)


def calibrate(
    log: LogFile,
    share: Annotated[float | None, typer.Option(help="Wanted cloud calls / requests, in [0, 1].")] = None,
    usd_per_1000: Annotated[float | None, typer.Option(help="Or: what 1,000 requests may cost, in USD.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Whose scores, if the file holds several.")] = None,
    level: Annotated[float, typer.Option(help="How often the bands hold.")] = 0.95,
    next_requests: Annotated[
        int | None, typer.Option("--next", help="Bands for so many new requests; without: for the long run.")
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="Price table for records; recipes/prices.yaml is one.")] = None,
    device: Annotated[str, typer.Option(help="The device's name in the price table.")] = "device",
    cloud: Annotated[str, typer.Option(help="The cloud's name in the price table.")] = "cloud",
    check: Annotated[
        Path | None, typer.Option(metavar="NEW.jsonl", help="Newer requests: has the share or the score drifted?")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
) -> None:
    """Find the threshold that gives a wanted call share or cost, and how far to trust it."""
    from selfroute.evaluation.counting.calibration import calibrate_cost, calibrate_share
    from selfroute.evaluation.counting.costs import load_prices
    from selfroute.evaluation.counting.scores import read_scores

    if (share is None) == (usd_per_1000 is None):
        raise ConfigError("give either --share, e.g. --share 0.3, or --usd-per-1000, e.g. --usd-per-1000 0.50")
    table = None if prices is None else load_prices(prices, device=[device], cloud=[cloud])
    found = read_scores(log, strategy=strategy, prices=None if table is None else table.prices)
    if usd_per_1000 is None:
        assert share is not None
        made = calibrate_share(found.score, share, level=level, next_requests=next_requests)
    elif found.kept_usd is None or found.sent_usd is None:
        raise ConfigError(
            f"'{log}' does not tell what a request costs if kept and if sent; give --prices and records.jsonl, or a "
            f"log with usd and source of requests that each side answered"
        )
    else:
        made = calibrate_cost(
            found.score, found.kept_usd, found.sent_usd, usd_per_1000, level=level, next_requests=next_requests
        )
    result: dict[str, object] = {"strategy": found.strategy, **_plain(made)}
    _tell(found.strategy, made, skipped=found.skipped)
    if check is not None:
        from selfroute.evaluation.counting.calibration import drift

        moved = drift(found.score, read_scores(check, strategy=strategy).score, made)
        say(f"{moved.verdict} (KS {moved.ks:.3f}, p {moved.ks_p:.2g}; share p {moved.share_p:.2g})")
        result["drift"] = {name: getattr(moved, name) for name in moved.__slots__}
    if out is not None:
        from selfroute.evaluation.files import write_text

        write_text(out, json.dumps(result, indent=2) + "\n")
        say(f"written: {out}")


def _plain(made: Calibration) -> dict[str, object]:
    """For JSON, which knows no infinite threshold: null, and `sends` says what it means."""
    values = {name: getattr(made, name) for name in made.__slots__}
    sends = {float("inf"): "none", float("-inf"): "all"}.get(made.threshold, "scores at or above the threshold")
    return values | {"threshold": made.threshold if sends.startswith("scores") else None, "sends": sends}


def _tell(strategy: str, made: Calibration, *, skipped: int) -> None:
    name = strategy or "the strategy"
    if made.calls in (0, made.n):
        say(f"{name}: send {'none' if made.calls == 0 else 'all'}; no threshold is needed")
    else:
        say(f"{name}: threshold {made.threshold!r} (send a request that scores at or above it)")
    for_whom = "in the long run" if made.next_requests is None else f"of the next {made.next_requests} requests"
    say(
        f"call share {100 * made.share:.1f} % of {made.n} requests; {100 * made.share_low:.1f} to "
        f"{100 * made.share_high:.1f} % {for_whom}, {100 * made.level:g} times out of 100"
    )
    if made.usd_per_1000 is not None and made.usd_low is not None and made.usd_high is not None:
        say(
            f"cost ${made.usd_per_1000:.4g} per 1,000 requests; ${made.usd_low:.4g} to ${made.usd_high:.4g} for new "
            f"ones, {100 * made.level:g} times out of 100"
        )
    if made.next_share is not None:
        say(
            f"ties: requests of equal score are treated alike, so the share stays below what was asked for; one score "
            f"lower would send {100 * made.next_share:.1f} %"
        )
    elif made.tied > 1:
        say(f"ties: {made.tied} requests score exactly the threshold; all of them are sent")
    if skipped:
        say(f"{skipped} requests without a score are left out")


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of `selfroute evaluate`, with records.jsonl.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="share, seed, prices, network, routellm_bins; as in the recipe."),
    ] = None,
) -> None:
    """Count finished records anew, e.g. at another share or with other prices, without asking any model."""
    from selfroute.assemble.evaluating import report_folder
    from selfroute.evaluation.report.table import summary_table

    command = shlex.join(["selfroute", "report", str(folder), *(overrides or [])])
    with progress("counting") as on_progress:
        summary = report_folder(folder, overrides or [], command=command, on_progress=on_progress)
    say(summary_table(summary))
    say(f"report: {folder / 'report.html'}")
