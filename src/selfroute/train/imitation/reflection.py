"""What a device learns from an exam of its steps (AdaSwitch, arXiv 2410.13181, stage 3).

A tag behind each step, and the mended step behind a wrong one: L₃ = −Σ wⱼ log π(xⱼ | x_<j) with w = 0 on the prompt and
on wrong steps. Stage 1 is the same loss on gold answers, with w = 0 on the prompt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from selfroute.train.imitation.batches import IGNORED, Batch, Row, cut
from selfroute.train.imitation.exam import Examined, TagIds

__all__ = ["AnswerBatches", "Quality", "Reflection", "gold_row", "quality_of", "read_exam", "reflected"]


def gold_row(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    """An answer to imitate; the prompt is not learnt."""
    return [*prompt, *answer], [*[IGNORED] * len(prompt), *answer]


def reflected(
    prompt: Sequence[int], examined: Examined, tags: TagIds | None, *, clean: bool = False, mended: bool = True
) -> Row:
    """An examined answer to learn from: steps and tags; neither the prompt nor a wrong step is learnt.

    Args:
        tags: what stands behind steps; None writes none, and leaves wrong steps out.
        clean: leave wrong steps and their tags out.
        mended: learn the cloud's steps too; else only where it is wrong, and not what would be right.
    """
    ids, labels = [*prompt], [IGNORED] * len(prompt)
    for step in examined.steps:
        if not step.right and (tags is None or clean or step.source == "cloud"):
            continue
        tag = [] if tags is None else [tags.right if step.right else tags.wrong]
        ids += [*step.ids, *tag]
        learnt = step.right and (mended or step.source == "device")
        labels += [*(step.ids if learnt else [IGNORED] * len(step.ids)), *tag]
    return ids, labels


@dataclass(frozen=True, slots=True)
class Reflection:
    """Rows of examined answers, drawn anew for each pass over them.

    Args:
        prompts: of each answer.
        tags: None for the gold-only control: the same right steps, no tags, no wrong steps.
        clean_share: part of the answers from which wrong steps are left out.
        mended: as in `reflected`.
    """

    answers: Sequence[Examined]
    prompts: Sequence[Sequence[int]]
    tags: TagIds | None
    clean_share: float
    mended: bool = True

    def rows(self, rng: random.Random) -> list[Row]:
        """One pass, in random order."""
        order = rng.sample(range(len(self.answers)), len(self.answers))
        return [self._row(i, clean=rng.random() < self.clean_share) for i in order]

    def _row(self, i: int, *, clean: bool) -> Row:
        return reflected(self.prompts[i], self.answers[i], self.tags, clean=clean, mended=self.mended)


class AnswerBatches(IterableDataset[Batch]):
    """Endless batches of rows, of one pass after another; the same seed gives the same batches.

    Args:
        rows: of one pass.
        batch_tokens: padded tokens per batch.
    """

    def __init__(
        self, rows: Callable[[random.Random], Sequence[Row]], *, batch_tokens: int, pad_id: int, seed: int
    ) -> None:
        self.rows, self.batch_tokens, self.pad_id, self.seed = rows, batch_tokens, pad_id, seed

    def __iter__(self) -> Iterator[Batch]:
        rng = random.Random(f"answers/{self.seed}")
        while True:
            yield from cut(self.rows(rng), batch_tokens=self.batch_tokens, pad_id=self.pad_id, rng=rng)


# --- examined answers in a file -------------------------------------------------------------------------------------


def read_exam(file: Path) -> list[Examined]:
    """Examined answers of a file, in the order of their rows; a half-written line is left out."""
    found: dict[tuple[str, int], Examined] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            examined = Examined.of(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue
        found[examined.id, examined.sample] = examined
    return [found[key] for key in sorted(found)]


# --- how good the doubts are ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quality:
    """How well doubts tell wrong steps of a device.

    Attributes:
        steps: of the device that were judged.
        wrong: part of them.
        auroc: of each doubt, by its name (0.5 knows nothing); None where no step, or every one, is wrong.
    """

    steps: int
    wrong: float
    auroc: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        return {"judged": self.steps, "wrong": self.wrong, **{f"auroc_{name}": v for name, v in self.auroc.items()}}


def quality_of(answers: Sequence[Examined]) -> Quality:
    """What the doubts of examined answers are worth."""
    steps = [step for examined in answers for step in examined.steps if step.source == "device"]
    wrong = np.array([not step.right for step in steps])
    names = sorted({name for step in steps for name in step.doubts})
    found = {name: _auroc([step.doubts[name] for step in steps], wrong) for name in names}
    return Quality(len(steps), float(wrong.mean()) if steps else 0.0, found)


def _auroc(values: Sequence[float], wrong: Any) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, values)) if 0 < wrong.sum() < len(wrong) else None
