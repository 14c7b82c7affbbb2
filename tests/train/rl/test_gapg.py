"""The trainer: its gradient against one written by hand, its learning, and what it relies on in TRL."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.tiny import ASK, PROMPTS, WORDS, data, grade, luck, policy, tokenizer, trainer
from torch import Tensor
from transformers import LlamaForCausalLM, TrainerCallback

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import Hierarchical, hierarchical
from selfroute.train.rl.alarms import CollapseWarning
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.prompt_filter import classify

Grader = Callable[[Sequence[str], Sequence[str]], list[Outcome]]


def flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.detach().double().flatten() for gradient in gradients])


class Look(TrainerCallback):
    """Keeps the first gradient and the first rollouts."""

    def __init__(self) -> None:
        self.trainer: GAPGTrainer | None = None
        self.gradient: Tensor | None = None
        self.batches: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.gradient is not None:
            return
        parameters = list(kwargs["model"].parameters())
        self.gradient = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        assert self.trainer is not None and self.trainer._buffered_inputs is not None
        self.batches = [dict(batch) for batch in self.trainer._buffered_inputs]

    def groups(self) -> dict[str, list[tuple[list[int], list[int]]]]:
        """Prompt and completion ids of every rollout, by row id."""
        words = tokenizer()
        found: dict[str, list[tuple[list[int], list[int]]]] = {}
        for batch in self.batches:
            for p, pm, c, cm in zip(
                batch["prompt_ids"],
                batch["prompt_mask"],
                batch["completion_ids"],
                batch["completion_mask"],
                strict=True,
            ):
                prompt, completion = p[pm.bool()].tolist(), c[cm.bool()].tolist()
                text = words.decode(prompt)
                found.setdefault(f"{PROMPTS.index(text)}:{text}", []).append((prompt, completion))
        return found


def step(folder: Path, **options: Any) -> Look:
    """One step of the trainer in float64."""
    look = Look()
    options = {"model": policy(dtype=torch.float64, hidden=32, layers=2), **options}
    look.trainer = trainer(folder, callbacks=[look], **options)
    look.trainer.train()
    assert look.gradient is not None
    return look


def log_probability(model: LlamaForCausalLM, prompt: list[int], completion: list[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).sum()


def graded(look: Look, grader: Grader) -> dict[str, list[Outcome]]:
    words = tokenizer()
    return {
        row: grader([row] * len(rollouts), [words.decode(c, skip_special_tokens=True) for _, c in rollouts])
        for row, rollouts in look.groups().items()
    }


def by_hand(look: Look, outcomes: dict[str, list[Outcome]], chosen: Sequence[str]) -> Tensor:
    """-1/|D1 ∪ D2| Σ_x 1/(G-1) Σ_i ∇ log π(y_i|x) (r_i - r̄), one unpadded rollout at a time."""
    model = policy(dtype=torch.float64, hidden=32, layers=2)
    objective = torch.zeros((), dtype=torch.float64)
    rollouts = look.groups()
    for row in chosen:
        pairs = [
            (reward, rollout)
            for outcome, rollout in zip(outcomes[row], rollouts[row], strict=True)
            if (reward := hierarchical(outcome)) is not None
        ]
        mean = sum(reward for reward, _ in pairs) / max(1, len(pairs))
        for reward, (prompt, completion) in pairs:
            weight = (reward - mean) / max(1, len(pairs) - 1)
            objective = objective + weight * log_probability(model, prompt, completion)
    if chosen:
        (-objective / len(chosen)).backward()
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()])


def distance(left: Tensor | None, right: Tensor) -> float:
    assert left is not None and right.norm() > 1e-3  # an empty gradient would prove nothing
    return float((left - right).norm() / right.norm())


def of_kind(outcomes: dict[str, list[Outcome]], kind: str) -> list[str]:
    return sorted(row for row, group in outcomes.items() if classify(group) == kind)


# --- the gradient

WAYS = [
    {"drop_idle_rows": False},
    {"drop_idle_rows": True, "part_tokens": 1000},
    {"drop_idle_rows": True, "part_tokens": 6},
    {"read_prompts_once": False},
]


@pytest.mark.parametrize("ways", WAYS)
def test_one_step_is_the_papers_update_without_the_filter(tmp_path: Path, ways: dict[str, Any]) -> None:
    look = step(tmp_path, prompt_filter=False, **ways)
    outcomes = graded(look, grade)
    assert len(outcomes) == len(PROMPTS)
    assert distance(look.gradient, by_hand(look, outcomes, sorted(outcomes))) < 1e-6


@pytest.mark.parametrize("ways", WAYS)
def test_one_step_is_the_papers_update_with_the_filter(tmp_path: Path, ways: dict[str, Any]) -> None:
    look = step(tmp_path, share=0.6, **ways)  # ρ = 1.5: the cap does not bind
    outcomes = graded(look, grade)
    device, cloud = of_kind(outcomes, "device"), of_kind(outcomes, "cloud")
    assert len(device) >= 2 and len(cloud) >= 1
    assert distance(look.gradient, by_hand(look, outcomes, [*device, *cloud])) < 1e-6


def test_a_binding_cap_leaves_the_gradient_of_exactly_one_draw(tmp_path: Path) -> None:
    look = step(tmp_path, share=0.3)
    outcomes = graded(look, grade)
    device, cloud = of_kind(outcomes, "device"), of_kind(outcomes, "cloud")
    allowed = int(3 / 7 * len(device))
    assert 1 <= allowed < len(cloud)
    draws = [by_hand(look, outcomes, [*device, *some]) for some in itertools.combinations(cloud, allowed)]
    assert [distance(look.gradient, draw) < 1e-6 for draw in draws].count(True) == 1


def test_the_update_goes_down_that_gradient(tmp_path: Path) -> None:
    look = step(tmp_path, prompt_filter=False)
    before = policy(dtype=torch.float64, hidden=32, layers=2)
    assert look.trainer is not None and look.gradient is not None
    moved = flat(list(look.trainer.model.parameters())) - flat(list(before.parameters()))
    assert torch.allclose(moved, -look.gradient, atol=1e-12)


@pytest.mark.parametrize("rows_per_pass", [4, 12, 18])
def test_several_passes_are_one_pass(tmp_path: Path, rows_per_pass: int) -> None:
    whole = step(tmp_path / "1", share=0.6)
    parts = step(tmp_path / "2", share=0.6, rows_per_pass=rows_per_pass)
    assert whole.gradient is not None
    assert len(parts.batches) == 36 // rows_per_pass
    assert distance(parts.gradient, whole.gradient) < 1e-6


def test_bfloat16_only_rounds_the_gradient(tmp_path: Path) -> None:
    look = step(tmp_path, prompt_filter=False, bf16=True, model=policy(hidden=32, layers=2))
    outcomes = graded(look, grade)
    assert 1e-6 < distance(look.gradient, by_hand(look, outcomes, sorted(outcomes))) < 0.03


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_the_gradient_is_that_of_the_policy_that_was_sampled(tmp_path: Path, temperature: float) -> None:
    look = step(tmp_path, prompt_filter=False, temperature=temperature)
    scaled = by_hand(look, graded(look, grade), sorted(graded(look, grade)))
    plain = step(tmp_path / "plain", prompt_filter=False)
    assert look.gradient is not None and plain.gradient is not None
    assert distance(look.gradient, scaled) > 0.05  # log π at temperature 1 is another function


def sometimes_ungraded(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    outcomes = grade(row_ids, texts)
    for index, (row_id, text) in enumerate(zip(row_ids, texts, strict=True)):
        if luck(row_id, text + "!").random() < 0.4:
            lost = {"cloud_correct": None} if outcomes[index].wants_cloud else {"device_correct": None}
            outcomes[index] = replace(outcomes[index], **lost)  # type: ignore[arg-type]
    return outcomes


def test_ungraded_rollouts_leave_their_groups_mean_and_count(tmp_path: Path) -> None:
    look = step(tmp_path, prompt_filter=False, grader=sometimes_ungraded)
    outcomes = graded(look, sometimes_ungraded)
    lost = sum(hierarchical(outcome) is None for group in outcomes.values() for outcome in group)
    assert lost >= 5
    assert distance(look.gradient, by_hand(look, outcomes, sorted(outcomes))) < 1e-6
    assert look.trainer is not None
    assert look.trainer.state.log_history[0]["rollouts/ungraded"] == pytest.approx(lost / 36)


def all_ungraded(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    return [Outcome(wants_cloud=False, device_correct=None) for _ in texts]


def all_wrong(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    return [Outcome(wants_cloud=False, device_correct=False) for _ in texts]


@pytest.mark.parametrize("grader", [all_ungraded, all_wrong])
@pytest.mark.parametrize("prompt_filter", [True, False])
def test_a_batch_without_signal_moves_nothing(tmp_path: Path, grader: Grader, prompt_filter: bool) -> None:
    look = step(tmp_path, grader=grader, prompt_filter=prompt_filter)
    assert look.gradient is not None
    assert not look.gradient.any()


def test_the_baselines_keep_trls_own_advantages(tmp_path: Path) -> None:
    look = step(tmp_path, algorithm="grpo")
    outcomes = graded(look, grade)
    batch = look.batches[0]
    words = tokenizer()
    for row, rollouts in look.groups().items():
        rewards = torch.tensor([hierarchical(outcome) for outcome in outcomes[row]])
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        here = [words.decode(p[m.bool()]) == row.partition(":")[2] for p, m in _prompts(batch)]
        assert torch.allclose(batch["advantages"][torch.tensor(here)].float(), expected.float(), atol=1e-5)
        assert len(rollouts) == 6


def _prompts(batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(batch["prompt_ids"], batch["prompt_mask"], strict=True))


# --- beyond the paper


def written(row_id: str, *, offer_handoff: bool, share: float | None) -> list[dict[str, str]]:
    """A share of 0.3 is said by the word w3, an attempt without the offer by w7."""
    told = "" if share is None else f"w{round(10 * share)} "
    return [{"role": "user", "content": f"{told}{'' if offer_handoff else 'w7 '}{row_id.partition(':')[2]}"}]


def never(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    """Grades attempts for which there is no cloud."""
    return [replace(o, cloud_correct=False if o.wants_cloud else None) for o in grade(row_ids, texts)]


def test_forced_attempts_add_the_gradient_of_their_own_objective(tmp_path: Path) -> None:
    look = step(
        tmp_path, prompt_filter=False, forced_attempts=2, forced_weight=0.5, write_prompt=written, local_grader=never
    )
    model, words = policy(dtype=torch.float64, hidden=32, layers=2), tokenizer()
    (batch,) = look.batches
    parts: dict[str, list[tuple[list[int], list[int]]]] = {}
    columns = [batch[f"{part}_{kind}"] for part in ("prompt", "completion") for kind in ("ids", "mask")]
    for p, pm, c, cm in zip(*columns, strict=True):
        parts.setdefault(words.decode(p[pm.bool()]), []).append((p[pm.bool()].tolist(), c[cm.bool()].tolist()))
    assert sorted(parts) == sorted([*PROMPTS, *(f"w7 {prompt}" for prompt in PROMPTS)])
    objective = torch.zeros((), dtype=torch.float64)
    for told, rollouts in parts.items():
        prompt = told.removeprefix("w7 ")
        grader, weight, size = (grade, 1.0, 4) if told == prompt else (never, 0.5, 2)
        texts = [words.decode(completion, skip_special_tokens=True) for _, completion in rollouts]
        outcomes = grader([f"{PROMPTS.index(prompt)}:{prompt}"] * size, texts)
        rewards = torch.tensor([hierarchical(outcome) for outcome in outcomes], dtype=torch.float64)
        for reward, rollout in zip(rewards, rollouts, strict=True):
            log_p = log_probability(model, *rollout)
            objective = objective + weight / (size - 1) / len(PROMPTS) * (reward - rewards.mean()) * log_p
    (-objective).backward()
    assert distance(look.gradient, flat([p.grad for p in model.parameters() if p.grad is not None])) < 1e-6
    assert look.trainer is not None
    assert 0 <= look.trainer.state.log_history[0]["rollouts/forced_correct"] <= 1


def test_the_filter_stands_in_front_of_trls_estimators_too(tmp_path: Path) -> None:
    look = step(tmp_path, share=0.3, algorithm="dr_grpo", prompt_filter=True)
    plain = step(tmp_path / "plain", share=0.3, algorithm="dr_grpo")
    ours, theirs = look.batches[0], plain.batches[0]
    assert torch.equal(ours["completion_ids"], theirs["completion_ids"])
    scale = ours["advantages"][theirs["advantages"] != 0] / theirs["advantages"][theirs["advantages"] != 0]
    kinds = graded(look, grade)
    kept = sum(min(len(of_kind(kinds, kind)), most) for kind, most in (("device", 6), ("cloud", 1)))
    assert sorted({round(float(factor), 4) for factor in scale}) == [0.0, round(6 / kept, 4)]


def test_each_group_is_told_one_of_the_shares_and_filtered_by_it(tmp_path: Path) -> None:
    shares = [0.1, 0.3, 0.6]
    look = step(tmp_path, told_shares=tuple(shares), handoff_reward="dual", write_prompt=written)
    words = tokenizer()
    told = {tuple(words.decode(p[m.bool()]).split(maxsplit=1)) for p, m in _prompts(look.batches[0])}
    assert sorted(share for share, _ in told) == ["w1", "w1", "w3", "w3", "w6", "w6"]
    assert sorted(prompt for _, prompt in told) == sorted(PROMPTS)
    assert look.trainer is not None
    log = look.trainer.state.log_history[0]
    for share in shares:
        price, gap = log[f"handoff/{share}/price"], log[f"handoff/{share}/gap"]
        assert (price > 0) == (gap > 0)


@pytest.mark.parametrize("asks", [True, False])
def test_a_price_is_moved_by_held_out_prompts_alone(tmp_path: Path, asks: bool) -> None:
    seen: list[tuple[str, str]] = []

    def grader(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
        seen.extend(zip(row_ids, texts, strict=True))
        return [Outcome(wants_cloud=asks, device_correct=not asks) for _ in row_ids]

    held_out = [f"{i}:p{i}" for i in range(6, 11)]
    options: dict[str, Any] = {"handoff_reward": "dual", "share": 0.3, "write_prompt": written}
    look = step(tmp_path, local_grader=grader, held_out=held_out, share_prompts=3, **options)
    plain = step(tmp_path / "plain", **options)
    log, other = (made.trainer.state.log_history[0] for made in (look, plain) if made.trainer is not None)
    assert len(seen) == len({row_id for row_id, _ in seen}) == 3
    assert {row_id for row_id, _ in seen} <= set(held_out)
    assert log["handoff/gap"] == pytest.approx(0.7 if asks else -0.3)
    assert (log["handoff/price"] > 0) is asks
    assert log["held_out/device_correct"] == (not asks)
    # The rollouts, what they are paid and the first step are those of a run without held-out prompts.
    assert other["handoff/gap"] == pytest.approx(other["rollouts/call_share"] - 0.3)
    assert log["rollouts/call_share"] == other["rollouts/call_share"]
    assert look.gradient is not None and plain.gradient is not None
    assert torch.equal(look.gradient, plain.gradient)


def test_held_out_prompts_are_told_the_share_that_they_are_measured_for(tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []

    def writer(row_id: str, *, offer_handoff: bool, share: float | None) -> list[dict[str, str]]:
        if int(row_id.partition(":")[0]) >= 6:
            told.append((row_id, share))
        return written(row_id, offer_handoff=offer_handoff, share=share)

    held_out = [f"{i}:p{i}" for i in range(6, 11)]
    options: dict[str, Any] = {"handoff_reward": "dual", "held_out": held_out, "local_grader": never}
    step(tmp_path, told_shares=(0.1, 0.6), share_prompts=4, write_prompt=writer, **options)
    assert sorted(share for _, share in told if share is not None) == [0.1, 0.1, 0.6, 0.6]
    told.clear()
    step(tmp_path / "one", share_prompts=9, write_prompt=writer, **options)
    assert sorted(told) == sorted((row_id, None) for row_id in held_out)  # all of them, where there are no more


def test_a_multiplier_meets_the_share_where_the_fixed_reward_does_not(tmp_path: Path) -> None:
    """Half the prompts are hopeless; at the fixed reward asking pays for all of them."""
    options: dict[str, Any] = {"max_steps": 100, "learning_rate": 5e-3, "share": 0.25, "prompt_filter": False}
    kept, asked = learn(tmp_path / "fixed", 0, **options)
    assert (1 - kept + asked) / 2 > 0.45
    kept, asked = learn(tmp_path / "dual", 0, handoff_reward="dual", **options)
    assert abs((1 - kept + asked) / 2 - 0.25) < 0.1


@pytest.mark.parametrize("dtype", [torch.float64])
def test_a_price_on_tokens_makes_long_hand_offs_worth_less(tmp_path: Path, dtype: torch.dtype) -> None:
    look = step(
        tmp_path,
        prompt_filter=False,
        reward=Hierarchical(token_price=0.05),
        model=policy(dtype=dtype, hidden=32, layers=2),
    )
    assert look.trainer is not None
    log = look.trainer.state.log_history[0]
    outcomes = [outcome for group in graded(look, grade).values() for outcome in group if outcome.wants_cloud]
    right = sum(bool(outcome.cloud_correct) for outcome in outcomes) / len(outcomes)
    expected = 0.3 * right - 0.05 * log["device_tokens/handed_off"]
    assert log["reward/handed_off"] == pytest.approx(expected, abs=1e-6)


# --- learning


def toy_grader(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    """One right word for an easy prompt, none for a hard one; the cloud knows everything."""
    return [
        Outcome(
            wants_cloud=text == ASK,
            device_correct=text == "w0" and "easy" in row_id,
            cloud_correct=True if text == ASK else None,
        )
        for row_id, text in zip(row_ids, texts, strict=True)
    ]


TOY = [f"{kind} p{i}" for i in range(8) for kind in ("easy", "hard")]


def learn(folder: Path, seed: int, **options: Any) -> tuple[float, float]:
    """Probability of keeping easy prompts and of handing off hard ones, each averaged over its prompts."""
    made = trainer(
        folder,
        model=policy(seed=seed, hidden=32),
        grader=toy_grader,
        prompts=TOY,
        tokens=1,
        seed=seed,
        **{"group": 8, "optim": "adamw_torch", "learning_rate": 2e-2, "max_steps": 22, "share": 0.5, **options},
    )
    made.train()
    asks = {"easy": 0.0, "hard": 0.0}
    for prompt in TOY:
        ids = torch.tensor([tokenizer()(prompt)["input_ids"]])
        with torch.no_grad():
            asked = made.model(input_ids=ids).logits[0, -1].softmax(-1)[WORDS.index(ASK)]
        asks[prompt.split()[0]] += float(asked) / 8
    return 1 - asks["easy"], asks["hard"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_policy_learns_to_hand_off_the_hard_and_to_keep_the_easy(tmp_path: Path, seed: int) -> None:
    kept, handed_off = learn(tmp_path, seed)
    assert kept >= 0.9
    assert handed_off >= 0.9


# --- alarms


class AlwaysAsks:
    cloud = object()

    def __call__(self, row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
        return [Outcome(wants_cloud=True, device_correct=False, cloud_correct=True) for _ in texts]


def test_five_steps_of_asking_only_raise_the_alarm_once_and_name_the_fix(tmp_path: Path) -> None:
    made = trainer(tmp_path, grader=AlwaysAsks(), max_steps=7)
    with pytest.warns(CollapseWarning, match=r"every rollout asks .*lower reward\.cloud or use algorithm gapg") as seen:
        made.train()
    assert len([w for w in seen if w.category is CollapseWarning]) == len(made.alarms.messages) == 1
    assert made.alarms.messages[0].startswith("step 4:")


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "grpo"}, "loss_type must be 'dr_grpo' with algorithm 'gapg', not 'grpo'"),
        ({"algorithm": "grpo", "loss_type": "dr_grpo"}, "loss_type must be 'grpo' with algorithm 'grpo'"),
        ({"scale_rewards": "group"}, "scale_rewards must be 'none'"),
        ({"beta": 0.1}, "beta must be 0.0"),
        ({"num_iterations": 2}, "num_iterations must be 1"),
        ({"top_entropy_quantile": 0.5}, "top_entropy_quantile must be 1.0"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions must be False"),
        ({"steps_per_generation": 2}, "one update per batch of rollouts"),
        ({"forced_attempts": 1}, r"leave at least 2 .* group of 6 .* not 1"),
        ({"forced_attempts": 5}, r"leave at least 2 .* group of 6 .* not 5"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **options)


@pytest.mark.parametrize("options", [{"forced_attempts": 2}, {"told_shares": (0.1, 0.5)}, {"held_out": ["6:p6"]}])
def test_what_writes_prompts_anew_needs_to_be_told_how(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="need write_prompt"):
        trainer(tmp_path, **options)


@pytest.mark.parametrize("options", [{"forced_attempts": 2}, {"held_out": ["6:p6"]}])
def test_attempts_without_a_cloud_need_a_grader(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="need local_grader"):
        trainer(tmp_path, write_prompt=written, **options)


def test_each_process_needs_a_held_out_prompt(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="share_prompts=0, of 1 held-out prompts: each of the 1 processes needs one"):
        trainer(tmp_path, write_prompt=written, local_grader=never, held_out=["6:p6"], share_prompts=0)


def test_data_without_row_ids_are_refused(tmp_path: Path) -> None:
    arguments = PolicyConfig(output_dir=str(tmp_path), activation_checkpointing=False, use_cpu=True, report_to=[])
    with pytest.raises(ConfigError, match=r"lacks the column.* row_id"):
        GAPGTrainer(policy(), grade, arguments, data(PROMPTS).remove_columns("row_id"), tokenizer())


def test_attempts_that_are_cut_off_can_be_left_out_of_their_group(tmp_path: Path) -> None:
    """Every answer of this policy runs to the limit; graded, they have a gradient, left out, none."""
    endless = policy(seed=2)
    with torch.no_grad():
        endless.model.embed_tokens.weight[0] = -10.0 * endless.model.embed_tokens.weight[2:].mean(0)
    seen: dict[str, Any] = {}
    for cut_off in ("graded", "left_out"):
        made = trainer(tmp_path / cut_off, model=copy.deepcopy(endless), cut_off=cut_off, tokens=3, prompt_filter=False)
        before = {name: weight.clone() for name, weight in made.model.named_parameters()}
        made.train()
        log = made.state.log_history[0]
        moved = any(not torch.equal(before[name], weight) for name, weight in made.model.named_parameters())
        seen[cut_off] = (log["rollouts/cut_off"], log["rollouts/ungraded"], moved)
    cut = seen["graded"][0]
    assert cut > 0.3 and seen["graded"][1] == 0.0
    assert seen["left_out"][:2] == (cut, pytest.approx(cut))
    assert seen["graded"][2]
    assert seen["left_out"][2] or cut == 1.0


def test_an_attempt_that_ends_by_itself_at_the_limit_is_not_cut_off(tmp_path: Path) -> None:
    made = trainer(tmp_path, tokens=3)
    end = next(iter(made.eos_token_ids))
    assert [made._is_cut_off(ids) for ids in ([5, 5, 5], [5, 5, end], [5, end], [5])] == [True, False, False, False]


def test_trl_says_nothing_of_a_reward_function_where_rollouts_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ungraded(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
        return [replace(outcome, wants_cloud=True, cloud_correct=None) for outcome in grade(row_ids, texts)]

    made = trainer(tmp_path, grader=ungraded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        made.train()
    assert made.state.log_history[0]["rollouts/ungraded"] == 1.0
    assert "All reward functions returned None" not in caplog.text
