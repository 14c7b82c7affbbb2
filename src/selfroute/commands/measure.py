"""The commands between results and a server: a threshold for a budget, a fitted router, and the report anew."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfroute.commands.terminal import example, next_step, note, progress, say
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from selfroute.evaluation.counting.calibration import Calibration
    from selfroute.evaluation.counting.scores import Scores

__all__ = ["add_to"]

Results = Annotated[
    Path,
    typer.Argument(
        metavar="RESULTS",
        help="Folder of selfroute evaluate or fit, its records.jsonl, or a log of requests with scores.",
    ),
]
ServeFile = Annotated[
    Path | None, typer.Option("--serve", metavar="MY.yaml", help="Write a serving recipe that runs as it is.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a serving recipe that is there.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe of an evaluation.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Replace keys of the recipe.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog=example(
            "selfroute calibrate out/evaluate --share 0.2 --serve my.yaml",
            "selfroute calibrate out/evaluate/records.jsonl --strategy self_route --share 0.3",
            "selfroute calibrate traces.jsonl --share 0.3 --next 1000 --check traces-this-week.jsonl",
            "selfroute calibrate out/evaluate --strategy self_route --usd-per-1000 0.50 --prices recipes/prices.yaml",
        )
    )(calibrate)
    app.command(
        epilog=example(
            "selfroute fit my-evaluate.yaml --strategy answer_blend share=0.2 --serve my.yaml",
            "selfroute fit my-evaluate.yaml --strategy prompt_router router_rows=400 --out out/router",
        )
    )(fit)
    app.command(
        epilog=example(
            "selfroute report out/evaluate share=0.2",
            "selfroute report out/evaluate prices=recipes/prices.yaml network.rtt_s=0.2 routellm_bins=10",
        )
    )(report)


def calibrate(
    results: Results,
    share: Annotated[float | None, typer.Option(help="Wanted cloud calls / requests, in [0, 1].")] = None,
    usd_per_1000: Annotated[float | None, typer.Option(help="Or: what 1,000 requests may cost, in USD.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="Whose scores, if there are several; of a folder, by default the best at the share."),
    ] = None,
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
    serve: ServeFile = None,
    force: Force = False,
) -> None:
    """Find the threshold that gives a wanted call share or cost, and how far to trust it; write it into a recipe."""
    from selfroute.assemble.kept import KEPT_FILE, is_knobbed
    from selfroute.evaluation.counting.costs import load_prices
    from selfroute.evaluation.counting.scores import read_scores

    if (share is None) == (usd_per_1000 is None):
        raise ConfigError("give either --share, e.g. --share 0.3, or --usd-per-1000, e.g. --usd-per-1000 0.50")
    if share is not None and not 0 <= share <= 1:
        raise ConfigError(f"--share: {share:g} is not in [0, 1]; give cloud calls / requests, e.g. 0.3 for 30 %")
    if serve is not None:
        _check_free(serve, force)
    log = results / "records.jsonl" if results.is_dir() else results
    if strategy is not None and share is not None and is_knobbed(log.parent, strategy):
        _calibrate_knob(log.parent, strategy, share, serve, force)
        return
    if strategy is None and share is not None and results.is_dir():
        strategy = _best(results, share)
    if serve is not None and share is not None and strategy is not None and _is_unscored(log, strategy):
        _serve_by_budget(log.parent, strategy, share, serve, force)
        return
    table = None if prices is None else load_prices(prices, device=[device], cloud=[cloud])
    found = read_scores(log, strategy=strategy, prices=None if table is None else table.prices)
    made = _calibrated(log, found, share, usd_per_1000, level=level, next_requests=next_requests)
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
    if serve is not None:
        from selfroute.evaluation.counting.calibration import halfway

        about = f"{100 * made.share:.1f} % of {made.n} requests go to the cloud"
        threshold = halfway(found.score, made.threshold)
        _write(log.parent, found.strategy, serve, about, force=force, threshold=threshold)
    elif share is not None and (log.parent / KEPT_FILE).is_file():
        next_step(_calibrating(log.parent, share, found.strategy))


def _calibrated(
    log: Path,
    found: Scores,
    share: float | None,
    usd_per_1000: float | None,
    *,
    level: float,
    next_requests: int | None,
) -> Calibration:
    from selfroute.evaluation.counting.calibration import calibrate_cost, calibrate_share

    if usd_per_1000 is None:
        assert share is not None
        return calibrate_share(found.score, share, level=level, next_requests=next_requests)
    if found.kept_usd is None or found.sent_usd is None:
        raise ConfigError(
            f"'{log}' does not tell what a request costs if kept and if sent; give --prices and records.jsonl, or a "
            f"log with usd and source of requests that each side answered"
        )
    return calibrate_cost(
        found.score, found.kept_usd, found.sent_usd, usd_per_1000, level=level, next_requests=next_requests
    )


def _check_free(serve: Path, force: bool) -> None:
    if serve.exists() and not force:
        raise ConfigError(f"--serve: '{serve}' is there already; add --force to replace it, or name another file")


def _best(folder: Path, share: float) -> str | None:
    """The best strategy of a folder at a share, said with its numbers; None where only one or none is known."""
    from selfroute.assemble.kept import KEPT_FILE, ranked_at

    if not (folder / KEPT_FILE).is_file():
        return None
    ranked = ranked_at(folder, share)
    if len(ranked) > 1:
        shown = ", ".join(f"{one.name} {100 * one.right:.1f} %" for one in ranked[:4])
        say(f"right at {100 * share:g} % of {ranked[0].n} prompts: {shown}; --strategy takes another")
    return ranked[0].name


def _is_unscored(log: Path, strategy: str) -> bool:
    """Whether the records of a strategy hold no score, as of a policy behind a server without log-probabilities."""
    import numpy as np

    from selfroute.evaluation.counting.columns import read_columns
    from selfroute.evaluation.counting.split import splits_of

    splits = splits_of(read_columns(log), seed=0, where=str(log)).splits
    return any(split.name == strategy and np.isnan(split.score).all() for split in splits)


def _calibrating(folder: Path, share: float, strategy: str | None = None) -> str:
    """The command that writes a serving recipe from an evaluation, as a shell takes it."""
    chosen = [] if strategy is None else ["--strategy", strategy]
    return shlex.join(["selfroute", "calibrate", str(folder), *chosen, "--share", f"{share:g}", "--serve", "my.yaml"])


def _calibrate_knob(folder: Path, strategy: str, share: float, serve: Path | None, force: bool) -> None:
    """The best point within a share of the cloud's tokens, of a strategy in which both sides write one answer."""
    from selfroute.assemble.kept import point_at

    point = point_at(folder, strategy, share)
    spent = f"{100 * point.share:.1f} % of the cloud's tokens"
    say(f"{strategy}: at {point.value:g}: {100 * point.right:.1f} % right with {spent}")
    if serve is None:
        next_step(_calibrating(folder, share, strategy))
        return
    _write(folder, strategy, serve, f"the cloud writes {spent}", force=force, point=point.value)


def _serve_by_budget(folder: Path, strategy: str, share: float, serve: Path, force: bool) -> None:
    say(f"{strategy}: its requests have no scores, so a budget holds it to a call share of {100 * share:g} %")
    _write(folder, strategy, serve, f"a budget lets {100 * share:g} % go to the cloud", force=force, share=share)


def _write(
    folder: Path,
    strategy: str,
    serve: Path,
    about: str,
    *,
    force: bool,
    threshold: float | None = None,
    share: float | None = None,
    point: float | None = None,
) -> None:
    """Write the serving recipe of a strategy, and say what to type next."""
    from selfroute.assemble.kept import Served, served_values, write_serving

    values = served_values(folder, strategy, threshold=threshold, share=share, point=point)
    lines = (f"{strategy} of {folder}: {about}.", "Its paths are those of the folder in which it was written.")
    write_serving(serve, Served(values, lines), force=force)
    say(f"written: {serve}")
    next_step(*(shlex.join(["selfroute", "serve", str(serve), *check]) for check in (["--check"], [])))


def fit(
    recipe: RecipeFile,
    overrides: Overrides = None,
    strategy: Annotated[
        str, typer.Option(help="A router or cascade; `selfroute strategies` lists them.")
    ] = "answer_blend",
    out: Annotated[Path, typer.Option(help="Folder that keeps it, and the answers of both models.")] = Path("out/fit"),
    serve: ServeFile = None,
    force: Force = False,
) -> None:
    """Fit one router or cascade on train rows of an evaluation's recipe, for its call share; no model is trained."""
    from selfroute import config
    from selfroute.assemble.fitting import fit_recipe

    loaded = config.load_recipe(config.EvaluateRecipe, recipe, [*(overrides or []), f"out={out}"])
    if serve is not None:
        _check_free(serve, force)
    with progress("fitting") as on_prepare:
        made = asyncio.run(fit_recipe(loaded, strategy, on_prepare=on_prepare, say=note))
    say(f"{made.name}: threshold {made.threshold!r} for a call share of {100 * loaded.share:g} %")
    if made.n:
        say(
            f"on {made.n} train rows, each judged by a fit without it: {100 * made.right:.1f} % right with "
            f"{100 * made.share:.1f} % sent; the device alone {100 * made.device:.1f} %, the cloud alone "
            f"{100 * made.cloud:.1f} %"
        )
    say(f"kept in: {out}")
    if serve is not None:
        _write(
            out, strategy, serve, f"for a call share of {100 * loaded.share:g} %", force=force, threshold=made.threshold
        )
    else:
        words = ["selfroute", "fit", str(recipe), *(overrides or []), "--strategy", strategy, "--out", str(out)]
        next_step(shlex.join([*words, "--serve", "my.yaml"]))


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
    next_step(_calibrating(folder, summary["call_share_target"]))
