"""Recipes to running things: what is done before a training starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfroute.assemble.training import ROWS_AHEAD, ask_ahead
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable
from selfroute.tasks.countdown import Countdown
from selfroute.types import Message, Sampling


def test_a_cloud_asked_ahead_is_asked_once_for_every_row_and_again_where_it_failed(tmp_path: Path) -> None:
    task = Countdown(limit=ROWS_AHEAD + 10)
    asked: list[str] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(messages[-1].content)
        if len(asked) == 3:
            raise BackendUnavailable("no route", backend="cloud")
        return "an answer"

    def ahead() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        cloud = cached(FunctionBackend("cloud", answer), AnswerCache(tmp_path / "answers.sqlite"))
        ask_ahead(cloud, task, max_tokens=8, concurrency=4, on_progress=lambda *now: seen.append(now))
        return seen

    assert ahead() == [(ROWS_AHEAD, ROWS_AHEAD + 10), (ROWS_AHEAD + 10, ROWS_AHEAD + 10)]
    assert len(asked) == len(set(asked)) == ROWS_AHEAD + 10
    ahead()
    assert len(asked) == ROWS_AHEAD + 11 and asked[-1] == asked[2]
