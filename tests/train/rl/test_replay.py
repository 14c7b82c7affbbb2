"""Attempts from elsewhere: the buffer's rules, its draws, and tempered attempts that the loss knows nothing of."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train.seams import Given
from tests.train.tiny import PROMPTS, policy, policy_trainer

from selfroute.errors import ConfigError
from selfroute.train.rl.behaviour import Behaviour
from selfroute.train.rl.objectives.balance import TB, VarGradTB
from selfroute.train.rl.objectives.group import Group
from selfroute.train.rl.objectives.subtb import SubTB
from selfroute.train.rl.options import MStepOptions
from selfroute.train.rl.policy_trainer import PolicyTrainer
from selfroute.train.rl.replay import ReplayBuffer, edit_distances

ids = st.lists(st.integers(0, 3), min_size=1, max_size=5)


def edit_distance(left: list[int], right: list[int]) -> int:
    return edit_distances(left, [right])[0]


def test_edit_distance_of_known_pairs() -> None:
    assert edit_distance([1, 2, 3], [1, 2, 3]) == 0
    assert edit_distance(list(map(ord, "kitten")), list(map(ord, "sitting"))) == 3
    assert edit_distance([], [1, 2]) == 2


@given(ids, st.lists(ids, max_size=4))
def test_distances_to_several_are_those_of_the_plain_recursion(one: list[int], others: list[list[int]]) -> None:
    def plain(left: list[int], right: list[int]) -> int:
        if not left or not right:
            return len(left) + len(right)
        replaced = plain(left[1:], right[1:]) + (left[0] != right[0])
        return min(replaced, plain(left[1:], right) + 1, plain(left, right[1:]) + 1)

    assert edit_distances(one, others) == [plain(one, other) for other in others]


@given(ids, ids, ids)
def test_edit_distance_is_a_metric(one: list[int], two: list[int], three: list[int]) -> None:
    assert edit_distance(one, two) == edit_distance(two, one)
    assert (edit_distance(one, two) == 0) == (one == two)
    assert edit_distance(one, three) <= edit_distance(one, two) + edit_distance(two, three)


@given(st.lists(st.tuples(ids, st.floats(0, 1)), max_size=20), st.integers(1, 5))
def test_the_buffer_keeps_its_rules(tried: list[tuple[list[int], float]], capacity: int) -> None:
    buffer = ReplayBuffer(capacity=capacity, alike=0.25)
    for attempt, reward in tried:
        buffer.add("x", attempt, reward)
    entries = buffer.kept.get("x", [])
    assert len(entries) <= capacity
    for i, one in enumerate(entries):
        for other in entries[:i]:
            longest = max(len(one.ids), len(other.ids))
            assert edit_distance(one.ids, other.ids) >= 0.25 * longest
    again = ReplayBuffer(capacity=capacity, alike=0.25)
    again.restore(json.loads(json.dumps(buffer.state())))
    assert again.state() == buffer.state()
    drawn = buffer.draw("x", 3, random.Random(1))
    assert drawn == again.draw("x", 3, random.Random(1))
    assert len(drawn) == min(3, len(entries))
    assert len({tuple(attempt) for attempt in drawn}) == len(drawn)


def test_the_worst_leave_and_the_better_of_two_twins_stays() -> None:
    buffer = ReplayBuffer(capacity=2, alike=0.3)
    buffer.add("x", [1, 1, 1, 1], 0.5)
    buffer.add("x", [1, 1, 1, 2], 0.2)  # like the first, and worse
    assert [entry.ids for entry in buffer.kept["x"]] == [[1, 1, 1, 1]]
    buffer.add("x", [1, 1, 1, 2], 0.9)
    assert [entry.reward for entry in buffer.kept["x"]] == [0.9]
    buffer.add("x", [1, 1, 1, 2], 0.1)  # the same attempt, graded anew
    assert [entry.reward for entry in buffer.kept["x"]] == [0.1]
    buffer.add("x", [2, 2], 0.7)
    buffer.add("x", [3, 3], 0.8)
    assert [entry.ids for entry in buffer.kept["x"]] == [[2, 2], [3, 3]]
    buffer.add("x", [0], math.nan)
    assert len(buffer) == 2


def test_what_was_graded_under_an_earlier_reward_is_not_drawn_and_leaves_first() -> None:
    buffer = ReplayBuffer(capacity=2)
    buffer.add("x", [1], 1.0)
    buffer.version += 1
    assert buffer.draw("x", 1, random.Random(0)) == []
    buffer.add("x", [2], 0.1)
    buffer.add("x", [3], 0.2)
    assert [entry.ids for entry in buffer.kept["x"]] == [[2], [3]]


def test_draws_prefer_the_new_and_the_good() -> None:
    buffer = ReplayBuffer(recent=1.0)
    for number in range(5):
        buffer.add("x", [number], 1.0 - number)
    assert buffer.draw("x", 2, random.Random(0)) == [[4], [3]]
    buffer.recent = 0.0
    first = [buffer.draw("x", 1, random.Random(seed))[0][0] for seed in range(400)]
    assert first.count(0) / 400 == pytest.approx(1 / sum(math.exp(-n) for n in range(5)), abs=0.07)


def test_a_steps_temperature_comes_from_the_seed_and_the_step_alone() -> None:
    options = Behaviour(tempered=0.5)
    heats = [options.heat(3, step) for step in range(400)]
    assert heats == [options.heat(3, step) for step in range(400)]
    assert all(0.5 <= heat <= 2.0 for heat in heats)
    assert heats.count(1.0) / 400 == pytest.approx(0.5, abs=0.08)
    assert {Behaviour(replayed=0.5).heat(0, step) for step in range(20)} == {1.0}


# --- in the trainer


def train(folder: Path, **options: Any) -> PolicyTrainer:
    made = policy_trainer(folder, **{"model": policy(), "objective": VarGradTB(), "learning_rate": 0.05, **options})
    made.train()
    return made


def test_tempered_attempts_differ_and_the_loss_is_the_policys_own(tmp_path: Path) -> None:
    cold = Behaviour(tempered=1.0, coldest=0.05, hottest=0.06)
    made = policy_trainer(tmp_path, model=policy(), objective=VarGradTB(), behaviour=cold)
    assert made.heat() < 0.06
    assert made.temperature == 1.0  # what TRL divides the loss's logits by
    made._purpose = "held_out"
    assert made.heat() == 1.0
    made._purpose = "rollouts"
    made.train()
    few = {tuple(ids) for ids in made._attempts.completions}  # type: ignore[union-attr]
    plain = train(tmp_path / "plain")
    assert len(few) < len({tuple(ids) for ids in plain._attempts.completions})  # type: ignore[union-attr]
    assert made.state.log_history[0]["behaviour/temperature"] < 0.06


def test_replayed_attempts_stand_in_their_prompts_groups(tmp_path: Path) -> None:
    made = train(tmp_path, behaviour=Behaviour(replayed=0.34, alike=0.0), max_steps=3)
    shares = [line["replay/share"] for line in made.state.log_history[:3]]
    assert shares[0] == 0.0 and shares[1:] == [pytest.approx(2 / 6)] * 2
    assert made.replaying is not None and set(made.parts) == {"replay"}
    assert len(made.replaying.buffer.kept) == len(PROMPTS)
    assert made._attempts is not None
    places = [i for i, old in enumerate(made._attempts.facts["replayed"]) if old]
    assert {i % 6 for i in places} == {4, 5}


def test_at_half_precision_policy_and_reference_are_read_alike(tmp_path: Path) -> None:
    """So that an attempt of the reference itself has no gap, whatever both round."""
    made = policy_trainer(tmp_path, model=policy(), objective=VarGradTB(), bf16=True, learning_rate=0.05)
    gaps = list[float]()
    scored = made._scored

    def spy(*given: Any) -> Any:
        step = scored(*given)
        gaps.append(float((step.logq - step.ref_logq).abs().max()))
        return step

    made._scored = spy  # type: ignore[method-assign]
    made.train()
    assert gaps and gaps[0] < 1e-6


@pytest.mark.parametrize("tempered", [0.0, 1.0])
def test_what_the_sampler_tells_stands_for_a_pass_of_the_policy(tmp_path: Path, tempered: float) -> None:
    """Of plain attempts; those at another temperature are read once more."""
    behaviour = Behaviour(tempered=tempered) if tempered else None
    made = policy_trainer(tmp_path, model=policy(), objective=VarGradTB(), behaviour=behaviour, learning_rate=0.05)
    read, found = made._log_probabilities, list[tuple[bool, float]]()

    def both(batch: Any) -> torch.Tensor:
        told, attempts = read(batch), made._attempts
        made._attempts = None
        found.append((attempts is not None and attempts.logprobs is not None, float((told - read(batch)).abs().max())))
        made._attempts = attempts
        return told

    made._log_probabilities = both  # type: ignore[method-assign]
    made.train()
    assert found and all(known is not bool(tempered) and apart < 1e-4 for known, apart in found)


def test_attempts_begin_with_what_is_right_of_each_row(tmp_path: Path) -> None:
    """From the first step on, graded as any; a prompt's own attempts then come beside it."""
    rows = [f"{i}:{prompt}" for i, prompt in enumerate(PROMPTS)]
    worked = {row: f"w{i} w{i}" for i, row in enumerate(rows)}
    options = Behaviour(replayed=0.34, alike=0.0, worked=True)
    made = train(tmp_path, behaviour=options, worked=worked)
    assert made._attempts is not None and made.replaying is not None
    old = [i for i, back in enumerate(made._attempts.facts["replayed"]) if back]
    said = made._tokenizer.batch_decode([made._attempts.completions[i] for i in old])
    assert sorted(said) == sorted(f"{text} <end>" for text in worked.values())  # one each: there is no other yet
    assert all(len(entries) > 1 for entries in made.replaying.buffer.kept.values())
    with pytest.raises(ConfigError, match=r"behaviour.worked: row '0:p0' has no right completion"):
        policy_trainer(tmp_path, model=policy(), objective=VarGradTB(), behaviour=options)
    with pytest.raises(ConfigError, match="worked: nothing is replayed that could begin with it"):
        Behaviour(tempered=0.5, worked=True)


def test_buffer_and_log_z_go_on_where_a_checkpoint_was_written(tmp_path: Path) -> None:
    def made(folder: str, steps: int) -> PolicyTrainer:
        return policy_trainer(
            tmp_path / folder, model=policy(), objective=TB(), behaviour=Behaviour(replayed=0.34, tempered=0.5),
            m_step=MStepOptions(every=2, learning_rate=1e-3), max_steps=steps, save_strategy="steps", save_steps=2,
            learning_rate=0.05,
        )  # fmt: skip

    straight, resumed = made("whole", 4), made("parts", 4)
    straight.train()
    made("parts", 2).train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    for name, part in straight.parts.items():
        assert part.state() == resumed.parts[name].state()
    assert straight.reference is not None and resumed.reference is not None
    for one, two in ((straight.model, resumed.model), (straight.reference.copy, resumed.reference.copy)):
        for left, right in zip(one.parameters(), two.parameters(), strict=True):  # type: ignore[union-attr]
            assert torch.equal(left, right)
    assert straight.replaying is not None and straight.replaying.buffer.version == 2


def test_the_m_step_makes_attempts_likelier_under_the_reference(tmp_path: Path) -> None:
    slow = {"max_steps": 4, "learning_rate": 0.0, "rollout": Given()}
    made = train(tmp_path, m_step=MStepOptions(every=1, learning_rate=1e-2), **slow)
    losses = [line["m_step/loss"] for line in made.state.log_history[:4]]
    assert losses[3] < losses[0] - 0.05
    with pytest.raises(ConfigError, match=r"holds no reference\.pt: it was written by a run without m_step"):
        made.m_step.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": Group(), "behaviour": Behaviour(tempered=0.5)}, "behaviour.tempered: objective Group learns"),
        ({"behaviour": Behaviour()}, "behaviour: it changes nothing"),
        ({"behaviour": Behaviour(replayed=0.5), "fast_sampler": False}, "behaviour.replayed: it needs our sampler"),
        ({"temperature": 0.7}, "temperature: 0.7 is that of the loss too"),
        ({"objective": Group(), "m_step": MStepOptions()}, "m_step: objective Group has no reference"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy_trainer(tmp_path, **{"objective": VarGradTB(), **options})


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="prefix_reward: subtb needs the reward of every beginning"):
        SubTB()
    with pytest.raises(ConfigError, match="length=mean: subtb is a sum over tokens"):
        SubTB(prefix_reward="reference", length="mean")
    with pytest.raises(ConfigError, match="coldest: 3 is above hottest=2"):
        Behaviour(tempered=0.5, coldest=3.0)
