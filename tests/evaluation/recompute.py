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
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def main(folder: Path) -> list[str]:
    """What differs, one line each."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    read = [json.loads(line) for line in lines]
    records = {(r["strategy"], r.get("point"), r["id"]): r for r in read}  # a later try replaces a failed one
    settings = list(dict.fromkeys((strategy, point) for strategy, point, _ in records))
    ids = sorted({id for _, _, id in records})
    usable = [id for id in ids if all(is_graded(records[*setting, id]) for setting in settings)]
    found = [Recount([records[*setting, id] for id in usable], summary) for setting in settings]
    reference = next((s for s in found if s.fixed and not any(r["wants_cloud"] for r in s.rows)), found[0])
    wrong = differences("summary", whole(reference, len(ids) - len(usable)), summary)
    for strategy, entry in zip(found, summary["strategies"], strict=True):
        errors = sum(records[entry["name"], entry["point"], id]["error"] is not None for id in ids)
        wrong += differences(entry["name"], strategy.entry(found) | {"errors": errors}, entry)
        wrong += strategy.intervals(entry)
    wrong += comparisons(found, summary)
    for section in summary["axes"]:
        wrong += Along(section, found, reference).differences()
    return wrong


def is_graded(record: Row) -> bool:
    needed = ["device_correct", "cloud_correct", *(["correct"] if record.get("joint") else [])]
    return all(record[name] is not None for name in needed)


def whole(reference: Recount, excluded: int) -> Row:
    device, cloud, n = reference.device, reference.cloud, reference.n
    share = reference.calls / n
    # Moved one after the other, those that gain most first, until exactly the share is sent.
    gains = sorted((c - d for d, c in zip(device, cloud, strict=True)), reverse=True)
    d, c = sum(device) / n, sum(cloud) / n
    return {
        "n": n,
        "n_excluded": excluded,
        "reference": reference.name,
        "device_accuracy": d,
        "cloud_accuracy": c,
        "either_accuracy": sum(max(a, b) for a, b in zip(device, cloud, strict=True)) / n,
        "random_accuracy": d + share * (c - d),
        "oracle_accuracy": d + sum(gains[: reference.calls]) / n,
    }


class Recount:
    """One strategy, by plain loops."""

    def __init__(self, rows: Sequence[Row], summary: Row) -> None:
        self.rows, self.summary, self.n = rows, summary, len(rows)
        self.name, self.point = rows[0]["strategy"], rows[0].get("point")
        self.joint = any(r.get("joint") for r in rows)
        self.device = [float(r["device_correct"]) for r in rows]
        self.cloud = [float(r["cloud_correct"]) for r in rows]
        self.solved = [d >= 0.5 for d in self.device]
        counted = ("up_bytes", "down_bytes", "cloud_layer_tokens", "cloud_tokens", "cloud_prompt_tokens")
        self.totals = {name: sum(r.get(name) or 0 for r in rows) for name in counted}
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
        alike = self.unscored and len({r["wants_cloud"] for r in self.rows}) == 1
        return alike and not self.joint and self.point is None

    @property
    def matched(self) -> bool:
        return not (self.fixed or self.joint or self.point is not None)

    def as_run(self) -> list[float]:
        """What the strategy gave on each prompt."""
        if self.joint:
            return [float(r["correct"]) for r in self.rows]
        return [c if r["wants_cloud"] else d for r, d, c in zip(self.rows, self.device, self.cloud, strict=True)]

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
        wrong = [s for s, d in zip(self.filled, self.solved, strict=True) if not d]
        right = [s for s, d in zip(self.filled, self.solved, strict=True) if d]
        wins = sum((w > r) + (w == r) / 2 for w in wrong for r in right)
        return wins / len(wrong) / len(right) if wrong and right else None

    def aurc(self, order: Sequence[int] | None = None) -> float:
        kept = list(reversed(self.order if order is None else order))
        wrong = list(accumulate(not self.solved[i] for i in kept))
        return sum(w / (k + 1) for k, w in enumerate(wrong)) / len(kept)

    def perfect_aurc(self) -> float:
        right = sum(self.solved)
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
        down = max(
            written / w["cloud_tokens_per_s"] + written * w["cloud_extra_s_per_token"],
            written * bits / w["downlink_mbps"],
        )
        return on_device("attempt") + w["rtt_s"] + up + down

    @cached_property
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
        shared = [s for s in everybody if s.fixed or s.matched]
        if self not in shared or not self.summary["prices"] or not all(s.knows_work for s in shared):
            return None
        ends = [(s.cost_at(0), sum(s.device) / s.n, s.cost_at(1)) for s in shared]
        low, high = min(e[0] for e in ends), max(e[2] for e in ends)
        if high <= low:
            return None
        grid, curve = [k / 100 for k in range(101)], self.curve(self.order)

        def accuracy(share: float) -> float:
            at = min(share * self.n, self.n)
            k = min(int(at), self.n - 1)
            return curve[k] + (at - k) * (curve[k + 1] - curve[k])

        points = [(low, max(a for c, a, _ in ends if c == low))] + [(self.cost_at(s), accuracy(s)) for s in grid]
        x, y = np.array(points).T

        def height(cost: float) -> float:
            best = y[x <= cost + 1e-12].max()
            left, right = np.flatnonzero(x <= cost), np.flatnonzero(x > cost)
            if not len(left) or not len(right):
                return float(best)
            x0, y0, x1, y1 = x[left, None], y[left, None], x[right], y[right]
            lines = y0 + (cost - x0) / (x1 - x0) * (y1 - y0)
            return float(max(best, np.where(y1 > y0, lines, 0).max()))

        steps = 200
        return sum(height(low + (k + 0.5) / steps * (high - low)) for k in range(steps)) / steps

    def entry(self, everybody: Sequence[Recount]) -> Row:
        """What stands in `strategies` of the summary; numbers that were refused are left out."""
        rows, n, sent = self.rows, self.n, self.sent
        kept = [r for r in rows if not r["wants_cloud"]]
        kept_right = sum(float(r["device_correct"]) for r in kept)
        refused = sum(
            d * r["wants_cloud"] * (i not in sent) for i, (r, d) in enumerate(zip(rows, self.device, strict=True))
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
            "raw_overall_accuracy": sum(self.as_run()) / n,
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
            **self.told(everybody),
            "aiq": self.aiq(everybody),
        }
        if c > d and self.matched:
            made |= {"apgr": self.apgr(), "cpt50": self.cpt(0.5), "cpt80": self.cpt(0.8)}
        made |= self.of_work() | {"solve_rate.mean": self.mean_solve_rate(), "point": self.point, "joint": self.joint}
        if self.fixed or self.matched:
            return made
        at_share = ("matched_by", "call_share", "threshold", "overall_accuracy", "overall_accuracy_excess_wrong", "aiq",
                    "oracle_gain", "latency_mean_s", "latency_p50_s", "latency_p95_s", "usd_per_1000_at_share",
                    "device_tokens_handed_off_at_share")  # fmt: skip
        decision = ("local_accuracy", "conditional_local_accuracy", "auroc", "aurc", "aurc_excess")
        made |= dict.fromkeys((*at_share, *(decision if self.joint else ())))
        return made | ({"device_tokens_handed_off": 0} if self.joint else {})

    def told(self, everybody: Sequence[Recount]) -> Row:
        """Private values that left, and needed ones that did not."""
        known = any(r.get("values_leaked") is not None for each in everybody for r in each.rows)
        leaked, lost = ([r.get(name) or 0 for r in self.rows] for name in ("values_leaked", "values_lost"))
        told = sum(count > 0 for count in leaked) / self.n
        names = ("values_leaked", "values_lost", "leaking_share")
        return dict(zip(names, (sum(leaked), sum(lost), told) if known else (None, None, None), strict=True))

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

    def spent(self, axis: str, i: int, work: str) -> float | None:
        """What a prompt takes of a resource: kept, sent, with the cloud alone, or as run."""
        row = self.rows[i]
        if work == "run" and not self.joint and self.knows_work:
            work = "sent" if row["wants_cloud"] else "kept"
        if work == "run":
            device = row["device_prompt_tokens"], row["device_tokens"]
            cloud, calls = (
                (row["cloud_prompt_tokens"], row["cloud_tokens"]),
                row.get("cloud_calls", 0) if self.joint else int(row["wants_cloud"]),
            )
            counted = [self.totals[f"{way}_bytes"] > 0 for way in ("up", "down")]
            sizes = [
                row.get(f"{way}_bytes", 0) if known else tokens * self.summary["network"]["bytes_per_token"]
                for way, known, tokens in zip(("up", "down"), counted, cloud, strict=True)
            ]
            layers = row.get("cloud_layer_tokens", 0)
            if not self.totals["cloud_layer_tokens"] and self.totals["cloud_tokens"]:
                layers = None
        else:
            own = {"kept": "local", "sent": "attempt"}.get(work)
            device = (row[f"{own}_prompt_tokens"], row[f"{own}_tokens"]) if own else (0, 0)
            calls = int(work != "kept")
            cloud = (row["cloud_answer_prompt_tokens"], row["cloud_answer_tokens"]) if calls else (0, 0)
            sizes = [self.per_token(way) * tokens for way, tokens in zip(("up", "down"), cloud, strict=True)]
            layers = None if calls and self.layers() is None else calls * (self.layers() or 0) * sum(cloud)
        return self.resource(axis, device, cloud, calls, sizes, layers)

    def resource(
        self, axis: str, device: Any, cloud: Any, calls: int, sizes: Any, layers: float | None
    ) -> float | None:
        w = self.summary["network"]
        if axis == "seconds":
            on_device = device[0] / w["device_prompt_tokens_per_s"] + device[1] / w["device_tokens_per_s"]
            up = sizes[0] * 8e-6 / w["uplink_mbps"] + cloud[0] / w["cloud_prompt_tokens_per_s"]
            writing = cloud[1] / w["cloud_tokens_per_s"] + cloud[1] * w["cloud_extra_s_per_token"]
            down = max(writing, sizes[1] * 8e-6 / w["downlink_mbps"])
            return float(on_device + calls * w["rtt_s"] + up + down)
        if axis == "usd":
            prices = self.summary["prices"]["prices"]
            sides = ((prices["device"], device), (prices["cloud"], cloud))
            return float(sum(p["prompt_usd"] * t[0] + p["completion_usd"] * t[1] for p, t in sides) / 1e6)
        return {
            "calls": float(calls > 0),
            "round_trips": float(calls),
            "cloud_tokens": cloud[1],
            "cloud_prompt_tokens": cloud[0],
            "bytes": sum(sizes),
            "layer_tokens": layers,
        }[axis]

    def per_token(self, way: str) -> float:
        """Bytes of a token, by what was counted."""
        counted, tokens = (
            self.totals[f"{way}_bytes"],
            self.totals["cloud_prompt_tokens" if way == "up" else "cloud_tokens"],
        )
        return float(counted / tokens if counted and tokens else self.summary["network"]["bytes_per_token"])

    def layers(self) -> float | None:
        counted, tokens = (
            self.totals["cloud_layer_tokens"],
            self.totals["cloud_prompt_tokens"] + self.totals["cloud_tokens"],
        )
        return counted / tokens if counted and tokens else None

    def mean_solve_rate(self) -> float | None:
        rates = [r["solve_rate"] for r in self.rows if r["solve_rate"] is not None]
        return sum(rates) / len(rates) if rates else None

    def intervals(self, entry: Row, *, resamples: int = 300) -> list[str]:
        """Bootstrap anew; ends must agree within a third of the interval's width."""
        served = self.as_run()
        rng, place = random.Random(1), {i: k for k, i in enumerate(self.order)}
        statistics: dict[str, Callable[[list[int]], float]] = {
            "overall_accuracy": self.accuracy,
            "apgr": self.apgr,
            "aurc": self.aurc,
            "raw_call_share": lambda order: sum(self.rows[i]["wants_cloud"] for i in order) / len(order),
            "raw_overall_accuracy": lambda order: sum(served[i] for i in order) / len(order),
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


Path_ = list[tuple[float, float]]  # corners: spent and accuracy


class Along:
    """One axis of the summary, by plain loops."""

    def __init__(self, section: Row, found: Sequence[Recount], reference: Recount) -> None:
        self.section, self.reference, self.axis, self.n = section, reference, section["axis"], reference.n
        self.by_name: dict[str, list[Recount]] = {}
        for setting in sorted(found, key=lambda s: s.point or 0):
            self.by_name.setdefault(setting.name, []).append(setting)
        self.amounts = {
            (id(s), work): [s.spent(self.axis, i, work) for i in range(s.n)]
            for s in found
            for work in (("kept", "sent", "run") if s.matched else ("run",))
        }
        caller = next((s for s in found if s.fixed and all(row["wants_cloud"] for row in s.rows)), reference)
        for work, setting in (("kept", reference), ("alone", caller)):
            self.amounts[id(reference), work] = [setting.spent(self.axis, i, work) for i in range(self.n)]

    def mean(self, setting: Recount, work: str, among: Sequence[int]) -> float | None:
        values = [self.amounts[id(setting), work][i] for i in among]
        return None if None in values else sum(v for v in values if v is not None) / len(among)

    def differences(self) -> list[str]:
        everyone = range(self.n)
        alone = self.mean(self.reference, "alone", everyone)
        own: Row = {
            "device_spent": self.mean(self.reference, "kept", everyone),
            "cloud_spent": alone or None,
            "device_accuracy": sum(self.reference.device) / self.n,
            "cloud_accuracy": sum(self.reference.cloud) / self.n,
        }
        for k in range(len(self.section["fractions"])):
            own[f"random_accuracy.{k}"] = self.at(self.random(everyone), k, alone)
            own[f"oracle_accuracy.{k}"] = self.at(self.oracle(), k, alone)
        wrong = differences(self.axis, own, self.section)
        for line in self.section["lines"]:
            wrong += self.of_line(line)
        return wrong

    def of_line(self, line: Row) -> list[str]:
        everyone, settings = range(self.n), self.by_name[line["name"]]
        alone = self.mean(self.reference, "alone", everyone)
        own: Row = {}
        for k, setting in enumerate(settings):
            own[f"points.{k}.point"] = setting.point
            own[f"points.{k}.spent"] = self.mean(setting, "run", everyone)
            own[f"points.{k}.accuracy"] = sum(setting.as_run()) / self.n
        for k in range(len(self.section["fractions"])):
            path = None if settings[0].fixed else self.path(settings, everyone)
            own[f"accuracy.{k}"] = value = None if path is None else self.at(path, k, alone)
            chance = self.at(self.random(everyone), k, alone)
            own[f"over_random.{k}"] = None if value is None or chance is None else value - chance
        return differences(f"{self.axis}: {line['name']}", own, line) + self.bands(line, settings)

    def bands(self, line: Row, settings: Sequence[Recount], *, resamples: int = 100) -> list[str]:
        rng, wrong = random.Random(2), []
        if line["ci95"] == [None] * len(line["ci95"]):
            return []
        samples = [[rng.randrange(self.n) for _ in range(self.n)] for _ in range(resamples)]
        drawn = [(self.path(settings, sample), self.mean(self.reference, "alone", sample)) for sample in samples]
        for k, band in enumerate(line["ci95"]):
            if band is None:
                continue
            found = [self.at(path, k, alone) for path, alone in drawn]
            values = sorted(value for value in found if value is not None)
            ends = [quantile(values, 0.025), quantile(values, 0.975)]
            slack = max(ends[1] - ends[0], band[1] - band[0]) / 3 + 1e-6
            if any(abs(a - b) > slack for a, b in zip(ends, band, strict=True)):
                wrong.append(f"{self.axis}: {line['name']}: ci95.{k} is {band}, recomputed {ends}")
        return wrong

    def random(self, among: Sequence[int]) -> Path_:
        device, cloud = self.ends(among)
        return [device, cloud]

    def ends(self, among: Sequence[int]) -> tuple[tuple[float, float], tuple[float, float]]:
        ref = self.reference
        kept, alone = (self.mean(ref, work, among) for work in ("kept", "alone"))
        device, cloud = (sum(side[i] for i in among) / len(among) for side in (ref.device, ref.cloud))
        return (_known(kept), device), (_known(alone), cloud)

    def path(self, settings: Sequence[Recount], among: Sequence[int]) -> Path_:
        first = settings[0]
        if not first.matched:
            device, cloud = self.ends(among)
            own = [
                (_known(self.mean(s, "run", among)), sum(served[i] for i in among) / len(among))
                for s in settings
                for served in [s.as_run()]
            ]
            return [device, *sorted(own, key=lambda corner: corner[0]), cloud]
        place = {i: k for k, i in enumerate(first.order)}
        kept, sent = (self.amounts[id(first), work] for work in ("kept", "sent"))
        if None in kept or None in sent:
            return [(math.inf, 0.0)]
        steps = [(sent[i] - kept[i], first.cloud[i] - first.device[i]) for i in sorted(among, key=place.__getitem__)]  # type: ignore[operator]
        x = sum(kept[i] for i in among)  # type: ignore[misc]
        y = sum(first.device[i] for i in among)
        corners = [(x, y)]
        for more, better in steps:
            x, y = x + more, y + better
            corners.append((x, y))
        return [(a / len(among), b / len(among)) for a, b in corners]

    def oracle(self) -> Path_:
        ref = self.reference
        kept, sent = (self.amounts[id(ref), work] for work in ("kept", "alone"))
        if None in kept or None in sent:
            return [(math.inf, 0.0)]
        x = y = 0.0
        moves = []
        for k, s, d, c in zip(kept, sent, ref.device, ref.cloud, strict=True):
            cheap, dear = sorted([(_known(k), -d), (_known(s), -c)])  # of two that cost the same the better one
            x, y = x + cheap[0], y - cheap[1]
            if -dear[1] > -cheap[1] and dear[0] > cheap[0]:
                moves.append((dear[0] - cheap[0], cheap[1] - dear[1]))
        corners = [(x, y)]
        for more, better in sorted(moves, key=lambda move: -move[1] / move[0]):
            x, y = x + more, y + better
            corners.append((x, y))
        return [(a / self.n, b / self.n) for a, b in corners]

    def at(self, path: Path_, k: int, alone: float | None) -> float | None:
        """The farthest place that keeps to the budget, looked for from the end."""
        if not alone:
            return None
        budget = self.section["fractions"][k] * alone
        for number in reversed(range(len(path))):
            x, y = path[number]
            if x <= budget * (1 + 1e-12) + 1e-12:
                if number + 1 == len(path):
                    return y
                ahead = path[number + 1]
                part = min(1.0, max(0.0, (budget - x) / (ahead[0] - x)))
                return y + part * (ahead[1] - y) if math.isfinite(ahead[0]) else y
        return None


def _known(value: float | None) -> float:
    return math.inf if value is None else value


def comparisons(found: Sequence[Recount], summary: Row) -> list[str]:
    by_name = {s.name: s for s in found}
    wrong, p_values = [], []
    for made in summary["comparisons"]:
        a, b = by_name[made["a"]], by_name[made["b"]]
        right = [[s.cloud[i] if i in s.sent else s.device[i] for i in range(s.n)] for s in (a, b)]
        only_a = sum(x > y for x, y in zip(*right, strict=True))
        only_b = sum(y > x for x, y in zip(*right, strict=True))
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
            found = None if found is None else found[int(key) if isinstance(found, list) else key]
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
