"""An agent for `lookup` that is small enough to train by the hundred: its words, how it is begun, and its errands."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from small_agent import END, PAD, Part, imitate, network, word_tokenizer

from selfroute.actions import CALL_CLOSE, CALL_OPEN, Action, result_text
from selfroute.grading import Outcome
from selfroute.handoff import HANDOFF_TEXT, parse
from selfroute.tasks.base import Environment, Observation, Restorable, Row, Tool
from selfroute.tasks.lookup import CALC, LOOKUP, VALUES, Lookup
from selfroute.train.rl.rollouts.base import Prompt

TASK = Lookup()
LOOK, COMPUTE = f"{CALL_OPEN}{LOOKUP.name} ", f"{CALL_OPEN}{CALC.name} "
WORDS = [
    END, PAD, LOOK, COMPUTE, CALL_CLOSE, "<result>", "</result>", "<answer>", "</answer>", HANDOFF_TEXT,
    "Add ", " and ", "see ", "~", "+", *(f"{n:02}" for n in range(100)), *map(str, range(10)),
]  # fmt: skip
# How the agent is begun: an errand that follows links and computes, but slips, and seldom reads a noisy value again.
SLIP, AGAIN, GIVES_UP = 0.12, 0.25, 0.06
LEARN = 1e-2


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each tag and each two digits."""
    return word_tokenizer(WORDS)


# --- how it is begun ----------------------------------------------------------------------------------------------


def begun(folder: Path, seed: int, steps: int) -> Path:
    """The agent of a seed, which has imitated errands; trained unless it is there."""
    if not (folder / "config.json").exists():
        model, words = network(WORDS, seed), tokenizer()
        rows, rng = list(TASK.rows("train")), random.Random(f"errands/{seed}")
        imitate(model, words, lambda _: [errand(rng.choice(rows), rng) for _ in range(32)], steps=steps, rate=LEARN)
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    return folder


def errand(row: Row, rng: random.Random) -> list[Part]:
    """A question and what a careless agent did about it, part by part."""
    world = TASK.environment(row)
    parts: list[Part] = [(row.question, False)]
    found = [_looked_up(world, key, parts, rng) for key in row.fields["keys"]]
    if None in found or rng.random() < GIVES_UP:
        return [*parts, (HANDOFF_TEXT + END, True)]
    total = str(rng.randrange(2 * VALUES - 1))
    if rng.random() >= SLIP:
        total = _called(world, Action(f"{found[0]}+{found[1]}", CALC.name), parts)
    return [*parts, (str(Action(total)) + END, True)]


def _looked_up(world: Environment, key: str, parts: list[Part], rng: random.Random) -> int | None:
    """The value under a key as it was read; None for an errand that gave up."""
    while True:
        if rng.random() < SLIP:
            key = f"{rng.randrange(10_000):04}"
        said = _called(world, Action(key, LOOKUP.name), parts)
        if said.startswith("see "):
            key = said.removeprefix("see ")
        elif not said.startswith("~") or rng.random() >= AGAIN:
            return int(said.lstrip("~"))
        if rng.random() < GIVES_UP:
            return None


def _called(world: Environment, action: Action, parts: list[Part]) -> str:
    said = world.step(action).text
    parts += [(str(action), True), (result_text(said), False)]
    return said


# --- its errands --------------------------------------------------------------------------------------------------


class Counted:
    """An environment whose calls of tools are counted."""

    def __init__(self, world: Any, counts: Counts) -> None:
        self.world, self.counts = world, counts
        self.tools: Sequence[Tool] = world.tools

    def reset(self) -> str:
        return str(self.world.reset())

    def step(self, action: Action) -> Observation:
        self.counts.calls += bool(action.tool)
        return self.world.step(action)  # type: ignore[no-any-return]

    def score(self) -> float | None:
        return self.world.score()  # type: ignore[no-any-return]

    def snapshot(self) -> Any:
        return self.world.snapshot()

    def restore(self, at: Any) -> None:
        self.world.restore(at)


class Counts:
    """Opens environments and counts what is called in them."""

    def __init__(self) -> None:
        self.calls = 0

    def open(self, prompt: Prompt) -> Restorable:
        return Counted(TASK.environment(Row("", prompt[-1]["content"], "")), self)


def outcomes(rows: dict[str, Row], ids: Sequence[str], texts: Sequence[str]) -> Iterator[Outcome]:
    """What came of attempts, with a cloud that is always right."""
    for row_id, text in zip(ids, texts, strict=True):
        asks = parse(text).wants_cloud
        right = None if asks else TASK.verify(rows[row_id], text).correct
        yield Outcome(wants_cloud=asks, device_correct=right, cloud_correct=True if asks else None)
