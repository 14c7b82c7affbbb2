from __future__ import annotations

import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.scores.prompt_features import number_features
from selfroute.scores.scorers import Scorer
from selfroute.train.fit.scorer import fit_prompt_router

LONG = 4  # with this many numbers the device fails


def question(rng: random.Random) -> tuple[str, bool]:
    """A problem in Countdown's words, and whether the device solves it: short ones with small targets."""
    numbers = [rng.randint(1, 20) for _ in range(rng.choice([3, LONG]))]
    target = rng.randint(1, 100)
    text = f"Using the numbers {numbers}, create an equation that equals {target}."
    return text, len(numbers) < LONG and target < 60


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, bool]]:
    rng = random.Random(0)
    return [question(rng) for _ in range(400)]


@pytest.fixture(scope="module")
def scorer(rows: list[tuple[str, bool]]) -> Scorer:
    questions, solved = zip(*rows[:200], strict=True)
    return fit_prompt_router(questions, solved, seed=0)


def auc(scores: Any, sent: list[bool]) -> float:
    high = [s for s, label in zip(scores, sent, strict=True) if label]
    low = [s for s, label in zip(scores, sent, strict=True) if not label]
    return float(np.mean([a > b for a in high for b in low]))


def test_it_learns_from_numbers_and_words(scorer: Scorer, rows: list[tuple[str, bool]]) -> None:
    fresh = rows[200:]
    scores = scorer.scores([text for text, _ in fresh])
    assert auc(scores, [not solved for _, solved in fresh]) > 0.95
    assert ((scores >= 0) & (scores <= 1)).all()


def test_it_learns_from_words_alone() -> None:
    easy, hard = "What is the sum of the list?", "Prove that the integral converges."
    scorer = fit_prompt_router([easy, hard] * 20, [True, False] * 20, seed=0)
    assert scorer("Prove that the series converges.") > 0.5 > scorer("What is the sum of the numbers?")


def test_questions_that_the_cloud_misses_too_are_not_worth_a_call() -> None:
    questions = ["add two numbers", "integrate a function", "prove the Riemann hypothesis"] * 20
    device, cloud = [True, False, False] * 20, [True, True, False] * 20
    aware = fit_prompt_router(questions, device, cloud, seed=0)
    assert aware(questions[1]) > 0.5 > max(aware(questions[0]), aware(questions[2]))
    assert fit_prompt_router(questions, device, seed=0)(questions[2]) > 0.5


def test_unknown_verdicts_are_left_out() -> None:
    questions, device = ["add", "integrate"] * 10, [True, False] * 10
    noise = ["add"] * 50
    known = fit_prompt_router(questions, device, [True] * 20, seed=0)
    mixed = fit_prompt_router(questions + noise, device + [None] * 50, [True] * 20 + [None] * 50, seed=0)
    assert mixed("add") == known("add")


def test_the_same_seed_gives_the_same_scorer(scorer: Scorer, rows: list[tuple[str, bool]]) -> None:
    questions, solved = zip(*rows[:200], strict=True)
    again = fit_prompt_router(questions, solved, seed=0)
    assert (again.scores(questions) == scorer.scores(questions)).all()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 1.0])
def test_the_threshold_sends_the_wanted_share(scorer: Scorer, rows: list[tuple[str, bool]], share: float) -> None:
    questions = list(dict.fromkeys(text for text, _ in rows))
    scores = scorer.scores(questions)
    sent = scores >= scorer.threshold(questions, share)
    assert sent.sum() == pytest.approx(share * len(questions), abs=1)


def test_save_and_load(scorer: Scorer, rows: list[tuple[str, bool]], tmp_path: Path) -> None:
    scorer.save(tmp_path / "router.npz")
    loaded = Scorer.load(tmp_path / "router.npz")
    questions = [text for text, _ in rows] + ["", "no numbers at all", "é 9"]
    assert (loaded.scores(questions) == scorer.scores(questions)).all()
    assert loaded(questions[0]) == scorer(questions[0])


def rewritten(path: Path, **changed: Any) -> None:
    """The file with other arrays in it."""
    with np.load(path, allow_pickle=False) as arrays:
        kept = dict(arrays)
    np.savez(path, **(kept | changed))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_text("[]"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps(print)),
        lambda path: rewritten(path, header=np.frombuffer(b'{"format": "another"}', dtype=np.uint8)),
        lambda path: rewritten(path, header=np.frombuffer(b"[]", dtype=np.uint8)),
        lambda path: rewritten(path, **{"head.weights": np.ones(1)}),
        lambda path: rewritten(path, **{"block0.idf": np.ones(1)}),
        lambda path: rewritten(path, **{"head.weights": np.array([print])}),
    ],
)
def test_a_file_that_is_no_router(scorer: Scorer, tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "router.npz"
    scorer.save(path)
    damage(path)
    with pytest.raises(ConfigError, match=r"saved scorer|no finite score"):
        Scorer.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Scorer.load(tmp_path / "none.npz")


@pytest.mark.parametrize(("device", "shown"), [([True] * 10, "0 of 10"), ([False] * 10, "10 of 10")])
def test_nothing_to_learn(device: list[bool], shown: str) -> None:
    with pytest.raises(ConfigError, match=shown):
        fit_prompt_router([f"question {i}" for i in range(10)], device, seed=0)


def test_lengths_that_differ() -> None:
    with pytest.raises(ConfigError, match="3 questions, but 2 device and 3 cloud"):
        fit_prompt_router(["a", "b", "c"], [True, False], seed=0)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none(scorer: Scorer, share: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        scorer.threshold(["a"], share)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.text(max_size=60)))
def test_features_are_finite_for_any_text(questions: list[str]) -> None:
    features = number_features(questions)
    assert features.shape == (len(questions), 11)
    assert np.isfinite(features).all()


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(max_size=60))
def test_any_question_has_a_score(scorer: Scorer, text: str) -> None:
    assert 0 <= scorer(text) <= 1


def test_no_share_is_an_infinite_threshold(scorer: Scorer) -> None:
    assert scorer.threshold(["a", "b"], 0.0) == math.inf
