"""Three real clouds on 1,824 prompts under five budgets: answers, judge's scores and costs of the package paretobandit.

    pip install --no-deps paretobandit==0.1.1
    python benchmarks/bandits/real.py      # what was tuned, on the validation part alone

Everything that is fitted or tuned comes from the package's 1,785 validation prompts: words of a prompt to each cloud's
score and cost (ridge regression on TF-IDF), the price of money to begin with, and the options in `OPTIONS`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from itertools import product

import numpy as np
import numpy.typing as npt
from cells import Cell, Numbers

from selfroute.bandits import catalogue
from selfroute.bandits.base import Arm, Context, Outcome
from selfroute.bandits.policy import Policy
from selfroute.bandits.static import static_mix
from selfroute.budget.pacing import DualPrice, affordable

Floats = npt.NDArray[np.float64]
BUDGETS = (8.3e-5, 2.3e-4, 6.6e-4, 1.9e-3, 5.3e-3)  # USD per request
# Reward of the published router (arXiv 2604.00136), the mean of 20 orders.
PUBLISHED = {8.3e-5: 0.813, 2.3e-4: 0.859, 6.6e-4: 0.898, 1.9e-3: 0.917, 5.3e-3: 0.924}
CLOUDS = ("meta-llama/llama-3.1-8b-instruct", "mistralai/mistral-large-2512", "google/gemini-2.5-pro")
MEAN_COST = (2.93e-5, 5.03e-4, 1.50e-2)  # of each cloud over the validation prompts: a price list's quote
# Chosen by `tune`: α of LinUCB, exploration floor, η of the dual price, and dearest candidate in budgets of a request.
OPTIONS = {"alpha": 0.0, "floor": 0.01, "rate": 0.005, "ceiling": 30.0}
GRID = {"alpha": (0.0, 0.05, 0.2), "floor": (0.01, 0.03), "rate": (0.005, 0.02), "ceiling": (10.0, 30.0)}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Prompts with what each cloud scored, cost, was expected to score and was quoted; shape (n, 3) each."""

    reward: Floats
    cost: Floats
    expected: Floats
    quote: Floats


def read(name: str) -> tuple[list[str], Floats, Floats]:
    text = (files("pareto_bandit") / f"data/examples/{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    reward, cost = (np.array([[row["arms"][c][key] for c in CLOUDS] for row in rows]) for key in ("reward", "cost"))
    return [row["prompt"] for row in rows], reward, cost


@cache
def parts() -> tuple[Part, Part]:
    """Validation and test; what is expected of validation prompts comes from models that did not read them."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline

    words = partial(TfidfVectorizer, sublinear_tf=True, min_df=2, ngram_range=(1, 2))
    (prompts, reward, cost), (others, other_reward, other_cost) = read("val"), read("test_holdout")
    target = np.hstack([reward, np.log(cost)])
    model = make_pipeline(words(), Ridge(alpha=3.0))
    own = cross_val_predict(model, prompts, target, cv=5)
    new = model.fit(prompts, target).predict(others)
    scale = cost.mean(0) / np.exp(own[:, 3:]).mean(0)  # the mean of a logarithm is not that of the cost
    return (
        Part(reward, cost, own[:, :3], np.exp(own[:, 3:]) * scale),
        Part(other_reward, other_cost, new[:, :3], np.exp(new[:, 3:]) * scale),
    )


def start_price(part: Part, budget: float) -> float:
    """The lowest price of money at which the expected best clouds of a part cost the budget."""
    for price in np.geomspace(0.1, 1e5, 600):
        best = (part.expected - price * part.quote).argmax(1)
        if part.cost[np.arange(len(best)), best].mean() <= budget:
            return float(price)
    return 1e5


def route(
    policy: Policy, part: Part, pacer: DualPrice, order: Sequence[int], *, context: bool, ceiling: float
) -> Numbers:
    """Mean reward and cost of a part's prompts in an order, learning from each answer."""
    reward = cost = 0.0
    for row in order:
        features = (1.0, *part.expected[row].tolist()) if context else ()
        quotes = part.quote[row] if context else MEAN_COST
        arms = affordable([Arm(c, float(usd)) for c, usd in zip(CLOUDS, quotes, strict=True)], ceiling)
        choice = policy.choose(Context(features, pacer.price), arms)
        place = CLOUDS.index(choice.arm)
        pacer.spend(float(part.cost[row, place]))
        policy.update(choice.arm, Outcome(float(part.reward[row, place]), features=features))
        reward += part.reward[row, place]
        cost += part.cost[row, place]
    return {"reward": reward / len(order), "cost": cost / len(order)}


def warmed(alpha: float, floor: float, seed: int) -> Policy:
    """LinUCB on what the prompt's words let expect, told the validation part's scores of all clouds."""
    policy = catalogue.linucb(
        catalogue.Learning(trials=0, floor=floor), arms=CLOUDS, features=4, alpha=alpha, seed=seed
    )
    known = parts()[0]
    for row, expected in enumerate(known.expected.tolist()):
        for place, cloud in enumerate(CLOUDS):
            policy.update(cloud, Outcome(float(known.reward[row, place]), features=(1.0, *expected)))
    return policy


@cache
def warm_state(alpha: float) -> dict[str, object]:
    return warmed(alpha, 0.0, 0).state()["quality"]


def with_context(
    budget: float, part: Part, seed: int, *, alpha: float, floor: float, rate: float, ceiling: float
) -> Numbers:
    policy = catalogue.linucb(
        catalogue.Learning(trials=0, floor=floor), arms=CLOUDS, features=4, alpha=alpha, seed=seed
    )
    policy.rule.restore(warm_state(alpha))
    pacer = DualPrice(budget, start=start_price(parts()[0], budget), rate=rate)
    order = np.random.default_rng(seed).permutation(len(part.reward)).tolist()
    return route(policy, part, pacer, order, context=True, ceiling=ceiling * budget)


def without_context(budget: float, seed: int) -> Numbers:
    """Discounted Thompson sampling and a dual price that know nothing beforehand but the price list."""
    policy = catalogue.thompson(
        catalogue.Learning(floor=OPTIONS["floor"], discount=0.997), arms=CLOUDS, draws=1, seed=seed
    )
    test = parts()[1]
    order = np.random.default_rng(seed).permutation(len(test.reward)).tolist()
    pacer = DualPrice(budget, rate=OPTIONS["rate"])
    return route(policy, test, pacer, order, context=False, ceiling=OPTIONS["ceiling"] * budget)


def cells() -> dict[str, Cell]:
    """Both routers at every budget; a seed is an order of the test prompts."""
    found: dict[str, Cell] = {}
    for budget in BUDGETS:
        found[f"{budget:.1e}, context"] = lambda seed, b=budget: with_context(b, parts()[1], seed, **OPTIONS)
        found[f"{budget:.1e}, no context"] = partial(without_context, budget)
    return found


def bounds() -> dict[str, dict[str, float]]:
    """Of each budget: best static mix of two clouds and oracle, both with the test part's answers in hindsight."""
    _, reward, cost = read("test_holdout")
    found = {}
    for budget in BUDGETS:
        static = static_mix(cost.mean(0), reward.mean(0), budget)
        assert static is not None
        best = oracle(reward, cost, budget)
        found[f"{budget:.1e}"] = {"static": static, "oracle": best, "published": PUBLISHED[budget]}
    return found


def oracle(reward: Floats, cost: Floats, budget: float) -> float:
    """Mean reward of the best choice per prompt that costs the budget in the mean: Lagrange, ties mixed."""
    low, high = 0.0, 1e7
    rows = np.arange(len(reward))

    def at(price: float) -> tuple[float, float]:
        best = (reward - price * cost).argmax(1)
        return float(cost[rows, best].mean()), float(reward[rows, best].mean())

    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[0] > budget else (low, middle)
    (dear, more), (cheap, less) = at(low), at(high)
    share = (budget - cheap) / (dear - cheap) if dear > cheap else 0.0
    return less + min(1.0, max(0.0, share)) * (more - less)


def tune() -> None:
    """Every combination of `GRID` on the validation part in three orders; the best mean reward that keeps budgets."""
    known = parts()[0]
    tried: list[tuple[bool, float, dict[str, float]]] = []
    for values in product(*GRID.values()):
        options = dict(zip(GRID, values, strict=True))
        runs = [[with_context(budget, known, seed, **options) for seed in range(3)] for budget in BUDGETS]
        cost = [float(np.mean([run["cost"] for run in own])) / b for own, b in zip(runs, BUDGETS, strict=True)]
        reward = [float(np.mean([run["reward"] for run in own])) for own in runs]
        tried.append((max(cost) <= 1.01, float(np.mean(reward)), options))
        print(options, "cost/budget", np.round(cost, 3), "reward", np.round(reward, 4), flush=True)
    print("chosen:", max(tried, key=lambda one: one[:2])[2])


if __name__ == "__main__":
    tune()
