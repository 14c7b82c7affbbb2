"""Every kind of scorer learns, is kept and read back, and is never judged on rows it has seen."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from transformers import BertConfig, BertModel, BertTokenizerFast

from selfroute import config
from selfroute.errors import ConfigError
from selfroute.scores.evidence import Evidence
from selfroute.scores.scorers import Scorer
from selfroute.train.fit.scorer import FITTED, Examples, cross_fit, fit_scorer, folds_of


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sentence encoder with random weights, made here: it still tells words apart."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "add", "and", "apples", "number", "prove", "that", "the"]
    words += ["integral", "of", "converges", ",", *map(str, range(130))]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    return str(folder)


def examples(n: int = 120, *, seed: int = 0) -> Examples:
    """Proofs are too hard for the device, which answers them at length and with wrong sums."""
    rng = random.Random(seed)
    questions, answers, device = [], [], []
    for number in range(n):
        hard = rng.random() < 0.5
        a, b = rng.randint(2, 50), rng.randint(2, 50)
        questions.append(
            f"Prove that the integral of {a} converges" if hard else f"Add {a} and {b} apples, number {number}"
        )
        total = a + b + (3 if hard else 0)
        answers.append(f"{a} + {b} = {total}. " + "However, " * (5 if hard else 0) + f"The answer is {total}")
        device.append(not hard)
    return Examples.of(questions, device, [True] * n, answers)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    return float(np.mean(scores[positive][:, None] > scores[~positive][None, :]))


def test_the_names_are_those_of_the_recipes() -> None:
    fitted = {name for name, entry in config.STRATEGIES.items() if entry.fitted}
    assert fitted == set(FITTED) | {"encoder_router"}


@pytest.mark.parametrize("kind", FITTED)
def test_each_kind_learns_and_is_kept(kind: str, encoder: str, tmp_path: Path) -> None:
    train, fresh = examples(), examples(60, seed=1)
    scorer = fit_scorer(kind, train, embedding=encoder)
    assert scorer.reads_answers == (config.STRATEGIES[kind].reads == "answer")
    scores = scorer.scores(fresh.questions, fresh.answers)
    assert auc(scores, ~fresh.device) > 0.95
    scorer.save(tmp_path / "s.npz")
    loaded = Scorer.load(tmp_path / "s.npz")
    assert np.array_equal(loaded.scores(fresh.questions, fresh.answers), scores)
    assert loaded(Evidence(fresh.questions[0], fresh.answers[0])) == pytest.approx(scores[0], abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_trees_are_scikit_learns() -> None:
    from selfroute.train.fit.scorer import _table

    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(200, 5)), rng.normal(size=200)
    boosted = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(features, target)
    grown = [(tree[0].tree_, boosted.learning_rate) for tree in boosted.estimators_]
    assert _table(grown, bias=float(target.mean())).scores(features) == pytest.approx(boosted.predict(features))
    extra = ExtraTreesRegressor(10, random_state=0).fit(features, target)
    assert _table([(t.tree_, 0.1) for t in extra.estimators_], bias=0.0).scores(features) == pytest.approx(
        extra.predict(features)
    )


def test_an_out_of_fold_score_has_not_seen_its_row() -> None:
    """With labels that are noise, a score that knew its row would rank well."""
    rng = random.Random(3)
    n = 200
    words = [" ".join(rng.choice("abcdefgh") * 4 for _ in range(6)) for _ in range(n)]
    noise = Examples.of(words, [rng.random() < 0.5 for _ in range(n)], [True] * n)
    fit = partial(fit_scorer, "tfidf_ridge", seed=0)
    seen = fit(noise).scores(noise.questions)
    score, unseen = cross_fit(fit, noise, folds=5)
    assert auc(seen, ~noise.device) > 0.75
    assert 0.35 < auc(unseen, ~noise.device) < 0.65
    assert [score(question) for question in noise.questions] == pytest.approx(unseen.tolist())
    assert np.isfinite(score("a new question"))


def test_equal_questions_share_a_fold() -> None:
    questions = [f"question {i % 20}" + " " * (i // 20) for i in range(60)]
    fold = folds_of(questions, 5, seed=0)
    assert all(len({fold[i], fold[i + 20], fold[i + 40]}) == 1 for i in range(20))
    assert sorted(np.bincount(fold)) == [12] * 5
    assert len(set(folds_of(["", " ", "  "], 3, seed=0))) == 3  # not recorded, so not known to be equal


@pytest.mark.parametrize("folds", [1, 4])
def test_more_folds_than_questions(folds: int) -> None:
    with pytest.raises(ConfigError, match="of 3 different questions"):
        folds_of(["a", "b", "c", "c "], folds, seed=0)


@pytest.mark.parametrize("kind", ["tfidf_ridge", "answer_features", "frugal_cascade"])
def test_one_kind_of_label_is_refused(kind: str) -> None:
    alike = Examples.of([f"q {i}" for i in range(20)], [True] * 20, [True] * 20, ["a"] * 20)
    with pytest.raises(ConfigError, match="0 of 20 train questions"):
        fit_scorer(kind, alike)


def test_questions_that_were_not_recorded_teach_nothing() -> None:
    given = examples()
    blank = Examples(tuple(" " * i for i in range(len(given))), given.answers, given.device, given.cloud)
    _, scores = cross_fit(partial(fit_scorer, "tfidf_ridge", seed=0), blank, folds=4)
    assert np.ptp(scores) < 0.2
    _, scores = cross_fit(partial(fit_scorer, "answer_features", seed=0), blank, folds=4)
    assert auc(scores, ~blank.device) > 0.9


def test_an_embedding_model_that_is_no_folder() -> None:
    with pytest.raises(ConfigError, match="is no folder with a config"):
        fit_scorer("embedding_knn", examples(), embedding="nowhere")
