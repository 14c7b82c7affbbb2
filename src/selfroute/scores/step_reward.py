"""A process reward model: how good a step is, by a token classifier that reads question and answer up to its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["StepReward"]


class StepReward:
    """Probability of class 1, "right", at the last token of a step (as TRL's PRM format has it; RSD, arXiv 2501.19324,
    accepts at 0.7 and above).

    The model reads the question, a line break, and the answer so far. It runs on the device's machine, one step at a
    time.

    Args:
        model: a token classifier with two classes.
        tokenizer: its own.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._turn = asyncio.Lock()

    @classmethod
    def load(cls, folder: Path) -> StepReward:
        """Load a folder that `save_pretrained` wrote.

        Raises:
            ConfigError: it holds no token classifier with two classes.
        """
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            model = AutoModelForTokenClassification.from_pretrained(str(folder), dtype=torch.float32)
        except Exception as error:
            what = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ConfigError(
                f"prm: '{folder}' cannot be loaded as a token classifier: {what}; give a folder saved by "
                "save_pretrained"
            ) from error
        if model.config.num_labels != 2:
            raise ConfigError(
                f"prm: '{folder}' has {model.config.num_labels} classes, and a step is wrong or right; give a model "
                "with 2"
            )
        return cls(model.train(False), tokenizer)

    async def __call__(self, question: str, answer: str) -> float:
        """The reward in [0, 1] of the last step of an answer."""
        async with self._turn:
            return await asyncio.to_thread(self._reward, f"{question}\n{answer}")

    def _reward(self, text: str) -> float:
        import torch

        ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = self._model(input_ids=ids.to(self._model.device)).logits[0, -1]
        return float(torch.softmax(logits.float(), -1)[1])
