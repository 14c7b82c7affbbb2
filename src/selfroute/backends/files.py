"""Where the weights of a model lie that is named and not a path."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ModelFiles"]


class ModelFiles(NamedTuple):
    """Where the weights of a model that can be trained or exported lie.

    Attributes:
        model, tokenizer: a folder, a GGUF file, or a repository of the hub.
        template: the prompt template it was trained with, None if that is not known.
    """

    model: str
    tokenizer: str
    template: str | None = None
