"""Placement of experts: exactness, speed, savings and their limits, written to results.md and results.json.

    python benchmarks/placement/run.py            # all of it, about 3 minutes on one thread
    python benchmarks/placement/run.py speed cap  # some parts; the others stay as they were

Costs are exact and the same on every machine; CPU seconds are this machine's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from selfroute import environment
from selfroute.planning.cluster import Cluster, dragonfly, fat_tree, with_ranks
from selfroute.planning.load import generated_load
from selfroute.planning.moves import moved, replan
from selfroute.planning.problem import Plan, Problem, Slots, homes_problem, objective, sources_problem
from selfroute.planning.shapes import Link, Mixture
from selfroute.planning.solvers import best_method, solve

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
NOTHING = 1e-9  # of a part: what different orders of adding up leave
PAPER_S = {"unweighted": 1186, "loads": 1398}  # arXiv 2508.09229, R1 on 256 GPUs, another machine
TOY = Mixture(layers=4, experts=16, top_k=2)
MOE = Mixture(layers=27, experts=64, top_k=6, dense=(0,), hidden_size=2048)
R1 = Mixture(layers=58, experts=256, top_k=8, dense=(0, 1, 2), hidden_size=7168)
NETWORKS: dict[str, Cluster] = {
    "fat tree": fat_tree(servers=32),
    "fat tree, sparse": fat_tree(servers=32, sparse=0.3),
    "dragonfly": dragonfly(servers=32),
    "dragonfly, sparse": dragonfly(servers=32, sparse=0.3),
}
SMALL: dict[str, Cluster] = {
    "fat tree": fat_tree(servers=8, leaf=2, pod=2),
    "dragonfly": dragonfly(servers=8, per_router=1, routers=4),
}

Rows = list[dict[str, Any]]


def slots(mixture: Mixture, ranks: int, slack: float = 1.0, total: float | None = None, redundant: int = 0) -> Slots:
    each = (mixture.experts + redundant) / ranks
    layer = -int(-slack * each // 1)
    most = mixture.layers * layer if total is None else -int(-total * each * mixture.layers // 1)
    return Slots(layer=layer, total=most, redundant=redundant, equal=slack == 1)


def homes(mixture: Mixture, network: Cluster, seed: int, *, slack: float = 1.0, total: float | None = None,
          concentration: float = 0.5, **rest: Any) -> Problem:  # fmt: skip
    load = generated_load(mixture, concentration=concentration, seed=seed)
    return homes_problem(load, mixture, network, slots(mixture, network.ranks, slack, total), **rest)


def sources(mixture: Mixture, own: float, seed: int, *, redundant: int = 0, servers: int = 4, per_server: int = 8,
            **rest: Any) -> Problem:  # fmt: skip
    network = with_ranks(fat_tree(servers=servers, leaf=1), per_server, Link())
    load = generated_load(mixture, sources=network.ranks, own=own, seed=seed)
    return sources_problem(load, mixture, network, slots(mixture, network.ranks, redundant=redundant), **rest)


# --- parts -------------------------------------------------------------------------------------------------------


def agreement() -> Rows:
    """Largest relative difference of exact methods' costs on toys, over seeds."""
    rows = []
    for name, network in SMALL.items():
        cases = {"equal slots": {}, "slack 2, total 1.25": {"slack": 2.0, "total": 1.25}}
        for case, options in cases.items():
            problems = [homes(TOY, network, seed, **options) for seed in SEEDS]
            methods = ["assignment", "flow", "lp", "milp"] if not options else ["flow", "lp", "milp"]
            costs = [[solve(method, problem).objective for method in methods] for problem in problems]
            most = max((max(own) - min(own)) / min(own) for own in costs)
            rows.append({"network": name, "slots": case, "methods": ", ".join(methods), "difference": most})
    return rows


def speed() -> Rows:
    """CPU seconds at the size of DeepSeek-R1, 58 x 256 on 32 servers."""
    rows = []
    for name, network in NETWORKS.items():
        for case, options, bar in (("equal", {}, 1.0), ("slack 2, total 1.25", {"slack": 2.0, "total": 1.25}, 2.0)):
            problems = [homes(R1, network, seed, **options) for seed in SEEDS]
            plans = [solve(best_method(problem), problem) for problem in problems]
            times = [plan.cpu_s for plan in plans]
            rows.append({
                "network": name, "slots": case, "method": plans[0].method, "cpu_s": times, "bar_s": bar,
                "gap": max(plan.gap or 0.0 for plan in plans), "paper_over_ours": PAPER_S["loads"] / max(times),
            })  # fmt: skip
    return rows


def zero() -> Rows:
    """Alike sources on a symmetric network: every method saves exactly 0.0."""
    rows = []
    for mixture, name in ((MOE, "27 × 64 × 32"), (R1, "58 × 256 × 32")):
        problem = sources(mixture, 0.0, 0)
        plans = [solve(m, problem) for m in ("assignment", "greedy", "unweighted", "eplb", "linear", "round_robin")]
        saved = {plan.method: 1 - plan.objective / plans[-2].objective for plan in plans}
        assert set(saved.values()) == {0.0}, saved
        rows += [
            {"size": name, "method": plan.method, "hops": plan.objective, "saved": saved[plan.method], **balance(plan)}
            for plan in plans
        ]
    return rows


def paper() -> Rows:
    """The paper's methods on its networks: hops per token, by method and slack; seeds' mean and spread."""
    rows = []
    for mixture, size in ((MOE, "27 × 64"), (R1, "58 × 256")):
        for name, network in NETWORKS.items():
            for case, options in (("1, –", {}), ("2, 1.25", {"slack": 2.0, "total": 1.25})):
                problems = [homes(mixture, network, seed, **options) for seed in SEEDS]
                rows += table(problems, {"size": size, "network": name, "slack": case})
    return rows


def table(problems: Sequence[Problem], known: dict[str, Any]) -> Rows:
    """One row per method: means over seeds, and what each saves against round robin and greedy."""
    found = {}
    for method in ("exact", "greedy", "unweighted", "eplb", "linear", "round_robin"):
        plans = [solve(best_method(p) if method == "exact" else method, p) for p in problems]
        found[method] = plans
    rows = []
    for method, plans in found.items():
        own = {"method": plans[0].method if method == "exact" else method}
        costs = [plan.objective for plan in plans]
        robin = [1 - c / r.objective for c, r in zip(costs, found["round_robin"], strict=True)]
        exact = [c / e.objective - 1 for c, e in zip(costs, found["exact"], strict=True)]
        ratios = [balance(plan) for plan in plans]
        rows.append(known | own | {
            "hops": costs, "saved_against_round_robin": robin, "above_exact": exact,
            "busiest": mean(r["busiest"] for r in ratios), "busiest_total": mean(r["busiest_total"] for r in ratios),
        })  # fmt: skip
    return rows


def slack() -> Rows:
    """What loads in the objective save against round robin, by slack and by how uneven loads are."""
    rows = []
    for concentration in (0.5, 2.0, 8.0, 32.0):
        for each in (1.0, 1.25, 1.5, 2.0, 4.0):
            problems = [homes(MOE, NETWORKS["fat tree"], s, slack=each, concentration=concentration) for s in SEEDS]
            saved = {
                other: [1 - solve("assignment", p).objective / solve(other, p).objective for p in problems]
                for other in ("round_robin", "unweighted")
            }
            rows.append({"concentration": concentration, "slack": each, "room": problems[0].slots.layer, **saved})
    return rows


def engines() -> Rows:
    """The engines' problem, 32 ranks on 4 servers: saved against linear, and greedy's distance from the optimum."""
    rows = []
    for mixture, size in ((MOE, "27 × 64"), (R1, "58 × 256")):
        for own in (0.0, 0.3, 1.0):
            problems = [sources(mixture, own, seed) for seed in SEEDS]
            for method in ("assignment", "greedy", "unweighted", "eplb", "linear", "round_robin"):
                plans = [solve(method, problem) for problem in problems]
                linear = [solve("linear", problem).objective for problem in problems]
                exact = [solve("assignment", problem).objective for problem in problems]
                rows.append({
                    "size": size, "own": own, "method": method, "hops": [p.objective for p in plans],
                    "saved": [1 - p.objective / b for p, b in zip(plans, linear, strict=True)],
                    "above_exact": [p.objective / b - 1 for p, b in zip(plans, exact, strict=True)],
                    "busiest": mean(balance(p)["busiest"] for p in plans),
                    "busiest_total": mean(balance(p)["busiest_total"] for p in plans),
                })  # fmt: skip
    return rows


def cap() -> Rows:
    """Load caps at 27 x 64 x 32, over all layers: distance from the bound, excess, CPU seconds."""
    rows = []
    for name, network in NETWORKS.items():
        for case, options in (("1, –", {}), ("2, 1.25", {"slack": 2.0, "total": 1.25})):
            for most in (1.3, 1.1, 1.02):
                plans = [solve("rounding", homes(MOE, network, seed, cap=most, **options)) for seed in SEEDS]
                excess = [max(0.0, p.busiest_total / p.mean / most - 1) for p in plans]
                rows.append({
                    "network": name, "slack": case, "cap": most, "hops": [p.objective for p in plans],
                    "gap": max(p.gap or 0.0 for p in plans), "excess": max(excess),
                    "cpu_s": max(p.cpu_s for p in plans),
                })  # fmt: skip
    return rows


def toys() -> Rows:
    """Load caps on a toy, 4 x 16 x 8: rounding beside the integer program."""
    rows = []
    for most in (None, 1.6, 1.3, 1.1):
        problem = homes(TOY, SMALL["dragonfly"], 0, slack=2.0, cap=most)
        plans = [solve("rounding" if most else "assignment", problem), solve("milp", problem)]
        rows.append({
            "cap": most, "rounding": plans[0].objective, "milp": plans[1].objective, "milp_gap": plans[1].gap,
            "above_milp": plans[0].objective / plans[1].objective - 1, "bound": plans[0].bound,
            "busiest_total": [balance(plan)["busiest_total"] for plan in plans],
            "cpu_s": [plan.cpu_s for plan in plans],
        })  # fmt: skip
    return rows


def copies() -> Rows:
    """Redundant copies on 8 ranks of 2 servers, 8 x 64 with 16 copies: hops and load beside the balancer's."""
    rows = []
    mixture = Mixture(layers=8, experts=64, top_k=6)
    for split in ("nearest", "even"):
        for own in (0.0, 0.3):
            problems = [
                sources(mixture, own, s, redundant=16, servers=2, per_server=4, split=split) for s in SEEDS
            ]  # fmt: skip
            for method in ("rounding", "eplb", "linear"):
                plans = [solve(method, problem) for problem in problems]
                rows.append({
                    "split": split, "own": own, "method": method, "hops": [p.objective for p in plans],
                    "gap": max((p.gap for p in plans if p.gap is not None), default=None),
                    "busiest": mean(balance(p)["busiest"] for p in plans),
                    "cpu_s": max(p.cpu_s for p in plans),
                })  # fmt: skip
    return rows


def moves() -> Rows:
    """A new plan after the load has changed, R1 on 32 ranks: hops, experts moved, CPU seconds, by price of a move."""
    rows = []
    old, new = sources(R1, 0.3, 0), sources(R1, 0.3, 1)
    before = solve("assignment", old).assign
    stale = objective(new, before)
    fresh = solve("assignment", new)
    rows.append({"plan": "today's, for the old load", "hops": stale, "moved": 0, "cpu_s": 0.0})
    rows.append({"plan": "new, moves not counted", "hops": fresh.objective, "moved": moved(fresh.assign, before),
                 "cpu_s": fresh.cpu_s})  # fmt: skip
    for price in (0.0, 0.001, 0.005, 0.02):
        plan = replan("assignment", new, before, price=price)
        rows.append({"plan": f"new, a move costs {price:g} hops", "hops": plan.objective,
                     "moved": moved(plan.assign, before), "cpu_s": plan.cpu_s})  # fmt: skip
    return rows


def balance(plan: Plan) -> dict[str, float]:
    return {"busiest": plan.busiest / plan.mean, "busiest_total": plan.busiest_total / plan.mean}


# --- the page ----------------------------------------------------------------------------------------------------


def cell(name: str, value: Any) -> str:
    if isinstance(value, list):
        scaled = [100 * v if abs(v) > NOTHING else 0.0 for v in value] if name in PERCENT else value
        spread = stdev(scaled) if len(scaled) > 1 else 0.0
        unit = " %" if name in PERCENT else ""
        return f"{form(mean(scaled))} ± {form(spread)}{unit}" if name not in EACH else ", ".join(map(form, scaled))
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if name in PERCENT:
        value = value if abs(value) > NOTHING else 0.0
        return f"{100 * value:.2g} %" if 0 < abs(value) < 1e-3 else f"{100 * value:.2f} %"
    return form(value)


def form(value: float) -> str:
    if isinstance(value, int) or value == int(value):
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:g}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 10 else f"{value:.2f}"


PERCENT = {"difference", "gap", "saved", "saved_against_round_robin", "above_exact", "excess", "round_robin",
           "unweighted", "above_milp", "milp_gap"}  # fmt: skip
EACH = {"cpu_s", "busiest_total"}
PARTS: dict[str, Callable[[], Rows]] = {
    "agreement": agreement, "speed": speed, "zero": zero, "paper": paper, "slack": slack, "engines": engines,
    "cap": cap, "toys": toys, "copies": copies, "moves": moves,
}  # fmt: skip


def as_json(results: dict[str, Any]) -> str:
    """A line per row."""
    parts = []
    for name, part in results.items():
        rows = ",\n".join(f"   {json.dumps(row, ensure_ascii=False)}" for row in part["rows"])
        about = json.dumps({key: value for key, value in part.items() if key != "rows"}, ensure_ascii=False)
        parts.append(f' {json.dumps(name)}: {about[:-1]}, "rows": [\n{rows}\n ]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def page(results: dict[str, Any]) -> str:
    return "\n".join(lines(results)) + "\n"


def lines(results: dict[str, Any]) -> Iterator[str]:
    yield "# Placement of experts: results"
    yield ""
    yield "Written by `python benchmarks/placement/run.py`. Lists are three seeds of the load (0, 1, 2): mean ±"
    yield "standard deviation, CPU seconds one by one. Hops are per token and exact, CPU seconds of a shared machine."
    for name, part in results.items():
        heads = list(part["rows"][0])
        yield ""
        yield f"## {name}"
        yield ""
        yield (PARTS[name].__doc__ or "").strip()
        yield ""
        yield f"`{part['command']}`, commit {part['commit']}, {part['hardware']['processor']}."
        yield ""
        yield "| " + " | ".join(head.replace("_", " ") for head in heads) + " |"
        yield "|" + "---|" * len(heads)
        for row in part["rows"]:
            yield "| " + " | ".join(cell(head, row.get(head)) for head in heads) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args().parts or list(PARTS)
    file = HERE / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    np.seterr(all="raise")
    for name in chosen:
        print(name, flush=True)
        command = shlex.join(["python", "benchmarks/placement/run.py", *sys.argv[1:]])
        results[name] = {"command": command, **environment.provenance(), "rows": PARTS[name]()}
        results = {part: results[part] for part in PARTS if part in results}
        file.write_text(as_json(results), encoding="utf-8")
        (HERE / "results.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
