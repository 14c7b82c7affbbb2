"""A run on disk: written whole, read back, refused where it is another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfroute.errors import BudgetExceeded, ConfigError
from selfroute.tuning.run import Rounds, Saved, tune_alone
from selfroute.tuning.tuners.search import RandomSearch


async def test_a_tuner_is_asked_and_told_until_the_budget_ends(tmp_path: Path) -> None:
    calls = 0

    async def measure(choices: object, round: int) -> list[float]:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise BudgetExceeded("calls", spent=5, cap=5)
        return [1.0, 2.0]

    tuner, rounds = RandomSearch([3, 2]), Rounds()
    saved = Saved(tmp_path / "state.json", {"seed": 0}, {"tuner": tuner, "rounds": rounds})

    def on_round() -> bool:
        saved.write()
        return False

    assert await tune_alone(tuner, measure, rounds=rounds, draws=2, on_round=on_round) == "budget"
    assert rounds.count == 5 and len(tuner.told) == 10

    again, counted = RandomSearch([3, 2]), Rounds()
    assert Saved(tmp_path / "state.json", {"seed": 0}, {"tuner": again, "rounds": counted}).read()
    assert counted.count == 5 and again.told == tuner.told
    with pytest.raises(ConfigError, match="holds a run with another seed; give the recipe as it was"):
        Saved(tmp_path / "state.json", {"seed": 1}).read()


def test_without_a_file_nothing_is_read_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    saved = Saved(tmp_path / "state.json", {})
    assert not saved.read()
    saved.file.write_text("{")
    with pytest.raises(ConfigError, match=r"^resume: '.*state\.json' cannot be read"):
        saved.read()
