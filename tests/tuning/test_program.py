"""Prompts as programs: templates from choices, pools from attempts, files that are read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import TEMPLATES, Demonstration, TrainedPrompt, read_tuned
from selfroute.tasks.base import Row
from selfroute.tuning.mining import check_pools, mined, outcome_of
from selfroute.tuning.objective import Attempt
from selfroute.tuning.program import OrderSlot, Program, SentenceSlot, ShotSlot, orders, probabilities_in, written

EASY, HARD = Demonstration("1 + 1?", "2"), Demonstration("17 * 23?", HANDOFF_TEXT)
PROGRAM = Program(
    base=replace(TEMPLATES["plain"], system="Help.", help="Or ask."),
    sentences=(SentenceSlot("manner", ("", "Be brief.")), SentenceSlot("offer", ("If lost, ask.", ""), offers=True)),
    shots=(ShotSlot("shot1", "solved", (EASY, None)), ShotSlot("shot2", "wrongly_kept", (HARD, None))),
)
EVEN = tuple(np.full(2, 0.5) for _ in range(4))


def test_choices_make_a_template() -> None:
    template = PROGRAM.template((1, 0, 0, 0))
    assert (template.system, template.help, template.demonstrations) == (
        "Help. Be brief.",
        "If lost, ask.",
        (EASY, HARD),
    )
    empty = PROGRAM.template((0, 1, 1, 1))
    assert (empty.system, empty.help, empty.demonstrations) == ("Help.", "", ())
    assert PROGRAM.template((0, 0)).demonstrations == (), "sentences alone show nothing"


def test_without_an_offer_to_choose_the_templates_own_stands() -> None:
    assert replace(PROGRAM, sentences=PROGRAM.sentences[:1]).template((1,)).help == "Or ask."


def test_the_longest_choices_take_the_most_room() -> None:
    assert PROGRAM.longest() == PROGRAM.template((1, 0, 0, 0))


@pytest.mark.parametrize(
    ("names", "choices", "message"),
    [(("a", "b"), (), r"slots\.a: \[\] has no choices"), (("a", "a"), ("x",), r"slots\.a: two slots have this name")],
)
def test_slots_that_cannot_be_are_refused(names: tuple[str, str], choices: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Program(base=PROGRAM.base, sentences=tuple(SentenceSlot(name, choices) for name in names))


def test_a_program_file_is_a_prompt_to_follow_and_to_tune_on_from(tmp_path: Path) -> None:
    file = tmp_path / "program.json"
    prompt = TrainedPrompt(template=PROGRAM.base, name="tuned", max_tokens=8, tuned_for="me", prompt_tokens=30)
    held = (np.array([0.1, 0.9]), *EVEN[1:])
    file.write_text(written(PROGRAM, (1, 0, 0, 1), held, prompt, {"task": "sums"}))
    read = read_tuned(f"tuned:{file}")
    assert read.template == PROGRAM.template((1, 0, 0, 1)) and (read.tuned_for, read.prompt_tokens) == ("me", 30)
    shown = json.loads(file.read_text())["program"]
    assert shown["task"] == "sums" and shown["version"]
    assert shown["slots"][0]["choices"][1] == {"probability": 0.9, "choice": "Be brief."}
    assert shown["slots"][2]["choices"][0]["choice"] == {"question": "1 + 1?", "reply": "2"}
    found = probabilities_in(file, PROGRAM, where="start")
    assert [p.tolist() for p in found] == [[0.1, 0.9], *[[0.5, 0.5]] * 3]


def test_the_order_of_demonstrations_is_a_choice_of_its_own(tmp_path: Path) -> None:
    order = OrderSlot("order", orders(["solved", "wrongly_kept"]))
    assert order.choices == (("shot1", "shot2"), ("shot2", "shot1"))
    program = replace(PROGRAM, sentences=(*PROGRAM.sentences, order))
    assert program.sizes == [2, 2, 2, 2, 2]
    assert program.template((0, 0, 0, 0, 0)).demonstrations == (EASY, HARD)
    assert program.template((0, 0, 1, 0, 0)).demonstrations == (HARD, EASY)
    assert program.template((0, 0, 1, 0, 1)).demonstrations == (EASY,)
    assert program.template((0, 0, 1)).demonstrations == ()
    file = tmp_path / "program.json"
    even = tuple(np.array([0.5, 0.5]) for _ in range(5))
    file.write_text(written(program, (0, 0, 1, 0, 0), even, TrainedPrompt(template=program.base), {}))
    slot = json.loads(file.read_text())["program"]["slots"][2]
    assert (slot["kind"], slot["choices"][1]["choice"]) == ("order", "shot2, shot1")
    assert len(probabilities_in(file, program, where="start")) == 5


def test_orders_that_show_the_same_outcomes_are_one() -> None:
    assert orders(["solved", "solved"]) == (("shot1", "shot2"),)
    assert len(orders(["solved", "handed_off", "solved"])) == 3


def test_a_program_of_other_slots_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "program.json"
    file.write_text(written(PROGRAM, (0, 0, 0, 0), EVEN, TrainedPrompt(template=PROGRAM.base), {}))
    other = replace(PROGRAM, sentences=(SentenceSlot("manner", ("", "Be long.")), PROGRAM.sentences[1]))
    with pytest.raises(ConfigError, match=r"^start: '.*program\.json' is a program of other slots: 'manner' differs"):
        probabilities_in(file, other, where="start")
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"^start: '.*program\.json' is no program"):
        probabilities_in(file, PROGRAM, where="start")


# --- mining --------------------------------------------------------------------------------------------------------


def attempt(number: int, text: str | None, **facts: float | bool | None) -> Attempt:
    return Attempt(Row(str(number), f"{number}?", "0"), text, Outcome(**{"wants_cloud": False} | facts))  # type: ignore[arg-type]


ATTEMPTS = [
    attempt(1, " one ", device_correct=True),
    attempt(2, "two", device_correct=False),
    attempt(3, "I need external assistance", wants_cloud=True, device_correct=False, cloud_correct=True),
    attempt(4, "I need external assistance", wants_cloud=True, device_correct=False, cloud_correct=False),
    attempt(5, "five", device_correct=None),
    attempt(6, None),
    attempt(7, "seven", device_correct=True),
    attempt(8, "eight", device_correct=0.5),
]


def test_attempts_show_an_outcome_or_nothing() -> None:
    found = [outcome_of(one.outcome) for one in ATTEMPTS]
    assert found == ["solved", "wrongly_kept", "handed_off", None, None, None, "solved", "wrongly_kept"]


def test_demonstrations_are_mined_from_attempts() -> None:
    found = mined(ATTEMPTS, handoff="Help!", most=1)
    assert found == {
        "solved": [Demonstration("1?", "one")],
        "handed_off": [Demonstration("3?", "I need external assistance")],
        "wrongly_kept": [Demonstration("2?", "Help!")],
    }


def test_an_empty_pool_is_named_with_the_next_step() -> None:
    with pytest.raises(
        ConfigError, match=r"^pools\.handed_off: the pool is empty; give demonstrations, mine more rows"
    ):
        check_pools({"solved": [EASY]}, ["solved", "handed_off"], where="pools")
