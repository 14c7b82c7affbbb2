"""A model as the agent: what it is shown, what its reply means, what a teacher would have replied."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.bandits import catalogue
from selfroute.bandits.base import Arm, Context
from selfroute.bandits.environments import NAMES, SETTINGS, Contextual, MultiArmed, generated_ratings
from selfroute.bandits.play import play
from selfroute.bandits.prompting import LanguageBandit, Scribe, demonstrations, examples, read_choice
from selfroute.errors import ConfigError

EASY = SETTINGS["bernoulli-5-easy"]


def told(shown: str) -> Scribe:
    scribe = Scribe("ABC", shown=shown)  # type: ignore[arg-type]
    for arm, reward in (("A", 1.0), ("A", 0.0), ("B", 1.0)):
        scribe.told(arm, reward)
    return scribe


def test_the_three_forms_of_history() -> None:
    def shown(form: str) -> list[str]:
        return told(form).messages()[-1].content.splitlines()[:-1]

    assert shown("raw") == ["A: 1.00", "A: 0.00", "B: 1.00"]
    assert shown("summary") == ["A: 2 times, mean 0.50", "B: 1 times, mean 1.00", "C: untried"]
    assert shown("guided") == [
        "A: 2 times, mean 0.50, value 0.50, bonus 0.52",  # sqrt(0.5 · log 3 / 2)
        "B: 1 times, mean 1.00, value 1.00, bonus 0.74",
        "C: untried",
    ]


def test_nothing_tried_is_said() -> None:
    assert "Nothing was tried yet." in Scribe("AB", shown="raw").messages()[-1].content
    assert "0 times" not in Scribe("AB").messages()[-1].content


def test_a_context_is_shown_and_guides() -> None:
    scribe = Scribe(["x", "y"], shown="guided", features=2)
    before = scribe.messages((1.0, 0.0))[-1].content
    assert "Context: [1.00, 0.00]" in before
    assert "x: untried, value 0.00, bonus 0.50" in before
    scribe.told("x", 2.0, (1.0, 0.0))
    assert "x: 1 times, mean 2.00, value 1.00, bonus 0.35" in scribe.messages((1.0, 0.0))[-1].content


@pytest.mark.parametrize(
    ("reply", "arm"),
    [
        ("B", "B"),
        (" **B**. ", "B"),
        ("b", "B"),
        ("I choose B!", "B"),
        ("option C, since C pays", "C"),
        ("B or C", None),
        ("the best one", None),
        ("", None),
        ("BC", None),
        ("it is b and c", None),
    ],
)
def test_a_reply_is_read(reply: str, arm: str | None) -> None:
    assert read_choice(reply, ["B", "C"]) == arm


def test_a_name_inside_another_is_not_taken_for_it() -> None:
    assert read_choice("take Wool Coat now", ["Wool", "Wool Coat"]) == "Wool Coat"
    assert read_choice("Wool", ["Wool", "Wool Coat"]) == "Wool"


@given(reply=st.text(), names=st.sampled_from(list(NAMES.values())))
def test_any_reply_gives_an_arm_or_none(reply: str, names: tuple[str, ...]) -> None:
    assert read_choice(reply, names) in {None, *names}
    assert all(read_choice(f"**{name}** it is.", names) == name for name in names)


def test_what_cannot_be_read_takes_the_best_mean_and_is_counted() -> None:
    scribe = told("summary")
    assert scribe.read("hm") == "B"
    assert scribe.read(None) == "B"
    assert scribe.read("A") == "A"
    assert scribe.unreadable == 2
    assert Scribe("AB").read("hm") == "A"


def test_a_model_plays_as_any_bandit_does() -> None:
    environment = MultiArmed(EASY, seed=0)
    asked: list[int] = []

    def ask(messages: object) -> str:
        asked.append(len(messages))  # type: ignore[arg-type]
        return "C"

    model = LanguageBandit(Scribe(environment.arms), ask)
    run = play(model, environment)
    assert set(run.chosen.tolist()) == {2}
    assert asked == [2] * 300
    choice = model.choose(Context(), [Arm(name) for name in environment.arms])
    assert (choice.propensity, choice.least) == (1.0, 0.0)
    again = LanguageBandit(Scribe(environment.arms), ask)
    again.restore(json.loads(json.dumps(model.state())))
    assert again.scribe.messages() == model.scribe.messages()
    with pytest.raises(ConfigError, match="all must be candidates"):
        model.choose(Context(), [Arm("A")])


def test_a_model_that_follows_the_guide_is_its_algorithm() -> None:
    """Whoever adds value and bonus and takes the largest has UCB's regret."""

    def ask(messages: list) -> str:  # type: ignore[type-arg]
        worth = {}
        for line in messages[-1].content.splitlines()[:-1]:
            arm, _, rest = line.partition(": ")
            numbers = [float(part.split()[-1]) for part in rest.split(", ")[2:]]
            worth[arm] = sum(numbers) if numbers else float("inf")
        return max(worth, key=lambda arm: worth[arm])

    def mean(made: list[float]) -> float:
        return sum(made) / len(made)

    model, ucb = [], []
    for seed in range(16):
        environment = MultiArmed(EASY, seed=seed)
        model.append(play(LanguageBandit(Scribe(environment.arms, shown="guided"), ask), environment).regret.sum())
        environment = MultiArmed(EASY, seed=seed)
        ucb.append(
            play(
                catalogue.ucb(catalogue.Learning(floor=0.0), arms=environment.arms, seed=seed), environment
            ).regret.sum()
        )
    assert mean(model) == pytest.approx(mean(ucb), rel=0.35)


def test_demonstrations_are_the_teachers_choices_and_what_was_known_then() -> None:
    environment = MultiArmed(EASY, seed=3)
    steps = list(
        demonstrations(catalogue.ucb(catalogue.Learning(floor=0.0), arms=environment.arms), environment, shown="guided")
    )
    assert len(steps) == 300
    assert {chosen for _, chosen in steps[:5]} == set("ABCDE")
    assert steps[0][0][-1].content.count("untried") == 5
    assert steps[5][0][-1].content.count("untried") == 0


def test_examples_are_turns_that_end_with_a_choice() -> None:
    environment = MultiArmed(EASY, seed=4)
    turns = examples(
        catalogue.ucb(catalogue.Learning(floor=0.0), arms=environment.arms), environment, shown="summary", count=5
    )
    assert [message.role for message in turns] == ["user", "assistant"] * 5
    assert all(turn.content in environment.arms for turn in turns[1::2])


def test_a_teacher_with_a_context() -> None:
    environment = Contextual(generated_ratings(60, 4), "abcd", seed=0, horizon=20)
    teacher = catalogue.linucb(catalogue.Learning(trials=0, floor=0.0), arms=environment.arms, features=4)
    steps = list(demonstrations(teacher, environment, shown="guided"))
    assert all("Context: [" in messages[-1].content for messages, _ in steps)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(ConfigError, match="context: 'all' is not one of raw, summary, guided"):
        Scribe("AB", shown="all")  # type: ignore[arg-type]
