"""The page of `run.py`: accuracy at equal shares, what becomes of errors, and what holds on problems of other kinds.

What the page needs of a seed is kept in one small file, so that a seed counts when it is done, wherever the next one is
run; `measured` makes it from the evaluations, `write_page` reads those of all seeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.columns import read_columns
from selfroute.evaluation.counting.split import Split, splits_of

__all__ = ["measured", "page"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Seen = Mapping[str, Any]  # of one strategy on one device
Seeds = Mapping[int, Mapping[str, Any]]  # what `measured` gave
DRAWS = 2000
MIDDLE = 0.3
PARTS = 5  # in which failures are counted by score


# --- a seed ---------------------------------------------------------------------------------------------------------


def measured(place: Path, beneath: Sequence[str], shares: Sequence[float], seed: int) -> dict[str, Any]:
    """What the page needs of a seed, as plain data.

    Args:
        place: folder of the seed.
        beneath: devices that strategies have beneath them; those that are not evaluated are left out.
    """
    devices, n = {}, 0
    for name in beneath:
        test, shift = (splits(place / f"{name.replace(' ', '-')}-{part}".lower(), seed) for part in ("test", "shift"))
        if test:
            first = next(iter(test.values()))
            told = {label: strategy(split, shift.get(label), shares) for label, split in test.items() if split.matched}
            ends = {"device": packed(first.device_solved), "cloud": packed(first.cloud_solved)}
            devices[name], n = {"ends": ends, "strategies": told}, len(first)
    return {"n": n, "shares": list(shares), "devices": devices, "runs": runs(place)}


def splits(folder: Path, seed: int) -> dict[str, Split]:
    if not (folder / "summary.json").exists():
        return {}
    return {split.label: split for split in splits_of(read_columns(folder / "records.jsonl"), seed=seed).splits}


def strategy(split: Split, shift: Split | None, shares: Sequence[float]) -> dict[str, Any]:
    right = [packed(right_at(split, share)) for share in shares]
    return {
        "right": right,
        "errors": errors(split),
        "shift": None if shift is None else moved(split, shift),
        "gains": [gain(split, share) for share in shares],
        "tokens": float(split.amount("device_tokens").mean()),
        "wrong_by_score": wrong_by_score(split),
    }


def runs(place: Path) -> list[dict[str, Any]]:
    """What was run, with commits and hours."""
    found = []
    for file in sorted(place.glob("*/run.json")):
        about = json.loads(file.read_text(encoding="utf-8"))
        told = {key: about.get(key) for key in ("commit", "steps", "wall_s")}
        found.append({"run": file.parent.name, **told})
    return found


def packed(right: Bools) -> str:
    """Truth values as hexadecimal digits."""
    return np.packbits(right).tobytes().hex()


def unpacked(text: str, n: int) -> Floats:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=n).astype(np.float64)


def right_at(split: Split, share: float) -> Bools:
    """Which answers are right if this share goes to the cloud, shape (n,)."""
    sent = split.sent(round(share * len(split)))
    return np.where(sent, split.cloud_solved, split.device_solved)


def auroc(split: Split) -> float | None:
    """For the device's own failure; None where it never fails, or always."""
    found = float(metrics.auroc(split.filled, ~split.device_solved))
    return None if np.isnan(found) else found


def errors(split: Split) -> list[float | None]:
    """At the middle share: kept and wrong, sent though right, in vain; asked, right as run, right alone, AUROC."""
    sent = split.sent(round(MIDDLE * len(split)))
    device, cloud = split.device_solved, split.cloud_solved
    shares = (~sent & ~device & cloud, sent & device, sent & ~device & ~cloud, split.wants)
    return [*(float(each.mean()) for each in shares), float(split.as_run.mean()), float(device.mean()), auroc(split)]


def gain(split: Split, share: float) -> float | None:
    """Oracle gain, with the strategy's own device; None where perfect choice is no better than a random one."""
    device, cloud = split.device_solved.astype(np.float64), split.cloud_solved.astype(np.float64)
    right, *bounds = right_at(split, share).mean(), random_at(device, cloud, share), oracle_at(device, cloud, share)
    found = float(metrics.oracle_gain(np.asarray(right), *map(np.asarray, bounds)))
    return None if np.isnan(found) else found


def wrong_by_score(split: Split) -> list[float]:
    """How often the device fails, in parts of the problems as large, lowest score first; none without a score."""
    scored = ~np.isnan(split.score)
    if not scored.any():
        return []
    wrong = (~split.device_solved[scored]).astype(np.float64)
    return [found.rate for found in metrics.reliability(split.score[scored], wrong, bins=PARTS)]


def moved(before: Split, after: Split) -> list[float | None]:
    """With the threshold of the middle share: sent, right, right at random, right at a new threshold, both AUROC."""
    cut = np.sort(before.filled)[::-1][round(MIDDLE * len(before)) - 1]
    sent = after.filled >= cut
    right = np.where(sent, after.cloud, after.device).mean()
    share = float(sent.mean())
    drawn = float((1 - share) * after.device.mean() + share * after.cloud.mean())
    return [share, float(right), drawn, float(right_at(after, MIDDLE).mean()), auroc(before), auroc(after)]


# --- all seeds ------------------------------------------------------------------------------------------------------


def page(seeds: Seeds, words: str) -> str:
    """The results as Markdown, of what has been evaluated on all seeds.

    Args:
        words: what is said of them.

    Raises:
        ValueError: nothing has.
    """
    first = next(iter(seeds.values()))
    names = [name for name in first["devices"] if all(name in seed["devices"] for seed in seeds.values())]
    if not names:
        raise ValueError("nothing has been evaluated on every seed; the stage `evaluate` does")
    shares = first["shares"]
    parts = [heading(seeds, names[0]), *([words] if words else []), at_shares(seeds, names, shares)]
    parts += [differences(seeds, names, shares), of_errors(seeds, names), of_scores(seeds, names, shares)]
    parts += [under_shift(seeds, names), commands(seeds)]
    return "\n\n".join(parts) + "\n"


def ends_of(seeds: Seeds, beneath: str) -> list[tuple[Floats, Floats]]:
    """Who is right, device and cloud, on each seed."""
    found = []
    for seed in seeds.values():
        device, cloud = (unpacked(seed["devices"][beneath]["ends"][end], seed["n"]) for end in ("device", "cloud"))
        found.append((device, cloud))
    return found


def strategies_of(seeds: Seeds, beneath: str) -> list[str]:
    """Names of those that have run on every seed."""
    all_of = [seed["devices"][beneath]["strategies"] for seed in seeds.values()]
    return [name for name in all_of[0] if all(name in each for each in all_of)]


def seen(seeds: Seeds, beneath: str, name: str) -> list[Seen]:
    return [seed["devices"][beneath]["strategies"][name] for seed in seeds.values()]


def rights(seeds: Seeds, beneath: str, name: str, at: int) -> list[Floats]:
    """Right answers at a share, by its number, on each seed."""
    found = zip(seen(seeds, beneath, name), seeds.values(), strict=True)
    return [unpacked(each["right"][at], seed["n"]) for each, seed in found]


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


def heading(seeds: Seeds, beneath: str) -> str:
    ends = ends_of(seeds, beneath)
    means = {
        "device alone": [device.mean() for device, _ in ends],
        "cloud alone": [cloud.mean() for _, cloud in ends],
        "either": [np.maximum(device, cloud).mean() for device, cloud in ends],
    }
    told = ", ".join(f"{name} {spread(values)}" for name, values in means.items())
    return "\n".join(
        [
            "# A pretrained LLM learns to hand off",
            "",
            "Written by `python benchmarks/pretrained/run.py`: SmolLM2-135M-Instruct, greedy, seeds "
            f"{', '.join(map(str, seeds))} of problems and training, n = {len(ends[0][0])} test problems each.",
            f"Right, in %, mean ± standard deviation over seeds, on the {beneath} device: {told}.",
        ]
    )


def at_shares(seeds: Seeds, names: Sequence[str], shares: Sequence[float]) -> str:
    """Accuracy of every strategy on every device."""
    lines = [
        "## Right at equal shares of calls",
        "",
        "In %. The policies stand with the warm device; `random` and `perfect` are of the device beneath.",
        "",
        f"| device | strategy | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |",
        "|---" * (2 + len(shares)) + "|",
    ]
    for beneath in names:
        for name in strategies_of(seeds, beneath):
            said = [spread([r.mean() for r in rights(seeds, beneath, name, at)]) for at in range(len(shares))]
            lines.append(f"| {beneath} | {name} | {' | '.join(said)} |")
        for bound, value in (("*random*", random_at), ("*perfect*", oracle_at)):
            said = [spread([value(*ends, share) for ends in ends_of(seeds, beneath)]) for share in shares]
            lines.append(f"| {beneath} | {bound} | {' | '.join(said)} |")
    return "\n".join(lines)


def oracle_at(device: Floats, cloud: Floats, share: float) -> float:
    """Accuracy if those went first whom the cloud helps."""
    gains = np.sort(cloud - device)[::-1][: round(share * len(device))]
    return float(device.mean() + gains.clip(min=0).sum() / len(device))


def random_at(device: Floats, cloud: Floats, share: float) -> float:
    return float((1 - share) * device.mean() + share * cloud.mean())


def differences(seeds: Seeds, names: Sequence[str], shares: Sequence[float]) -> str:
    """The trained policies beside what is best at each share, chosen afterwards: the rival's luck is in the gap."""
    lines = ["## Policies less the best of the others", "", "In points, 95 % interval over seeds and prompts.", ""]
    lines += ["| policy | less | share | which | difference |", "|---|---|---|---|---|"]
    policies = [name for name in strategies_of(seeds, "warm") if is_policy(name)] if "warm" in names else []
    for policy in policies:
        for what, beneath, chosen in (
            ("the best on the warm device", "warm", lambda name: name != "warm" and not is_policy(name)),
            ("the warm policy", "warm", lambda name: name == "warm"),
            ("the best on the tuned device", "task tuning", lambda name: True),
            ("the best on its own device", policy, lambda name: True),
        ):
            for at, share in enumerate(shares) if beneath in names else ():
                if (name := best(seeds, beneath, at, chosen)) is not None:
                    ours, theirs = rights(seeds, "warm", policy, at), rights(seeds, beneath, name, at)
                    mean, low, high = (100 * value for value in interval(ours, theirs))
                    said = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
                    lines.append(f"| {policy} | {what} | {100 * share:.0f} % | {name} | {said} |")
    return "\n".join(lines if policies else [*lines, "| – | – | – | – | not trained on every seed |"])


def is_policy(name: str) -> bool:
    return name.startswith(("GAPG", "GRPO")) and not name.endswith(", alone")


def best(seeds: Seeds, beneath: str, at: int, chosen: Callable[[str], bool]) -> str | None:
    names = [name for name in strategies_of(seeds, beneath) if chosen(name) and not name.endswith(", alone")]
    return max(names, key=lambda n: np.mean([r.mean() for r in rights(seeds, beneath, n, at)]), default=None)


def of_errors(seeds: Seeds, names: Sequence[str]) -> str:
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
    for beneath in names:
        for name in strategies_of(seeds, beneath):
            lines.append(f"| {beneath} | {name} | {cells([each['errors'] for each in seen(seeds, beneath, name)])} |")
    return "\n".join(lines)


def of_scores(seeds: Seeds, names: Sequence[str], shares: Sequence[float]) -> str:
    """What a choice is worth of perfect choice, what the device writes for it, and whether its score means failure."""
    columns = [*(f"{100 * share:.0f} %" for share in shares), "tokens"]
    columns += [f"{number} of {PARTS}" for number in range(1, PARTS + 1)]
    lines = [
        "## What a score is worth",
        "",
        "Oracle gain at each share: of the lead that perfect choice has over a random one, in %, all with the",
        "strategy's own device. *Tokens* that the device writes a problem as run. Then how often the device is wrong,",
        "in %, in fifths of the problems by score, those sent last first; empty where a score has too few values.",
        "",
        f"| device | strategy | {' | '.join(columns)} |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for beneath in names:
        for name in strategies_of(seeds, beneath):
            found = seen(seeds, beneath, name)
            gains = cells([each["gains"] for each in found])
            tokens = " ± ".join(f"{value:.1f}" for value in mean_and_deviation([each["tokens"] for each in found]))
            by_score = [each["wrong_by_score"] for each in found]
            whole = all(len(each) == PARTS for each in by_score)
            rates = cells(by_score) if whole else " | ".join([""] * PARTS)
            lines.append(f"| {beneath} | {name} | {gains} | {tokens} | {rates} |")
    return "\n".join(lines)


def mean_and_deviation(values: Sequence[float]) -> list[float]:
    """Over seeds; of one seed the mean alone."""
    return [float(np.mean(values)), *([float(np.std(values, ddof=1))] if len(values) > 1 else [])]


def under_shift(seeds: Seeds, names: Sequence[str]) -> str:
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
    for beneath in names:
        for name in strategies_of(seeds, beneath):
            rows = [each["shift"] for each in seen(seeds, beneath, name)]
            if all(row is not None for row in rows):
                lines.append(f"| {beneath} | {name} | {cells(rows)} |")
    return "\n".join(lines)


def commands(seeds: Seeds) -> str:
    """What was run, with its commits and times."""
    lines = ["## Runs", "", "| seed | run | commit | steps | hours |", "|---|---|---|---|---|"]
    for seed, found in seeds.items():
        for run in found["runs"]:
            hours = "–" if run["wall_s"] is None else f"{run['wall_s'] / 3600:.1f}"
            told = (run["run"], *("–" if run[key] is None else run[key] for key in ("commit", "steps")), hours)
            lines.append(f"| {seed} | {' | '.join(map(str, told))} |")
    return "\n".join(lines)


def cells(rows: Sequence[Sequence[float | None]]) -> str:
    """One row a seed as cells of one line."""
    return " | ".join(spread(list(column)) for column in zip(*rows, strict=True))


def spread(values: Sequence[float | None]) -> str:
    """In %, with the deviation between seeds."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    return " ± ".join(f"{100 * value:.1f}" for value in mean_and_deviation(known))
