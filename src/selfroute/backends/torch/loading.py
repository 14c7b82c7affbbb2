"""A causal model and its tokenizer from a folder, a GGUF file or a hub repository.

Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from selfroute.backends.files import is_path, opened
from selfroute.backends.torch.chat import keep_system_turn
from selfroute.backends.torch.gguf import check_gguf, gguf_model, gguf_tokenizer, is_gguf
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_folder", "load_model", "one_line"]


def load_model(
    path_or_repo: str | Path,
    *,
    tokenizer_path: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, in eval mode, and tokenizer; arguments as in `TransformersBackend.load`.

    Raises:
        ConfigError: there is no such model, or it cannot be loaded.
    """
    path_or_repo = opened(path_or_repo)
    tokenizer_path = None if tokenizer_path is None else opened(tokenizer_path)
    check_folder(path_or_repo)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = accelerator or torch.device("cpu")
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
    if is_gguf(path_or_repo):
        unpacked = gguf_model(path_or_repo, dtype=torch.float32 if dtype == "auto" else _dtype(dtype))
        torch.nn.Module.to(unpacked, device)
        return unpacked.train(False), _ready(gguf_tokenizer(path_or_repo), path_or_repo)
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_path or path_or_repo)
        with _without_bar(path_or_repo):
            model = AutoModelForCausalLM.from_pretrained(path_or_repo, dtype=dtype)
        torch.nn.Module.to(model, device)
    except Exception as error:
        raise ConfigError(
            f"cannot load model '{path_or_repo}': {one_line(error)}; check the name and the connection, or give a "
            "folder saved by save_pretrained"
        ) from error
    return model.train(False), _ready(tokenizer, path_or_repo)


def _ready(tokenizer: PreTrainedTokenizerBase, path_or_repo: str | Path) -> PreTrainedTokenizerBase:
    keep_system_turn(tokenizer, where=str(path_or_repo))
    return tokenizer


def _dtype(name: str | torch.dtype) -> torch.dtype:
    import torch

    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype: '{name}' is no type of torch; give float32, bfloat16 or float16")
    return found


@contextmanager
def _without_bar(path_or_repo: str | Path) -> Iterator[None]:
    """No progress bar for a folder, which loads at once; a download keeps its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled() and Path(path_or_repo).is_dir()
    if shown:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def check_folder(path_or_repo: str | Path) -> None:
    """Refuse what is clearly a path but no model folder, before the hub is asked for it.

    Raises:
        ConfigError: it is one.
    """
    text, path = str(path_or_repo), Path(path_or_repo).expanduser()
    if is_gguf(text):
        check_gguf(path)
    elif path.exists():
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"'{text}' is not a model folder: it has no config.json; give a folder saved by save_pretrained"
            )
    elif is_path(path_or_repo):
        raise ConfigError(f"model folder '{text}' does not exist; check the path")


def one_line(error: Exception) -> str:
    """The first line of an error's text, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
