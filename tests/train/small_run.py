"""Runs of a few steps of a random model, through `train` as a recipe goes through it."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from selfroute.backends.function import FunctionBackend
from selfroute.handoff import HANDOFF_TEXT
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.tasks.base import Row
from selfroute.tasks.countdown import Countdown
from selfroute.train.imitation.tokenizer import build_tokenizer
from selfroute.train.imitation.warmup import build_model
from selfroute.train.rl.options import GAPGOptions, LoopOptions
from selfroute.train.rl.run import train
from selfroute.verify.base import Verdict

TOKENIZER = build_tokenizer()


class Easy(Countdown):
    """Countdown in which a random model is sometimes right: any text with an even number of characters."""

    def verify(self, row: Row, completion: str) -> Verdict:
        return Verdict(len(completion) % 2 == 0)


def small_model(folder: Path, *, hidden_size: int = 32) -> str:
    """A random model that asks now and then."""
    torch.manual_seed(0)
    made = build_model(TOKENIZER, hidden_size=hidden_size, layers=1)
    ask = TOKENIZER.convert_tokens_to_ids(HANDOFF_TEXT)
    with torch.no_grad():
        # The tied embedding of one word brings the hand-off nearer to everything.
        made.model.norm.weight.mul_(4.0)
        made.model.embed_tokens.weight[ask] *= 3.0
    made.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def run(model: str, out: Path, **options: Any) -> dict[str, Any]:
    """Train; options are those of `train`, of GAPG and of the loop."""
    given: dict[str, Any] = {
        "steps": 4,
        "prompts_per_step": 2,
        "group_size": 4,
        "learning_rate": 1e-2,
        "reward": {},
        "max_new_tokens": 6,
        "save_steps": 1,
        "task": Easy(limit=6),
        "tokenizer": model,
        "cloud": FunctionBackend("cloud", lambda messages, sampling: "even"),
        **options,
        "model": model,
        "out": out,
    }
    cloud = given["cloud"]
    given["open_cloud"] = None if cloud is None else lambda: cloud
    given["reward"] = Hierarchical(**given["reward"])
    method = GAPGOptions(**_taken_by(_fields(GAPGOptions), given))
    loop = LoopOptions(**_taken_by(_fields(LoopOptions), given))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)
        return train(options=method, loop=loop, **_taken_by(inspect.signature(train).parameters, given))


def _fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _taken_by(names: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


class Stop(Exception):
    """Ends a run from outside, as a signal would between two steps."""


def stop_after(step: int) -> Any:
    def on_progress(now: int, steps: int, numbers: Mapping[str, float]) -> None:
        if now == step + 1:  # the checkpoint of `step` is there, that of `step + 1` is not
            raise Stop

    return on_progress
