"""Every strategy on the embedded Countdown pair, before and after GAPG, on fresh problems of three seeds.

    python benchmarks/strategies/run.py                              # everything
    python benchmarks/strategies/run.py seeds=[1] limit=40 router_rows=60 page=out/page.md out=out/look
    python benchmarks/strategies/run.py --write                      # the page alone, from what lies in out/strategies

Runs `selfroute evaluate recipes/countdown/strategies.yaml` for each device and seed and writes
`docs/results/countdown.md`: mean and standard deviation over seeds, which draw other problems to fit on and other ones
to judge on; the models stay the same. Answers are kept in one cache. Stopped and started again it goes on where it was.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.config import STRATEGIES, parse_overrides

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "recipes/countdown/strategies.yaml"
DEVICES = {"before": "embedded:device", "after": "embedded:device-gapg"}
TITLES = {"before": "The device before GAPG", "after": "The device after GAPG"}
# When a strategy decides: from the prompt, after the device's answer, or during it.
PROMPT = ("prompt_length", "prompt_router", "tfidf_ridge", "embedding_knn", "embedding_logistic", "embedding_mlp",
          "matrix_factorization")  # fmt: skip
AFTER = ("answer_features", "quality_gap", "answer_blend", "frugal_cascade", "mean_logprob", "min_logprob", "entropy",
         "self_consistency", "self_verification")  # fmt: skip
DURING = ("before_gapg", "self_route")
UNFITTED = {name for name, entry in STRATEGIES.items() if entry.reads and not entry.fitted}
UNFITTED |= {"random_offload", *DURING}
Summary = Mapping[str, Any]
Figure = Callable[[Mapping[str, Any], int], float | None]

COLUMNS: dict[str, tuple[Figure, float, int]] = {
    "right at 30 %": (lambda e, n: e["overall_accuracy"], 100, 1),
    "oracle gain": (lambda e, n: e["oracle_gain"], 1, 2),
    "APGR": (lambda e, n: e["apgr"], 1, 3),
    "AUROC": (lambda e, n: e["auroc"], 1, 2),
    "AUROC, solve rates": (lambda e, n: (e["solve_rate"] or {}).get("auroc"), 1, 2),
    "calls as run": (lambda e, n: e["raw_call_share"], 100, 1),
    "right as run": (lambda e, n: e["raw_overall_accuracy"], 100, 1),
    "device tokens": (lambda e, n: e["device_tokens"] / n, 1, 0),
    "$ per 1,000 at 30 %": (lambda e, n: e["usd_per_1000_at_share"], 1, 2),
}


def main() -> None:
    """Run what is missing and write the page."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    own = parse_overrides([a for a in arguments if a.partition("=")[0] in ("seeds", "out", "page")])
    others = [a for a in arguments if a.partition("=")[0] not in ("seeds", "out", "page")]
    out = Path(str(own.get("out", "out/strategies")))
    seeds = own.get("seeds", [1, 2, 3])
    for seed in [seeds] if isinstance(seeds, int) else seeds:
        for stage in [] if "--write" in sys.argv else DEVICES:
            run(
                out / f"{stage}-{seed}",
                [f"device={DEVICES[stage]}", f"seed={seed}", f"cache={out}/answers.sqlite", *others],
            )
    runs = {stage: [(read(f, "summary"), read(f, "run")) for f in finished(out, stage)] for stage in DEVICES}
    target = ROOT / str(own.get("page", "docs/results/countdown.md"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(runs), encoding="utf-8")
    print(f"written: {target.relative_to(ROOT)}" if target.is_relative_to(ROOT) else f"written: {target}")


def run(folder: Path, overrides: Sequence[str]) -> None:
    """Evaluate one device on one seed, unless the same command has finished there."""
    command = ["selfroute", "evaluate", RECIPE, *overrides, f"out={folder}"]
    if (folder / "summary.json").is_file() and read(folder, "run").get("command") == shlex.join(command):
        return
    print(shlex.join(command), flush=True)
    done = subprocess.run([sys.executable, "-m", "selfroute.commands.main", *command[1:]], check=False)
    if done.returncode:
        raise SystemExit(f"that failed with exit code {done.returncode}; start again to go on")


def finished(out: Path, stage: str) -> list[Path]:
    """Folders with a summary, by seed."""
    found = [path.parent for path in out.glob(f"{stage}-*/summary.json")]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def read(folder: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return values


# --- the page ----------------------------------------------------------------------------------------------------


def page(runs: Mapping[str, Sequence[tuple[Summary, Mapping[str, Any]]]]) -> str:
    """The results as Markdown.

    Args:
        runs: by key of `DEVICES`, summary and run file of each seed.
    """
    parts = [section(TITLES[stage], found) for stage, found in runs.items() if found]
    commands = [
        f"{about.get('command')}  # commit {str(about.get('commit'))[:8]}" for f in runs.values() for _, about in f
    ]
    return "\n".join([HEAD, *parts, "## Commands", "", "```sh", *commands, "```", ""])


def section(title: str, runs: Sequence[tuple[Summary, Mapping[str, Any]]]) -> str:
    """The table of one device, and what it shows."""
    summaries = [summary for summary, _ in runs]
    seeds = ", ".join(str(summary["seed"]) for summary in summaries)
    fitted_on = runs[0][1].get("identity", {}).get("config.router_rows", "?")
    bounds = {side: spread([s[f"{side}_accuracy"] for s in summaries], 100, 1) for side in ("device", "cloud", "either",
              "random", "oracle")}  # fmt: skip
    lines = [
        f"## {title}",
        "",
        f"n = {summaries[0]['n']}, fitted on {fitted_on} train problems, for each of the seeds {seeds}. Right, in %: "
        f"device {bounds['device']}, cloud {bounds['cloud']}, either {bounds['either']}; at the share, sent at random "
        f"{bounds['random']}, by an oracle {bounds['oracle']}.",
        "",
        f"| strategy | decides | {' | '.join(COLUMNS)} |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    by_name = entries(summaries)
    ranked = sorted(by_name, key=lambda name: -mean_right(by_name[name]))
    for name in ranked:
        cells = [
            spread([figure(entry, s["n"]) for entry, s in zip(by_name[name], summaries, strict=True)], scale, places)
            for figure, scale, places in COLUMNS.values()
        ]
        lines.append(f"| {name} | {decides(name)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *told(by_name, ranked), ""])


def entries(summaries: Sequence[Summary]) -> dict[str, list[Mapping[str, Any]]]:
    """What each strategy that chooses did on each seed."""
    names = [entry["name"] for entry in summaries[0]["strategies"] if not entry["fixed"]]
    return {name: [next(e for e in s["strategies"] if e["name"] == name) for s in summaries] for name in names}


def mean_right(seeds: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([entry["overall_accuracy"] for entry in seeds]))


def decides(name: str) -> str:
    groups = {"the prompt": PROMPT, "the answer": AFTER, "during": DURING}
    found = next((group for group, names in groups.items() if name in names), "by chance")
    return found if name in UNFITTED or found == "by chance" else f"{found}, fitted"


def told(by_name: Mapping[str, Sequence[Mapping[str, Any]]], ranked: Sequence[str]) -> list[str]:
    """Where what is simple wins, in sentences made from the numbers."""

    def ahead(names: Sequence[str], of: Sequence[str]) -> list[str]:
        present = [mean_right(by_name[name]) for name in of if name in by_name]
        return [name for name in names if name in by_name and present and mean_right(by_name[name]) > max(present)]

    simple = [name for name in ranked if name in UNFITTED and name not in DURING]
    lines = []
    for kind, names in (("prompt router", PROMPT), ("cascade", AFTER)):
        better = ahead([name for name in simple if name in names], [name for name in names if name not in UNFITTED])
        lines.append(f"- Nothing fitted, and ahead of every fitted {kind}: {', '.join(better) or 'none'}.")
    lines.append(
        "- Not told apart from chance at the share (oracle gain within two standard errors of 0): "
        f"{', '.join(not_better(by_name, ranked)) or 'none'}."
    )
    lines.append(f"- Ahead of self_route at the share: {', '.join(ahead(ranked, ['self_route'])) or 'none'}.")
    return lines


def not_better(by_name: Mapping[str, Sequence[Mapping[str, Any]]], ranked: Sequence[str]) -> list[str]:
    """Strategies whose mean oracle gain is within two standard errors of 0."""
    found = []
    for name in ranked:
        gains = [entry["oracle_gain"] for entry in by_name[name] if entry["oracle_gain"] is not None]
        if name != "random_offload" and gains and np.mean(gains) <= 2 * _sd(gains) / np.sqrt(len(gains)):
            found.append(name)
    return found


def spread(values: Sequence[float | None], scale: float, places: int) -> str:
    """Mean ± standard deviation over seeds; the mean alone of one, a dash if a seed has none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "–"
    mean = f"{scale * np.mean(known):.{places}f}"
    return mean if len(known) == 1 else f"{mean} ± {scale * _sd(known):.{places}f}"


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


HEAD = """# Every strategy on Countdown

Written by `python benchmarks/strategies/run.py`: the shipped pair at a 30 % call share, greedy decoding. In %, where
not a ratio; mean ± standard deviation over seeds, each of which draws other problems to fit on and to judge on.
The models are the same throughout, so this spread is that of the problems and not that of training; for that see
[GAPG](../../benchmarks/countdown/results.md). `before_gapg` and `self_route` hand off by
themselves and are the same rows in both tables; the others use the device of the table. "AUROC, solve rates" is
against eight sampled answers per prompt. Prices are those of an example table, as if the cloud were gpt-4o.

Two things to know when reading it. Whether a Countdown answer is right can be worked out from question and answer, and
the features of the after-answer strategies come close to doing so; on tasks without such a check expect what
[recorded pairs](recorded.md) show. And the shipped device is far too small to judge itself in words: asked for P(True)
it gives the same reply to every prompt, so `self_verification` is chance by construction.
"""


if __name__ == "__main__":
    main()
