"""A training run that is killed with no chance to say goodbye goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

RECIPE = Path(__file__).parents[2] / "recipes" / "countdown" / "gapg.yaml"
SMALL = (
    "steps=4", "prompts_per_step=3", "group_size=6", "save_steps=1", "max_new_tokens=48",
    "handoff_reward=dual", "forced_attempts=2",
    "task={countdown: {limit: 12}}", "cloud={embedded: {name: cloud, samples: 1}}",
)  # fmt: skip


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "selfroute.commands.main", "train", str(RECIPE), f"out={out}", *SMALL, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()


def lines(out: Path) -> list[dict[str, float]]:
    file = out / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def kill_after(step: int, out: Path) -> None:
    process = start(*command(out))
    late = time.monotonic() + 240
    while len(lines(out)) < step:
        assert process.poll() is None and time.monotonic() < late, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    uninterrupted = start(*command(straight))
    kill_after(2, killed)
    assert not (killed / "run.json").exists()
    end(start(*command(killed), "--resume"))
    end(uninterrupted)

    one, two = (load_file(out / "checkpoint" / "model.safetensors") for out in (straight, killed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    states = [
        json.loads((out / "checkpoints" / "checkpoint-4" / "gapg_state.json").read_text()) for out in (straight, killed)
    ]
    assert states[0] == states[1]
    optimizers = [
        torch.load(out / "checkpoints" / "checkpoint-4" / "optimizer.pt")["state"] for out in (straight, killed)
    ]
    for ours, theirs in zip(*(o.values() for o in optimizers), strict=True):
        assert all(torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])) for name in ours)
    runs = [json.loads((out / "run.json").read_text()) for out in (straight, killed)]
    assert runs[0]["cloud_calls"] == runs[1]["cloud_calls"] > 0
    assert runs[1]["resumed_from"] is not None
    for ours, theirs in zip(lines(straight), lines(killed), strict=True):
        assert {k: v for k, v in ours.items() if "time" not in k and k != "wall_s"} == {
            k: v for k, v in theirs.items() if "time" not in k and k != "wall_s"
        }
