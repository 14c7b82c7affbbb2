"""Pairs of a device's answers to one question, of which the task's verifier says which is right."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice, product

from selfroute.backends.base import Backend, complete_all, run_sync
from selfroute.errors import ConfigError
from selfroute.grading import judge
from selfroute.prompts import find_template
from selfroute.strategies.sides import muzzled
from selfroute.tasks.base import Row, Task
from selfroute.train.fit.pairs import Pair, Pairs, clean
from selfroute.types import Completion, Sampling

__all__ = ["answer_pairs", "judged_answers"]


def answer_pairs(
    task: Task,
    device: Backend,
    *,
    rows: int = 500,
    held_out_rows: int = 200,
    samples: int = 8,
    temperature: float = 0.8,
    max_tokens: int = 256,
    most_per_row: int = 4,
    seed: int = 0,
    concurrency: int = 64,
) -> Pairs:
    """Right and wrong answers to train rows to learn from, to validation rows to be judged by.

    A question that is always or never answered rightly gives no pair.

    Args:
        samples: answers to each row.
        temperature: of these.
        most_per_row: most pairs of one row.
        concurrency: requests in flight.

    Raises:
        ConfigError: a split has no row that is answered both ways.
    """
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    made: dict[str, list[Pair]] = {}
    dropped: dict[str, int] = {}
    for split, count in (("train", rows), ("validation", held_out_rows)):
        some = list(islice(task.rows(split), count))
        answers = judged_answers(task, device, some, sampling, samples=samples, concurrency=concurrency)
        found = [pair for row in some for pair in _of_row(row, answers[row.id], most_per_row, seed)]
        made[split], flaws = clean(found)
        dropped = {flaw: dropped.get(flaw, 0) + flaws.get(flaw, 0) for flaw in {*dropped, *flaws}}
    if not all(made.values()):
        raise ConfigError(
            f"pairs: '{device.name}' answers no row both rightly and wrongly; raise rows, samples or temperature"
        )
    return Pairs(tuple(made["train"]), tuple(made["validation"]), ordered_by_environment=True, dropped=dropped)


def judged_answers(
    task: Task, device: Backend, rows: Sequence[Row], sampling: Sampling, *, samples: int, concurrency: int = 64
) -> Mapping[str, list[tuple[str, bool]]]:
    """What the device answers to each row and whether it is right, by the row's id; without those that failed.

    It is asked as a strategy asks it that does not offer the hand-off.
    """
    template = find_template(task.template)
    prompts = [template.device_messages(template.conversation(row.question), offer_handoff=False) for row in rows]
    found: dict[str, list[tuple[str, bool]]] = {row.id: [] for row in rows}
    for number in range(samples):
        drawn = replace(muzzled(sampling)[0], seed=(sampling.seed or 0) * samples + number)
        answers = run_sync(complete_all(device, prompts, drawn, concurrency=concurrency))
        for row, answer in zip(rows, answers, strict=True):
            right = judge(task, row, answer.text)[0] if isinstance(answer, Completion) else None
            if right is not None and isinstance(answer, Completion):
                found[row.id].append((answer.text, right == 1))
    return found


def _of_row(row: Row, answers: Sequence[tuple[str, bool]], most: int, seed: int) -> list[Pair]:
    right = list(dict.fromkeys(text for text, fits in answers if fits))
    wrong = list(dict.fromkeys(text for text, fits in answers if not fits))
    both = list(product(right, wrong))
    random.Random(f"{seed}/{row.id}").shuffle(both)
    return [Pair(row.question, good, bad) for good, bad in both[:most]]
