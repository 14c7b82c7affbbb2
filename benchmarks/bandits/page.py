"""The results of `benchmarks/bandits/run.py` as a page; every sentence on who wins is made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import protocol
import real
import regret

from selfroute.bandits.environments import DRIFTS, SETTINGS
from selfroute.bandits.metrics import bayes_optimal

Results = Mapping[str, Any]


def page(results: Results) -> str:
    """All parts that were run, in order."""
    sections = {
        "real": real_part,
        "drift": drift_part,
        "protocol": protocol_part,
        "regret": regret_part,
        "two_arms": two_arms_part,
        "coverage": coverage_part,
        "speed": speed_part,
        "gateway": gateway_part,
        "distil": distil_part,
    }
    parts = [make(results[name]) for name, make in sections.items() if name in results]
    head = (
        "# Bandits: results\n\nWritten by `python benchmarks/bandits/run.py`; what the columns mean stands in the "
        "[page on several clouds](../../docs/several-clouds.md). ± is the standard error of the mean unless said."
    )
    return "\n\n".join([head, *parts]) + "\n"


def real_part(found: Results) -> str:
    rows, kept, ahead = [], [], []
    for budget in real.BUDGETS:
        key = f"{budget:.1e}"
        bound, ours, plain = (
            found["bounds"][key],
            found["cells"][f"{key}, context"],
            found["cells"][f"{key}, no context"],
        )
        target = max(bound["static"], bound["published"]) - 0.01
        cost = ours["cost"]["mean"] / budget
        kept.append(cost <= 1.02 and ours["reward"]["mean"] >= target)
        ahead.append(ours["reward"]["mean"] >= bound["static"])
        cells = [f"{bound[name]:.3f}" for name in ("static", "published", "oracle")]
        cells += [f"{ours['reward']['mean']:.3f} ± {ours['reward']['sd']:.3f}", f"{cost:.2f}"]
        cells += [
            f"{plain['reward']['mean']:.3f} ± {plain['reward']['sd']:.3f}",
            f"{plain['cost']['mean'] / budget:.2f}",
        ]
        rows.append([key, *cells])
    head = ["USD per request", "static mix", "published router", "oracle", "with context", "cost / budget"]
    worse = [f"{b:.1e}" for b, won in zip(real.BUDGETS, ahead, strict=True) if not won]
    plain = [
        f"{b:.1e}"
        for b in real.BUDGETS
        if found["cells"][f"{b:.1e}, no context"]["reward"]["mean"] < found["bounds"][f"{b:.1e}"]["static"]
    ]
    told = (
        f"The static mix of two fixed clouds is ahead of the policy with context at {listed(worse)} USD, and of the "
        f"one without at {listed(plain)}. Bar (cost ≤ 1.02 of the budget, reward ≥ the better of static mix and "
        f"published router - 0.01): met at {sum(kept)} of {len(kept)} budgets."
    )
    n = found["cells"][f"{real.BUDGETS[0]:.1e}, context"]["n"]
    note = f"{told} 1,824 prompts in {n} orders, ± standard deviation over orders; {ran(found['cells'], 'real')}"
    return section("Real answers of three clouds", note, [*head, "without context", "cost / budget"], rows)


def drift_part(found: Results) -> str:
    rows = [[name, *(regret_cell(found[f"{scenario}, {name}"]) for scenario in DRIFTS)] for name in regret.DRIFTING]

    def mean(scenario: str, name: str) -> float:
        return float(found[f"{scenario}, {name}"]["regret"]["mean"])

    forgets, keeps = "discounted Thompson .995", "Thompson"
    ratios = {s: mean(s, forgets) / mean(s, keeps) for s in ("silent", "both", "rise")}
    blind = mean("price", "Thompson") / mean("price", "Thompson on utility")
    told = (
        f"Discounted over stationary Thompson: {', '.join(f'{s} {ratio:.2f}' for s, ratio in ratios.items())} (bar "
        f"0.5); quote-aware over quote-blind in price {blind:.2f} (bar 0.2). What forgetting costs without drift: "
        f"{mean('none', forgets):.0f} for {mean('none', keeps):.0f}. Stationary UCB(0.5) with quotes loses "
        f"{mean('silent', 'UCB(0.5)'):.0f} in silent and {mean('rise', 'UCB(0.5)'):.0f} in rise: against it forgetting "
        f"pays little or nothing. {ran(found, 'drift')}"
    )
    return section("Drift: regret over 3,000 requests", told, ["rule", *DRIFTS], rows)


def regret_part(found: Results) -> str:
    rows, off, errors = [], [], []
    for setting, expected in regret.EXPECTED.items():
        row = [setting]
        for name, (mean, of_30) in expected.items():
            cell = found.get(f"{setting}, {name}")
            if cell is None:
                row.append("not run")
                continue
            ours = cell["regret"]
            apart = (ours["mean"] - mean) / np.hypot(ours["se"], of_30 * (30 / 1000) ** 0.5)
            errors.append(abs(apart))
            if abs(apart) > 2:
                off.append(f"{setting} {name} ({apart:+.1f})")
            fails = cell["suffix_fail"]["mean"]
            row.append(f"{ours['mean']:.1f} ± {ours['se']:.1f}" + (f" ({fails:.2f})" if name != "uniform" else ""))
        rows.append([*row, str(found[f"{setting}, uniform"]["n"]) if f"{setting}, uniform" in found else "–"])
    told = (
        f"In brackets SuffixFail. Against the prototype's table of 1,000 seeds: {len(errors) - len(off)} of "
        f"{len(errors)} cells within 2 combined standard errors; beyond: {listed(off)}. {uniform_sentence(found)} "
        f"{ran(found, 'regret')}"
    )
    return section(
        "Regret in the eight settings", told, ["setting", *regret.EXPECTED["bernoulli-5-easy"], "seeds"], rows
    )


def uniform_sentence(found: Results) -> str:
    """How far uniform choice is from T·Δ·(K-1)/K, in standard errors."""
    apart = []
    for name, setting in SETTINGS.items():
        cell = found.get(f"{name}, uniform")
        if setting.kind == "bernoulli" and cell:
            exact = setting.horizon * setting.difficulty * (setting.arms - 1) / setting.arms
            apart.append((cell["regret"]["mean"] - exact) / cell["regret"]["se"])
    return f"Uniform against T·Δ·(K-1)/K: {', '.join(f'{one:+.1f}' for one in apart)} standard errors."


def two_arms_part(found: Results) -> str:
    rows = []
    for horizon in (5, 10, 20):
        best = bayes_optimal(horizon)
        cells = [found[f"T={horizon}, {name}"]["earned"] for name in regret.TWO_ARMS]
        rows.append([str(horizon), f"{best:.3f}", *(f"{cell['mean']:.3f} ± {cell['se']:.3f}" for cell in cells)])
    told = f"Means from U(0, 1); nothing can earn more than the first column in the mean. {ran(found, 'two_arms')}"
    return section("Two arms beside the Bayes-optimal value", told, ["T", "optimal", *regret.TWO_ARMS], rows)


def coverage_part(found: Results) -> str:
    rows, out = [], []
    for name, cell in found.items():
        effective = cell["effective_n"]["mean"]
        for kind in ("sn", "dr"):
            if effective >= 100 and not 0.9 <= cell[f"{kind}_covered"]["mean"] <= 0.98:
                out.append(f"{name} ({kind} {cell[f'{kind}_covered']['mean']:.3f})")
        covered = [f"{cell[f'{kind}_covered']['mean']:.3f}" for kind in ("sn", "dr")]
        bias = [f"{cell[f'{kind}_error']['mean']:+.4f} ± {cell[f'{kind}_error']['se']:.4f}" for kind in ("sn", "dr")]
        rows.append([name, f"{effective:.0f}", *covered, *bias, str(cell["n"])])
    told = (
        f"Coverage of 95 % intervals; its own error is 1.5 points. Bar (0.90 to 0.98 from an effective n of 100 on): "
        f"missed by {listed(out)}. {ran(found, 'coverage')}"
    )
    head = ["log", "effective n", "self-normalised", "doubly robust", "error, SN", "error, DR", "logs"]
    return section("Intervals of a replay", told, head, rows)


def speed_part(found: Results) -> str:
    rows = [[name, f"{cell['us']['mean']:.1f} ± {cell['us']['sd']:.1f}"] for name, cell in found.items()]
    worst = max(cell["us"]["mean"] for cell in found.values())
    verdict = "met" if worst <= 50 else "missed"
    told = f"Processor time, five arms, ± standard deviation over seeds. Bar 50 µs: {verdict}. {ran(found, 'speed')}"
    return section("choose and update, in µs", told, ["policy", "µs"], rows)


def gateway_part(found: Results) -> str:
    found, medians = found["cells"], found["medians"]
    rows = [
        [words, f"{medians[f'{name}_p50_ms']:.2f}", f"{medians[f'{name}_cpu_ms']:.2f}"]
        for name, words in (("one", "one cloud"), ("five", "five clouds, Thompson"))
    ]
    p50, cpu = (
        f"{medians[f'{what}_ratio']:.2f} ({medians[f'{what}_low']:.2f} to {medians[f'{what}_high']:.2f})"
        for what in ("p50", "cpu")
    )
    told = (
        "Plain requests one at a time, both gateways in turns on a busy machine; medians over rounds. Five beside one, "
        f"in the same round: {p50} of its p50, {cpu} of its processor time. {ran(found, 'gateway')}"
    )
    return section("A gateway with five clouds beside one", told, ["gateway", "p50 ms", "CPU ms per request"], rows)


def protocol_part(found: Results) -> str:
    rows = []
    for name in protocol.SCENARIOS:
        worth = [found["cells"][f"{name}, {p}"]["worth"] for p in (protocol.STATIC, *protocol.MAKERS)]
        rows.append([name, *(f"{cell['mean']:.3f} ± {cell['se']:.3f}" for cell in worth)])
    verdicts = [
        f"{name}: {'keep' if one['keep'] else 'kill'} ({one['gain']:+.4f} ± {one['half']:.4f} over Thompson"
        + (f"; surely worse in {listed(one['worse'])}" if one["worse"] else "")
        + f"; behind the best fixed arm in {listed(one['behind_static'])})"
        for name, one in found["verdicts"].items()
    ]
    told = (
        f"{'. '.join(verdicts)}. Rule, fixed before the run: keep what gains over Thompson for sure in the mean, and "
        f"surely loses more than {protocol.LEAST_LOSS} nowhere. {ran(found['cells'], 'protocol')}"
    )
    return section(
        "A protocol of twelve scenarios: mean worth", told, ["scenario", protocol.STATIC, *protocol.MAKERS], rows
    )


def distil_part(found: Results) -> str:
    rows = []
    for setting, agents in found["settings"].items():
        ratio = agents["student"]["regret"] / agents["teacher"]["regret"]
        for name, one in agents.items():
            spread = f"{one['regret']:.1f} ± {one['regret_sd']:.1f}"
            share = f"{ratio:.2f}" if name == "student" else ""
            rows.append(
                [
                    setting,
                    name,
                    spread,
                    share,
                    f"{one['suffix_fail']:.2f}",
                    f"{one['beta']:.3f}",
                    f"{one['best_share']:.2f}",
                ]
            )
    students = [agents["student"] for agents in found["settings"].values()]
    low = sum(a["student"]["regret"] <= 1.3 * a["teacher"]["regret"] for a in found["settings"].values())
    never = sum(one["suffix_fail"] == 0.0 for one in students)
    told = (
        "± standard deviation over 30 seeds. Bar: at most 1.3 of the teacher's regret, met in "
        f"{low} of {len(students)} settings; SuffixFail 0, met in {never} of {len(students)}. "
        f"`{found['command']}`, commit {found['commit']}, {found['steps']} steps of {found['batch']}."
    )
    head = ["setting", "agent", "regret", "of the teacher's", "SuffixFail", "β", "best arm"]
    return section("A small model taught UCB's decisions", told, head, rows)


def section(title: str, told: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return f"## {title}\n\n{told}\n\n" + "\n".join(lines)


def regret_cell(cell: Results) -> str:
    return f"{cell['regret']['mean']:.0f} ± {cell['regret']['se']:.1f}"


def ran(cells: Results, part: str) -> str:
    """Command, commits and seeds."""
    commits = sorted({commit for cell in cells.values() for commit in cell["commits"]})
    seeds = sorted({cell["n"] for cell in cells.values()})
    counted = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"`python benchmarks/bandits/run.py {part}`, commit {', '.join(commits)}, seeds from 0, n = {counted}."


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
