"""Trains the toy policy for one step in as many processes as it is started with, rollouts being given.

Started by `both` under `torch.distributed.run`; not a test itself.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tests.train.seams import Fading, Given, Unsaid
from tests.train.tiny import PROMPTS, grade, policy, policy_trainer, trainer
from torch import Tensor
from transformers import Trainer

from selfroute.backends.torch.sampler import Sampled
from selfroute.train.rl import policy_sampler as module

GROUP = 6


def rollouts(model: Any, prompts: Sequence[Sequence[int]], **_: Any) -> list[list[Sampled]]:
    """Completions by prompt and place in the group alone, whichever process asks for them."""
    start = PartialState().process_index * len(prompts)
    made = []
    for index, prompt in enumerate(prompts):
        rng = random.Random(f"{list(prompt)}/{(start + index) % GROUP}")
        words = [rng.randrange(4, 20) for _ in range(rng.randint(1, 5))]
        made.append([Sampled(words, [0.0] * len(words), "length")])
    return made


@contextmanager
def forced_rollouts() -> Iterator[None]:
    sample = module.sample
    module.sample = rollouts  # type: ignore[assignment]
    try:
        yield
    finally:
        module.sample = sample


def run(folder: Path) -> None:
    """Train with and without the filter, to a share of other prompts, in several passes; keep the last weights."""
    processes = PartialState(cpu=True).num_processes
    ways: dict[str, dict[str, Any]] = {
        "filter": {"share": 0.3},
        "no_filter": {"prompt_filter": False},
        "held_out": {
            "handoff_reward": "dual",
            "max_steps": 2,  # the price that the first has moved pays in the second
            "held_out": [f"{i}:p{i}" for i in range(4, 10)],
            "share_prompts": 4,
            "write_prompt": lambda row_id, **_: [{"role": "user", "content": row_id.partition(":")[2]}],
            "local_grader": grade,
        },
        "passes": {"share": 0.3, "rows_per_pass": 6 // processes},
    }
    prompts = PROMPTS[:5]  # thirty rollouts: with two processes one group lies on both
    for name, options in ways.items():
        size = options.pop("rows_per_pass", GROUP * len(prompts) // processes)
        passes = GROUP * len(prompts) // processes // size
        made = trainer(
            folder,
            model=policy(dtype=torch.float64),
            prompts=prompts,
            group=GROUP,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=passes,
            steps_per_generation=passes,
            **options,
        )
        made.train()
        if PartialState().is_main_process:
            keep(made, folder / f"{name}.pt")


def run_seams(folder: Path) -> None:
    """Train with weights per token over attempts that a tool wrote a part of, and with a constraint."""
    state = PartialState()
    size = GROUP * len(PROMPTS) // state.num_processes
    constraint = Unsaid("ask", 0.01)
    ways: dict[str, dict[str, Any]] = {
        "tokens": {"rows_per_pass": size // 3},
        "constraint": {"constraints": {"unsaid": constraint}, "rows_per_pass": size, "max_steps": 2},
    }
    for name, options in ways.items():
        rows = options.pop("rows_per_pass")
        made = policy_trainer(
            folder,
            objective=Fading(),
            rollout=Given(tools=True, first=state.process_index * size),
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=size // rows,
            steps_per_generation=size // rows,
            **options,
        )
        made.train()
        if state.is_main_process:
            keep(made, folder / f"{name}.pt")
    assert constraint.multiplier > 0


def keep(made: Trainer, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = list(made.accelerator.unwrap_model(made.model).parameters())
    torch.save([weight.detach() for weight in weights], file)


def both(folder: Path) -> None:
    """The same steps in two processes and in one; weights under `two` and `one`."""
    script = Path(__file__)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = script.parents[2]
    two = subprocess.Popen(
        [*launch, str(script), str(folder / "two")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
    )
    with forced_rollouts():
        run(folder / "one")
    run_seams(folder / "one")
    _, said = two.communicate(timeout=300)
    assert two.returncode == 0, said[-3000:]


def weights(folder: Path, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Flat weights after one process, after two, and of the start."""
    one, two = (torch.load(folder / place / f"{name}.pt") for place in ("one", "two"))
    start = list(policy(dtype=torch.float64).parameters())
    return tuple(torch.cat([w.detach().double().flatten() for w in part]) for part in (one, two, start))  # type: ignore[return-value]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with forced_rollouts():
        run(Path(sys.argv[1]))
    run_seams(Path(sys.argv[1]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
