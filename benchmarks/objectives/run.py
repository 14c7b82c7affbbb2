"""Time of a step of each objective beside a step of GAPG.

Same model, prompts, group size, longest attempt, reward, optimiser, thread and precision; the trainers take turns in
one process, so that whatever else the machine does meets all of them. GAPG stands there twice: as it is, with rows that
have no gradient left out, and with a trace of one in every row, which makes as many as a balance has in its loss::

    python benchmarks/objectives/run.py                                # the shipped recipe's step
    python benchmarks/objectives/run.py --prompts 8 --tokens 128       # a small one
    python benchmarks/objectives/run.py --ways vargrad_tb --out out/objectives.json

With --out it can be stopped: started again, it goes on with the rounds that the file lacks, a round at a time, each in
trainers of its own behind a step that is not counted. The file is of one setting; another one is refused.

Device and cloud are the embedded pair where it is installed; elsewhere a random model with a made-up reward. The
optimiser is AdamW with rate 0, so that every step sees the same policy; the reference is the same model then,
and takes as long as any.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training_step import Clock, StepTimes, Turns, in_turn, measured, options, parser_of

from selfroute.environment import provenance
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.objectives.balance import TB, VarGradTB
from selfroute.train.rl.objectives.base import Scored
from selfroute.train.rl.objectives.flow import FlowRL
from selfroute.train.rl.objectives.group import Group, group_advantages
from selfroute.train.rl.objectives.subtb import SubTB
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.policy_config import PolicyConfig

KEPT, PLAIN = "GAPG, all rows", "GAPG"
UNFILTERED = GAPGOptions(algorithm="balance")


class EveryRow(Group):
    """The group estimator without idle rows: a weight of 0 becomes one that is nearly 0."""

    def weights(self, batch: Scored) -> Tensor:
        found = group_advantages(batch.rewards)
        return torch.where(found == 0.0, 1e-12, found)


WAYS: dict[str, tuple[Any, GAPGOptions]] = {
    KEPT: (EveryRow, UNFILTERED),
    PLAIN: (Group, GAPGOptions()),
    "vargrad_tb": (VarGradTB, UNFILTERED),
    "tb": (TB, UNFILTERED),
    "flowrl": (FlowRL, UNFILTERED),
    "subtb": (lambda: SubTB(prefix_reward="reference"), UNFILTERED),
}


def trainer(turns: Turns, folder: str, objective: Any, method: GAPGOptions) -> tuple[Trainer, StepTimes]:
    """A trainer of an objective on the common model, and the clock of its steps."""
    clock = Clock()
    times = StepTimes(clock)
    model, tokenizer = turns.model()
    config = PolicyConfig(**options(folder, turns.given))
    made = GAPGTrainer(
        model, turns.grader, config, turns.data, tokenizer, callbacks=[times], objective=objective, options=method
    )
    return measured(made, clock), times


def rounds(given: argparse.Namespace, turns: Turns) -> dict[str, list[dict[str, float]]]:
    """Steps of each way, in as many rounds as one set of trainers takes."""
    with tempfile.TemporaryDirectory() as folder:
        made = {name: trainer(turns, f"{folder}/{number}", *_way(name)) for number, name in enumerate(_ways(given))}
        in_turn([one for one, _ in made.values()])
    return {name: times.steps[1:] for name, (_, times) in made.items()}


def _way(name: str) -> tuple[Any, GAPGOptions]:
    make, method = WAYS[name]
    return make(), method


def _ways(given: argparse.Namespace) -> list[str]:
    """Those that are compared; either GAPG always is."""
    return [name for name in WAYS if name in {KEPT, PLAIN, *given.ways}]


def resumed(given: argparse.Namespace, turns: Turns) -> dict[str, list[dict[str, float]]]:
    """The rounds of a file, with those that it lacks."""
    setting = {name: str(value) for name, value in vars(given).items() if name not in ("out", "pairs", "threads")}
    known: dict[str, Any] = {"setting": setting, "steps": {name: [] for name in _ways(given)}}
    if given.out.exists():
        known = json.loads(given.out.read_text(encoding="utf-8"))
        if known["setting"] != setting:
            sys.exit(f"--out: {given.out} holds rounds of {known['setting']}; name another file")
    wanted = given.pairs
    given.pairs = 1
    while len(known["steps"][KEPT]) < wanted:
        for name, steps in rounds(given, turns).items():
            known["steps"][name] += steps
        known["commit"] = provenance()["commit"]
        given.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    given.pairs = wanted
    return {name: steps[:wanted] for name, steps in known["steps"].items()}


def report(given: argparse.Namespace, steps: dict[str, list[dict[str, float]]], *, about: str) -> None:
    """Medians, and the ratio to either GAPG within each round of turns."""
    table = Table(title=f"{given.prompts} x {given.group} attempts of at most {given.tokens} tokens, float32")
    for name in ("objective", "median s", f"to {KEPT}", "from", "to", f"to {PLAIN}"):
        table.add_column(name, justify="left" if name == "objective" else "right")
    totals = {name: [step["total"] for step in own] for name, own in steps.items()}
    for name, own in totals.items():
        kept = [mine / theirs for mine, theirs in zip(own, totals[KEPT], strict=True)]
        plain = [mine / theirs for mine, theirs in zip(own, totals[PLAIN], strict=True)]
        numbers = (statistics.median(own), statistics.median(kept), min(kept), max(kept), statistics.median(plain))
        table.add_row(name, *(f"{number:.2f}" for number in numbers))
    console = Console()
    console.print(table)
    console.print(f"model: {about}; threads: {given.threads}; rounds: {given.pairs}; seed: {given.seed}")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help="beside either GAPG")
    parser.add_argument("--out", type=Path, help="file of the rounds, to go on with")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    turns = Turns(given)
    steps = rounds(given, turns) if given.out is None else resumed(given, turns)
    report(given, steps, about=turns.case.about)


if __name__ == "__main__":
    main()
