"""The further methods on a real model for a few steps: a balance, trees of tool calls, and a learned reward.

    python benchmarks/pretrained/methods.py                                     # SmolLM2 by LoRA, minutes on a CPU
    python benchmarks/pretrained/methods.py --model Qwen/Qwen2.5-1.5B-Instruct --steps 3 --full   # a GPU, under ten

Runs the recipes of `recipes/paper/` as they stand but for the model, the cloud, which is the embedded one, and sizes;
with `--full` lengths and ranks are the recipes' own. Each run is a process of its own, and prints seconds a step and
the most memory that it held, beside what `selfroute train --dry-run` predicts: on a GPU what torch had allocated there,
else all that the process held, libraries and the embedded cloud included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from selfroute.assemble.pieces import quiet_libraries
from selfroute.config import algorithm_of, at, build, load_values

PAPER = Path(__file__).resolve().parents[2] / "recipes" / "paper"
RECIPES: Mapping[str, str] = {
    "balance": "countdown-qwen2.5-3b-balance.yaml",
    "tree": "lookup-qwen2.5-3b-tree.yaml",
    "reward": "shop-qwen2.5-1.5b-reward.yaml",
}
POLICY = ("cloud=embedded:cloud", "cache=null", "trl={}", "prompts_per_step=4", "save_steps=1000")
# Beside that: few pairs, as they are made anew in every run.
CHANGES: Mapping[str, Sequence[str]] = {
    "balance": POLICY,
    "tree": (*POLICY, "group_size=8", "tree.first=4"),
    "reward": ("pairs.walks.rows=100", "pairs.walks.held_out_rows=20", "pairs_per_step=4", "save_steps=1000"),
}
SMALL: Mapping[str, Sequence[str]] = {
    "balance": ("group_size=4", "max_new_tokens=24", "lora.rank=4"),
    "tree": ("max_new_tokens=24", "lora.rank=4", "tree.probe=4"),
    "reward": ("lora.rank=4",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="lengths and ranks as in the recipes")
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--here", action="store_true", help="one method, in this process; prints JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(run(options.only[0], options.model, options.steps, full=options.full)))
        return
    print("| method | seconds a step | memory at most, GiB | predicted, GiB |\n|---|---|---|---|")
    for name in options.only:
        given = [*sys.argv[1:], "--here", "--only", name]
        done = subprocess.run([sys.executable, __file__, *given], check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"| {name} | {found['step_s']:.1f} | {found['held']:.2f} | {found['predicted']:.2f} |", flush=True)


def run(name: str, model: str, steps: int, *, full: bool) -> dict[str, Any]:
    """Train a few steps; seconds a step, and GiB held and predicted."""
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        half = torch.cuda.is_available()
        own = [f"model={model}", f"steps={steps}", f"bf16={str(half).lower()}", f"out={folder}/run"]
        values = load_values(PAPER / RECIPES[name], [*CHANGES[name], *(() if full else SMALL[name]), *own])
        entry = algorithm_of(values)
        recipe = build(at(entry.options), values, where=RECIPES[name])
        predicted = dict(at(entry.dry_run)(recipe, beside=PAPER).memory)["at most at once"]
        began = time.perf_counter()
        at(entry.place)(recipe)
        took = time.perf_counter() - began
    return {"step_s": took / steps, "held": held() / 2**30, "predicted": predicted / 2**30}


def held() -> float:
    """Most bytes at once, of the GPU if there is one."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
