"""Tuners on black boxes whose optimum is known: 4 workers, one six times slower, slots that interact.

    python benchmarks/tuning/synthetic.py            # 20 worlds; about a quarter of an hour on one core
    python benchmarks/tuning/synthetic.py --worlds 4
    python benchmarks/tuning/synthetic.py --start 200
    python benchmarks/tuning/synthetic.py --choose   # settings of the consensus, on worlds that are in no table

A world is `selfroute.tuning.worlds.World`: 3 slots of 6 sentences that all workers share, 2 slots of 5 demonstrations
that each likes otherwise, values from N(0, 1), interactions ± i, unit noise. Worlds whose best choice of sentences
beats the second by less than 0.15 are passed over: there "the best" is noise. Figures are the share of the gap between
choosing at random and the optimum that is closed. A call is one measurement of one worker.

**The rule for settings.** They are compared on the first ten worlds from seed 100 on, which the tables have none of, by
what the asynchronous run closes in 2,000 calls, averaged over both interactions. The defaults stay unless another
setting is above them by more than twice the standard error of the paired difference.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfroute.environment import commit
from selfroute.tuning.base import Choices
from selfroute.tuning.consensus import Consensus
from selfroute.tuning.engines.simulated import simulate
from selfroute.tuning.planes import Planes
from selfroute.tuning.simplex import likeliest
from selfroute.tuning.tuners.gradient import Gradient
from selfroute.tuning.tuners.search import RandomSearch
from selfroute.tuning.tuners.tpe import TPE
from selfroute.tuning.worker import Worker
from selfroute.tuning.worlds import World

WORKERS, CALLS, MARGIN, SLOW = 4, 2000, 0.15, 6.0
INTERACTIONS = (0.3, 0.8)
Trace = list[tuple[float, int, float]]  # time, calls, share of the gap closed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--start", type=int, default=0, help="first seed to look for worlds at")
    parser.add_argument("--methods", nargs="*", default=list(RUNS), metavar="METHOD")
    parser.add_argument("--choose", nargs="*", metavar="SETTING", help="compare these settings, or all")
    options = parser.parse_args()
    if options.choose is not None:
        choose(options.choose or list(SETTINGS))
        return
    print(f"commit {commit()}, {options.worlds} worlds, {CALLS:,} calls\n")
    for interaction in INTERACTIONS:
        seeds = list(itertools.islice(standing_out(interaction, options.start), options.worlds))
        print(f"interactions ± {interaction}, seeds {seeds}\n")
        print("| | closed after 400 | 800 | 2,000 calls | time to 80 % | calls to 80 % |\n|---|---|---|---|---|---|")
        for name in options.methods:
            print(row(name, [RUNS[name](seed, interaction) for seed in seeds]), flush=True)
        print()


def standing_out(interaction: float, start: int = 0) -> Any:
    """Seeds of worlds whose best choice of sentences stands out."""
    return (seed for seed in itertools.count(start) if World(interaction=interaction, seed=seed).margin >= MARGIN)


def choose(names: Sequence[str]) -> None:
    """Settings beside the defaults, on worlds of their own."""
    worlds = [(seed, i) for i in INTERACTIONS for seed in itertools.islice(standing_out(i, 100), 10)]
    print(f"commit {commit()}, worlds {worlds}\n\n| | ± 0.3 | ± 0.8 | less the defaults |\n|---|---|---|---|")
    plain = np.array([closed_at(team(*world, quorum=2, patience=8), CALLS) for world in worlds])
    for name in ["defaults", *names]:
        own = SETTINGS.get(name, {})
        closed = np.array([closed_at(team(*world, quorum=2, patience=8, **own), CALLS) for world in worlds])
        print(f"| {name} | {spread(closed[:10])} | {spread(closed[10:])} | {spread(closed - plain)} |", flush=True)


def row(name: str, traces: Sequence[Trace]) -> str:
    at = [spread([closed_at(trace, calls) for trace in traces]) for calls in (400, 800, CALLS)]
    reached = [next(((time, calls) for time, calls, closed in trace if closed >= 0.8), None) for trace in traces]
    times = [one[0] for one in reached if one is not None]
    calls = [one[1] for one in reached if one is not None]
    missed = f" ({len(traces) - len(times)} never)" if len(times) < len(traces) else ""
    timed = f"{np.mean(times):.0f}{missed}" if times and max(times) > 0 else "–"
    return f"| {name} | {' | '.join(at)} | {timed} | {np.mean(calls) if calls else float('nan'):.0f}{missed} |"


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def closed_at(trace: Trace, calls: int) -> float:
    return next((closed for _, made, closed in reversed(trace) if made <= calls), 0.0)


# --- methods -------------------------------------------------------------------------------------------------------


def team(
    seed: int,
    interaction: float,
    *,
    quorum: int,
    patience: int,
    planes: bool = False,
    server: Mapping[str, Any] = {},
    **worker: Any,
) -> Trace:
    """AsynDBT over the workers, on a simulated clock.

    Args:
        server, worker: options of the consensus and of the workers, beside their defaults.
    """
    world = World(interaction=interaction, seed=seed)
    workers = {
        f"w{v}": Worker(f"w{v}", world.sentences, world.demonstrations, world.measure(v), seed=seed, **worker)
        for v in range(WORKERS)
    }
    held = Consensus(
        list(workers), world.sentences, quorum=quorum, patience=patience, planes=Planes() if planes else None, **server
    )
    clock = np.random.default_rng([seed, 9])
    trace: Trace = []

    def on_update(now: float) -> bool:
        own = [worker.best for worker in workers.values()]
        trace.append((now, world.calls, world.closed(likeliest(held.consensus), own)))
        return world.calls >= CALLS

    def duration(name: str) -> float:
        return (SLOW if name == "w0" else 1.0) * float(clock.lognormal(0.0, 0.3))

    asyncio.run(simulate(held, workers, duration, on_update=on_update))
    return trace


def alone(make: Any, draws: int) -> Any:
    """A tuner over the slots of all workers at once; a trial is measured by every worker."""

    def run(seed: int, interaction: float) -> Trace:
        world = World(interaction=interaction, seed=seed)
        tuner = make([*world.sentences, *world.demonstrations * WORKERS], seed=seed)
        trace: Trace = []
        for number in itertools.count():
            if world.calls + draws * WORKERS > CALLS:
                return trace
            asked = tuner.ask(draws)
            tuner.tell(asked, measured(world, asked, number))
            trace.append((0.0, world.calls, world.closed(*parts(world, tuner.best()))))

    return run


def ridge(seed: int, interaction: float) -> Trace:
    """A line through random choices, fitted to single measurements: sentences shared, demonstrations by worker."""
    world = World(interaction=interaction, seed=seed)
    rng = np.random.default_rng([seed, 5])
    shared, own = sum(world.sentences), sum(world.demonstrations)
    drawn, rewards, trace = [], [], Trace()
    for number in itertools.count():
        if world.calls + 20 * WORKERS > CALLS:
            return trace
        for worker in range(WORKERS):
            asked = [tuple(int(rng.integers(n)) for n in (*world.sentences, *world.demonstrations)) for _ in range(20)]
            rewards += asyncio.run(world.measure(worker)(asked, number))
            drawn += [one_hot(world, choices, worker) for choices in asked]
        design = np.array(drawn)
        weights = np.linalg.solve(
            design.T @ design + np.eye(design.shape[1]), design.T @ (np.array(rewards) - np.mean(rewards))
        )
        sentences = best_parts(weights[:shared], world.sentences)
        blocks = [weights[shared + v * own : shared + (v + 1) * own] for v in range(WORKERS)]
        closed = world.closed(sentences, [best_parts(block, world.demonstrations) for block in blocks])
        trace.append((0.0, world.calls, closed))
    raise AssertionError


def one_hot(world: World, choices: Choices, worker: int) -> np.ndarray[Any, Any]:
    sizes = (*world.sentences, *world.demonstrations)
    count = len(world.sentences)
    starts = np.cumsum([0, *sizes[:-1]]) + np.where(
        np.arange(len(sizes)) >= count, worker * sum(world.demonstrations), 0
    )
    found = np.zeros(sum(world.sentences) + WORKERS * sum(world.demonstrations))
    found[starts + np.array(choices)] = 1.0
    return found


def best_parts(weights: np.ndarray[Any, Any], sizes: Sequence[int]) -> Choices:
    return tuple(int(part.argmax()) for part in np.split(weights, np.cumsum(sizes)[:-1]))


def parts(world: World, choices: Choices) -> tuple[Choices, list[Choices]]:
    """Sentences, and the demonstrations of each worker."""
    count, own = len(world.sentences), len(world.demonstrations)
    rest = choices[count:]
    return choices[:count], [rest[v * own : (v + 1) * own] for v in range(WORKERS)]


def measured(world: World, asked: Sequence[Choices], number: int) -> list[float]:
    """Mean over the workers, each with its own demonstrations."""
    split = [parts(world, choices) for choices in asked]
    told = [
        asyncio.run(world.measure(worker)([(*shared, *own[worker]) for shared, own in split], number))
        for worker in range(WORKERS)
    ]
    return [float(value) for value in np.mean(np.array(told, dtype=float), axis=0)]


SETTINGS: dict[str, dict[str, Any]] = {
    "steps halved": {"step": 0.003, "outer_step": 0.003},
    "steps by 2/3": {"step": 0.004, "outer_step": 0.004},
    "steps by 1.5": {"step": 0.009, "outer_step": 0.009},
    "demonstrations slower": {"outer_step": 0.003},
    "demonstrations faster": {"outer_step": 0.009},
    "2 draws": {"draws": 2, "step": 0.003, "outer_step": 0.003},
    "8 draws": {"draws": 8, "step": 0.012, "outer_step": 0.012},
    "floor 0.03": {"floor": 0.03, "server": {"floor": 0.03}},
    "floor 0.002": {"floor": 0.002, "server": {"floor": 0.002}},
    "consensus slower": {"server": {"step": 0.1}},
    "consensus faster": {"server": {"step": 0.4}},
    "penalty doubled": {"penalty": 0.6, "server": {"penalty": 0.6}},
}

RUNS = {
    "synchronous (S = 4)": lambda seed, i: team(seed, i, quorum=4, patience=1),
    "asynchronous (S = 2, τ = 8)": lambda seed, i: team(seed, i, quorum=2, patience=8),
    "asynchronous, planes": lambda seed, i: team(seed, i, quorum=2, patience=8, planes=True),
    "one-hot ridge": ridge,
    "random search": alone(RandomSearch, 4),
    "one level, no consensus (BDPL)": alone(Gradient, 4),
    "Optuna TPE": alone(TPE, 1),
}

if __name__ == "__main__":
    main()
