"""Where to cut a model under a lossy link: what a cut costs, thirty measurements, agents beside an argmax, and a device
with a memory.

    python benchmarks/split/run.py --seeds 1,2,3 --out out/split
    python benchmarks/split/run.py --seeds 1 --parts smollm2 --out out/split
    python benchmarks/split/run.py --write --out out/split

A seed draws the problems, the channel, the surrogate's start and the agents. Every part of every seed is a file in the
folder and is not computed again; `--write` makes benchmarks/split/results.md of what is there. Regret is the reward
that is missed on the measured grid, over losses that are alike often. Ratios are of one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from selfroute.backends.embedded import embedded
from selfroute.backends.transformers import TransformersBackend
from selfroute.network.channel import Channel, Weather
from selfroute.prompts import PromptTemplate
from selfroute.strategies.inside.choosers import Argmax, Chooser, Fixed, Learned, SurrogateNet, rewards
from selfroute.tasks.chain import Chain
from selfroute.train.splitting.agents import AGENTS, learn
from selfroute.train.splitting.measure import Answers, Quality, measured
from selfroute.train.splitting.surrogate import fit_surrogate
from selfroute.train.splitting.worlds import DeviceWorld, LinkWorld, State, best_policy
from selfroute.types import Message, Sampling

CHANNEL = Channel(kind="packet_drop", packet_bytes=32)
PLACES = (1, 2, 3)
LAYERS = 4
FIT = (0.08, 0.16, 0.24, 0.32, 0.4, 0.48, 0.56, 0.64, 0.72, 0.8)  # with three places the thirty measurements
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # what they are judged on, other losses and other draws
WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0)
WEIGHT = 1.0
WEATHER = Weather(good=0.1, bad=0.6, worsens=0.1, clears=0.1)
STEPS = {"ppo": 100_000, "a2c": 20_000, "dqn": 10_000}
TRACE = 4000
PRICES = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)  # of load, for the argmax that has no memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--parts", default=",".join(part for part in PARTS if part != "smollm2"))
    parser.add_argument("--out", type=Path, default=Path("out/split"))
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    torch.set_num_threads(1)
    told.out.mkdir(parents=True, exist_ok=True)
    if told.write:
        page = Path(__file__).with_name("results.md")
        page.write_text(results(told.out), encoding="utf-8")
        return
    for seed in map(int, told.seeds.split(",")):
        for part in told.parts.split(","):
            kept(told.out, part, seed, told)


def kept(out: Path, part: str, seed: int, told: argparse.Namespace) -> Any:
    """What a part found, from its file if it is there."""
    file = out / f"{part}-{seed}.json"
    if not file.exists():
        began = time.perf_counter()
        found = PARTS[part](seed, told)
        found["seconds"] = time.perf_counter() - began
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(part, seed, f"{found['seconds']:.0f} s", flush=True)
    return json.loads(file.read_text(encoding="utf-8"))


# --- measuring -----------------------------------------------------------------------------------------------------


def chain_answers(whole: TransformersBackend, seed: int, rows: int) -> Answers:
    template = PromptTemplate("", "", "{question}. Let me solve this step by step.")
    some = islice(Chain(limit=rows, seed=seed).rows("test"), rows)
    prompts = [template.conversation(row.question) for row in some]
    return answers_of(whole, prompts, 100)


def answers_of(whole: TransformersBackend, prompts: Sequence[Sequence[Message]], tokens: int) -> Answers:
    made = whole.generate_batch(prompts, Sampling(max_tokens=tokens))
    ids = [(whole.prompt_ids(p), whole.ids_of(answer.text)) for p, answer in zip(prompts, made, strict=True)]
    return [(prompt, answer) for prompt, answer in ids if answer]


def quality(seed: int, told: argparse.Namespace) -> dict[str, Any]:
    """The thirty measurements, and the grid by which everything else is judged."""
    whole = embedded("chain-cloud")
    answers = chain_answers(whole, seed, told.rows)
    fit = measured(whole.cut, answers, CHANNEL, FIT, PLACES, seed=seed)
    began = time.perf_counter()
    grid = measured(whole.cut, answers, CHANNEL, GRID, PLACES, draws=3, seed=1000 + seed)
    each_s = (time.perf_counter() - began) / grid.rise.size / 3
    exact = measured(whole.cut, answers, CHANNEL, (0.0,), PLACES, codec="fp32").rise
    elements = measured(whole.cut, answers, Channel(), GRID, PLACES, seed=seed)
    return {
        "tokens": fit.tokens, "clean": fit.clean, "fit": fit.rise.tolist(), "grid": grid.rise.tolist(),
        "elements": elements.rise.tolist(), "fp32 at p = 0": float(np.abs(exact).max()), "measurement_s": each_s,
    }  # fmt: skip


def smollm2(seed: int, told: argparse.Namespace) -> dict[str, Any]:
    """SmolLM2-135M on its own answers to four questions: element drop at five losses and six places."""
    from selfroute.backends.llama_cpp import find_smollm2

    places, losses = (1, 6, 12, 18, 24, 29), (0.02, 0.05, 0.1, 0.2, 0.3)
    whole = TransformersBackend.load(find_smollm2(), name="smollm2", dtype="float32", device="cpu")
    answers = answers_of(whole, [[Message("user", text)] for text in TEXTS], 24)
    found = measured(whole.cut, answers, Channel(), losses, places, seed=seed)
    return {"tokens": found.tokens, "clean": found.clean, "losses": losses, "places": places,
            "rise": found.rise.tolist()}  # fmt: skip


def grid_of(found: dict[str, Any], name: str = "grid") -> Quality:
    losses = FIT if name == "fit" else GRID
    return Quality(np.array(losses), PLACES, np.array(found[name]), found["clean"], found["tokens"])


# --- choosing ------------------------------------------------------------------------------------------------------


def surrogate_of(seed: int, told: argparse.Namespace) -> SurrogateNet:
    return fit_surrogate(grid_of(kept(told.out, "quality", seed, told), "fit"), LAYERS, seed=seed)


def regret(worth: np.ndarray, choose: Chooser) -> float:
    """Mean reward that is missed on the grid."""
    chosen = [PLACES.index(choose(loss)) for loss in GRID]
    return float((worth.max(axis=1) - worth[np.arange(len(GRID)), chosen]).mean())


def best_fixed(worth: np.ndarray) -> int:
    return PLACES[int(worth.mean(axis=0).argmax())]


def surrogate(seed: int, told: argparse.Namespace) -> dict[str, Any]:
    """How well thirty measurements say the rest, and what the argmax makes of them at several weights."""
    found = grid_of(kept(told.out, "quality", seed, told))
    net = surrogate_of(seed, told)
    error = np.abs(net(found.losses, PLACES) - found.rise).mean()
    sweep = {}
    for weight in WEIGHTS:
        worth, choose = rewards(found.rise, PLACES, LAYERS, weight), Argmax(net, PLACES, weight)
        sweep[str(weight)] = {
            "choices": [choose(loss) for loss in GRID], "argmax": regret(worth, choose),
            "fixed": regret(worth, Fixed(best_fixed(worth))), "best fixed": best_fixed(worth),
            "oracle": [PLACES[int(i)] for i in worth.argmax(axis=1)],
        }  # fmt: skip
    return {"mae": error, "range": float(np.ptp(found.rise)), "sweep": sweep}


def agents(seed: int, told: argparse.Namespace) -> dict[str, Any]:
    """What agents learn in the surrogate, and their regret on the measured grid."""
    found, net = grid_of(kept(told.out, "quality", seed, told)), surrogate_of(seed, told)
    worth = rewards(found.rise, PLACES, LAYERS, WEIGHT)
    rows: dict[str, Any] = {}
    for name in AGENTS:
        began = time.perf_counter()
        choose = agent_of(name, net, seed)
        rows[name] = {
            "steps": STEPS[name], "regret": regret(worth, choose), "choices": [choose(loss) for loss in GRID],
            "learning_s": time.perf_counter() - began, "trace": on_trace(found, choose, seed),
        }  # fmt: skip
    argmax = Argmax(net, PLACES, WEIGHT)
    others = {"argmax": argmax, "best fixed": Fixed(best_fixed(worth)), **{f"fixed {p}": Fixed(p) for p in PLACES}}
    for name, chooser in others.items():
        rows[name] = {"regret": regret(worth, chooser), "trace": on_trace(found, chooser, seed)}
    rows["oracle"] = {"regret": 0.0, "trace": on_trace(found, None, seed)}
    return rows


def agent_of(name: str, net: SurrogateNet, seed: int) -> Chooser:
    world = LinkWorld(net, PLACES, WEIGHT)
    return Learned(learn(name, world, steps=STEPS[name], seed=seed), net.most, PLACES)


def on_trace(found: Quality, choose: Chooser | None, seed: int, pilots: int = 64) -> float:
    """Mean measured reward on a trace of good and bad weather; None looks at the loss itself and at the grid."""
    rng = np.random.default_rng(seed)
    worth = rewards(found.rise, PLACES, LAYERS, WEIGHT)
    total = 0.0
    for loss in WEATHER.trace(TRACE, rng):
        row, guess = worth[GRID.index(round(float(loss), 1))], float(rng.binomial(pilots, loss)) / pilots
        total += float(row.max() if choose is None else row[PLACES.index(choose(guess))])
    return total / TRACE


# --- a device with a memory ----------------------------------------------------------------------------------------


def device(seed: int, told: argparse.Namespace) -> dict[str, Any]:
    """Mean reward a step of policies on a device whose battery, queue and caches remember what was chosen."""
    net = surrogate_of(seed, told)
    world = DeviceWorld(net, PLACES, WEIGHT, WEATHER)
    best = best_policy(world)
    number = {state: i for i, state in enumerate(world.states)}
    found = {f"fixed {place}": played(world, lambda seen, state, a=a: a, seed) for a, place in enumerate(PLACES)}
    for price in PRICES:
        found[f"argmax, load {price:g}"] = played(world, myopic(net, price), seed)
    for name in AGENTS:
        began = time.perf_counter()
        made = learn(name, DeviceWorld(net, PLACES, WEIGHT, WEATHER), steps=STEPS[name], discount=0.98, seed=seed)
        found[name] = played(world, lambda seen, state, made=made: int(made(seen.astype(float)).argmax()), seed)
        found[f"{name}, s"] = time.perf_counter() - began
    found["best"] = played(world, lambda seen, state: int(best[number[state]]), seed)
    return found


def myopic(net: SurrogateNet, price: float) -> Callable[[Any, State], int]:
    """The argmax of quality and a price of the device's load, from what the pilots say; the load has no memory."""

    def choose(seen: Any, state: State) -> int:
        rise = net(np.array([float(seen[3]) * net.most]), PLACES)[0]
        return int((-WEIGHT * rise + price * (LAYERS - np.array(PLACES)) / LAYERS).argmax())

    return choose


def played(world: DeviceWorld, choose: Callable[[Any, State], int], seed: int) -> float:
    """Mean reward over a long run."""
    world.steps = TRACE + 1
    seen, info = world.reset(seed=seed)
    total = 0.0
    for _ in range(TRACE):
        seen, reward, _, _, info = world.step(np.int64(choose(seen, info["state"])))
        total += reward
    return total / TRACE


TEXTS = (
    "Explain in two sentences why the sky is blue.",
    "Why do cats purr?",
    "Name three rivers in Europe and one fact about each.",
    "Summarise the plot of Romeo and Juliet.",
)

PARTS: dict[str, Callable[[int, argparse.Namespace], dict[str, Any]]] = {
    "quality": quality, "surrogate": surrogate, "agents": agents, "device": device, "smollm2": smollm2,
}  # fmt: skip


# --- the page ------------------------------------------------------------------------------------------------------


def results(out: Path) -> str:
    """The tables of all seeds that are there."""
    found = {part: [json.loads(file.read_text()) for file in sorted(out.glob(f"{part}-*.json"))] for part in PARTS}
    parts = [f"Seeds: {len(found[part])}. {make(found[part])}" for part, make in TABLES.items() if found[part]]
    head = "# Where to cut a model\n\nBy `python benchmarks/split/run.py`; see docs/split.md."
    return "\n\n".join([head, *parts]) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], form: str = ".3f") -> str:
    mean = format(statistics.fmean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {format(statistics.stdev(values), form)}"


def quality_table(found: Sequence[dict[str, Any]]) -> str:
    texts = []
    for name, what in (("grid", "Packets of 32 bytes dropped"), ("elements", "Elements dropped")):
        rows = []
        for row, loss in enumerate(GRID):
            values = [[np.exp(each["clean"] + each[name][row][c]) for each in found] for c in range(len(PLACES))]
            rows.append([f"{loss:g}", *(spread(v) for v in values)])
        texts.append(f"{what}, perplexity of the clean model's answers:\n\n"
                     + table(["p", *(f"l = {p}" for p in PLACES)], rows))  # fmt: skip
    signs = [signs_of(np.array(each["grid"])) for each in found]
    texts.append(
        f"Spearman's correlation of p and perplexity, smallest of any place and seed: {min(s[0] for s in signs):.3f}. "
        f"Rises with l: {sum(s[1] for s in signs)} of {sum(s[2] for s in signs)} neighbouring pairs, the largest by "
        f"{max(s[3] for s in signs):.4f} nats. p = 0 in fp32: {max(e['fp32 at p = 0'] for e in found):.1e} nats."
    )
    return "\n\n".join(texts)


def signs_of(rise: np.ndarray) -> tuple[float, int, int, float]:
    """Smallest rank correlation with p; how many neighbours rise with l, of how many, and by how much at most."""
    ranks = min(float(spearmanr(GRID, rise[:, c]).statistic) for c in range(len(PLACES)))
    steps = np.diff(rise, axis=1)
    return ranks, int((steps > 1e-4).sum()), steps.size, float(steps.max())


def surrogate_table(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for weight in map(str, WEIGHTS):
        each = [one["sweep"][weight] for one in found]
        falls = sum(any(b < a for a, b in zip(e["choices"], e["choices"][1:], strict=False)) for e in each)
        first = " ".join(map(str, each[0]["choices"]))
        rows.append([weight, first, str(falls), spread([e["argmax"] for e in each], ".4f"),
                     spread([e["fixed"] for e in each], ".4f")])  # fmt: skip
    head = ["λ", f"l at p = {GRID[0]:g} … {GRID[-1]:g}, first seed", "seeds where it falls", "regret, argmax",
            "regret, best fixed"]  # fmt: skip
    mae = spread([100 * one["mae"] / one["range"] for one in found], ".1f")
    return f"Thirty measurements: the surrogate's mean error is {mae} % of the range.\n\n" + table(head, rows)


def agents_table(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for name in ("oracle", "argmax", *AGENTS, "best fixed", *(f"fixed {place}" for place in PLACES)):
        each = [one[name] for one in found]
        steps = f"{each[0]['steps']:,}" if "steps" in each[0] else "–"
        took = spread([e["learning_s"] for e in each], ".0f") if "learning_s" in each[0] else "–"
        rows.append([name, steps, took, spread([e["regret"] for e in each], ".4f"),
                     spread([e["trace"] for e in each], ".4f")])  # fmt: skip
    head = ["policy", "steps", "seconds", "regret", "reward on the trace"]
    return f"λ = {WEIGHT:g}; a trace of good (.1) and bad (.6) weather, loss estimated by 64 pilots:\n\n" + table(
        head, rows
    )


def device_table(found: Sequence[dict[str, Any]]) -> str:
    names = [name for name in found[0] if not name.endswith((", s", "seconds"))]
    rows = [[name, spread([one[name] for one in found])] for name in names]
    return "A device with a battery, a queue and caches, reward a request:\n\n" + table(["policy", "reward"], rows)


def smollm2_table(found: Sequence[dict[str, Any]]) -> str:
    losses, places = found[0]["losses"], found[0]["places"]
    rows = [
        [f"{loss:g}", *(spread([one["rise"][row][c] for one in found]) for c in range(len(places)))]
        for row, loss in enumerate(losses)
    ]
    return (f"SmolLM2-135M, elements dropped, nats per token above {spread([one['clean'] for one in found])}:\n\n"
            + table(["p", *(f"l = {p}" for p in places)], rows))  # fmt: skip


TABLES: dict[str, Callable[[Sequence[dict[str, Any]]], str]] = {
    "quality": quality_table,
    "surrogate": surrogate_table,
    "agents": agents_table,
    "device": device_table,
    "smollm2": smollm2_table,
}


if __name__ == "__main__":
    main()
