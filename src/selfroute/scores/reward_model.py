"""A learned reward: a language model with one number for an output reads a question and an answer to it.

The number is a Bradley–Terry score: the difference of two answers to one question says how much likelier the first is
to be the better one, as log-odds. It has no zero of its own but the one that centring gives it in training, so
thresholds are calibrated (`selfroute calibrate`) and never assumed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.backends.sessions import fingerprint
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["REWARD_FILE", "RewardFolder", "RewardModel", "check_reward_folder", "vocabulary_of"]

REWARD_FILE = "reward.json"  # beside the weights: which tokenizer they read, and what they were trained on
_BATCH = 16
_FORMAT = 1
_PROBE = ("a question of two plus two", "<think>it is a sum</think><answer>four</answer>")


def scored_ids(tokenizer: Any, question: str, answer: str) -> list[int]:
    """What a reward model with this tokenizer reads of an answer."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@dataclass(frozen=True, slots=True)
class RewardModel:
    """Scores answers; the same texts through the same chat template in training, as a reward, and at run time.

    Args:
        model: a sequence classifier with one output, which reads the last token that is no padding.
        tokenizer: its own, with a chat template.
        facts: what its folder says of it, e.g. `ordered_by_environment`.

    Raises:
        ConfigError: the model has more than one output, or the template leaves out what was answered.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model.config.num_labels != 1:
            raise ConfigError(
                f"reward: the model has {self.model.config.num_labels} outputs, and a reward is one number; name a "
                "folder that algorithm: reward_model has trained"
            )
        _check_template(self.tokenizer)
        self.model.config.get_text_config().pad_token_id = _padding(self.tokenizer)

    @property
    def max_tokens(self) -> int:
        """The longest question and answer that it reads."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 2**31))

    def __call__(self, question: str, answer: str) -> float | None:
        """The score of one answer; None if the two are longer than the model reads."""
        return self.scores([(question, answer)])[0]

    def scores(self, rows: Sequence[tuple[str, str]], *, batch: int = _BATCH) -> list[float | None]:
        """Scores of questions and answers, in order; a row's does not depend on those beside it.

        Args:
            batch: rows in one pass.

        Returns:
            One number a row, higher for better; None for a row that is longer than the model reads: it is not known.
        """
        import torch

        encoded = [self.encode(question, answer) for question, answer in rows]
        found: list[float | None] = [None] * len(rows)
        self.model.train(False)
        with torch.inference_mode():
            for places in _alike(encoded, self.max_tokens, batch):
                for place, score in zip(places, self._pass([encoded[i] for i in places]), strict=True):
                    found[place] = score
        return found

    def encode(self, question: str, answer: str) -> list[int]:
        """What the model reads of an answer, in token ids."""
        return scored_ids(self.tokenizer, question, answer)

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and facts; `load` reads them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        facts = {"selfroute": _FORMAT, "vocabulary": vocabulary_of(self.tokenizer), **self.facts}
        (folder / REWARD_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> RewardModel:
        """Read what `save` wrote.

        Raises:
            ConfigError: it holds no reward model, or the tokenizer in it is not the one that it was trained with.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        facts = check_reward_folder(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=torch.float32)
        except Exception as error:
            what = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ConfigError(f"reward: '{folder}' cannot be loaded: {what}; train it anew") from error
        if vocabulary_of(tokenizer) != facts["vocabulary"]:
            raise ConfigError(
                f"reward: the tokenizer in '{folder}' is not the one that its model was trained with; put that one "
                "back, or train anew"
            )
        return cls(model.train(False), tokenizer, facts)

    def _pass(self, rows: Sequence[Sequence[int]]) -> list[float]:
        import torch

        longest, pad = max(map(len, rows)), _padding(self.tokenizer)
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=self.model.device)
        kept = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.model.device)
        scores: list[float] = self.model(input_ids=ids, attention_mask=kept).logits[:, 0].double().tolist()
        return scores


class RewardFolder:
    """A reward model that is loaded when it is first asked.

    Args:
        folder: what `RewardModel.save` wrote.

    Raises:
        ConfigError: it holds none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.facts = check_reward_folder(folder)
        self._folder = Path(folder).expanduser()
        self._lock = threading.Lock()
        self._loaded: RewardModel | None = None

    def __call__(self, rows: Sequence[tuple[str, str]]) -> list[float | None]:
        """As `RewardModel.scores`.

        Raises:
            ConfigError: as `RewardModel.load`, the first time.
        """
        with self._lock:
            self._loaded = self._loaded or RewardModel.load(self._folder)
            return self._loaded.scores(rows)


def check_reward_folder(folder: str | Path) -> dict[str, Any]:
    """What a folder says of the reward model in it, without loading that.

    Raises:
        ConfigError: there is no such folder, or it was not written by `RewardModel.save`.
    """
    file = Path(folder).expanduser() / REWARD_FILE
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts["selfroute"] == _FORMAT and isinstance(facts["vocabulary"], str):
            return dict(facts)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(
        f"reward: '{folder}' holds no reward model ({REWARD_FILE} is missing or of another version); name the "
        "checkpoint folder of a run with algorithm: reward_model"
    )


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """What tells a tokenizer from others: its tokens by id, and how it writes a conversation."""
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return fingerprint([*words, str(tokenizer.chat_template)])


def _alike(encoded: Sequence[Sequence[int]], most: int, batch: int) -> Iterator[list[int]]:
    """Places of rows that can be read, in batches of like length."""
    fits = [place for place, row in enumerate(encoded) if len(row) <= most]
    fits.sort(key=lambda place: len(encoded[place]))
    for start in range(0, len(fits), batch):
        yield fits[start : start + batch]


def _padding(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad)


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    question, answer = _PROBE
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False)) if tokenizer.chat_template else ""
    if question not in text or answer not in text:
        raise ConfigError(
            "reward: the tokenizer's chat template does not write the whole of a question and its answer, reasoning "
            "included; train a model whose template does"
        )
