"""Credit along trees: soft and hard are one gradient until something is clipped or divided by lengths."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.tiny import PROMPTS, grade, policy, policy_trainer, tokenizer
from torch import Tensor
from transformers import TrainerCallback

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import hierarchical
from selfroute.train.rl.objectives.base import Scored
from selfroute.train.rl.objectives.group import group_advantages
from selfroute.train.rl.objectives.tree import CREDITS, TreeCredit, shared_tokens, standardised, weighted, within_trees
from selfroute.train.rl.rollouts.base import Attempts, Prompt, Sampler

G, T = 6, 5


class Grown:
    """A forest of a group: attempts that fork at random, as rows of token ids with what was read between."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.parent, self.fork, self.tree = [-1], [0], [0]
        self.ids = [[rng.randrange(5, 10) for _ in range(T)]]
        self.own = [[int(rng.random() < 0.7) for _ in range(T)]]
        for leaf in range(1, G):
            parent = rng.choice([-1, *range(leaf)])
            fork = 0 if parent < 0 else rng.randint(1, T - 1)
            beginning = ([], []) if parent < 0 else (self.ids[parent][:fork], self.own[parent][:fork])
            self.parent.append(parent)
            self.fork.append(fork)
            self.tree.append(max(self.tree) + 1 if parent < 0 else self.tree[parent])
            rest = T - fork
            self.ids.append([*beginning[0], *(rng.randrange(5, 10) for _ in range(rest))])
            self.own.append([*beginning[1], *(int(rng.random() < 0.7) for _ in range(rest))])
        for own in self.own:
            own[-1] = 1
        self.weight = [1.0 / self.tree.count(tree) for tree in self.tree]

    def facts(self) -> dict[str, list[float]]:
        found = {"parent": self.parent, "fork": self.fork, "tree": self.tree, "weight": self.weight, "fresh": [0] * G}
        return {name: [float(value) for value in values] for name, values in found.items()}


def scored(grown: Grown, rewards: Tensor) -> Scored:
    facts = {name: torch.tensor([values], dtype=rewards.dtype) for name, values in grown.facts().items()}
    return Scored(
        rewards=rewards,
        outcomes=[[Outcome(wants_cloud=False)] * G],
        facts=facts,
        own=torch.tensor([grown.own]).bool(),
    )


def surrogate(weights: Tensor, grown: Grown, logits: Tensor, *, clip: bool = False, lengths: bool = False) -> Tensor:
    """Minus the clipped objective of a table policy that shares its distributions with its prefix, as a tree does."""
    own = torch.tensor(grown.own).double()
    logp = torch.stack(
        [
            torch.stack([logits[hash(tuple(ids[:at])) % len(logits)].log_softmax(0)[ids[at]] for at in range(T)])
            for ids in grown.ids
        ]
    )
    old = logp.detach() - (0.4 if clip else 0.0)
    ratio = (logp - old).exp()
    each = weights[0] if weights.dim() == 3 else weights[0, :, None].expand(G, T)
    terms = torch.minimum(ratio * each, ratio.clamp(0.8, 1.2) * each) if clip else ratio * each
    terms = terms * own
    return -(terms.sum(1) / own.sum(1) if lengths else terms).sum()


def gradient(credit: str, grown: Grown, rewards: Tensor, **how: bool) -> Tensor:
    logits = torch.randn(64, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    surrogate(TreeCredit(credit=credit).weights(scored(grown, rewards)), grown, logits, **how).backward()
    assert logits.grad is not None
    return logits.grad


def rewards_of(seed: int) -> Tensor:
    return torch.rand(1, G, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm())


@given(st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_soft_is_hard_while_nothing_is_clipped_and_tokens_are_summed(seed: int) -> None:
    grown, rewards = Grown(seed), rewards_of(seed)
    assert apart(gradient("soft", grown, rewards), gradient("hard", grown, rewards)) < 1e-6


@pytest.mark.parametrize("how", [{"clip": True}, {"lengths": True}])
def test_they_part_where_ratios_are_clipped_and_where_a_row_is_divided_by_its_length(how: dict[str, bool]) -> None:
    forests = [(Grown(seed), rewards_of(seed)) for seed in range(8)]
    parted = [apart(gradient("soft", *forest, **how), gradient("hard", *forest, **how)) for forest in forests]
    assert max(parted) > 0.01


@given(st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_shared_tokens_are_those_that_are_copied(seed: int) -> None:
    grown = Grown(seed)
    shared = shared_tokens(*(torch.tensor([grown.facts()[name]]) for name in ("parent", "fork")))[0]
    for one in range(G):
        path: dict[int, float] = {}
        leaf, upto = one, float("inf")
        while leaf >= 0:  # every ancestor, and how much of it is this leaf's too
            path[leaf] = upto
            upto, leaf = min(upto, grown.fork[leaf]), grown.parent[leaf]
        for other in range(G):
            leaf, found, far = other, 0.0, float("inf")
            while leaf >= 0:
                if leaf in path:
                    found = min(path[leaf], far)
                    break
                far, leaf = min(far, grown.fork[leaf]), grown.parent[leaf]
            assert shared[one, other] == found


@given(st.integers(0, 300), st.sampled_from(sorted(CREDITS)))
@settings(max_examples=60, deadline=None)
def test_an_attempt_that_was_not_graded_has_no_weight_and_moves_no_other(seed: int, credit: str) -> None:
    grown, rewards = Grown(seed), rewards_of(seed)
    rewards[0, seed % G] = torch.nan
    weights = TreeCredit(credit=credit).weights(scored(grown, rewards))
    assert weights.isfinite().all()
    assert not weights[0, seed % G].any()


def test_advantages_of_a_group_and_of_a_tree_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.5]], dtype=torch.float64)
    tree, fresh = torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0]]), torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    deviation = (0.5**2 * 4 / 4) ** 0.5
    assert standardised(rewards)[0].tolist() == pytest.approx(
        [0.5 / deviation * s for s in (1, -1, -1, 1, 0)], abs=1e-4
    )
    spread = ((4 / 9 + 1 / 9 + 1 / 9) / 2) ** 0.5
    assert within_trees(rewards, tree, fresh)[0].tolist() == pytest.approx(
        [2 / 3 / spread, -1 / 3 / spread, -1 / 3 / spread, 0.0, 0.0], abs=1e-4
    )


def test_normalising_in_the_group_and_then_in_the_tree_is_normalising_in_the_tree() -> None:
    """What Tree-GRPO released does twice in a row, so that the first time has no effect."""
    rewards, tree, none = rewards_of(0), torch.tensor([[0.0, 0, 0, 1, 1, 1]]), torch.zeros(1, G)
    twice = within_trees(standardised(rewards), tree, none)
    assert torch.allclose(twice, within_trees(rewards, tree, none), atol=1e-4)


@given(st.integers(0, 300))
def test_weighted_leaves_of_trees_without_a_fork_are_the_group_estimator(seed: int) -> None:
    rewards = rewards_of(seed)
    alone, none = torch.arange(float(G))[None].double(), torch.zeros(1, G).double()
    assert torch.allclose(weighted(rewards, alone, torch.ones(1, G).double(), none), group_advantages(rewards))


class Given:
    """A rollout that gives the same forest to every prompt."""

    gives = frozenset({"parent", "fork", "tree", "weight", "fresh"})

    def __init__(self, grown: Grown) -> None:
        self.grown = grown

    def generate(self, prompts: list[Prompt], sampler: Sampler) -> Attempts:
        groups = len(prompts) // G
        return Attempts(
            prompts=sampler.encode(prompts),
            completions=self.grown.ids * groups,
            own=self.grown.own * groups,
            facts={name: values * groups for name, values in self.grown.facts().items()},
        )


class Look(TrainerCallback):
    """Keeps the gradient of the first step."""

    gradient = torch.empty(0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.gradient = flat(kwargs["model"])


def flat(model: Any) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def stepped(folder: Path, credit: str, grown: Grown) -> Tensor:
    look = Look()
    objective = TreeCredit(credit=credit)
    policy_trainer(folder, objective=objective, rollout=Given(grown), callbacks=[look]).train()
    assert look.gradient.norm() > 1e-3
    return look.gradient


def test_through_the_trainer_soft_is_hard(tmp_path: Path) -> None:
    grown = Grown(3)
    assert apart(stepped(tmp_path / "soft", "soft", grown), stepped(tmp_path / "hard", "hard", grown)) < 1e-6


@pytest.mark.parametrize("credit", ["soft", "weighted", "inter_intra"])
def test_a_step_is_the_gradient_of_the_policys_own_tokens(tmp_path: Path, credit: str) -> None:
    """What tools said has none, as autograd has it."""
    grown, model, words = Grown(3), policy(dtype=torch.float64), tokenizer()
    total, own = torch.zeros((), dtype=torch.float64), torch.tensor(grown.own)
    texts = words.batch_decode(grown.ids, skip_special_tokens=True)
    for number, prompt in enumerate(PROMPTS):
        outcomes = grade([f"{number}:{prompt}"] * G, texts)
        rewards = torch.tensor([[hierarchical(outcome) for outcome in outcomes]], dtype=torch.float64)
        weights = TreeCredit(credit=credit).weights(scored(grown, rewards))[0]
        ids = words(prompt)["input_ids"]
        logits = model(torch.tensor([[*ids, *row] for row in grown.ids])).logits[:, len(ids) - 1 : -1]
        said = logits.log_softmax(-1).gather(2, torch.tensor(grown.ids)[..., None])[..., 0]
        total = total - (weights[:, None] * said * own).sum() / len(PROMPTS)
    total.backward()
    assert apart(flat(model), stepped(tmp_path, credit, grown)) < 1e-6


def test_an_objective_that_reads_trees_needs_a_rollout_that_tells_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="objective: hard reads fork, parent of attempts, which Single does not tell"):
        policy_trainer(tmp_path, objective=TreeCredit(credit="hard"))


def test_an_unknown_credit_is_refused() -> None:
    with pytest.raises(ConfigError, match="credit: 'softer' is not one of soft, hard"):
        TreeCredit(credit="softer")
