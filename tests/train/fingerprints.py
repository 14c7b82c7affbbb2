"""Hashes of the weights and metrics of small runs: what moves no result prints the same lines before and after.

    python tests/train/fingerprints.py > before.txt     # in a checkout of the commit before
    python tests/train/fingerprints.py | diff before.txt -

The lines are those of one machine: another processor rounds otherwise. Not a test itself.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.train.small_run import run, small_model, weights
from tests.train.tiny import grade, policy, trainer

STEPS = 20
REWARD = {"local": 1.0, "cloud": 0.3, "format": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "filter": {},
    "no_filter": {"algorithm": "gapg_no_filter"},
    "dr_grpo": {"algorithm": "dr_grpo"},
    "dr_grpo_filter": {"algorithm": "dr_grpo_filter"},
    "grpo": {"algorithm": "grpo", "rows_per_pass": 4},
    "task_tuning": {"algorithm": "task_tuning", "cloud": None},
    "dual": {"handoff_reward": "dual", "share": 0.2, "share_prompts": 4},
    "dual_on_rollouts": {"handoff_reward": "dual", "share_prompts": 0, "rows_per_pass": 2},
    "forced": {"group_size": 6, "forced_attempts": 2, "forced_weight": 0.5, "rows_per_pass": 3},
    "bf16": {"bf16": True},
    "all": {
        "group_size": 6,
        "rows_per_pass": 4,
        "handoff_reward": "dual",
        "told_shares": (0.2, 0.5),
        "forced_attempts": 2,
        "reward": {**REWARD, "token_price": 0.01},
    },
}


def digest(tensors: Iterable[torch.Tensor], lines: Any) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    found.update(json.dumps(lines, sort_keys=True).encode())
    return found.hexdigest()[:16]


def still(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without the time that it took."""
    return {name: value for name, value in line.items() if "time" not in name and name != "wall_s"}


def of_run(model: str, out: Path, options: dict[str, Any]) -> str:
    run(model, out, steps=STEPS, save_steps=STEPS, **options)
    trained = weights(out)
    lines = [still(json.loads(line)) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rollouts = (out / "rollouts.jsonl").read_text(encoding="utf-8")
    return digest((trained[name] for name in sorted(trained)), [lines, rollouts])


def of_trainer(folder: Path, **options: Any) -> str:
    """The toy policy in float64, with plain steps."""
    made = trainer(folder, model=policy(dtype=torch.float64), max_steps=STEPS, learning_rate=0.1, **options)
    made.remove_callback(PrinterCallback)
    made.train()
    lines = [still(line) for line in made.state.log_history if "train_runtime" not in line]
    return digest(made.model.parameters(), lines)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = small_model(place / "model")
        for name, options in WAYS.items():
            print(name, of_run(model, place / name, options), flush=True)
        for passes in (36, 12):
            for idle in (True, False):
                name = f"toy, {passes} rows a pass, idle rows {'dropped' if idle else 'kept'}"
                print(name, of_trainer(place / name, grader=grade, rows_per_pass=passes, drop_idle_rows=idle))


if __name__ == "__main__":
    main()
