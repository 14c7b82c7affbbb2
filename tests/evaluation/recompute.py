"""The second calculation: every number of summary.json once more, from records.jsonl, in plain Python.

    python tests/evaluation/recompute.py FOLDER

It shares no code with the package but the order of ties, which a seeded generator of numpy draws. Intervals are drawn
anew with another generator, so they are compared loosely.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def main(folder: Path) -> list[str]:
    """What differs, one line each."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = {(r["strategy"], r["id"]): r for r in map(json.loads, lines)}  # a later try replaces a failed one
    names = list(dict.fromkeys(strategy for strategy, _ in records))
    ids = sorted({id for _, id in records})
    usable = [
        id
        for id in ids
        if all(None not in (records[n, id]["device_correct"], records[n, id]["cloud_correct"]) for n in names)
    ]
    found = [Recount([records[name, id] for id in usable], summary) for name in names]
    reference = next((s for s in found if s.fixed and not any(r["wants_cloud"] for r in s.rows)), found[0])
    wrong = differences("summary", whole(reference, len(ids) - len(usable)), summary)
    for strategy, entry in zip(found, summary["strategies"], strict=True):
        errors = sum(records[entry["name"], id]["error"] is not None for id in ids)
        wrong += differences(entry["name"], strategy.entry(found) | {"errors": errors}, entry)
        wrong += strategy.intervals(entry)
    return wrong + comparisons(found, summary)


def whole(reference: Recount, excluded: int) -> Row:
    device, cloud, n = reference.device, reference.cloud, reference.n
    share = reference.calls / n
    wins = sum(c and not d for d, c in zip(device, cloud, strict=True)) / n
    losses = sum(d and not c for d, c in zip(device, cloud, strict=True)) / n
    d, c = sum(device) / n, sum(cloud) / n
    return {
        "n": n,
        "n_excluded": excluded,
        "reference": reference.name,
        "device_accuracy": d,
        "cloud_accuracy": c,
        "either_accuracy": sum(a or b for a, b in zip(device, cloud, strict=True)) / n,
        "random_accuracy": d + share * (c - d),
        "oracle_accuracy": d + min(share, wins) - max(0.0, share - (1 - losses)),
    }


class Recount:
    """One strategy, by plain loops."""

    def __init__(self, rows: Sequence[Row], summary: Row) -> None:
        self.rows, self.summary, self.n = rows, summary, len(rows)
        self.name = rows[0]["strategy"]
        self.device = [bool(r["device_correct"]) for r in rows]
        self.cloud = [bool(r["cloud_correct"]) for r in rows]
        self.calls = int(summary["call_share_target"] * self.n + 1e-9)
        scores = [r["score"] for r in rows]
        self.unscored = all(s is None for s in scores)
        self.filled = [
            s if s is not None else math.inf if r["wants_cloud"] else -math.inf
            for s, r in zip(scores, rows, strict=True)
        ]
        ties = np.random.default_rng(summary["seed"]).permutation(self.n).tolist()
        self.order = sorted(range(self.n), key=lambda i: (-self.filled[i], ties[i]))
        self.sent = set(self.order[: self.calls])

    @property
    def fixed(self) -> bool:
        return self.unscored and len({r["wants_cloud"] for r in self.rows}) == 1

    def curve(self, order: Sequence[int]) -> list[float]:
        start = sum(self.device[i] for i in order)
        return [x / len(order) for x in accumulate((self.cloud[i] - self.device[i] for i in order), initial=start)]

    def accuracy(self, order: Sequence[int] | None = None) -> float:
        """At the share, for prompts in the order in which they are sent."""
        order = self.order if order is None else order
        calls = int(self.summary["call_share_target"] * len(order) + 1e-9)
        return self.curve(order)[calls]

    def apgr(self, order: Sequence[int] | None = None) -> float:
        curve = self.curve(self.order if order is None else order)
        area = sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)
        return (area - curve[0]) / (curve[-1] - curve[0]) if curve[-1] > curve[0] else math.nan

    def cpt(self, fraction: float) -> float:
        curve = self.curve(self.order)
        goal = curve[0] + fraction * (curve[-1] - curve[0]) - 1e-9
        return next(k for k, a in enumerate(curve) if a >= goal) / self.n

    def auroc(self) -> float | None:
        wrong = [s for s, d in zip(self.filled, self.device, strict=True) if not d]
        right = [s for s, d in zip(self.filled, self.device, strict=True) if d]
        wins = sum((w > r) + (w == r) / 2 for w in wrong for r in right)
        return wins / len(wrong) / len(right) if wrong and right else None

    def aurc(self, order: Sequence[int] | None = None) -> float:
        kept = list(reversed(self.order if order is None else order))
        wrong = list(accumulate(not self.device[i] for i in kept))
        return sum(w / (k + 1) for k, w in enumerate(wrong)) / len(kept)

    def perfect_aurc(self) -> float:
        right = sum(self.device)
        return sum(max(0, k - right) / k for k in range(1, self.n + 1)) / self.n

    def usd(self, row: Row, *, sent: bool) -> float:
        prices = self.summary["prices"]["prices"]

        def cost(side: str, work: str) -> float:
            p = prices[side]
            return (row[f"{work}_prompt_tokens"] * p["prompt_usd"] + row[f"{work}_tokens"] * p["completion_usd"]) / 1e6

        return cost("device", "attempt") + cost("cloud", "cloud_answer") if sent else cost("device", "local")

    def seconds(self, row: Row, *, sent: bool) -> float:
        w = self.summary["network"]

        def on_device(work: str) -> float:
            read = row[f"{work}_prompt_tokens"] / w["device_prompt_tokens_per_s"]
            return read + row[f"{work}_tokens"] / w["device_tokens_per_s"]

        if not sent:
            return on_device("local")
        bits, prompt, written = (
            8e-6 * w["bytes_per_token"],
            row["cloud_answer_prompt_tokens"],
            row["cloud_answer_tokens"],
        )
        up = prompt * bits / w["uplink_mbps"] + prompt / w["cloud_prompt_tokens_per_s"]
        down = max(written / w["cloud_tokens_per_s"], written * bits / w["downlink_mbps"])
        return on_device("attempt") + w["rtt_s"] + up + down

    @property
    def knows_work(self) -> bool:
        names = [f"{w}_{k}" for w in ("attempt", "local", "cloud_answer") for k in ("tokens", "prompt_tokens")]
        return all(r[name] is not None for r in self.rows for name in names)

    def cost_at(self, share: float) -> float:
        """Of 1,000 requests, between whole calls on the straight line."""
        totals = list(
            accumulate(
                (self.usd(self.rows[i], sent=True) - self.usd(self.rows[i], sent=False) for i in self.order),
                initial=sum(self.usd(r, sent=False) for r in self.rows),
            )
        )
        at = min(share * self.n, self.n)
        low = min(int(at), self.n - 1)
        return 1000 * (totals[low] + (at - low) * (totals[low + 1] - totals[low])) / self.n

    def aiq(self, everybody: Sequence[Recount]) -> float | None:
        """Mean height of the upper hull, by trying every pair of points at every cost."""
        if not self.summary["prices"] or not all(s.knows_work for s in everybody):
            return None
        ends = [(s.cost_at(0), sum(s.device) / s.n, s.cost_at(1)) for s in everybody]
        low, high = min(e[0] for e in ends), max(e[2] for e in ends)
        if high <= low:
            return None
        grid, curve = [k / 100 for k in range(101)], self.curve(self.order)

        def accuracy(share: float) -> float:
            at = min(share * self.n, self.n)
            k = min(int(at), self.n - 1)
            return curve[k] + (at - k) * (curve[k + 1] - curve[k])

        points = [(low, max(a for c, a, _ in ends if c == low))] + [(self.cost_at(s), accuracy(s)) for s in grid]

        def height(cost: float) -> float:
            best = max(a for c, a in points if c <= cost + 1e-12)
            for c0, a0 in points:
                for c1, a1 in points:
                    if c0 <= cost < c1 and a1 > a0:
                        best = max(best, a0 + (cost - c0) / (c1 - c0) * (a1 - a0))
            return best

        steps = 200
        return sum(height(low + (k + 0.5) / steps * (high - low)) for k in range(steps)) / steps

    def entry(self, everybody: Sequence[Recount]) -> Row:
        """What stands in `strategies` of the summary; numbers that were refused are left out."""
        rows, n, sent = self.rows, self.n, self.sent
        kept = [r for r in rows if not r["wants_cloud"]]
        kept_right = sum(bool(r["device_correct"]) for r in kept)
        refused = sum(
            d and r["wants_cloud"] and i not in sent for i, (r, d) in enumerate(zip(rows, self.device, strict=True))
        )
        d, c = sum(self.device) / n, sum(self.cloud) / n
        share, accuracy = self.calls / n, self.accuracy()
        chance = d + share * (c - d)
        best = whole(self, 0)["oracle_accuracy"]
        made: Row = {
            "fixed": self.fixed,
            "matched_by": "random" if self.unscored else "score",
            "call_share": share,
            "threshold": rows[self.order[self.calls - 1]]["score"] if self.calls else None,
            "raw_call_share": 1 - len(kept) / n,
            "raw_overall_accuracy": (kept_right + sum(bool(r["cloud_correct"]) for r in rows if r["wants_cloud"])) / n,
            "overall_accuracy": accuracy,
            "overall_accuracy_excess_wrong": accuracy - refused / n,
            "local_accuracy": kept_right / n,
            "conditional_local_accuracy": kept_right / len(kept) if kept else None,
            "forced_local_accuracy": d,
            "cloud_lead": c - d,
            "oracle_gain": (accuracy - chance) / (best - chance) if best > chance + 1e-9 else None,
            "auroc": self.auroc(),
            "aurc": self.aurc(),
            "aurc_excess": self.aurc() - self.perfect_aurc(),
            **{name: sum(r[name] for r in rows) for name in ("usd", "seconds", "device_tokens", "cloud_tokens")},
            "device_tokens_handed_off": sum(r["device_tokens"] for r in rows if r["wants_cloud"]),
            "aiq": self.aiq(everybody),
        }
        if c > d:
            made |= {"apgr": self.apgr(), "cpt50": self.cpt(0.5), "cpt80": self.cpt(0.8)}
        return made | self.of_work() | {"solve_rate.mean": self.mean_solve_rate()}

    def of_work(self) -> Row:
        if not self.knows_work:
            return {"latency_mean_s": None, "usd_per_1000_at_share": None}
        seconds = sorted(self.seconds(r, sent=i in self.sent) for i, r in enumerate(self.rows))
        made: Row = {
            "latency_mean_s": sum(seconds) / self.n,
            "latency_p50_s": quantile(seconds, 0.5),
            "latency_p95_s": quantile(seconds, 0.95),
            "device_tokens_handed_off_at_share": sum(self.rows[i]["attempt_tokens"] for i in self.sent) / self.n,
        }
        if self.summary["prices"]:
            at = sum(self.usd(r, sent=i in self.sent) for i, r in enumerate(self.rows))
            raw = sum(self.usd(r, sent=r["wants_cloud"]) for r in self.rows)
            made |= {"usd_per_1000_at_share": 1000 * at / self.n, "usd_per_1000": 1000 * raw / self.n}
        return made

    def mean_solve_rate(self) -> float | None:
        rates = [r["solve_rate"] for r in self.rows if r["solve_rate"] is not None]
        return sum(rates) / len(rates) if rates else None

    def intervals(self, entry: Row, *, resamples: int = 300) -> list[str]:
        """Bootstrap anew; ends must agree within a third of the interval's width."""
        rng, place = random.Random(1), {i: k for k, i in enumerate(self.order)}
        statistics: dict[str, Callable[[list[int]], float]] = {
            "overall_accuracy": self.accuracy,
            "apgr": self.apgr,
            "aurc": self.aurc,
            "raw_call_share": lambda order: sum(self.rows[i]["wants_cloud"] for i in order) / len(order),
        }
        samples = [
            sorted((rng.randrange(self.n) for _ in range(self.n)), key=place.__getitem__) for _ in range(resamples)
        ]
        wrong = []
        for name, statistic in statistics.items():
            band = entry["ci95"][name]
            if band is None:
                continue
            values = sorted(v for v in map(statistic, samples) if not math.isnan(v))
            own = [quantile(values, 0.025), quantile(values, 0.975)]
            slack = max(own[1] - own[0], band[1] - band[0]) / 3 + 1e-9
            if any(abs(a - b) > slack for a, b in zip(own, band, strict=True)):
                wrong.append(f"{self.name}: ci95.{name} is {band}, recomputed {own}")
        return wrong


def comparisons(found: Sequence[Recount], summary: Row) -> list[str]:
    by_name = {s.name: s for s in found}
    wrong, p_values = [], []
    for made in summary["comparisons"]:
        a, b = by_name[made["a"]], by_name[made["b"]]
        right = [[s.cloud[i] if i in s.sent else s.device[i] for i in range(s.n)] for s in (a, b)]
        only_a = sum(x and not y for x, y in zip(*right, strict=True))
        only_b = sum(y and not x for x, y in zip(*right, strict=True))
        m = only_a + only_b
        tail = sum(math.comb(m, k) for k in range(min(only_a, only_b) + 1)) / 2**m
        p_values.append(min(1.0, 2 * tail))
        recount = {"difference": a.accuracy() - b.accuracy(), "p": p_values[-1]}
        wrong += differences(f"{a.name} against {b.name}", recount, made)
    ranked = sorted(range(len(p_values)), key=p_values.__getitem__)
    worst = 0.0
    for rank, place in enumerate(ranked):
        worst = max(worst, min(1.0, (len(ranked) - rank) * p_values[place]))
        wrong += differences(f"comparison {place}", {"p_holm": worst}, summary["comparisons"][place])
    return wrong


def quantile(values: Sequence[float], q: float) -> float:
    at = q * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def differences(where: str, own: Row, there: Row) -> list[str]:
    wrong = []
    for name, value in own.items():
        found: Any = there
        for key in name.split("."):
            found = None if found is None else found[key]
        tolerance = 2e-3 if name == "aiq" else 1e-6  # the hull is integrated in steps
        same = found == value
        if isinstance(value, float) and isinstance(found, int | float):
            same = abs(found - value) <= tolerance * max(1.0, abs(value))
        if not same and not (name in ("apgr", "cpt50", "cpt80") and there["apgr_refused"]):
            wrong.append(f"{where}: {name} is {found}, recomputed {value}")
    return wrong


if __name__ == "__main__":
    problems = main(Path(sys.argv[1]))
    print("\n".join(problems) or "every number agrees")
    sys.exit(bool(problems))
