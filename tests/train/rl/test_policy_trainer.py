"""The trainer without a method: against stock TRL, against gradients written by hand, and what it relies on in TRL.

The second objective, reward, rollout and constraint are those of `tests/train/seams.py`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.train.seams import ByLoss, Fading, Given, TwoTurns, Unsaid, VarGrad, brief, given_words
from tests.train.tiny import ASK, PROMPTS, WORDS, arguments, data, grade, policy, policy_trainer, tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import hierarchical
from selfroute.train.rl.checkpoint import STATE_FILE
from selfroute.train.rl.generation import EpochSampler
from selfroute.train.rl.objectives.base import Scored
from selfroute.train.rl.objectives.group import Group, group_advantages
from selfroute.train.rl.objectives.trl import TRLAdvantages
from selfroute.train.rl.policy_trainer import PolicyTrainer
from selfroute.train.rl.view import TokenView, head_of, hidden_states

GROUP = 6


# --- gradients


def flat(model: Any) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def distance(left: Tensor, right: Tensor) -> float:
    assert right.norm() > 1e-3  # an empty gradient would prove nothing
    return float((left - right).norm() / right.norm())


class Gradient(TrainerCallback):
    """Keeps the gradient of the first step."""

    def __init__(self) -> None:
        self.of_step: Tensor | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.of_step is None:
            self.of_step = flat(kwargs["model"]).clone()


def gradient(folder: Path, **options: Any) -> Tensor:
    look = Gradient()
    policy_trainer(folder, callbacks=[look], **options).train()
    assert look.of_step is not None
    return look.of_step


def log_probabilities(model: Any, prompt: list[int], completion: list[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def by_hand(loss: Callable[[Tensor, list[Tensor], list[Tensor]], Tensor], *, tools: bool, reward: Any) -> Tensor:
    """Gradient of the mean over prompts of a loss of rewards (G,), and log-probabilities and own marks of tokens."""
    model, words = policy(dtype=torch.float64), tokenizer()
    total = torch.zeros((), dtype=torch.float64)
    for number, prompt in enumerate(PROMPTS):
        ids = words(prompt)["input_ids"]
        rows = [given_words(ids, place) for place in range(GROUP)]
        own = [torch.tensor([i in (0, len(row) - 1) or not tools for i in range(len(row))]) for row in rows]
        texts = [words.decode(row, skip_special_tokens=True) for row in rows]
        outcomes = grade([f"{number}:{prompt}"] * GROUP, texts)
        counted = [Outcome(o.wants_cloud, o.device_correct, o.cloud_correct, device_tokens=int(mask.sum()))
                   for o, mask in zip(outcomes, own, strict=True)]  # fmt: skip
        rewards = torch.tensor([reward(outcome) for outcome in counted], dtype=torch.float64)
        total = total + loss(rewards, [log_probabilities(model, ids, row) for row in rows], own) / len(PROMPTS)
    total.backward()
    return flat(model)


def of_group(rewards: Tensor, logps: list[Tensor], own: list[Tensor]) -> Tensor:
    weights = group_advantages(rewards[None])[0]
    return -sum(w * (lp * o).sum() for w, lp, o in zip(weights, logps, own, strict=True))  # type: ignore[return-value]


def of_fading(rewards: Tensor, logps: list[Tensor], own: list[Tensor]) -> Tensor:
    faded = [lp * 0.5 ** torch.arange(len(lp)) for lp in logps]
    return of_group(rewards, faded, own)


def of_vargrad(rewards: Tensor, logps: list[Tensor], own: list[Tensor]) -> Tensor:
    return (torch.stack([(lp * o).sum() for lp, o in zip(logps, own, strict=True)]) - rewards).var()


WAYS: list[dict[str, Any]] = [
    {"drop_idle_rows": False},
    {"part_tokens": 1000},
    {"part_tokens": 6},
    {"read_prompts_once": False},
    {"rows_per_pass": 12},
]
OBJECTIVES: list[tuple[Any, Any]] = [
    (Group(), of_group),
    (Fading(), of_fading),
    (VarGrad(), of_vargrad),
    (ByLoss(), of_group),
]


@pytest.mark.parametrize("ways", WAYS, ids=str)
@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize(("objective", "loss"), OBJECTIVES, ids=lambda value: type(value).__name__)
def test_an_objective_has_the_gradient_written_by_hand(
    tmp_path: Path, objective: Any, loss: Any, tools: bool, ways: dict[str, Any]
) -> None:
    ours = gradient(tmp_path, objective=objective, rollout=Given(tools=tools), **ways)
    assert distance(ours, by_hand(loss, tools=tools, reward=hierarchical)) < 1e-5


def test_another_reward_is_a_function_of_outcomes(tmp_path: Path) -> None:
    ours = gradient(tmp_path, reward=brief, rollout=Given(tools=True))
    assert distance(ours, by_hand(of_group, tools=True, reward=brief)) < 1e-5
    made = policy_trainer(tmp_path, reward=brief)
    made.train()
    assert "rewards/brief_reward/mean" in made.state.log_history[0]


def test_an_attempt_in_two_turns_learns_from_its_own_words_alone(tmp_path: Path) -> None:
    made = policy_trainer(tmp_path, rollout=TwoTurns())
    made.train()
    assert made._buffered_inputs is not None
    (batch,) = made._buffered_inputs
    told = (batch["completion_mask"] == 1) & (batch["tool_mask"] == 0)
    assert told.sum(1).tolist() == [1] * 36
    assert set(batch["completion_ids"][told].tolist()) == {WORDS.index("w0")}
    outcomes = made._outcomes
    lengths = (batch["completion_mask"] * batch["tool_mask"]).sum(1)
    assert sorted(o.device_tokens for o in outcomes) == sorted(lengths.tolist())


def test_the_two_turns_of_an_attempt_are_drawn_apart(tmp_path: Path) -> None:
    """Or the same luck would write both."""
    made = policy_trainer(tmp_path)
    seeds = [made.draw_seed() for _ in range(3)]
    assert len(set(seeds)) == 3
    made._drawn.clear()
    assert [made.draw_seed() for _ in range(3)] == seeds


def test_facts_of_an_attempt_reach_the_objective(tmp_path: Path) -> None:
    seen: list[Scored] = []

    class Looks(Group):
        def weights(self, batch: Scored) -> Tensor:
            seen.append(batch)
            return super().weights(batch)

    policy_trainer(tmp_path, rollout=Given(), objective=Looks()).train()
    assert seen[0].facts["place"].tolist() == [list(range(GROUP))] * len(PROMPTS)
    assert seen[0].own is seen[0].logq is seen[0].advantages is None  # nothing that was not asked for


# --- constraints


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_a_constraint_adds_its_gradient_in_every_row(tmp_path: Path, ways: dict[str, Any]) -> None:
    constraint = Unsaid(ASK, 0.05)
    constraint.dual.value = 3.0
    ours = gradient(tmp_path / "1", rollout=Given(), constraints={"unsaid": constraint}, **ways)
    plain = gradient(tmp_path / "2", rollout=Given(), **ways)
    model, words, terms = policy(dtype=torch.float64), tokenizer(), []
    for prompt in PROMPTS:
        ids = words(prompt)["input_ids"]
        for row in (given_words(ids, place) for place in range(GROUP)):
            logits = model(input_ids=torch.tensor([ids + row])).logits[0, len(ids) - 1 : -1]
            terms.append(logits.softmax(-1)[:, WORDS.index(ASK)].mean())
    (3.0 * torch.stack(terms).mean()).backward()
    assert distance(ours - plain, flat(model)) < 1e-5


def test_a_constraint_moves_its_own_multiplier_until_it_holds(tmp_path: Path) -> None:
    constraint = Unsaid(ASK, 0.02)
    made = policy_trainer(
        tmp_path, model=policy(), reward=lambda outcome: 0.0, constraints={"unsaid": constraint}, max_steps=30
    )
    made.train()
    log = made.state.log_history
    assert log[0]["constraint/unsaid"] > 0.03 and log[0]["constraint/unsaid/multiplier"] == 0.0
    assert max(line["constraint/unsaid/multiplier"] for line in log[:-1]) > 0.5
    assert log[29]["constraint/unsaid"] < 0.025


def test_a_view_with_logits_and_the_fused_head_agree(tmp_path: Path) -> None:
    made = policy_trainer(tmp_path, constraints={"unsaid": Unsaid(ASK, 0.1)}, temperature=0.7)
    ids = torch.randint(5, 20, (3, 7), generator=torch.manual_seed(0))
    mask = torch.ones_like(ids)
    fused = made._get_per_token_logps_and_entropies(made.model, ids, mask, 4, compute_entropy=True)
    with made._watch():
        plain = made._get_per_token_logps_and_entropies(made.model, ids, mask, 4, compute_entropy=True)
    for one, other in zip(fused[:2], plain[:2], strict=True):
        assert one is not None and other is not None
        assert torch.allclose(one.double(), other, atol=1e-6)


class Light(Unsaid):
    """The same constraint by hidden states and the model's head."""

    needs: ClassVar = frozenset({"hidden"})

    def loss(self, view: TokenView) -> Tensor:
        assert view.hidden is not None and view.head is not None and view.logits is None
        logits = view.head(view.hidden)
        said = logits.log_softmax(-1).gather(-1, view.ids[..., None])[..., 0]
        assert torch.allclose(said[view.own], view.logps[view.own].to(said.dtype), atol=1e-5)
        return super().loss(replace(view, logits=logits))


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_hidden_states_and_their_head_come_without_logits_of_every_token(tmp_path: Path, ways: dict[str, Any]) -> None:
    light, heavy = Light(ASK, 0.05), Unsaid(ASK, 0.05)
    found = []
    for number, constraint in enumerate((light, heavy)):
        constraint.dual.value = 3.0
        found.append(gradient(tmp_path / str(number), rollout=Given(), constraints={"unsaid": constraint}, **ways))
    assert distance(*found) < 1e-5


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gemma2", {"final_logit_softcapping": 5.0, "head_dim": 8}),
        ("granite", {"logits_scaling": 3.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("llama", {}),
    ],
)
def test_a_head_scales_and_caps_as_its_model(kind: str, options: dict[str, Any]) -> None:
    config = AutoConfig.for_model(
        kind, vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(3, 40, (2, 6))
    with torch.no_grad(), hidden_states(model, wanted=True) as seen:
        logits = model(input_ids=ids).logits
        assert torch.allclose(head_of(model, 0.5)(seen[0]), logits / 0.5, atol=1e-5)


def test_parts_go_on_where_a_checkpoint_was_written(tmp_path: Path) -> None:
    def made(folder: str, steps: int, constraint: Unsaid) -> PolicyTrainer:
        return policy_trainer(
            tmp_path / folder, model=policy(), constraints={"unsaid": constraint}, max_steps=steps,
            save_strategy="steps", save_steps=2, learning_rate=0.1,
        )  # fmt: skip

    whole, parts, again = (Unsaid(ASK, 0.02) for _ in range(3))
    straight = made("whole", 4, whole)
    straight.train()
    made("parts", 2, parts).train()
    last = tmp_path / "parts" / "checkpoint-2"
    assert json.loads((last / STATE_FILE).read_text()) == {"constraint.unsaid": parts.state()}
    torch.manual_seed(1)
    resumed = made("parts", 4, again)
    resumed.train(resume_from_checkpoint=str(last))
    assert again.state() == whole.state() != parts.state()
    for one, two in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path) -> None:
    policy_trainer(tmp_path, model=policy(), save_strategy="steps", save_steps=1).train()
    with pytest.raises(ConfigError, match=r"checkpoint-1' holds no state of 'constraint\.unsaid'"):
        made = policy_trainer(tmp_path, model=policy(), constraints={"unsaid": Unsaid(ASK, 0.1)}, max_steps=2)
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    (tmp_path / "checkpoint-1" / STATE_FILE).unlink()
    with pytest.raises(ConfigError, match="not a finished checkpoint"):
        policy_trainer(tmp_path, model=policy(), max_steps=2).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-1")
        )


# --- bad input


class Needy(Group):
    needs: ClassVar = frozenset({"tea"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": Needy()},
            "objective Needy needs tea; there are advantages, logq, own, prompt, ref_logq, ref_prefixes",
        ),
        ({"objective": VarGrad(), "loss_type": "grpo"}, "loss_type must be 'dr_grpo' with objective VarGrad"),
        ({"scale_rewards": "group"}, "scale_rewards must be 'none' with objective Group"),
    ],
)
def test_seams_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy_trainer(tmp_path, **options)


# --- against stock TRL


def stock_gradient(folder: Path, **options: Any) -> Tensor:
    """One step of `GRPOTrainer` from the rollouts of `Given`."""

    def roll_out(prompts: Any, trainer: GRPOTrainer) -> dict[str, Any]:
        ids = trainer._tokenize_prompts(prompts)[0]
        words = [given_words(prompt, place % GROUP) for place, prompt in enumerate(ids)]
        return {"prompt_ids": ids, "completion_ids": words, "logprobs": None}

    def reward(completions: Any, row_id: Sequence[str], **_: Any) -> list[float | None]:
        return [hierarchical(outcome) for outcome in grade(row_id, [c[0]["content"] for c in completions])]

    look = Gradient()
    made = GRPOTrainer(
        policy(dtype=torch.float64),
        reward,
        args=arguments(folder, GRPOConfig, PROMPTS, GROUP, None, bf16=False, temperature=1.0, **options),
        train_dataset=data(PROMPTS),
        processing_class=tokenizer(),
        callbacks=[look],
    )
    made.rollout_func = roll_out
    made.train()
    assert look.of_step is not None
    return look.of_step


@pytest.mark.parametrize("ways", WAYS, ids=str)
@pytest.mark.parametrize(
    "loss",
    [
        {"loss_type": "grpo", "scale_rewards": "group", "beta": 0.0},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0},
        {"loss_type": "dapo", "scale_rewards": "batch", "beta": 0.0},
    ],
    ids=str,
)
def test_with_trls_advantages_the_update_is_trls(tmp_path: Path, loss: dict[str, Any], ways: dict[str, Any]) -> None:
    ours = gradient(tmp_path / "ours", objective=TRLAdvantages(), rollout=Given(), **loss, **ways)
    assert distance(ours, stock_gradient(tmp_path / "stock", **loss)) < 1e-6


# --- what we rely on in TRL

OVERRIDDEN = {
    "_get_train_sampler": ["self", "dataset"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": ["self", "model", "input_ids", "attention_mask", "logits_to_keep"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
}


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_the_methods_that_are_overridden_exist_as_expected(name: str) -> None:
    assert name in vars(PolicyTrainer)
    parameters = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert parameters[: len(OVERRIDDEN[name])] == OVERRIDDEN[name]


def test_the_attributes_that_are_read_exist(tmp_path: Path) -> None:
    made = policy_trainer(tmp_path)
    assert set(made._metrics) == {"train", "eval"}
    assert made._step == 0
    assert made.num_generations == 6
    assert made.max_completion_length == 5
    assert made.eos_token_ids
    assert made._tokenizer.pad_token_id == 1
    assert (made.temperature, made.top_p) == (1.0, 1.0)
    assert made.use_vllm is False


def test_groups_are_neighbours_in_trls_sampler() -> None:
    order = list(RepeatSampler(range(7), mini_repeat_count=3, batch_size=2, repeat_count=2, seed=0))
    chunks = [order[i : i + 6] for i in range(0, len(order), 6)]
    assert len(chunks) == 6  # three batches of two prompts, each twice
    for first, again in zip(chunks[::2], chunks[1::2], strict=True):
        assert first == again
        assert first[0] == first[1] == first[2] != first[3] == first[4] == first[5]


def test_an_epochs_order_does_not_depend_on_the_epochs_before() -> None:
    def order(epoch: int, before: Sequence[int] = ()) -> list[int]:
        now = [0]
        sampler = EpochSampler(RepeatSampler(range(50), 2, seed=3), lambda: now[0])
        for now[0] in before:
            list(sampler)
        now[0] = epoch
        return list(sampler)

    assert order(2, before=[0, 1]) == order(2)
    assert order(0) == list(RepeatSampler(range(50), 2, seed=3))
    assert order(0) != order(1) != order(2)
    assert sorted(order(1)) == sorted(order(0))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_trls_dr_grpo_loss_divides_by_rows_and_longest_completion(tmp_path: Path, accumulation: int) -> None:
    made = policy_trainer(tmp_path)
    made.current_gradient_accumulation_steps = accumulation
    made.model.train()
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    advantages = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)
    prompt, completion = torch.full((3, 2), 5), torch.randint(5, 20, (3, 4), generator=torch.manual_seed(0))
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(made, made.model, inputs)
    # On policy every ratio is one; the divisor is rows x max_completion_length (5), not the batch's own width.
    assert float(loss.detach()) == pytest.approx(-float((advantages * mask.sum(1)).sum()) / (3 * 5) / accumulation)
    loss.backward()
    expected = policy(dtype=torch.float64)
    objective = sum(
        weight * log_probabilities(expected, prompt[i].tolist(), completion[i][mask[i].bool()].tolist()).sum()
        for i, weight in enumerate(advantages)
    )
    assert isinstance(objective, Tensor)
    (-objective / (3 * 5) / accumulation).backward()
    assert distance(flat(made.model), flat(expected)) < 1e-6
