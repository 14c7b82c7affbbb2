"""Does it matter where an agent's attempts fork? All rules and credits of trees, on `lookup`.

    python benchmarks/agents/run.py all --out out/agents    # stop it when you like; it goes on with what is missing
    python benchmarks/agents/run.py report                  # results.md and docs/figures/agents.svg from results.json

An agent of two layers imitates careless errands (`agents_world.py`), once for each seed; every arm goes on from there.
A right answer is worth 1, a hand-off 0.05 to a cloud that is always right. Cells, each of one seed:

* ``sampling``: groups of 8 of the agent as it was begun, by every rule in turn on the same prompts: tokens written and
  tokens per second of processor time beside flat attempts, how often a rule forks, how entropy moves behind a result.
* ``train``: 20 steps of 6 prompts x 8 attempts; every 4 steps 200 questions of the test split, one flat attempt each.
* ``noise``: the gradient of the same 6 prompts, 8 times over: the variance of its estimate, by the square of its mean.

First come flat, entropy, random and threshold with `soft` and `weighted` for every seed, then the noise, then the rest.

The rule, written down before the run: seeds 0 to 4, and constants as they stand below, set after looks at cells of seed
100 that showed the costs and that a hand-off worth 0.4 drew every attempt. Arms are compared where the cheapest has got
to: at the fewest calls of tools that any arm of the seed had made after 20 steps, and apart from that at the fewest
tokens written; success lies on the line between two measurements. Entropy beats random branching if the mean over seeds
of the difference in success has a 95 % interval (Student) above 0, at equal calls and at equal tokens, with the same
credit; it is beaten if below; else there is no difference that this can show. `random` forks at the rate at which
`entropy` did in the seed's ``sampling``. The success of "calls to" is 0.1 above the seed's start. `hard` is not run:
with one update for each batch and a sum over tokens its gradient is that of `soft`, to 1e-6
(tests/train/rl/objectives/test_tree.py). Flat attempts have no tree, so that `inter_intra` is `soft` and `intra`
nothing; nodes drawn once all is written have no weights, so that `weighted` is refused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parent))

from agents_page import write_page
from agents_world import TASK, Counts, begun, outcomes, tokenizer

from selfroute.assemble.pieces import quiet_libraries
from selfroute.environment import provenance
from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.tasks.base import Row
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.objectives.tree import TreeCredit
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.rollouts.base import Attempts, Prompt, Sampler
from selfroute.train.rl.rollouts.branching import Brancher, Node, TreeOptions
from selfroute.train.rl.rollouts.tree import Tree

RESULTS = Path(__file__).resolve().parent / "results.json"
SEEDS = (0, 1, 2, 3, 4)
GROUP, PROMPTS, TOKENS = 8, 6, 72
STEPS, EVERY, QUESTIONS = 20, 4, 200
LEARNS = 400  # questions that attempts are made at
NOISE, SAMPLED = 8, 3  # times that a gradient is taken, and that all rules sample
RATE, IMITATED = 2e-3, 600
COMMON = TreeOptions(first=4, probe=2, calls=6)
RULES: Mapping[str, TreeOptions] = {
    "never": replace(COMMON, branching="never"),
    "entropy": replace(COMMON, branching="entropy"),
    "entropy, beta 2": replace(COMMON, branching="entropy", beta=2.0),
    "threshold": replace(COMMON, branching="threshold"),
    "released": replace(COMMON, branching="released"),
    "random": replace(COMMON, branching="random"),
    "fixed": replace(COMMON, branching="fixed", every=2),
    "random_nodes": replace(COMMON, branching="random_nodes"),
}
LACKS = {"never": {"inter_intra", "intra"}, "random_nodes": {"weighted"}}
CREDITS = ("soft", "weighted", "inter_intra", "intra")
ARMS = [(rule, credit) for credit in CREDITS for rule in RULES if credit not in LACKS.get(rule, ())]
CORE = [f"{rule} / {credit}" for credit in CREDITS[:2] for rule in ("never", "entropy", "random", "threshold")]


class Measured(Tree):
    """Trees whose tokens, calls and seconds of processor are counted, those of groups alone."""

    def __init__(self, counts: Counts, options: TreeOptions) -> None:
        super().__init__(counts.open, options)
        self.counts, self.calls, self.tokens, self.seconds = counts, 0, 0, 0.0

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        before, began = self.counts.calls, time.process_time()
        made = super().generate(prompts, sampler)
        if sampler.group > 1:
            self.seconds += time.process_time() - began
            self.calls += self.counts.calls - before
            self.tokens += int(sum(made.facts["written"]))
        return made


class Noted:
    """A rule whose decisions are written down."""

    def __init__(self, rule: Brancher) -> None:
        self.rule = rule
        self.probes, self.measures, self.late = rule.probes, rule.measures, rule.late
        self.rises: list[float] = []
        self.forked = 0

    def forks(self, node: Node, rng: Any) -> bool:
        found = self.rule.forks(node, rng)
        self.rises.append(node.now - node.first)
        self.forked += found
        return found


class InTurn(Measured):
    """Samples by every rule in turn, with the same prompts and policy; gives the flat attempts."""

    def __init__(self) -> None:
        super().__init__(Counts(), RULES["never"])
        self.rules = {name: Measured(Counts(), options) for name, options in RULES.items()}
        for rule in self.rules.values():
            rule.brancher = Noted(rule.brancher)
        self.turns = 0

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        made = {name: rule.generate(prompts, sampler) for name, rule in self.rules.items()}
        self.turns += 1
        if self.turns == 1:  # the first pays for what torch prepares
            for rule in self.rules.values():
                rule.calls = rule.tokens = 0
                rule.seconds = 0.0
        return made["never"]


# --- trainers -----------------------------------------------------------------------------------------------------


def trainer(
    base: Path, rows: Sequence[Row], rollout: Tree, *, seed: int, steps: int, rate: float, credit: str, watch: Any
) -> GAPGTrainer:
    """The trainer of an arm on the agent as it was begun."""
    method = GAPGOptions(algorithm="tree", reward=Hierarchical(cloud=0.05))
    known = {row.id: row for row in [*rows, *_questions()]}

    def grade(ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
        return list(outcomes(known, ids, texts))

    config = PolicyConfig(
        output_dir=tempfile.gettempdir(), max_steps=steps, seed=seed, learning_rate=rate, adam_beta1=0.5,
        lr_scheduler_type="constant", max_grad_norm=1.0 if rate else 0.0, optim="adamw_torch",
        per_device_train_batch_size=GROUP * PROMPTS, gradient_accumulation_steps=1, num_generations=GROUP,
        max_completion_length=TOKENS, activation_checkpointing=False, save_strategy="no", logging_steps=1,
        report_to=[], disable_tqdm=True, use_cpu=True, **method.method.trl,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": asked(row), "row_id": row.id} for row in rows])
    return GAPGTrainer(
        LlamaForCausalLM.from_pretrained(base),
        grade,
        config,
        data,
        tokenizer(),
        options=method,
        objective=TreeCredit(credit=credit),
        rollout=rollout,
        callbacks=[watch],
    )


def asked(row: Row) -> Prompt:
    return [{"role": "user", "content": row.question}]


def _questions() -> list[Row]:
    return list(islice(TASK.rows("test"), QUESTIONS))


class Curve(TrainerCallback):
    """What the agent can do, every few steps, and what it has cost so far."""

    def __init__(self, rollout: Measured) -> None:
        self.rollout, self.points = rollout, list[dict[str, float]]()
        self.made: GAPGTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.measure(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % EVERY == 0:
            self.measure(state.global_step)

    def measure(self, step: int) -> None:
        assert self.made is not None
        rows = _questions()
        texts, facts = self.made.attempt([asked(row) for row in rows])
        found = self.made.grader([row.id for row in rows], texts)
        self.points.append(
            {
                "step": step,
                "calls": self.rollout.calls,
                "tokens": self.rollout.tokens,
                "success": statistics.mean(float(one.device_correct or 0) for one in found),
                "asked": statistics.mean(one.wants_cloud for one in found),
                "tools": statistics.mean(facts["calls"]),
            }
        )


class Gradients(TrainerCallback):
    """The gradient of every step."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        parts = [value.grad.flatten() for value in model.parameters() if value.grad is not None]
        self.found.append(torch.cat(parts).clone())


# --- cells --------------------------------------------------------------------------------------------------------


def sampling(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    rollout, rows = InTurn(), list(islice(TASK.rows("train"), PROMPTS * (SAMPLED + 1)))
    made = trainer(
        _base(given, seed), rows, rollout,
        seed=seed, steps=SAMPLED + 1, rate=0.0, credit="soft", watch=TrainerCallback(),
    )  # fmt: skip
    made.train()
    return {name: _sampled(rule) for name, rule in rollout.rules.items()}


def _sampled(rule: Measured) -> dict[str, float]:
    noted: Any = rule.brancher
    decided = len(noted.rises)
    return {
        "tokens": rule.tokens,
        "calls": rule.calls,
        "seconds": rule.seconds,
        "rate": noted.forked / decided if decided else 0.0,
        "rise": statistics.mean(noted.rises) if decided and rule.brancher.measures else 0.0,
    }


def options_of(rule: str, rate: float) -> TreeOptions:
    """A rule's options, the random one at a matched rate."""
    return replace(RULES[rule], rate=rate) if rule == "random" else RULES[rule]


def noise(given: argparse.Namespace, seed: int, *, arm: tuple[str, str], rate: float) -> dict[str, Any]:
    rollout, watch = Measured(Counts(), options_of(arm[0], rate)), Gradients()
    rows = list(islice(TASK.rows("train"), PROMPTS))
    trainer(_base(given, seed), rows, rollout, seed=seed, steps=NOISE, rate=0.0, credit=arm[1], watch=watch).train()
    every = torch.stack(watch.found)
    spread = float(every.var(0).sum())
    return {
        "variance": spread,
        "square": float(every.mean(0).square().sum()) - spread / len(every),  # of the mean, less what its noise adds
        "tokens": rollout.tokens / len(every),
    }


def train(given: argparse.Namespace, seed: int, *, arm: tuple[str, str], rate: float) -> dict[str, Any]:
    rollout = Measured(Counts(), options_of(arm[0], rate))
    watch, rows = Curve(rollout), list(islice(TASK.rows("train"), LEARNS))
    watch.made = trainer(
        _base(given, seed), rows, rollout, seed=seed, steps=STEPS, rate=RATE, credit=arm[1], watch=watch
    )
    watch.made.train()
    return {"points": watch.points}


def _base(given: argparse.Namespace, seed: int) -> Path:
    return begun(given.out / f"begun-{seed}", seed, IMITATED)


Cell = Callable[[argparse.Namespace, int], dict[str, Any]]


def missing(results: Mapping[str, Any], seeds: Sequence[int]) -> list[tuple[str, str, int]]:
    """Part, arm and seed of the cells that are not there, in the order in which they are made."""
    rest = [arm for arm in _names() if arm not in CORE]
    wanted = [
        (part, arm, seed)
        for stage in ((("sampling", ["all"]), ("train", CORE)), (("noise", _names()),), (("train", rest),))
        for seed in seeds
        for part, arms in stage
        for arm in arms
    ]
    done = {(cell["part"], cell["arm"], cell["seed"]) for cell in results["cells"]}
    return [one for one in wanted if one not in done]


def _names() -> list[str]:
    return [f"{rule} / {credit}" for rule, credit in ARMS]


def cell(given: argparse.Namespace, results: Mapping[str, Any], part: str, arm: str, seed: int) -> dict[str, Any]:
    """One cell, with what it cost."""
    began = time.process_time()
    if part == "sampling":
        found = sampling(given, seed)
    else:
        sampled = next(c for c in results["cells"] if c["part"] == "sampling" and c["seed"] == seed)
        rate = sampled["entropy"]["rate"]
        make = {"noise": noise, "train": train}[part]
        found = make(given, seed, arm=ARMS[_names().index(arm)], rate=rate)
    spent = round(time.process_time() - began, 1)
    return {"part": part, "arm": arm, "seed": seed, **found, "cpu_s": spent, "commit": provenance()["commit"]}


def run(given: argparse.Namespace) -> None:
    file = given.out / RESULTS.name
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"cells": []}
    for part, arm, seed in missing(results, given.seeds)[: given.cells]:
        results["cells"].append(cell(given, results, part, arm, seed))
        results["provenance"] = provenance()
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(file)
        print(f"{part} {arm} {seed}: {results['cells'][-1]['cpu_s']} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all", "report"))
    parser.add_argument("--out", type=Path, default=Path("out/agents"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--cells", type=int, help="most cells to make now; all by default")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.what == "report":
        write_page(json.loads(RESULTS.read_text(encoding="utf-8")), Path(__file__).resolve().parent)
        return
    torch.set_num_threads(1)
    quiet_libraries()
    given.out.mkdir(parents=True, exist_ok=True)
    run(given)


if __name__ == "__main__":
    main()
