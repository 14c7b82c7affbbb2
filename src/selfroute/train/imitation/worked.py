"""Rows of any task written out, for a pretrained model: the working where a row has one, then answer or hand-off.

The model learns the form, and to ask at times. When to ask it is not told: hand-offs come by chance, whatever the row,
so that its probability of asking says nothing of a row's difficulty until it has been rewarded for knowing it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict

from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import TEMPLATES
from selfroute.tasks.base import Row, Task
from selfroute.train.imitation.writers import Example, Role, TraceStyle

__all__ = ["WORKING", "Worked"]

USED = ("final_handoff_rate",)
WORKING = "work"  # the field of a row with what is written before its answer
_OFFER_RATE = 0.8  # of prompts; the others teach the answer where nobody can be asked


class Worked:
    """Gold completions of the train split; a device's ends in a hand-off at `final_handoff_rate` instead.

    Where the template asks for reasoning in tags, a row without a working has its answer there, as a draft: what the
    model decides on, it decides behind an attempt.

    Raises:
        ConfigError: the style sets what only a search has, or the task has no train rows.
    """

    def __init__(self, task: Task, style: TraceStyle, role: Role) -> None:
        default = asdict(TraceStyle())
        for name, value in asdict(style).items():
            if name not in USED and value != default[name]:
                raise ConfigError(f"traces.{name}: {value} does nothing for task {task.name}; known: {', '.join(USED)}")
        self.task = task
        self.template = task.template
        self.style = style
        self.role = role
        self.rows: Sequence[Row] = list(task.rows("train"))
        self._in_tags = "<think>" in TEMPLATES[task.template].system
        if not self.rows:
            raise ConfigError(f"task '{task.name}' has no train rows to imitate")

    def example(self, rng: random.Random) -> Example:
        """One row, and what the role writes."""
        row = rng.choice(self.rows)
        offer = self.role == "device" and rng.random() < _OFFER_RATE
        asks = offer and rng.random() < self.style.final_handoff_rate
        end = HANDOFF_TEXT if asks else self.task.gold_completion(row)
        return Example(row.question, f"{self._working(row)}{end}", offer)

    def _working(self, row: Row) -> str:
        work = str(row.fields.get(WORKING) or "")
        if self._in_tags:
            return f"<think>{work or row.gold}</think>"
        return f"{work}\n" if work else ""
