"""Time of a GAPG step beside a step of stock TRL GRPO.

Same model, prompts, group size, longest completion, reward function, optimiser, thread and precision; the two take
turns in one process, so that whatever else the machine does meets both::

    python benchmarks/training_step.py                             # the shipped recipe's step; about four minutes
    python benchmarks/training_step.py --prompts 8 --tokens 128    # a small one
    python benchmarks/training_step.py --memory                    # peak memory of each, in a process of its own
    python benchmarks/training_step.py --pretrained out/pretrained/seed-1 --prompts 16 --tokens 64 --lora 16 --bf16

Device and cloud are the embedded pair where it is installed; elsewhere a random model of 128 x 4 with a made-up
reward. With --pretrained they are the warm SmolLM2 of a seed of `benchmarks/pretrained/run.py` on its training
problems, all weights or an adapter. Both start every pair from the same weights. The optimiser is AdamW with rate 0,
so that every step sees the same policy and the work does not drift.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from selfroute.backends.embedded import asset_path
from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import hierarchical
from selfroute.tasks.base import Row, Task
from selfroute.tasks.countdown import Countdown
from selfroute.tasks.jsonl import JsonLines
from selfroute.train.imitation.tokenizer import build_tokenizer
from selfroute.train.imitation.warmup import build_model
from selfroute.train.pretrained import add_adapter
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.outcomes import OutcomeGrader
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.run import build_dataset

PARTS = ("rollouts", "rewards", "loss and backward", "optimiser", "rest")


class Clock:
    """Seconds spent in named parts of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return timed


class StepTimes(TrainerCallback):
    """Wall time of every step and its parts."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.steps: list[dict[str, float]] = []
        self.started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.seconds = {}
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.seconds["optimiser"] = time.perf_counter() - self.before

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parts = dict(self.clock.seconds)
        total = time.perf_counter() - self.started
        # Generation and scoring stand inside the passes; what is left of a pass is loss and backward.
        inside = parts.pop("pass", 0.0) - parts.pop("scoring", 0.0)
        parts["loss and backward"] = inside
        parts["rest"] = total - sum(parts.values())
        self.steps.append({**parts, "total": total})


def made_up(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    """A stand-in for a model without skill: solved, asked and failed in shares of 25, 25 and 50 %, by the text."""
    kinds = [sum(text.encode()) % 4 for text in texts]
    # As after a warm-up, about half of the prompts are out of reach.
    solvable = [sum(row_id.encode()) % 2 == 0 for row_id in row_ids]
    return [
        Outcome(wants_cloud=kind == 0, device_correct=kind == 1 and may, cloud_correct=True if kind == 0 else None)
        for kind, may in zip(kinds, solvable, strict=True)
    ]


class KnowingCloud:
    """A cloud that is always right and takes no time: the step's own cost is what is measured."""

    calls = failures = 0

    def correct(self, rows: Sequence[Row], messages: Sequence[str] | None = None) -> list[bool | None]:
        return [True] * len(rows)


def reward_of(grader: Callable[[Sequence[str], Sequence[str]], list[Outcome]]) -> Callable[..., list[float | None]]:
    """The reward function of `GAPGTrainer` for stock TRL."""

    def reward(completions: Sequence[Any], row_id: Sequence[str], **_: Any) -> list[float | None]:
        return [hierarchical(outcome) for outcome in grader(row_id, [c[0]["content"] for c in completions])]

    return reward


def options(folder: str, given: argparse.Namespace) -> dict[str, Any]:
    rollouts = given.prompts * given.group
    return {
        "output_dir": folder,
        "max_steps": given.pairs + 1,
        "per_device_train_batch_size": rollouts,
        "gradient_accumulation_steps": 1,
        "num_generations": given.group,
        "max_completion_length": given.tokens,
        "temperature": 1.0,
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "activation_checkpointing": False,
        "bf16": given.bf16,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": given.seed,
    }


def measured(trainer: GRPOTrainer, clock: Clock) -> GRPOTrainer:
    """Put the clock around the parts of a step."""
    # Ours come through TRL's own seam for them, TRL's from the method.
    writes = "_generate_single_turn" if trainer.rollout_func is None else "rollout_func"
    setattr(trainer, writes, clock.timed("rollouts", getattr(trainer, writes)))
    trainer._calculate_rewards = clock.timed("rewards", trainer._calculate_rewards)
    score = trainer._generate_and_score_completions

    trainer._generate_and_score_completions = clock.timed("scoring", score)
    trainer.training_step = clock.timed("pass", trainer.training_step)
    trainer.remove_callback(PrinterCallback)
    return trainer


class Embedded:
    """The embedded device on Countdown."""

    about = "embedded device"

    def __init__(self, given: argparse.Namespace) -> None:
        self.task: Task = Countdown(limit=given.prompts * (given.pairs + 1), seed=given.seed)

    def model(self) -> tuple[Any, Any]:
        device = asset_path("device")
        tokenizer = AutoTokenizer.from_pretrained(device.parent / "tokenizer")
        return AutoModelForCausalLM.from_pretrained(device, dtype=torch.float32), tokenizer

    def grader(self, rows: Sequence[Row]) -> Callable[..., list[Outcome]]:
        return OutcomeGrader(self.task, {row.id: row for row in rows}, KnowingCloud())  # type: ignore[arg-type]


class Random(Embedded):
    """A random model on Countdown, with a made-up reward."""

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__(given)
        self.given = given
        self.about = f"random Llama {given.hidden} x {given.layers}, made-up reward"

    def model(self) -> tuple[Any, Any]:
        torch.manual_seed(self.given.seed)
        tokenizer = build_tokenizer()
        return build_model(tokenizer, hidden_size=self.given.hidden, layers=self.given.layers), tokenizer

    def grader(self, rows: Sequence[Row]) -> Callable[..., list[Outcome]]:
        return made_up


class Pretrained(Embedded):
    """A seed of benchmarks/pretrained: its warm model on its training problems."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.checkpoint = given.pretrained / "warm/checkpoint"
        self.task = JsonLines(
            path=str(given.pretrained / "data"), verifier="exact", template="short", validation_share=0.0
        )
        self.about = f"warm SmolLM2-135M, {f'LoRA of rank {given.lora}' if given.lora else 'all weights'}"

    def model(self) -> tuple[Any, Any]:
        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        return AutoModelForCausalLM.from_pretrained(self.checkpoint, dtype=torch.float32), tokenizer


def case_of(given: argparse.Namespace) -> Embedded:
    """What the steps are measured on."""
    if given.pretrained:
        return Pretrained(given)
    return Embedded(given) if (asset_path("device") / "config.json").is_file() else Random(given)


class Turns:
    """Two trainers that take a step in turn: each is stopped at the end of a step and goes on later."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.case = case_of(given)
        rows = list(islice(self.case.task.rows("train"), given.prompts * (given.pairs + 1)))
        self.grader = self.case.grader(rows)
        self.data = build_dataset(rows, self.case.task, offer_handoff=True)
        self.given = given

    def model(self) -> tuple[Any, Any]:
        """Alike for both, with a fresh adapter if one is wanted."""
        model, tokenizer = self.case.model()
        torch.manual_seed(self.given.seed)
        rank = self.given.lora
        lora = {"rank": rank, "alpha": 2 * rank, "dropout": 0.0, "targets": ("all-linear",)}
        return (add_adapter(model, lora) if rank else model), tokenizer

    def ours(self, folder: str) -> tuple[Trainer, StepTimes]:
        clock = Clock()
        times = StepTimes(clock)
        model, tokenizer = self.model()
        if self.given.bf16:  # as `selfroute train` does there
            model.get_submodule("base_model.model" if self.given.lora else "").set_attn_implementation("eager")
        config = PolicyConfig(**options(folder, self.given))
        return measured(GAPGTrainer(model, self.grader, config, self.data, tokenizer, callbacks=[times]), clock), times

    def stock(self, folder: str) -> tuple[Trainer, StepTimes]:
        clock = Clock()
        times = StepTimes(clock)
        model, tokenizer = self.model()
        config = GRPOConfig(**options(folder, self.given))
        reward = reward_of(self.grader)
        trainer = GRPOTrainer(
            model, reward, args=config, train_dataset=self.data, processing_class=tokenizer, callbacks=[times]
        )
        return measured(trainer, clock), times


def in_turn(trainers: Sequence[Trainer]) -> None:
    """Run the trainers step by step, one thread at a time, always in the same order."""
    import threading

    gates = [threading.Semaphore(0) for _ in trainers]
    errors: list[BaseException] = []

    class Baton(TrainerCallback):
        def __init__(self, index: int) -> None:
            self.index = index
            self.begun = False

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # The turn is given up here and not at a step's end, so that logging and loading belong to it.
            if self.begun:
                gates[(self.index + 1) % len(gates)].release()
            self.begun = True
            gates[self.index].acquire()

    def work(index: int) -> None:
        try:
            trainers[index].train()
        except BaseException as error:
            errors.append(error)
        finally:
            gates[(index + 1) % len(gates)].release()

    for index, trainer in enumerate(trainers):
        # First in the list: waiting for the turn is no part of the step.
        trainer.callback_handler.callbacks.insert(0, Baton(index))
    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(trainers))]
    for thread in threads:
        thread.start()
    gates[0].release()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Options of what `Turns` measures."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=32, help="prompts per step")
    parser.add_argument("--group", type=int, default=8, help="rollouts per prompt")
    parser.add_argument("--tokens", type=int, default=256, help="longest completion")
    parser.add_argument("--pairs", type=int, default=5, help="measured steps of each, after one that is not counted")
    parser.add_argument("--hidden", type=int, default=128, help="width of the random model")
    parser.add_argument("--layers", type=int, default=4, help="layers of the random model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrained", type=Path, help="folder of a seed of benchmarks/pretrained/run.py")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="train an adapter in place of all weights")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16, both")
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--memory", action="store_true", help="measure peak memory in place of time")
    parser.add_argument("--alone", choices=("ours", "stock"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    if given.memory:
        compare_memory()
        return
    turns = Turns(given)
    if given.alone:
        alone(turns, given.alone)
        return
    with tempfile.TemporaryDirectory() as folder:
        ours, our_times = turns.ours(f"{folder}/ours")
        stock, stock_times = turns.stock(f"{folder}/stock")
        in_turn([ours, stock])
    report(given, our_times.steps[1:], stock_times.steps[1:], about=turns.case.about)


def alone(turns: Turns, which: str) -> None:
    """Run one of the two and print the process's peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = getattr(turns, which)(folder)
        trainer.train()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def compare_memory() -> None:
    """Both, one after the other, each in a process of its own with the same arguments."""
    arguments = [argument for argument in sys.argv if argument != "--memory"]
    peaks = {}
    for which, name in (("ours", "GAPG"), ("stock", "TRL GRPO")):
        command = [sys.executable, *arguments, "--alone", which]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = int(done.stdout.split()[-1])
    Console().print(", ".join(f"{name}: {peak:,} MB at most" for name, peak in peaks.items()))


def report(
    given: argparse.Namespace, ours: list[dict[str, float]], stock: list[dict[str, float]], *, about: str
) -> None:
    ratios = [theirs["total"] / mine["total"] for mine, theirs in zip(ours, stock, strict=True)]
    precision = "bfloat16" if given.bf16 else "float32"
    table = Table(title=f"{given.prompts} x {given.group} rollouts of at most {given.tokens} tokens, {precision}")
    table.add_column("median seconds")
    for name in ("GAPG", "TRL GRPO"):
        table.add_column(name, justify="right")
    for part in ("total", *PARTS):
        mine, theirs = (statistics.median(step.get(part, 0.0) for step in steps) for steps in (ours, stock))
        table.add_row(part, f"{mine:.3f}", f"{theirs:.3f}")
    console = Console()
    console.print(table)
    console.print(f"model: {about}; threads: {given.threads}; pairs: {len(ratios)}; seed: {given.seed}")
    spread = f"median of pairs; {min(ratios):.2f} to {max(ratios):.2f}"
    console.print(f"GAPG is {statistics.median(ratios):.2f} times as fast ({spread})")


if __name__ == "__main__":
    main()
