"""Trees of attempts: their shape, what they write, when they fork, and that weighted leaves estimate without a bias."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.rl.rollouts.agents import END, Chance, Gradient, Table, by_luck, distance, every_way, gradient_of, size
from tests.train.rl.rollouts.agents import world as opened

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.rewards.group import group_weights
from selfroute.tasks.base import Observation
from selfroute.train.rl.objectives.tree import weighted
from selfroute.train.rl.rollouts.base import Attempts
from selfroute.train.rl.rollouts.branching import BRANCHINGS, Node, Released, TreeOptions, budgets
from selfroute.train.rl.rollouts.tree import FACTS, Tree, _Leaf

CALL_1, CALL_2 = "<tool>look 1</tool>", "<tool>look 2</tool>"
WORLD = opened({"1": "one", "2": "two"})
PROMPT = [{"role": "user", "content": "q"}]


def agent(words: Sequence[str]) -> Mapping[str, float]:
    """It calls once, thinks two words, and says A or B; what it thinks first moves how sure it is of the rest."""
    match len(words):
        case 0:
            return {CALL_1: 0.6, CALL_2: 0.4}
        case 2:
            return {"p": 0.7, "q": 0.3} if words[0] == CALL_1 else {"p": 0.2, "q": 0.8}
        case 3:
            return {"s": 0.5, "t": 0.5} if words[2] == "q" else {"s": 0.95, "t": 0.05}
        case 4:
            return {"A": 0.8, "B": 0.2} if (words[2], words[3]) in (("q", "s"), ("p", "t")) else {"A": 0.3, "B": 0.7}
    return {END: 1.0}


def talker(words: Sequence[str]) -> Mapping[str, float]:
    """It calls, thinks and calls again until it has enough."""
    if words and words[-1] == "ok":
        return {END: 1.0}
    if words and words[-1] in "pqr":
        return {CALL_1: 0.35, CALL_2: 0.35, "ok": 0.3}
    return {"p": 0.5, "q": 0.3, "r": 0.2}


def reward(text: str) -> float:
    return float(text.endswith("A"))


def grown(
    policy: object = talker, *, group: int = 8, prompts: int = 3, seed: int = 0, limit: int = 24, **options: object
) -> tuple[Attempts, Table]:
    table = Table(policy, by_luck(seed), group=group, limit=limit)  # type: ignore[arg-type]
    made = Tree(WORLD, TreeOptions(**{"probe": 1, **options})).generate([PROMPT] * prompts * group, table)  # type: ignore[arg-type]
    return made, table


class TestShape:
    @pytest.mark.parametrize("branching", BRANCHINGS)
    @given(seed=st.integers(0, 1_000), group=st.integers(1, 9), first=st.integers(1, 9), branches=st.integers(2, 4))
    @settings(max_examples=15, deadline=None)
    def test_leaves_are_as_many_as_were_asked_for(
        self, branching: str, seed: int, group: int, first: int, branches: int
    ) -> None:
        made, _ = grown(group=group, seed=seed, first=first, branches=branches, branching=branching)
        assert len(made.completions) == len(made.texts or ()) == 3 * group
        assert {len(values) for values in made.facts.values()} == {3 * group}
        assert all(made.completions)

    @pytest.mark.parametrize("branching", BRANCHINGS)
    @given(seed=st.integers(0, 1_000))
    @settings(max_examples=15, deadline=None)
    def test_a_branch_begins_as_its_parent_does_and_tools_words_are_not_its_own(
        self, branching: str, seed: int
    ) -> None:
        made, table = grown(seed=seed, branching=branching, rate=0.8)
        assert made.own is not None
        for at, ids in enumerate(made.completions):
            said = [table.words[i].startswith("<result>") for i in ids]
            assert [not own for own in made.own[at]] == said
            parent, fork = int(made.facts["parent"][at]), int(made.facts["fork"][at])
            if parent >= 0:
                group = at // 8 * 8
                assert group + parent < at
                assert list(ids[:fork]) == list(made.completions[group + parent][:fork])
                assert made.facts["tree"][at] == made.facts["tree"][group + parent]

    @given(seed=st.integers(0, 1_000), branching=st.sampled_from([b for b in BRANCHINGS if b != "random_nodes"]))
    @settings(max_examples=40, deadline=None)
    def test_the_weights_of_a_trees_leaves_sum_to_one(self, seed: int, branching: str) -> None:
        made, _ = grown(seed=seed, branching=branching, branches=3, rate=0.8)
        sums: dict[tuple[int, float], float] = defaultdict(float)
        for at, weight in enumerate(made.facts["weight"]):
            if not made.facts["fresh"][at]:
                sums[at // 8, made.facts["tree"][at]] += weight
        assert sums and all(total == pytest.approx(1.0) for total in sums.values())

    def test_what_is_written_is_counted_once(self) -> None:
        made, table = grown(seed=1, branching="fixed")
        assert sum(made.facts["written"]) == table.drawn

    @pytest.mark.parametrize("branching", ["fixed", "random", "random_nodes"])
    def test_trees_write_at_most_nine_tenths_of_the_tokens_of_as_many_flat_leaves(self, branching: str) -> None:
        made, _ = grown(prompts=40, branching=branching, rate=0.8, limit=40, calls=9)
        assert made.own is not None
        flat = sum(map(sum, made.own))
        assert sum(made.facts["written"]) <= 0.9 * flat

    def test_each_tree_has_an_equal_part_of_the_leaves(self) -> None:
        assert [budgets(8, 3), budgets(4, 4), budgets(5, 1)] == [[3, 3, 2], [1, 1, 1, 1], [5]]

    def test_a_group_of_one_is_flat(self) -> None:
        made, _ = grown(group=1, branching="fixed")
        assert set(made.facts["parent"]) == {-1.0} and set(made.facts["weight"]) == {1.0}


class TestEnds:
    def test_an_answer_is_what_is_graded_and_a_call_too_many_is_none(self) -> None:
        made, table = grown(prompts=10, branching="never", calls=1, limit=40)
        for ids, text, calls in zip(made.completions, made.texts or (), made.facts["calls"], strict=True):
            words = [table.words[i] for i in ids]
            assert text == ("".join(words[words.index(END) - 2 : -1]) if words[-1] == END else "")
            assert calls <= 2

    def test_an_episode_that_the_environment_ends_answers_with_what_it_said(self) -> None:
        table = Table(lambda words: {CALL_1: 1.0}, by_luck(0), group=1, limit=5)
        made = Tree(opened({"1": "done"})).generate([PROMPT], table)
        assert made.texts == ["<answer>done</answer>"]

    def test_an_attempt_is_cut_at_its_limit_also_by_a_result(self) -> None:
        table = Table(lambda words: {CALL_1: 1.0}, by_luck(0), group=1, limit=4)
        made = Tree(WORLD).generate([PROMPT], table)
        assert made.own == [[1, 0, 1, 0]] and made.texts == [""]

    def test_an_environment_that_cannot_go_back_is_refused_where_attempts_fork(self) -> None:
        class OneWay:
            tools = ()

            def reset(self) -> str:
                return ""

            def step(self, action: Action) -> Observation:
                return Observation("")

            def score(self) -> float:
                return 0.0

        table = Table(talker, by_luck(0), group=2, limit=5)
        Tree(lambda prompt: OneWay(), TreeOptions(branching="never")).generate([PROMPT] * 2, table)
        with pytest.raises(ConfigError, match="branching=fixed: the environment OneWay has no snapshots to fork from"):
            Tree(lambda prompt: OneWay(), TreeOptions(branching="fixed")).generate([PROMPT] * 2, table)


class TestRules:
    def node(self, *, now: float = 0.5, first: float = 0.5, before: float = 0.5, call: int = 1, place: int = 0) -> Node:
        return Node(now=now, first=first, before=before, call=call, place=place)

    def rate(self, node: Node, **options: object) -> float:
        rule, rng = TreeOptions(**options).brancher(), random.Random(0)  # type: ignore[arg-type]
        return sum(rule.forks(node, rng) for _ in range(4_000)) / 4_000

    def test_entropy_moves_the_probability_of_a_fork(self) -> None:
        assert self.rate(self.node(now=0.9, first=0.4)) == pytest.approx(0.6, abs=0.03)
        assert self.rate(self.node(now=0.1, first=0.6)) == pytest.approx(0.4, abs=0.03)
        assert self.rate(self.node(now=1.0, first=0.0), beta=2.0) == 1.0

    @pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
    def test_with_alpha_at_tau_a_threshold_forks_wherever_entropy_rises_whatever_beta(self, beta: float) -> None:
        rises, falls = self.node(now=0.6, first=0.5), self.node(now=0.4, first=0.5)
        assert self.rate(rises, branching="threshold", beta=beta) == 1.0
        assert self.rate(falls, branching="threshold", beta=beta) == 0.0

    def test_the_released_rule_looks_at_the_call_before(self) -> None:
        """So its first fork is a fair coin, whatever the present result did to the entropy."""
        first_call = self.node(now=1.0, first=0.0, before=0.0)
        assert self.rate(first_call, branching="released") == pytest.approx(0.5, abs=0.03)
        assert self.rate(self.node(before=1.0, first=0.0), branching="released") == pytest.approx(0.7, abs=0.03)

    def test_the_released_rule_compares_with_a_prompt_long_gone(self) -> None:
        rule, rng = Released(0.2), random.Random(0)
        rule.forks(self.node(first=0.9, before=0.9), rng)
        forks = [rule.forks(self.node(first=0.1, before=0.1), rng) for _ in range(4_000)]
        assert sum(forks) / len(forks) == pytest.approx(0.5 + 0.2 * (0.1 - 0.9), abs=0.03)

    def test_the_released_rules_table_is_kept_with_a_checkpoint(self) -> None:
        one, other = (Tree(WORLD, TreeOptions(branching="released")) for _ in range(2))
        one.brancher.forks(self.node(first=0.3, place=4), random.Random(0))
        other.restore(one.state())
        assert other.state() == one.state() == {"table": [(4, 0.3)]}

    def test_fixed_and_never(self) -> None:
        calls = range(1, 5)
        every = [self.rate(self.node(call=call), branching="fixed", every=2) for call in calls]
        assert every == [0.0, 1.0, 0.0, 1.0]
        assert self.rate(self.node(now=1.0, first=0.0), branching="never") == 0.0

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"branching": "often"}, "branching"),
            ({"branches": 1}, "branches: 1 is not at least 2; a fork into one is none"),
            ({"rate": 1.5}, "rate: 1.5 is not"),
            ({"probe": 0}, "probe: 0 is not at least 1"),
        ],
    )
    def test_options_are_checked(self, option: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            TreeOptions(**option)  # type: ignore[arg-type]


class ForkBefore(Tree):
    """A tree that forks in front of the probe, as the paper's text can be read."""

    def _branch(self, leaf: _Leaf) -> _Leaf:
        return self._beside(leaf, leaf.turn)


class TestBias:
    """Exact expectations over every way that a group of three leaves of two trees can turn out."""

    # Forks where the second word behind the result is uncertain, which depends on the first: the probe is selected.
    OPTIONS = TreeOptions(branching="threshold", first=2, probe=2, alpha=0.5, beta=1.0, tau=0.7)

    def truth(self) -> Gradient:
        """∇ of the expected reward, from single attempts."""
        total: Gradient = defaultdict(float)

        def run(chance: Chance) -> Gradient:
            table = Table(agent, chance, group=1, limit=9)
            made = Tree(WORLD, TreeOptions(branching="never")).generate([PROMPT], table)
            return gradient_of(made, [reward(text) for text in made.texts or ()], table)

        for probability, found in every_way(run):
            for key, value in found.items():
                total[key] += probability * value
        return total

    def bias(self, kind: type[Tree], weighting: str) -> float:
        """Of the estimate, relative to the size of the gradient."""

        def run(chance: Chance) -> tuple[Attempts, Table]:
            table = Table(agent, chance, group=3, limit=9)
            return kind(WORLD, self.OPTIONS).generate([PROMPT] * 3, table), table

        ways = list(every_way(run))
        rewards = torch.tensor([[reward(text) for text in made.texts or ()] for _, (made, _) in ways]).double()
        facts = {name: torch.tensor([made.facts[name] for _, (made, _) in ways]).double() for name in FACTS}
        weights = group_weights(rewards, torch)
        if weighting == "weighted":
            weights = weighted(rewards, facts["tree"], facts["weight"], facts["fresh"])
        total: Gradient = defaultdict(float)
        for (probability, (made, table)), row in zip(ways, weights.tolist(), strict=True):
            for key, value in gradient_of(made, row, table).items():
                total[key] += probability * value
        assert sum(probability for probability, _ in ways) == pytest.approx(1.0)
        truth = self.truth()
        return distance(total, truth) / size(truth)

    def test_weighted_leaves_that_fork_behind_the_probe_have_none(self) -> None:
        assert self.bias(Tree, "weighted") <= 1e-10

    def test_leaves_of_equal_weight_have_one(self) -> None:
        assert self.bias(Tree, "plain") > 0.1

    def test_leaves_that_fork_before_the_probe_have_one(self) -> None:
        assert self.bias(ForkBefore, "weighted") > 0.05
