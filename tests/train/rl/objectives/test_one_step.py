"""One step of the trainer under each balance is the gradient of its squared loss, written out with autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.seams import Given, given_words
from tests.train.tiny import PROMPTS, grade, luck, policy, policy_trainer, tokenizer
from torch import Tensor
from transformers import TrainerCallback

from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import hierarchical
from selfroute.train.rl.objectives.balance import TB, VarGradTB
from selfroute.train.rl.objectives.base import Scored
from selfroute.train.rl.objectives.flow import FlowRL
from selfroute.train.rl.objectives.subtb import SubTB
from selfroute.train.rl.policy_trainer import PolicyTrainer

GROUP = 6
CHOSEN = (0, 2, 3, 5)  # the other prompts have no part in the update, and their rows leave the batch


def some_ungraded(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    """The toy world's outcomes, of which some attempts could not be graded."""
    found = grade(row_ids, texts)
    lost = [luck(row, f"{text}/lost").random() < 0.15 for row, text in zip(row_ids, texts, strict=True)]
    return [
        replace(outcome, device_correct=None, cloud_correct=None) if gone else outcome
        for outcome, gone in zip(found, lost, strict=True)
    ]


@dataclass(frozen=True)
class Group:
    """What autograd sees of one prompt: per attempt the tokens' log-probabilities, its reward, and the prompt's state.

    `stops` is the log-probability of ending in each token's place.
    """

    row: str
    logps: list[Tensor]
    stops: list[Tensor]
    ref_logps: list[Tensor]
    ref_stops: list[Tensor]
    rewards: list[float | None]
    state: Tensor

    def graded(self) -> list[int]:
        return [i for i, reward in enumerate(self.rewards) if reward is not None]

    def paid(self) -> Tensor:
        return torch.tensor([self.rewards[i] for i in self.graded()], dtype=torch.float64)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """log q, log p_ref and tokens of the graded attempts."""
        kept = self.graded()
        return (
            torch.stack([self.logps[i].sum() for i in kept]),
            torch.stack([self.ref_logps[i].sum() for i in kept]),
            torch.tensor([float(len(self.logps[i])) for i in kept], dtype=torch.float64),
        )


def tokens_of(model: Any, prompt: list[int], completion: list[int]) -> tuple[Tensor, Tensor]:
    every = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return every.gather(1, torch.tensor(completion)[:, None])[:, 0], every[:, 0]


def groups_by_hand(model: Any, reference: Any) -> list[Group]:
    words, found = tokenizer(), []
    for number in CHOSEN:
        ids, row_id = words(PROMPTS[number])["input_ids"], f"{number}:{PROMPTS[number]}"
        rows = [given_words(ids, place) for place in range(GROUP)]
        outcomes = some_ungraded([row_id] * GROUP, [words.decode(row, skip_special_tokens=True) for row in rows])
        own = [tokens_of(model, ids, row) for row in rows]
        with torch.no_grad():
            theirs = [tokens_of(reference, ids, row) for row in rows]
            hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
        found.append(
            Group(
                row=row_id,
                logps=[said for said, _ in own],
                stops=[stop for _, stop in own],
                ref_logps=[said for said, _ in theirs],
                ref_stops=[stop for _, stop in theirs],
                rewards=[hierarchical(outcome) for outcome in outcomes],
                state=hidden[0].mean(0),
            )
        )
    return found


def of_vargrad(objective: VarGradTB, group: Group) -> Tensor:
    said, theirs, tokens = group.sums()
    span = tokens if objective.length == "mean" else torch.ones_like(tokens)
    gaps = (said - theirs) / span - group.paid() / objective.temperature
    return (gaps - gaps.mean()).square().mean()


def of_tb(objective: TB, group: Group) -> Tensor:
    said, theirs, _ = group.sums()
    return (objective.log_z[group.row] + said - theirs - group.paid() / objective.temperature).square().mean()


def of_flow(objective: FlowRL, group: Group) -> Tensor:
    said, theirs, tokens = group.sums()
    paid = group.paid()
    spread = (paid - paid.mean()).square().mean().sqrt()
    scaled = (paid - paid.mean()) / (spread if spread > 0 else 1.0)
    head, _ = objective._ready(group.state[None])
    log_z = head(group.state[None].float())[0, 0].detach()
    return (log_z + (said - theirs) / tokens - objective.beta * scaled).square().mean()


def of_subtb(objective: SubTB, group: Group) -> Tensor:
    """Equation 3, pair by pair, at the temperature of the first step."""
    terms = []
    for said, stop, theirs, ref_stop in zip(group.logps, group.stops, group.ref_logps, group.ref_stops, strict=True):
        log_r = [(theirs[:n].sum() + ref_stop[n]) / objective.temperature for n in range(len(said))]
        pairs = [
            (objective.decay ** (j - i), (log_r[i] + said[i:j].sum() + stop[j] - log_r[j] - stop[i]).square())
            for j in range(len(said))
            for i in range(j)
        ]
        terms.append(sum(w * r for w, r in pairs) / sum(w for w, _ in pairs) if pairs else said.sum() * 0.0)
    return torch.stack(terms).mean()  # type: ignore[arg-type]


def flat(model: Any) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


class Gradient(TrainerCallback):
    def __init__(self) -> None:
        self.of_step: Tensor | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.of_step = flat(kwargs["model"]).clone()


def prepared(folder: Path, objective: Any, callbacks: Sequence[Any] = (), **options: Any) -> PolicyTrainer:
    """A trainer whose reference is another model than its policy, and whose update is of the chosen prompts."""
    made = policy_trainer(
        folder, objective=objective, rollout=Given(), grader=some_ungraded, callbacks=list(callbacks), **options
    )
    assert made.reference is not None
    made.reference.copy = policy(seed=5, dtype=torch.float64)

    def choose(step: Scored) -> list[int]:
        return [i for i, row in enumerate(step.rows) if int(row.partition(":")[0]) in CHOSEN]

    made.choose = choose  # type: ignore[method-assign]
    return made


def known_tb() -> TB:
    made = TB(temperature=0.5)
    made.log_z.update({f"{number}:{prompt}": 0.3 * number - 1.0 for number, prompt in enumerate(PROMPTS)})
    return made


def known_flow() -> FlowRL:
    made = FlowRL(beta=2.0)
    head, _ = made._ready(torch.zeros(1, 16))
    torch.nn.init.normal_(head.last.weight, generator=torch.Generator().manual_seed(0))
    return made


WAYS: list[dict[str, Any]] = [
    {"drop_idle_rows": False},
    {"part_tokens": 1000},
    {"part_tokens": 6},
    {"rows_per_pass": 12},
]
LOSSES: dict[str, tuple[Callable[[], Any], Any, float]] = {
    "vargrad_tb": (lambda: VarGradTB(temperature=0.5), of_vargrad, 1e-6),
    "vargrad_tb, mean": (lambda: VarGradTB(temperature=0.5, length="mean"), of_vargrad, 1e-6),
    "tb": (known_tb, of_tb, 1e-6),
    "flowrl": (known_flow, of_flow, 1e-6),
    "subtb": (lambda: SubTB(prefix_reward="reference"), of_subtb, 1e-5),
    "subtb, decay": (lambda: SubTB(prefix_reward="reference", decay=0.7), of_subtb, 1e-5),
}


@pytest.mark.parametrize("ways", WAYS, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_one_step_is_the_gradient_of_the_squared_loss(tmp_path: Path, name: str, ways: dict[str, Any]) -> None:
    make, loss, bound = LOSSES[name]
    look, objective, by_hand = Gradient(), make(), make()
    prepared(tmp_path, objective, [look], **ways).train()
    model = policy(dtype=torch.float64)
    total = sum(loss(by_hand, group) for group in groups_by_hand(model, policy(seed=5, dtype=torch.float64)))
    (total / len(CHOSEN)).backward()
    expected = flat(model)
    assert look.of_step is not None and expected.norm() > 1e-2
    assert float((look.of_step - expected).norm() / expected.norm()) < bound


def test_log_z_goes_down_its_own_gradient(tmp_path: Path) -> None:
    objective, before = known_tb(), known_tb()
    prepared(tmp_path, objective).train()
    (group, *_) = groups_by_hand(policy(dtype=torch.float64), policy(seed=5, dtype=torch.float64))
    log_z = torch.tensor(before.log_z[group.row], dtype=torch.float64, requires_grad=True)
    said, theirs, _ = group.sums()
    (log_z + said.detach() - theirs - group.paid() / before.temperature).square().mean().backward()
    assert log_z.grad is not None
    after = before.log_z[group.row] - before.z_rate * float(log_z.grad)
    assert objective.log_z[group.row] == pytest.approx(after, rel=1e-5)
    assert objective.log_z["1:p1 p1"] == before.log_z["1:p1 p1"]  # not chosen


def test_what_a_step_says(tmp_path: Path) -> None:
    made = prepared(tmp_path, VarGradTB())
    made.train()
    line = made.state.log_history[0]
    assert {"objective/loss", "objective/log_z", "objective/temperature", "objective/from_reference"} <= set(line)
    assert all(math.isfinite(line[name]) for name in line if name.startswith("objective/"))
