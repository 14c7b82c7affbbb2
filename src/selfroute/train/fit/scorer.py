"""Fit what decides: scores of a question, or of a question and the device's answer, learned from train rows.

Each kind is a choice of blocks and of a head (`selfroute.scores.scorers`). All choices of strength (penalty,
neighbours) are made by cross-validation within the rows given, never on others.

What is learned is either whether a question should be sent (the device fails and the cloud does not: a call for a
question that both miss is wasted), or the gap: cloud right minus device right, in -1, 0, 1, whose expectation is what a
call is worth.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier

from selfroute.errors import ConfigError
from selfroute.scores.answer_features import FEATURES, answer_features
from selfroute.scores.evidence import Evidence
from selfroute.scores.prompt_features import number_features
from selfroute.scores.scorers import (
    Blend,
    Block,
    Counts,
    Embedding,
    Factors,
    Layers,
    Linear,
    Neighbours,
    Numbers,
    Reads,
    Scorer,
    Terms,
    Trees,
    crossed,
    stacked,
)

__all__ = ["FITTED", "Examples", "Fitted", "OutOfFold", "cross_fit", "fit_prompt_router", "fit_scorer", "folds_of"]

Array = npt.NDArray[Any]

_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # inverse of the L2 penalty
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_NEIGHBOURS = (10, 20, 40, 80, 160, 320)
_VOCABULARY = 4000  # of words and of character n-grams each; keeps the saved file under a megabyte
_RIDGE_VOCABULARY = 50_000
_SEARCHED = 4000  # rows among which a penalty is searched; more would only take longer
_DECAYS = (1.0, 10.0, 100.0)
_RANK = 16


@dataclass(frozen=True, slots=True)
class Examples:
    """Train rows whose verdicts are known.

    Attributes:
        questions: without the prompt template. answers: the device's, or empty texts.
        device, cloud: whether each side is right, boolean, shape (n,).
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    device: Array
    cloud: Array

    @classmethod
    def of(
        cls,
        questions: Sequence[str],
        device_correct: Sequence[bool | None],
        cloud_correct: Sequence[bool | None] | None = None,
        answers: Sequence[str] | None = None,
    ) -> Examples:
        """Leave out the rows with an unknown verdict.

        Args:
            cloud_correct: None altogether means always right.

        Raises:
            ConfigError: lengths differ.
        """
        cloud = [True] * len(questions) if cloud_correct is None else cloud_correct
        if not len(questions) == len(device_correct) == len(cloud):
            raise ConfigError(
                f"router: {len(questions)} questions, but {len(device_correct)} device and {len(cloud)} cloud "
                "verdicts; give one of each per question"
            )
        texts = [""] * len(questions) if answers is None else answers
        known = [i for i in range(len(questions)) if device_correct[i] is not None and cloud[i] is not None]
        return cls(
            tuple(questions[i] for i in known),
            tuple(texts[i] for i in known),
            np.array([device_correct[i] for i in known], dtype=bool),
            np.array([cloud[i] for i in known], dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, chosen: Array) -> Examples:
        """The rows of these numbers, in their order."""
        return Examples(
            tuple(self.questions[i] for i in chosen),
            tuple(self.answers[i] for i in chosen),
            self.device[chosen],
            self.cloud[chosen],
        )

    @property
    def send(self) -> Array:
        return (self.cloud & ~self.device).astype(int)

    @property
    def gap(self) -> Array:
        return self.cloud.astype(float) - self.device

    def check(self) -> None:
        """Refuse rows that teach nothing.

        Raises:
            ConfigError: fewer than 2 rows of a kind.
        """
        sent = int(self.send.sum())
        if min(sent, len(self) - sent) < 2:
            raise ConfigError(
                f"router: {sent} of {len(self)} train questions should go to the cloud; it needs at least 2 that "
                "should and 2 that should not, so give more rows or another device, or leave it out"
            )


# --- blocks --------------------------------------------------------------------------------------------------------


def _terms(
    examples: Examples,
    *,
    analyzer: str = "word",
    ngrams: tuple[int, int] = (1, 2),
    most: int = _VOCABULARY,
    least: int = 1,
    reads: Reads = "question",
) -> Terms:
    """Without a term that is often enough, the block has no column that counts: one that no text holds."""
    from selfroute.scores.scorers import _read

    vectorizer = TfidfVectorizer(
        analyzer=analyzer,
        ngram_range=ngrams,
        token_pattern=r"\w+" if analyzer == "word" else None,
        max_features=most,
        min_df=least,
        sublinear_tf=True,
    )
    try:
        vectorizer.fit(_read(reads, examples.questions, examples.answers))
    except ValueError:  # empty vocabulary: the questions were not recorded, or no word occurs often enough
        return Terms(("\x00",), np.ones(1), analyzer, ngrams, reads)
    return Terms(tuple(vectorizer.get_feature_names_out().tolist()), vectorizer.idf_, analyzer, ngrams, reads)


def _standard(columns: Array) -> tuple[Array, Array]:
    scale = columns.std(0)
    return columns.mean(0), np.where(scale > 0, scale, 1.0)


def _matrix(blocks: Sequence[Block], examples: Examples) -> Any:
    return stacked([block.matrix(examples.questions, examples.answers) for block in blocks])


# --- heads ---------------------------------------------------------------------------------------------------------


def _logistic(features: Any, labels: Array, *, seed: int) -> Linear:
    """The penalty is chosen by the likelihood of held-out rows."""
    rarer = int(min(labels.sum(), len(labels) - labels.sum()))
    folds = StratifiedKFold(min(5, rarer), shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(solver="liblinear"), {"C": _STRENGTHS}, scoring="neg_log_loss", cv=folds)
    with warnings.catch_warnings():
        # The weakest penalties may not converge on small data; cross-validation then picks a stronger one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(features, labels)
    best = search.best_estimator_
    return Linear(best.coef_[0], float(best.intercept_[0]))


def _ridge(features: Any, target: Array, *, seed: int) -> Linear:
    """The penalty is chosen by the squared error of held-out rows, among a few thousand of them."""
    some = np.random.default_rng(seed).permutation(len(target))[:_SEARCHED]
    folds = KFold(min(4, len(some)), shuffle=True, random_state=seed)
    search = GridSearchCV(
        Ridge(solver="sparse_cg", tol=1e-3, max_iter=300),
        {"alpha": _PENALTIES},
        scoring="neg_mean_squared_error",
        cv=folds,
        refit=False,
    )
    search.fit(features[some], target[some])
    best = Ridge(solver="sparse_cg", tol=1e-3, max_iter=300, **search.best_params_).fit(features, target)
    return Linear(np.asarray(best.coef_), float(best.intercept_), squash=False)


def _neighbours(features: Array, target: Array, *, seed: int) -> Neighbours:
    """How many is chosen by the squared error of held-out rows."""
    errors = dict.fromkeys(_NEIGHBOURS, 0.0)
    for train, held in KFold(min(5, len(target)), shuffle=True, random_state=seed).split(features):
        for count in _NEIGHBOURS:
            guess = Neighbours(features[train], target[train], count).scores(features[held])
            errors[count] += float(((guess - target[held]) ** 2).sum())
    return Neighbours(features, target, min(errors, key=lambda count: errors[count]))


def _layers(features: Array, labels: Array, *, seed: int) -> Layers:
    """The penalty is chosen by the likelihood of held-out rows, among a few thousand of them."""
    scale = math.sqrt(features.shape[1])  # numbers of an embedding of length 1 are small for a network's first weights
    some = np.random.default_rng(seed).permutation(len(labels))[:_SEARCHED]
    rarer = int(min(labels[some].sum(), len(some) - labels[some].sum()))
    network = MLPClassifier((32,), solver="lbfgs", max_iter=100, random_state=seed)
    folds = StratifiedKFold(max(2, min(3, rarer)), shuffle=True, random_state=seed)
    search = GridSearchCV(network, {"alpha": _DECAYS}, scoring="neg_log_loss", cv=folds, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(features[some] * scale, labels[some])
        network.set_params(**search.best_params_).fit(features * scale, labels)
    return Layers((network.coefs_[0] * scale, *network.coefs_[1:]), tuple(network.intercepts_))


def _trees(features: Array, target: Array, *, seed: int) -> Trees:
    """The mean of boosted and of randomised trees, which err differently (arXiv 1106.0257 on why that helps)."""
    leaf = max(1, min(8, len(target) // 20))
    boosted = GradientBoostingRegressor(
        n_estimators=150, learning_rate=0.05, max_depth=3, subsample=0.6, min_samples_leaf=2 * leaf, max_features=0.5,
        random_state=seed,
    ).fit(features, target)  # fmt: skip
    extra = ExtraTreesRegressor(300, min_samples_leaf=leaf, max_features=0.3, random_state=seed).fit(features, target)
    grown = [(tree[0].tree_, boosted.learning_rate / 2) for tree in boosted.estimators_]
    grown += [(tree.tree_, 0.5 / len(extra.estimators_)) for tree in extra.estimators_]
    return _table(grown, bias=float(np.mean(target)) / 2)


def _table(trees: Sequence[tuple[Any, float]], *, bias: float) -> Trees:
    counts = [tree.node_count for tree, _ in trees]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shift = np.repeat(starts, counts)
    column = np.concatenate([tree.feature for tree, _ in trees])
    return Trees(
        roots=starts,
        column=np.where(column < 0, -1, column),
        cut=np.concatenate([tree.threshold for tree, _ in trees]),
        left=np.concatenate([tree.children_left for tree, _ in trees]) + shift,
        right=np.concatenate([tree.children_right for tree, _ in trees]) + shift,
        value=np.concatenate([tree.value[:, 0, 0] * weight for tree, weight in trees]),
        bias=bias,
    )


def _factors(features: Array, gap: Array, *, seed: int) -> Factors:
    """Bradley-Terry loss on who was right; where both or none were, each is preferred with one half."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(seed)
    width = features.shape[1]
    preferred = (gap + 1) / 2
    shapes = [(width, _RANK), (_RANK,), (_RANK,), (_RANK,), (_RANK,), ()]
    sizes = [math.prod(shape) for shape in shapes]
    start = np.concatenate([rng.normal(0, 0.3, sum(sizes[:-1])), [0.0]])

    def parts(flat: Array) -> list[Array]:
        pieces = np.split(flat, np.cumsum(sizes)[:-1])
        return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def loss(flat: Array) -> tuple[float, Array]:
        projection, bias, device, cloud, weights, offset = parts(flat)
        prompts = features @ projection + bias
        lead = cloud - device
        logits = prompts @ (lead * weights) + offset
        error = (0.5 * (1 + np.tanh(0.5 * logits)) - preferred) / len(gap)
        value = float(np.mean(np.logaddexp(0, logits) - preferred * logits))
        toward = error @ prompts
        gradients = [
            np.outer(features.T @ error, lead * weights),
            error.sum() * lead * weights,
            -toward * weights,
            toward * weights,
            toward * lead,
            error.sum().reshape(()),
        ]
        penalty = 1e-3
        value += 0.5 * penalty * float(flat[:-1] @ flat[:-1])
        gradient = np.concatenate([g.reshape(-1) for g in gradients])
        gradient[:-1] += penalty * flat[:-1]
        return value, gradient

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    projection, bias, device, cloud, weights, offset = parts(found.x)
    return Factors(projection, bias, device, cloud, weights, float(offset))


# --- kinds ---------------------------------------------------------------------------------------------------------


def _tfidf(examples: Examples, seed: int, embedding: str) -> Scorer:
    words = _terms(examples)
    chars = _terms(examples, analyzer="char_wb", ngrams=(2, 4))
    numbers = Numbers(*_standard(crossed(number_features(examples.questions))))
    blocks: tuple[Block, ...] = (words, chars, numbers)
    return Scorer(blocks, _logistic(_matrix(blocks, examples), examples.send, seed=seed), "prompt_router")


def _tfidf_ridge(examples: Examples, seed: int, embedding: str) -> Scorer:
    blocks: tuple[Block, ...] = (
        _terms(examples, most=_RIDGE_VOCABULARY, least=2 if len(examples) > 200 else 1),
        _terms(examples, analyzer="char_wb", ngrams=(2, 5), most=_RIDGE_VOCABULARY, least=2),
    )
    return Scorer(blocks, _ridge(_matrix(blocks, examples), examples.gap, seed=seed), "tfidf_ridge")


def _embedding(kind: str, head: Callable[..., Any], target: Literal["send", "gap"]) -> Fit:
    def fit(examples: Examples, seed: int, embedding: str) -> Scorer:
        blocks = (Embedding(embedding),)
        return Scorer(blocks, head(_matrix(blocks, examples), getattr(examples, target), seed=seed), kind)

    return fit


def _answer_features(examples: Examples, seed: int, embedding: str) -> Scorer:
    counts = Counts(*_standard(answer_features(examples.questions, examples.answers)))
    blocks = (counts,)
    return Scorer(blocks, _trees(_matrix(blocks, examples), examples.gap, seed=seed), "answer_features")


def _text_and_counts(examples: Examples) -> tuple[Block, ...]:
    return (
        _terms(examples, reads="both", most=_RIDGE_VOCABULARY, least=2),
        Counts(*_standard(answer_features(examples.questions, examples.answers))),
    )


def _quality_gap(examples: Examples, seed: int, embedding: str) -> Scorer:
    blocks = _text_and_counts(examples)
    return Scorer(blocks, _ridge(_matrix(blocks, examples), examples.gap, seed=seed), "quality_gap")


def _answer_blend(examples: Examples, seed: int, embedding: str) -> Scorer:
    blocks = _text_and_counts(examples)
    features = _matrix(blocks, examples)
    dense = len(FEATURES)
    linear = _ridge(features, examples.gap, seed=seed)
    trees = _trees(_matrix(blocks[-1:], examples), examples.gap, seed=seed)
    return Scorer(blocks, Blend(linear, trees, dense), "answer_blend")


def _frugal(examples: Examples, seed: int, embedding: str) -> Scorer:
    blocks = _text_and_counts(examples)
    wrong = (~examples.device).astype(int)
    if len(set(wrong)) < 2 or min(wrong.sum(), len(wrong) - wrong.sum()) < 2:
        raise ConfigError(
            f"router: the device is wrong on {wrong.sum()} of {len(wrong)} train questions; it needs at least 2 of "
            "each kind, so give more rows or another device, or leave it out"
        )
    return Scorer(blocks, _logistic(_matrix(blocks, examples), wrong, seed=seed), "frugal_cascade")


Fit = Callable[[Examples, int, str], Scorer]
FITTED: Mapping[str, Fit] = {
    "prompt_router": _tfidf,
    "tfidf_ridge": _tfidf_ridge,
    "embedding_knn": _embedding("embedding_knn", _neighbours, "gap"),
    "embedding_logistic": _embedding("embedding_logistic", _logistic, "send"),
    "embedding_mlp": _embedding("embedding_mlp", _layers, "send"),
    "matrix_factorization": _embedding("matrix_factorization", _factors, "gap"),
    "answer_features": _answer_features,
    "quality_gap": _quality_gap,
    "answer_blend": _answer_blend,
    "frugal_cascade": _frugal,
}
"""Name of a strategy that is fitted to how its scorer is."""


def fit_scorer(kind: str, examples: Examples, *, seed: int = 0, embedding: str = "minilm") -> Scorer:
    """Fit one kind of scorer on train rows.

    Args:
        embedding: the sentence encoder of the kinds that embed: "minilm", or the folder of another.

    Raises:
        ConfigError: too few rows of a kind, or a library or model that is not installed.
    """
    examples.check()
    return FITTED[kind](examples, seed, embedding)


def fit_prompt_router(
    questions: Sequence[str],
    device_correct: Sequence[bool | None],
    cloud_correct: Sequence[bool | None] | None = None,
    *,
    kind: str = "prompt_router",
    seed: int = 0,
) -> Scorer:
    """Learn which questions to send, from train rows.

    The baseline of arXiv 2509.24050 (section 2.1) fine-tunes a DeBERTa classifier on the prompt. The default here is
    TF-IDF with logistic regression, to which numbers are told as numbers: short arithmetic prompts differ in nothing
    else. It fits in seconds and is not given less to see than the paper's.

    Args:
        questions: without the prompt template.
        device_correct: whether the device alone solves each; rows with None are left out.
        cloud_correct: whether the cloud does; None altogether means always.
        kind: a key of `FITTED` that reads questions alone.
        seed: of the folds.

    Raises:
        ConfigError: lengths differ, or there are fewer than 2 questions of a kind, so that nothing can be learned.
    """
    return fit_scorer(kind, Examples.of(questions, device_correct, cloud_correct), seed=seed)


# --- cross-fitting -------------------------------------------------------------------------------------------------


class Fitted(Protocol):
    """What a fit returns: a `Scorer` or an `EncoderScorer`."""

    @property
    def reads_answers(self) -> bool: ...
    def __call__(self, asked: str | Evidence, /) -> float: ...
    def scores(self, questions: Sequence[str], answers: Sequence[str] | None = None, /) -> Array: ...


class OutOfFold:
    """A score for each row by a scorer that was fitted without it, and the mean of the scorers for any other.

    Equal questions share a fold: one must not teach how to judge the other.
    """

    def __init__(self, scorers: Sequence[Fitted], known: Mapping[tuple[str, str], float]) -> None:
        self.scorers = tuple(scorers)
        self._known = known
        self._reads_answers = any(scorer.reads_answers for scorer in scorers)

    def __call__(self, asked: str | Evidence) -> float:
        question, answer = (asked, "") if isinstance(asked, str) else (asked.question, asked.answer)
        score = self._known.get((question.strip(), answer.strip() if self._reads_answers else ""))
        return score if score is not None else float(np.mean([scorer(asked) for scorer in self.scorers]))


def cross_fit(
    fit: Callable[[Examples], Fitted], examples: Examples, *, folds: int, seed: int = 0
) -> tuple[OutOfFold, Array]:
    """Fit a scorer per fold on the other folds.

    Args:
        fit: e.g. `partial(fit_scorer, "tfidf_ridge", seed=0)`.
        seed: which rows share a fold.

    Returns:
        The score and its out-of-fold values for the examples, shape (n,).

    Raises:
        ConfigError: fewer different questions than folds, or a fold whose rows teach nothing.
    """
    fold = folds_of(examples.questions, folds, seed=seed)
    scores = np.zeros(len(examples))
    scorers: list[Fitted] = []
    for number in range(folds):
        held = np.flatnonzero(fold == number)
        scorer = fit(examples.take(np.flatnonzero(fold != number)))
        part = examples.take(held)
        scores[held] = scorer.scores(part.questions, part.answers)
        scorers.append(scorer)
    answers = examples.answers if any(s.reads_answers for s in scorers) else [""] * len(examples)
    keys = [(q.strip(), a.strip()) for q, a in zip(examples.questions, answers, strict=True)]
    return OutOfFold(scorers, dict(zip(keys, scores.tolist(), strict=True))), scores


def folds_of(questions: Sequence[str], folds: int, *, seed: int) -> Array:
    """The fold of each row, 0 to folds - 1; equal questions have the same, absent ones are told apart.

    Raises:
        ConfigError: fewer different questions than folds.
    """
    keys = [question.strip() or f"row {row}" for row, question in enumerate(questions)]
    different = list(dict.fromkeys(keys))
    if not 2 <= folds <= len(different):
        raise ConfigError(
            f"folds: {folds} of {len(different)} different questions; give from 2 to as many folds as questions"
        )
    random.Random(seed).shuffle(different)
    place = {key: index % folds for index, key in enumerate(different)}
    return np.array([place[key] for key in keys])
