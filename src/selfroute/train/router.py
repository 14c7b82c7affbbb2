"""Fit the prompt router: whether a question needs the cloud, judged by its words and numbers alone.

The baseline of arXiv 2509.24050 (section 2.1) fine-tunes a DeBERTa classifier on the prompt. Here it is TF-IDF with
logistic regression, to which numbers are told as numbers: short arithmetic prompts differ in nothing else. It fits
in seconds and is not given less to see than the paper's.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

from selfroute.errors import ConfigError

__all__ = ["PromptScorer", "fit_prompt_router", "number_features"]

_FORMAT = "selfroute prompt router 1"
_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # inverse of the L2 penalty
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?")
_VOCABULARY = 4000  # of words and of character n-grams each; keeps the saved file under a megabyte


def number_features(questions: Sequence[str]) -> np.ndarray:
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


class PromptScorer:
    """From a question to the probability that it should go to the cloud.

    Scores of many questions at once: `scores`. Kept as JSON, not as a pickle: a file somebody sends you cannot run
    code, can be read, and does not depend on how scikit-learn arranges its objects.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __call__(self, question: str) -> float:
        return float(self.scores([question])[0])

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        """Probabilities, shape (n,)."""
        if not questions:
            return np.zeros(0)
        return np.asarray(self._pipeline.predict_proba(list(questions))[:, 1])

    def threshold(self, questions: Sequence[str], share: float) -> float:
        """The score at or above which `share` of these questions lie, inf for none.

        Take questions like those to come. Those it was fitted on score a little more extremely than fresh ones.
        Questions with equal scores stay together, so that more may be sent.

        Raises:
            ConfigError: the share is outside [0, 1], or there is no question.
        """
        if not 0 <= share <= 1:
            raise ConfigError(f"share: {share} is not in [0, 1]; 0.3 sends 30 % of the questions to the cloud")
        if not questions:
            raise ConfigError("questions: none given; a threshold needs questions like those to come")
        sent = round(share * len(questions))
        return float(np.sort(self.scores(questions))[-sent]) if sent else math.inf

    def save(self, path: Path) -> None:
        """Write the fitted numbers as JSON."""
        path.write_text(json.dumps({"format": _FORMAT, **_state(self._pipeline)}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> PromptScorer:
        """Read what `save` wrote.

        Raises:
            ConfigError: the file cannot be read, or is not a saved router.
        """
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["format"] != _FORMAT:
                raise ValueError(f"format '{state['format']}'")
            return cls(_restore(state))
        except OSError as error:
            raise ConfigError(f"router: cannot read '{path}': {error.strerror}; fit one and save it there") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ConfigError(
                f"router: '{path}' is not a saved prompt router ({error}); fit and save it again"
            ) from error


def fit_prompt_router(
    questions: Sequence[str],
    device_correct: Sequence[bool | None],
    cloud_correct: Sequence[bool | None] | None = None,
    *,
    seed: int = 0,
) -> PromptScorer:
    """Learn which questions to send, from train rows.

    A question should be sent if the device fails on it and the cloud does not: a call for a question that both
    miss is wasted. The strength of the L2 penalty is chosen by cross-validation on these rows.

    Args:
        questions: without the prompt template.
        device_correct: whether the device alone solves each; rows with None are left out.
        cloud_correct: whether the cloud does; None altogether means always.
        seed: of the folds.

    Raises:
        ConfigError: lengths differ, or there are fewer than 2 questions of a kind, so that nothing can be learned.
    """
    cloud = [True] * len(questions) if cloud_correct is None else cloud_correct
    if not len(questions) == len(device_correct) == len(cloud):
        raise ConfigError(
            f"router: {len(questions)} questions, but {len(device_correct)} device and {len(cloud)} cloud verdicts; "
            "give one of each per question"
        )
    rows = [
        (question, served and not alone)
        for question, alone, served in zip(questions, device_correct, cloud, strict=True)
        if alone is not None and served is not None
    ]
    texts, labels = [question for question, _ in rows], np.array([label for _, label in rows], dtype=int)
    rarer = int(min(labels.sum(), len(labels) - labels.sum()))
    if rarer < 2:
        raise ConfigError(
            f"router: {labels.sum()} of {len(labels)} train questions should go to the cloud; it needs at least 2 that "
            "should and 2 that should not, so give more rows or another device"
        )
    return PromptScorer(_fit(texts, labels, folds=StratifiedKFold(min(5, rarer), shuffle=True, random_state=seed)))


def _fit(texts: Sequence[str], labels: np.ndarray, *, folds: StratifiedKFold) -> Pipeline:
    """Features once for all folds: they know nothing of the labels, and counting n-grams is what takes the time."""
    pipeline = _pipeline()
    features = pipeline["features"].fit_transform(texts)
    search = GridSearchCV(pipeline["classify"], {"C": _STRENGTHS}, scoring="neg_log_loss", cv=folds)
    with warnings.catch_warnings():
        # The weakest penalties may not converge on small data; cross-validation then picks a stronger one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(features, labels)
    return Pipeline([("features", pipeline["features"]), ("classify", search.best_estimator_)])


def _pipeline() -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", max_features=_VOCABULARY, sublinear_tf=True)
    chars = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=_VOCABULARY, sublinear_tf=True)
    numbers = Pipeline(
        [
            ("count", FunctionTransformer(number_features)),
            ("cross", PolynomialFeatures(2, include_bias=False)),
            ("scale", StandardScaler()),
        ]
    )
    features = FeatureUnion([("words", words), ("chars", chars), ("numbers", numbers)])
    return Pipeline([("features", features), ("classify", LogisticRegression(solver="liblinear"))])


def _parts(pipeline: Pipeline) -> tuple[dict[str, TfidfVectorizer], StandardScaler, LogisticRegression]:
    features = dict(pipeline["features"].transformer_list)
    texts = {name: features[name] for name in ("words", "chars")}
    return texts, features["numbers"]["scale"], pipeline["classify"]


def _state(pipeline: Pipeline) -> dict[str, Any]:
    texts, scale, classify = _parts(pipeline)
    state: dict[str, Any] = {
        name: {"terms": text.get_feature_names_out().tolist(), "idf": text.idf_.tolist()}
        for name, text in texts.items()
    }
    return state | {
        "mean": scale.mean_.tolist(),
        "scale": scale.scale_.tolist(),
        "weights": classify.coef_[0].tolist(),
        "bias": float(classify.intercept_[0]),
    }


def _restore(state: dict[str, Any]) -> Pipeline:
    """A fitted pipeline from its numbers: fit on anything, then put the numbers in."""
    pipeline = _pipeline()
    texts, scale, classify = _parts(pipeline)
    for name, text in texts.items():
        text.set_params(vocabulary={term: i for i, term in enumerate(state[name]["terms"])})
    pipeline.fit(["1 a", "2 b"], [0, 1])
    for name, text in texts.items():
        text.idf_ = np.array(state[name]["idf"], dtype=np.float64)
    scale.mean_, scale.scale_ = np.array(state["mean"]), np.array(state["scale"])
    classify.coef_, classify.intercept_ = np.array([state["weights"]]), np.array([state["bias"]])
    pipeline.predict_proba(["1 a"])  # sizes that do not fit together show here, not in service
    return pipeline
