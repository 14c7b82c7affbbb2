"""Processor time and memory of a regularised step beside a plain one (docs/attribute-control.md).

    python benchmarks/attributes/step.py time                     # tickets' step, trainers in turn in one process
    python benchmarks/attributes/step.py wall                     # parallel beside sequential; needs two free cores
    python benchmarks/attributes/step.py memory --words 485       # peak of a loss and its gradient, each in a process

`time` lets trainers of one model take turns: GAPG as it is, which leaves rows without a gradient out; GAPG with all of
its rows in the loss, as a constraint needs them; and the latter with the regulariser, the critic fitted before the loss
or in a thread. Learning rates are 0, so that every step sees the same policy. What counts is the process's processor
time, so that other work on the machine matters less; the wall time of the parallel one shows only on a free core.
`wall` lets the two schedules alone take turns and tells wall time as well, how busy the machine was, and the processor
time of the critic's fits: that is all that a thread beside the step can take off it. `memory` takes one micro-batch of
random texts all of which belong to the channel.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
)
from trl.trainer.utils import add_fused_lm_head

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from desk import desk
from training_step import in_turn, options

from selfroute.backends.embedded import asset_path
from selfroute.backends.function import FunctionBackend
from selfroute.backends.torch.critic import Critic
from selfroute.prompts import TEMPLATES
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.scores.oracles import Judged, leaks
from selfroute.tasks.base import Row
from selfroute.tasks.tickets import Tickets
from selfroute.train.rl.constraints.attributes import Attribute, regularisers
from selfroute.train.rl.constraints.critic import CriticFit, Places
from selfroute.train.rl.constraints.regulariser import Regulariser
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.objectives.base import Scored
from selfroute.train.rl.objectives.group import Group, group_advantages
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.outcomes import CloudAnswers, OutcomeGrader
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.run import build_dataset
from selfroute.train.rl.view import TokenView, head_of, hidden_states

PLAIN, KEPT = "plain", "plain, all rows"
WAYS = (PLAIN, KEPT, "sequential", "parallel")
OPTIONS = GAPGOptions(context="message", share=0.8, prompt_filter=False)


class EveryRow(Group):
    """The group estimator without idle rows: a weight of 0 becomes one that is nearly 0."""

    def weights(self, batch: Scored) -> Tensor:
        found = group_advantages(batch.rewards)
        return torch.where(found == 0.0, 1e-12, found)


def attribute(way: str) -> dict[str, Attribute]:
    if way in (PLAIN, KEPT):
        return {}
    return {"leaks": Attribute(judged=Judged(leaks()), weight=1.0, parallel=way == "parallel")}


def trainer(way: str, folder: str, given: argparse.Namespace, rows: list[Row]) -> tuple[Trainer, Busy]:
    """A trainer of one way on the base device, and the clock of its steps."""
    tokenizer = AutoTokenizer.from_pretrained(given.base)
    model = AutoModelForCausalLM.from_pretrained(given.base, dtype=torch.float32)
    task, known, busy = Tickets(), {row.id: row for row in rows}, Busy()
    cloud = FunctionBackend("desk", lambda messages, sampling: desk(messages[-1].content))
    answers = CloudAnswers(task, cloud, TEMPLATES["private"], max_tokens=64)
    judged = {name: each.judged for name, each in attribute(way).items()}
    made = GAPGTrainer(
        model,
        OutcomeGrader(task, known, answers, writes_question=True, attributes=judged),
        PolicyConfig(**options(folder, given)),
        build_dataset(rows, task, offer_handoff=True),
        tokenizer,
        callbacks=[busy],
        objective=Group() if way == PLAIN else EveryRow(),
        options=OPTIONS,
        constraints=clocked(regularisers(attribute(way), model, tokenizer), busy),
        reward=Hierarchical(cloud=0.8),
    )
    made.remove_callback(PrinterCallback)
    return made, busy


class Busy(TrainerCallback):
    """Seconds of every step: the processor's, of all threads, and the clock's; and the processor's of each fit."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.walls: list[float] = []
        self.fits: list[float] = []
        self._began = self._began_wall = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began, self._began_wall = time.process_time(), time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(time.process_time() - self._began)
        self.walls.append(time.perf_counter() - self._began_wall)


def clocked(made: dict[str, Regulariser], busy: Busy) -> dict[str, Regulariser]:
    """Regularisers that tell how long their critics' fits take, in whatever thread."""
    for each in made.values():
        fit = each.fit.fit

        def timed(places: Places, fit: Callable[[Places], float] = fit) -> float:
            began = time.thread_time()
            loss = fit(places)
            busy.fits.append(time.thread_time() - began)
            return loss

        each.fit.fit = timed  # type: ignore[method-assign]
    return made


def show_time(given: argparse.Namespace) -> None:
    """Medians, and ratios to either plain step within each round of turns."""
    rows = list(Tickets(limit=given.prompts * (given.pairs + 1), seed=given.seed).rows("train"))
    with tempfile.TemporaryDirectory() as folder:
        made = {way: trainer(way, f"{folder}/{i}", given, rows) for i, way in enumerate(WAYS)}
        in_turn([one for one, _ in made.values()])
    steps = {way: busy.steps[1:] for way, (_, busy) in made.items()}
    print(f"| step of {given.prompts} x {given.group} attempts | processor s | to {PLAIN} | to {KEPT} |")
    print("|---|---|---|---|")
    for way, own in steps.items():
        print(f"| {way} | {statistics.median(own):.2f} | {ratio(own, steps[PLAIN])} | {ratio(own, steps[KEPT])} |")


def show_wall(given: argparse.Namespace) -> None:
    """Both schedules in turns; a fit of the parallel one may go on while it is the other's turn."""
    rows = list(Tickets(limit=given.prompts * (given.pairs + 1), seed=given.seed).rows("train"))
    with tempfile.TemporaryDirectory() as folder:
        made = {way: trainer(way, f"{folder}/{way}", given, rows) for way in ("sequential", "parallel")}
        in_turn([one for one, _ in made.values()])
    sequential = made["sequential"][1]
    print(f"| step of {given.prompts} x {given.group} attempts | wall s | to sequential | processor s | critic's fit |")
    print("|---|---|---|---|---|")
    for way, (_, busy) in made.items():
        cpu, fit = statistics.median(busy.steps[1:]), sum(busy.fits[1:]) / len(busy.steps[1:])
        walls = f"{statistics.median(busy.walls[1:]):.2f} | {ratio(busy.walls[1:], sequential.walls[1:])}"
        print(f"| {way} | {walls} | {cpu:.2f} | {fit:.3f} |")
    print(f"\nProcesses that wanted a core, mean of five minutes: {os.getloadavg()[1]:.1f}, of {os.cpu_count()} cores.")


def ratio(own: list[float], other: list[float]) -> str:
    found = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


# --- memory ---------------------------------------------------------------------------------------------------------


def show_memory(given: argparse.Namespace) -> None:
    """Peak of a process over its size before, for vocabularies of `--words` and more."""
    print("| words | plain MB | regularised MB | ratio |\n|---|---|---|---|")
    for words in given.words:
        peaks = []
        for way in (PLAIN, "sequential"):
            command = [sys.executable, __file__, "memory", "--alone", way, "--words", str(words)]
            peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"| {words} | {peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[1] / peaks[0]:.2f} |")


def alone(way: str, words: int, *, rows: int = 16, prompt: int = 80, tokens: int = 40) -> None:
    """Print by how many MB one loss and its gradient raise the peak of this process."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=words, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
                         num_attention_heads=4, num_key_value_heads=4)  # fmt: skip
    model = LlamaForCausalLM(config)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    ids = torch.randint(4, words, (rows, prompt + tokens))
    labels = torch.cat([torch.full((rows, prompt), -100), ids[:, prompt:]], dim=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hidden_states(model, wanted=way != PLAIN) as seen:
        said = model(input_ids=ids, labels=labels, fused_lm_head=True)
    loss = said.log_probs.sum()
    if way != PLAIN:
        span = torch.ones(rows, tokens, dtype=torch.bool)
        facts = {"span": span, "kept": torch.arange(rows) % 2.0}
        hidden = seen[0][:, -tokens - 1 : -1]
        logps = said.log_probs[:, -tokens:]
        view = TokenView(ids[:, -tokens:], span, logps, None, None, hidden, head=head_of(model, 1.0), facts=facts)
        tokenizer = AutoTokenizer.from_pretrained(asset_path("device").parent / "tokenizer")
        pulled = Regulariser("leaks", CriticFit(Critic(128, words)), tokenizer, "message", weight=1.0)
        loss = loss + pulled.loss(view).sum()
    loss.backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "wall", "memory"))
    parser.add_argument("--base", default="out/tickets/device/checkpoint")
    parser.add_argument("--words", type=int, nargs="+", default=[485, 8_000, 32_000], help="sizes of the vocabulary")
    parser.add_argument("--prompts", type=int, default=16, help="prompts per step")
    parser.add_argument("--group", type=int, default=8, help="attempts per prompt")
    parser.add_argument("--tokens", type=int, default=40, help="longest attempt")
    parser.add_argument("--pairs", type=int, default=8, help="measured steps of each, after one that is not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", choices=(PLAIN, "sequential"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.alone:
        alone(given.alone, given.words[0])
    elif given.what in ("time", "wall"):
        {"time": show_time, "wall": show_wall}[given.what](given)
    else:
        show_memory(given)


if __name__ == "__main__":
    main()
