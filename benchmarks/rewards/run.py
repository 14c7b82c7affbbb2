"""Learned rewards and planning in the shop and in the game of 24.

    python benchmarks/rewards/run.py all --out out/rewards       # stop it when you like; it goes on where it was
    python benchmarks/rewards/run.py report --out out/rewards    # results.md and the figure, of what is there

Parts, each of which writes one JSON file per seed:

* ``pairs``: a reward of three layers learns from walks in the shop, told in hindsight: as they are, with a part of the
  intents exchanged for another walk's, and without some pairs of attribute values. All are judged on clean pairs.
* ``choice``: a shopper that acts well now and then makes N attempts at a wish; the reward, an oracle or luck chooses.
* ``handoff``: the best of 8 is kept, or a cloud that is always right is called: by the reward of the best, or by the
  probability of what was done.
* ``equal``: searches at equal calls of the environment, three wishes at once.
* ``game24``: the same with an exact checker for a reward, on the hundred problems of the test split.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rewards_page import write_page
from rewards_world import Anybody, arena, avoid, small_model

from selfroute.actions import Action
from selfroute.assemble.pieces import quiet_libraries
from selfroute.environment import provenance
from selfroute.scores.reward_model import RewardModel
from selfroute.strategies.search.arena import Arena, Found, Limits, Place
from selfroute.strategies.search.best_of_n import best_of_n
from selfroute.strategies.search.reflexion import reflexion
from selfroute.strategies.search.tree_search import tree_search
from selfroute.tasks.base import Row
from selfroute.tasks.game24 import Game24
from selfroute.tasks.shop import Shop
from selfroute.train.fit.pairs import Pair, Pairs
from selfroute.train.fit.reward_model import fit_reward_model, judge_pairs, reward_arguments
from selfroute.train.fit.trajectories import walk_pairs

MOST_STEPS = 12  # of a walk and of an attempt for one wish
SKILL = 0.2  # how often the shopper does what leads to the wish; 0.2 makes about one attempt in five right
UNSEEN = 0.2  # part of the pairs of attribute values that one condition leaves out
CONDITIONS = ("clean", "wrong20", "wrong40", "unseen", "long")
LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CALLS = (50, 100, 200, 400)
SHARES = (0.1, 0.3, 0.5)
SEARCHES: dict[str, Callable[[Arena, int], Any]] = {
    "best_of_n": lambda world, seed: best_of_n(world, seed=seed, at_once=1),
    "reflexion": lambda world, seed: reflexion(world, avoid, seed=seed),
    "tree_search": lambda world, seed: tree_search(world, seed=seed),
    "released_tree": lambda world, seed: tree_search(world, form="released", seed=seed),
}


# --- rewards -----------------------------------------------------------------------------------------------------


def trained(given: argparse.Namespace, condition: str, seed: int) -> tuple[RewardModel, dict[str, Any]]:
    """The reward of a condition, trained unless it is there, and how well it orders clean pairs."""
    out = given.out / f"{condition}-{seed}"
    task = Shop(seed=seed, wishes=3 if condition == "long" else 1)
    pairs = _pairs(given, condition, task, seed)
    if not (out / "run.json").exists():
        model = small_model(given.out / f"small-{seed}", seed=seed)
        steps = given.long_steps if condition == "long" else given.steps
        arguments = reward_arguments(out, steps=steps, learning_rate=2e-3, save_steps=200, seed=seed)
        again = any((out / "checkpoints").glob("checkpoint-*"))
        if not again and (out / "metrics.jsonl").exists():
            (out / "metrics.jsonl").unlink()
        fit_reward_model(pairs, arguments, model=model, tokenizer=model, out=out, resume=again)
    reward = RewardModel.load(out / "checkpoint")
    return reward, json.loads((out / "run.json").read_text(encoding="utf-8")) | {"pairs_of": pairs}


def _pairs(given: argparse.Namespace, condition: str, task: Shop, seed: int) -> Pairs:
    steps = 3 * MOST_STEPS if condition == "long" else MOST_STEPS
    made = walk_pairs(task, rows=given.rows, held_out_rows=given.held_out, most_steps=steps, seed=seed)
    if condition.startswith("wrong"):
        return replace(made, learn=exchanged(made.learn, int(condition[5:]) / 100, seed))
    if condition == "unseen":
        return replace(made, learn=tuple(pair for pair in made.learn if not is_unseen(pair.question)))
    return made


def exchanged(pairs: Sequence[Pair], part: float, seed: int) -> tuple[Pair, ...]:
    """Pairs of which a part has the question of another."""
    rng = random.Random(f"exchanged/{seed}")
    return tuple(replace(one, question=rng.choice(pairs).question) if rng.random() < part else one for one in pairs)


def is_unseen(question: str) -> bool:
    """Whether a wish names two attribute values that are never together in training."""
    said = question.partition("item: ")[2].split(", ")
    values = [one for one in said if not one.startswith("size")]
    together = (f"{a}/{b}" for a, b in product(values, values) if a < b)
    return any(random.Random(f"unseen/{one}").random() < UNSEEN for one in together)


def pairs_part(given: argparse.Namespace, seed: int, *, condition: str) -> dict[str, Any]:
    reward, run = trained(given, condition, seed)
    pairs: Pairs = run.pop("pairs_of")
    found = {"quality": run["quality"], "pairs": run["pairs"], "dropped": run["dropped"], "wall_s": run["wall_s"]}
    if condition in ("clean", "unseen"):
        new = [pair for pair in pairs.held_out if is_unseen(pair.question)]
        known = [pair for pair in pairs.held_out if not is_unseen(pair.question)]
        found |= {"unseen": judge_pairs(reward, new).facts(), "seen": judge_pairs(reward, known).facts()}
    return found


# --- the choice among N ------------------------------------------------------------------------------------------


def attempts(task: Shop, row: Row, count: int, *, seed: int) -> list[tuple[Place, float]]:
    """Attempts at a wish with the log-probability of what was done; those that did not end are left out."""

    async def all_of_them() -> list[tuple[Place, float]]:
        world = arena(task, row, lambda rows: [], skill=SKILL, most_steps=MOST_STEPS, attempts=count)
        shopper: Any = world.propose
        start = world.start()
        made = [await world.rollout(start, seed=seed * count + number) for number in range(count)]
        return [(place, shopper.logprob(place)) for place in made if place is not None]

    return asyncio.run(all_of_them())


def scored(reward: RewardModel, row: Row, places: Sequence[Place]) -> list[float]:
    """Scores of attempts, of equal ones once."""
    texts = list(dict.fromkeys(place.text for place in places))
    known = dict(zip(texts, reward.scores([(row.question, text) for text in texts], batch=128), strict=True))
    return [score if (score := known[place.text]) is not None else -math.inf for place in places]


def right(task: Any, row: Row, place: Place | None) -> float:
    return 0.0 if place is None else float(task.verify(row, str(Action(place.answer))).correct)


def choice_part(given: argparse.Namespace, seed: int, *, condition: str) -> dict[str, Any]:
    """Truth and score of the best of N by the reward, truth by an oracle and by luck; N to 512."""
    reward, _ = trained(given, condition, seed)
    task = Shop(seed=seed)
    rows = list(islice(task.rows("test"), given.goals))
    curves: dict[str, list[list[float]]] = {name: [] for name in ("learned", "oracle", "random", "score")}
    for number, row in enumerate(rows):
        tried = [place for place, _ in attempts(task, row, LADDER[-1], seed=seed * 1000 + number)]
        scores, truth = scored(reward, row, tried), [right(task, row, place) for place in tried]
        # The first of n of those that ended: an attempt that is broken off is made anew.
        tops = [max(range(min(n, len(tried))), key=lambda k: scores[k]) for n in LADDER]
        curves["learned"].append([truth[top] for top in tops])
        curves["score"].append([scores[top] for top in tops])
        curves["oracle"].append([max(truth[:n]) for n in LADDER])
        curves["random"].append([float(np.mean(truth[:n])) for n in LADDER])
    return {"n": len(rows), "ladder": LADDER} | {k: np.mean(v, axis=0).tolist() for k, v in curves.items()}


# --- hand-off ----------------------------------------------------------------------------------------------------


def handoff_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The best of 8, or a cloud that is always right: by the reward of the best, or by what was done."""
    reward, _ = trained(given, "clean", seed)
    task = Shop(seed=seed)
    rows = list(islice(task.rows("test"), given.handoff_goals))
    by_reward, by_chance = [], []
    for number, row in enumerate(rows):
        tried = attempts(task, row, 8, seed=seed * 1000 + number + 500_000)
        if not tried:
            by_reward.append((-math.inf, 0.0))
            by_chance.append((-math.inf, 0.0))
            continue
        places = [place for place, _ in tried]
        scores = scored(reward, row, places)
        means = [logprob / len(place.steps) for place, logprob in tried]
        for found, values in ((by_reward, scores), (by_chance, means)):
            top = max(range(len(values)), key=values.__getitem__)
            found.append((values[top], right(task, row, places[top])))
    return {"n": len(rows), "learned": compared(by_reward, by_chance, seed)}


def compared(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    """Accuracy at each share of both ways, with intervals over prompts, and of their difference.

    Args:
        one, other: score of the answer (the lowest are sent), and whether it is right.
    """
    n, rng = len(one), np.random.default_rng(seed)
    found: dict[str, Any] = {}
    drawn = rng.integers(0, n, (1000, n))
    for share in SHARES:
        kept = [_right_at(np.array(way), share, drawn) for way in (one, other)]
        gap = kept[0][1] - kept[1][1]
        found[str(share)] = {
            "reward": _told(*kept[0]),
            "logprob": _told(*kept[1]),
            "difference": [float(kept[0][0] - kept[1][0]), *np.quantile(gap, [0.025, 0.975]).tolist()],
        }
    return found


def _right_at(way: Any, share: float, drawn: Any) -> tuple[float, Any]:
    def accuracy(rows: Any) -> float:
        calls = int(share * len(rows))
        order = np.argsort(rows[:, 0], kind="stable")
        return float((calls + rows[order[calls:], 1].sum()) / len(rows))

    return accuracy(way), np.array([accuracy(way[rows]) for rows in drawn])


def _told(value: float, resampled: Any) -> list[float]:
    return [value, *np.quantile(resampled, [0.025, 0.975]).tolist()]


# --- equal calls -------------------------------------------------------------------------------------------------


def searched(world: Arena, name: str, seed: int) -> tuple[Found, float]:
    began = time.process_time()
    found = asyncio.run(SEARCHES[name](world, seed))
    return found, time.process_time() - began


def equal_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Searches at equal calls of the environment, three wishes in one episode."""
    reward, _ = trained(given, "long", seed)
    task = Shop(seed=seed, wishes=3)
    rows = list(islice(task.rows("test"), given.equal_goals))

    def world(row: Row, calls: int) -> Arena:
        return arena(task, row, reward.scores, skill=2 * SKILL, most_steps=3 * MOST_STEPS, environment_calls=calls)

    return _at_equal_calls(task, rows, world, seed)


def game24_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Searches at equal calls on the test split; the reward is the exact checker, and whoever acts knows nothing."""
    task = Game24()
    rows = list(task.rows("test"))[: given.problems]

    def world(row: Row, calls: int) -> Arena:
        def checked(asked: Sequence[tuple[str, str]]) -> list[float]:
            texts = [text.rpartition("<result>")[2].partition("</result>")[0] for _, text in asked]
            return [task.verify(row, f"<answer>{text}</answer>").quality for text in texts]

        limits = Limits(environment_calls=calls)
        return Arena(row.question, task.environment(row), Anybody(task, row), checked, limits)

    return _at_equal_calls(task, rows, world, seed)


def _at_equal_calls(task: Any, rows: Sequence[Row], world: Callable[[Row, int], Arena], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(rows), "calls": CALLS}
    for name in SEARCHES:
        lines = []
        for calls in CALLS:
            one = [(row, *searched(world(row, calls), name, seed * 1000 + k)) for k, row in enumerate(rows)]
            lines.append(
                {
                    "right": float(np.mean([right(task, row, result.best) for row, result, _ in one])),
                    "calls": float(np.mean([result.spent.environment_calls for _, result, _ in one])),
                    "attempts": float(np.mean([result.spent.attempts for _, result, _ in one])),
                    "tokens": float(np.mean([result.spent.tokens for _, result, _ in one])),
                    "seconds": float(np.mean([spent for _, _, spent in one])),
                }
            )
        found[name] = lines
    return found


# --- parts -------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[argparse.Namespace, int], dict[str, Any]]] = {
    "pairs-clean": partial(pairs_part, condition="clean"),
    "choice-clean": partial(choice_part, condition="clean"),
    "handoff": handoff_part,
    "game24": game24_part,
    "pairs-wrong40": partial(pairs_part, condition="wrong40"),
    "choice-wrong40": partial(choice_part, condition="wrong40"),
    "pairs-wrong20": partial(pairs_part, condition="wrong20"),
    "pairs-unseen": partial(pairs_part, condition="unseen"),
    "pairs-long": partial(pairs_part, condition="long"),
    "equal": equal_part,
}


def run(given: argparse.Namespace) -> None:
    for seed in given.seeds:
        for name in given.parts or PARTS:
            file = given.out / f"{name}-{seed}.json"
            if file.exists():
                continue
            origin = provenance()
            began = time.perf_counter()
            found = PARTS[name](given, seed) | {"seed": seed, "commit": origin["commit"]}
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{name} {seed}: {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["all", "report"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all by default, in this order for each seed")
    parser.add_argument("--rows", type=int, default=40_000, help="walks to learn from")
    parser.add_argument("--held-out", type=int, default=3000, help="walks to judge by")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps of a reward")
    parser.add_argument("--long-steps", type=int, default=600, help="those of the reward of three wishes")
    parser.add_argument("--goals", type=int, default=100, help="wishes of the choice among N")
    parser.add_argument("--handoff-goals", type=int, default=400)
    parser.add_argument("--equal-goals", type=int, default=40)
    parser.add_argument("--problems", type=int, default=100, help="of the game of 24")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "all":
        import torch

        torch.set_num_threads(1)
        quiet_libraries()
        run(given)
    else:
        write_page(given.out, Path(__file__).resolve().parent, list(PARTS))


if __name__ == "__main__":
    main()
