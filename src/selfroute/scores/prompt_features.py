"""What a question shows about itself without any model: its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["number_features"]

_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?")


def number_features(questions: Sequence[str]) -> npt.NDArray[np.float64]:
    """Counts and sizes of a question's numbers, shape (n, 11).

    In Countdown the last number is the target: how it compares with the others is what makes a problem hard.
    """
    return np.array([_numbers_of(question) for question in questions], dtype=np.float64).reshape(len(questions), 11)


def _numbers_of(question: str) -> list[float]:
    found = [float(number) for number in _NUMBER.findall(question[:10_000])] or [0.0]
    last, others = found[-1], found[:-1] or [0.0]
    return [
        float(len(found)),
        math.log1p(len(question)),
        math.log1p(last),
        math.log1p(max(others)),
        math.log1p(min(others)),
        math.log1p(sum(others)),
        last / (1 + max(others)),
        last / (1 + sum(others)),
        float(last > sum(others)),
        sum(number % 2 for number in others) / len(others),
        len(set(others)) / len(others),
    ]
