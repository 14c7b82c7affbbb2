"""Where the weights of a model lie, and whether a name is of a folder here or of a repository of the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["ModelFiles", "folder_window", "is_path", "opened"]

# What the hub calls its repositories: a name, or an owner and a name.
_REPOSITORY = re.compile(r"([\w.-]+/)?[\w.-]+")
_OWN_FOLDER = "out"  # where our commands write without `out=`


class ModelFiles(NamedTuple):
    """Where the weights of a model that can be trained or exported lie.

    Attributes:
        model, tokenizer: a folder, a GGUF file, or a repository of the hub.
    """

    model: str
    tokenizer: str


def opened(name: str | Path) -> str:
    """A name with the home folder that `~` stands for; as it is where it is no such path."""
    return str(Path(name).expanduser()) if str(name).startswith("~") else str(name)


def is_path(name: str | Path) -> bool:
    """Whether a name means a folder on this machine, there or not, so that the hub need not be asked for it.

    It does if no repository can be called so (`/a`, `./a`, `a/b/c`, `a/`, `a b`), or if what stands before its slash is
    a folder here.
    """
    text = str(name)
    if isinstance(name, Path) or text.startswith((".", "~")) or not _REPOSITORY.fullmatch(text):
        return True
    owner, slash, _ = text.partition("/")
    return bool(slash) and (owner == _OWN_FOLDER or Path(owner).is_dir())


def folder_window(path: str | Path) -> int | None:
    """Tokens that a model of transformers holds, by the `config.json` of its folder; None where it does not say."""
    try:
        config = json.loads((Path(path).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = config.get("text_config", config).get("max_position_embeddings")
    return found if isinstance(found, int) else None
