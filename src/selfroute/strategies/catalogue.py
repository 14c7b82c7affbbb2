"""The scored strategies by name: which score, looked at what, under `PromptRouter` or `Cascade`.

A function per name, so that a recipe, `selfroute strategies` and a report speak of the same thing. Where a score has to
be fitted, `selfroute.train.fit.scorer` does it and passes it as `score`.
"""

from __future__ import annotations

from typing import Any

from selfroute.scores import evidence
from selfroute.strategies.cascade import Cascade
from selfroute.strategies.prompt_router import PromptRouter

__all__ = [
    "answer_blend",
    "answer_features",
    "embedding_knn",
    "embedding_logistic",
    "embedding_mlp",
    "encoder_router",
    "entropy",
    "frugal_cascade",
    "matrix_factorization",
    "mean_logprob",
    "min_logprob",
    "prompt_length",
    "quality_gap",
    "self_consistency",
    "self_verification",
    "tfidf_ridge",
]


def _router(options: dict[str, Any], **defaults: Any) -> PromptRouter:
    return PromptRouter(**(defaults | options))


def _cascade(options: dict[str, Any], **defaults: Any) -> Cascade:
    return Cascade(**(defaults | options))


def _length(question: str) -> float:
    return float(len(question.strip()))


# --- from the prompt ---------------------------------------------------------------------------------------------


def prompt_length(**options: Any) -> PromptRouter:
    """The longest questions go to the cloud; nothing is fitted."""

    return _router(options, score=_length, name="prompt_length")


def tfidf_ridge(**options: Any) -> PromptRouter:
    """Ridge regression of the quality gap on TF-IDF of the question's words and characters."""
    return _router(options, name="tfidf_ridge")


def embedding_knn(**options: Any) -> PromptRouter:
    """Mean quality gap of the nearest train questions by sentence embedding."""
    return _router(options, name="embedding_knn")


def embedding_logistic(**options: Any) -> PromptRouter:
    """Logistic regression on the question's sentence embedding."""
    return _router(options, name="embedding_logistic")


def embedding_mlp(**options: Any) -> PromptRouter:
    """A small neural network on the question's sentence embedding."""
    return _router(options, name="embedding_mlp")


def matrix_factorization(**options: Any) -> PromptRouter:
    """RouteLLM's matrix factorisation: models and questions in one space (arXiv 2406.18665)."""
    return _router(options, name="matrix_factorization")


def encoder_router(**options: Any) -> PromptRouter:
    """A fine-tuned encoder (DeBERTa-v3 by default) reads the question, as in arXiv 2509.24050."""
    return _router(options, name="encoder_router")


# --- after the answer --------------------------------------------------------------------------------------------


def answer_features(**options: Any) -> Cascade:
    """Boosted and randomised trees on counts of the device's answer: length, checked arithmetic, where its result
    comes from.
    """
    return _cascade(options, name="answer_features")


def quality_gap(**options: Any) -> Cascade:
    """Ridge regression of the quality gap on words and counts of question and answer (after arXiv 2404.14618)."""
    return _cascade(options, name="quality_gap")


def answer_blend(**options: Any) -> Cascade:
    """The mean of answer_features and quality_gap: two estimates of what a call is worth, which err differently."""
    return _cascade(options, name="answer_blend")


def frugal_cascade(**options: Any) -> Cascade:
    """A scorer of question and answer predicts whether the answer is right (after FrugalGPT, arXiv 2305.05176)."""
    return _cascade(options, name="frugal_cascade")


def mean_logprob(**options: Any) -> Cascade:
    """Answers whose tokens are unlikely on average go to the cloud."""
    return _cascade(options, score=evidence.mean_surprise, looks="tokens", name="mean_logprob")


def min_logprob(**options: Any) -> Cascade:
    """Answers with one very unlikely token go to the cloud."""
    return _cascade(options, score=evidence.most_surprise, looks="tokens", name="min_logprob")


def entropy(**options: Any) -> Cascade:
    """Answers written with much uncertainty per token go to the cloud."""
    return _cascade(options, score=evidence.mean_entropy, looks="tokens", name="entropy")


def self_consistency(**options: Any) -> Cascade:
    """The device answers several times; the less the further answers agree with the first, the sooner it is sent."""
    return _cascade(options, score=evidence.disagreement, looks="samples", name="self_consistency")


def self_verification(**options: Any) -> Cascade:
    """The device is asked whether its answer is right: P(True) of arXiv 2207.05221."""
    return _cascade(options, score=evidence.self_doubt, looks="verdict", name="self_verification")
