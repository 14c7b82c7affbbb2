"""The page of `run.py`: accuracy at equal shares, what becomes of errors, and what holds on problems of other kinds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.columns import read_columns
from selfroute.evaluation.counting.split import Split, splits_of

__all__ = ["write_page"]

Floats = npt.NDArray[np.float64]
Runs = Mapping[int, Mapping[str, Split]]  # by seed, by strategy
DRAWS = 2000
MIDDLE = 0.3
WORDS = Path(__file__).with_name("words.md")


def write_page(file: Path, places: Mapping[int, Path], beneath: Sequence[str], shares: Sequence[float]) -> None:
    """Write what has been evaluated on all seeds.

    Raises:
        SystemExit: nothing has.
    """
    found = {name: runs for name in beneath if (runs := read(places, name, "test"))}
    if not found:
        raise SystemExit("nothing has been evaluated on every seed; the stage `evaluate` does")
    parts = [heading(places, found)]
    parts += [WORDS.read_text(encoding="utf-8").strip()] if WORDS.exists() else []
    parts += [at_shares(found, shares), differences(found, shares), of_errors(found)]
    shifted = {name: runs for name in found if (runs := read(places, name, "shift"))}
    parts += [under_shift(found, shifted)] if shifted else []
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join([*parts, commands(places)]) + "\n", encoding="utf-8")
    print(f"written: {file}")


def read(places: Mapping[int, Path], beneath: str, part: str) -> Runs:
    """Of every seed; empty where one is missing."""
    folder = f"{beneath.replace(' ', '-')}-{part}".lower()
    files = {seed: place / folder / "records.jsonl" for seed, place in places.items()}
    if not all((file.parent / "summary.json").exists() for file in files.values()):
        return {}
    return {
        seed: {split.label: split for split in splits_of(read_columns(file), seed=seed).splits}
        for seed, file in files.items()
    }


# --- numbers --------------------------------------------------------------------------------------------------------


def right_at(split: Split, share: float) -> Floats:
    """Quality of each answer if this share goes to the cloud, shape (n,)."""
    sent = split.sent(round(share * len(split)))
    return np.where(sent, split.cloud, split.device)


def oracle_at(split: Split, share: float) -> float:
    """Accuracy if those went first whom the cloud helps."""
    gains = np.sort(split.cloud - split.device)[::-1][: round(share * len(split))]
    return float(split.device.mean() + gains.clip(min=0).sum() / len(split))


def random_at(split: Split, share: float) -> float:
    return float((1 - share) * split.device.mean() + share * split.cloud.mean())


def auroc(split: Split) -> float:
    """For the device's own failure; NaN where it never fails, or always."""
    return float(metrics.auroc(split.filled, ~split.device_solved))


def interval(left: Sequence[Floats], right: Sequence[Floats]) -> tuple[float, float, float]:
    """Mean difference over seeds with its 95 % interval: seeds are drawn anew, and prompts in each."""
    gaps = [one - other for one, other in zip(left, right, strict=True)]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(DRAWS):
        some = rng.integers(len(gaps), size=len(gaps))
        drawn.append(np.mean([rng.choice(gaps[seed], len(gaps[seed])).mean() for seed in some]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean([gap.mean() for gap in gaps])), float(low), float(high)


# --- sections -------------------------------------------------------------------------------------------------------


def heading(places: Mapping[int, Path], found: Mapping[str, Runs]) -> str:
    runs = next(iter(found.values()))
    first = [next(iter(splits.values())) for splits in runs.values()]
    means = {
        "device alone": [split.device.mean() for split in first],
        "cloud alone": [split.cloud.mean() for split in first],
        "either": [np.maximum(split.device, split.cloud).mean() for split in first],
    }
    ends = ", ".join(f"{name} {spread(values)}" for name, values in means.items())
    return "\n".join(
        [
            "# A pretrained LLM learns to hand off",
            "",
            "Written by `python benchmarks/pretrained/run.py`: SmolLM2-135M-Instruct, greedy, seeds "
            f"{', '.join(map(str, places))} of problems and training, n = {len(first[0])} test problems each.",
            f"Right, in %, mean ± standard deviation over seeds, on the warm device: {ends}.",
        ]
    )


def at_shares(found: Mapping[str, Runs], shares: Sequence[float]) -> str:
    """Accuracy of every strategy on every device."""
    lines = [
        "## Right at equal shares of calls",
        "",
        "In %. The policies stand with the warm device; `random` and `perfect` are of the device beneath.",
        "",
        f"| device | strategy | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |",
        "|---" * (2 + len(shares)) + "|",
    ]
    for beneath, runs in found.items():
        names = [name for name, split in next(iter(runs.values())).items() if split.matched]
        for name in names:
            said = [spread([right_at(splits[name], share).mean() for splits in runs.values()]) for share in shares]
            lines.append(f"| {beneath} | {name} | {' | '.join(said)} |")
        for name, bound in (("*random*", random_at), ("*perfect*", oracle_at)):
            ends = [next(iter(splits.values())) for splits in runs.values()]
            said = [spread([bound(split, share) for split in ends]) for share in shares]
            lines.append(f"| {beneath} | {name} | {' | '.join(said)} |")
    return "\n".join(lines)


def differences(found: Mapping[str, Runs], shares: Sequence[float]) -> str:
    """The trained policy beside what is best at each share, chosen afterwards: the rival's luck is in the gap."""
    lines = ["## GAPG less the best of the others", "", "In points, 95 % interval over seeds and prompts.", ""]
    lines += ["| less | share | which | difference |", "|---|---|---|---|"]
    policy = found.get("warm", {})
    if not policy or any("GAPG" not in splits for splits in policy.values()):
        return "\n".join([*lines, "| – | – | – | not trained on every seed |"])
    for what, beneath, chosen in (
        ("the best on the warm device", "warm", lambda name: name not in policies(policy)),
        ("the warm policy", "warm", lambda name: name == "warm"),
        ("the best on the tuned device", "task tuning", lambda name: True),
        ("the best on its own device", "GAPG", lambda name: True),
    ):
        runs = found.get(beneath)
        for share in shares if runs else ():
            assert runs is not None
            name = best(runs, share, chosen)
            if name is None:
                continue
            ours = [right_at(splits["GAPG"], share) for splits in policy.values()]
            theirs = [right_at(splits[name], share) for splits in runs.values()]
            mean, low, high = (100 * value for value in interval(ours, theirs))
            lines.append(f"| {what} | {100 * share:.0f} % | {name} | {mean:+.1f} ({low:+.1f} to {high:+.1f}) |")
    return "\n".join(lines)


def policies(runs: Runs) -> list[str]:
    return [name for name in next(iter(runs.values())) if name == "warm" or name.startswith(("GAPG", "GRPO"))]


def best(runs: Runs, share: float, chosen: Callable[[str], bool]) -> str | None:
    first = next(iter(runs.values()))
    names = [name for name, split in first.items() if split.matched and chosen(name)]
    return max(names, key=lambda n: np.mean([right_at(s[n], share).mean() for s in runs.values()]), default=None)


def of_errors(found: Mapping[str, Runs]) -> str:
    """What is lost against perfect choice at the middle share, and how well failures are told."""
    lines = [
        f"## Where the rest is lost, at {100 * MIDDLE:.0f} %",
        "",
        "In % of all problems. *Kept and wrong*: the device is wrong, the cloud would have been right. *Sent",
        "though right*: a call that the device did not need. *In vain*: neither knows it. *Own*: right if nothing",
        "is sent. AUROC is for the device's own failure.",
        "",
        "| device | strategy | kept and wrong | sent though right | in vain | asks | right as run | own | AUROC |",
        "|---" * 9 + "|",
    ]
    for beneath, runs in found.items():
        for name in [name for name, split in next(iter(runs.values())).items() if split.matched]:
            rows = [errors(splits[name]) for splits in runs.values()]
            lines.append(f"| {beneath} | {name} | {cells(rows)} |")
    return "\n".join(lines)


def errors(split: Split) -> tuple[float, ...]:
    sent = split.sent(round(MIDDLE * len(split)))
    device, cloud = split.device_solved, split.cloud_solved
    shares = (~sent & ~device & cloud, sent & device, sent & ~device & ~cloud, split.wants)
    return (*(float(each.mean()) for each in shares), float(split.as_run.mean()), float(device.mean()), auroc(split))


def under_shift(found: Mapping[str, Runs], shifted: Mapping[str, Runs]) -> str:
    """Thresholds of the test problems on problems of kinds and difficulties that were never trained on."""
    lines = [
        "## Other kinds and difficulties",
        "",
        f"Thresholds that send {100 * MIDDLE:.0f} % of the test problems, on problems that nothing was trained or",
        "fitted on: what share is sent, and what is right then; beside it what is right when that share is drawn at",
        f"random, and at {100 * MIDDLE:.0f} % with a threshold set anew. In %.",
        "",
        "| device | strategy | sent | right | at random | at a new threshold | AUROC before | AUROC |",
        "|---" * 8 + "|",
    ]
    for beneath, runs in shifted.items():
        for name in [name for name, split in next(iter(runs.values())).items() if split.matched]:
            pairs = [(found[beneath][seed][name], runs[seed][name]) for seed in runs]
            rows = [moved(before, after) for before, after in pairs]
            lines.append(f"| {beneath} | {name} | {cells(rows)} |")
    return "\n".join(lines)


def moved(before: Split, after: Split) -> tuple[float, ...]:
    cut = np.sort(before.filled)[::-1][round(MIDDLE * len(before)) - 1]
    sent = after.filled >= cut
    right = np.where(sent, after.cloud, after.device).mean()
    share = float(sent.mean())
    anew = float(right_at(after, MIDDLE).mean())
    return share, float(right), random_at(after, share), anew, auroc(before), auroc(after)


def commands(places: Mapping[int, Path]) -> str:
    """What was run, with its commits and times."""
    lines = ["## Runs", "", "| seed | run | commit | steps | hours |", "|---|---|---|---|---|"]
    for seed, place in places.items():
        for file in sorted(place.glob("*/run.json")):
            about = json.loads(file.read_text(encoding="utf-8"))
            hours = about.get("wall_s")
            cells = (about.get("commit", "–"), about.get("steps", "–"), "–" if hours is None else f"{hours / 3600:.1f}")
            lines.append(f"| {seed} | {file.parent.name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def cells(rows: Sequence[tuple[float, ...]]) -> str:
    """One row a seed as cells of one line."""
    return " | ".join(spread(list(column)) for column in zip(*rows, strict=True))


def spread(values: Sequence[float]) -> str:
    mean = f"{100 * np.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * np.std(values, ddof=1):.1f}"
