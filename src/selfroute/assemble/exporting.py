"""`selfroute export`: from the name of a model to files for other programs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from selfroute.assemble.pieces import named_files, quiet_libraries
from selfroute.assemble.prompting import prompt_of_run
from selfroute.errors import ConfigError
from selfroute.prompts import PROMPT_FILE, TrainedPrompt, read_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from selfroute.export.run import Exported

__all__ = ["ExportSource", "export_model", "export_source", "load_source"]

ADAPTER = "adapter_config.json"
ANSWER_TOKENS = 512


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A model to export.

    Attributes:
        name: of the files that are written.
        folder: holds the weights, or an adapter.
        tokenizer: folder of the tokenizer.
        prompt: that of its training; None if it is not known.
    """

    name: str
    folder: Path
    tokenizer: Path
    prompt: TrainedPrompt | None = None

    @property
    def system(self) -> str:
        """The system prompt it was trained with; empty if that is not known."""
        return "" if self.prompt is None else self.prompt.system

    @property
    def max_tokens(self) -> int:
        """The most tokens of an answer in its training."""
        return ANSWER_TOKENS if self.prompt is None else self.prompt.max_tokens or ANSWER_TOKENS


def export_source(model: str) -> ExportSource:
    """Find a model: a training run's folder, a model folder, or `embedded:name`.

    Raises:
        ConfigError: there is no model.
    """
    named = named_files(model) if ":" in model else None
    if named is not None:
        folder = Path(named.model)
        return ExportSource(model.partition(":")[2], folder, Path(named.tokenizer), read_prompt(folder))
    path = Path(model).expanduser()
    if not path.is_dir():
        raise ConfigError(
            f"'{model}' is not a model folder: there is none; name a run, a checkpoint or embedded:device"
        )
    run = path if (path / "checkpoint").is_dir() else path.parent if path.name == "checkpoint" else None
    folder = path / "checkpoint" if run == path else path
    if not any((folder / file).is_file() for file in ("config.json", ADAPTER)):
        raise ConfigError(
            f"'{model}' is not a model folder: it has neither checkpoint/ nor config.json; name a run of selfroute "
            "train, or a folder saved by save_pretrained"
        )
    prompt = read_prompt(folder) or (None if run is None else prompt_of_run(run))
    return ExportSource((run or folder).resolve().name, folder, folder, prompt)


def _about_prompt(source: ExportSource, system: str | None, max_tokens: int | None) -> list[str]:
    """What was read of the training, and which options stand against it."""
    if source.prompt is None:
        return [f"no {PROMPT_FILE} with the weights: how the model was trained is not known and not exported"]
    said = [f"its prompt goes along: {source.prompt.described()}"]
    if system is not None and system != source.system:
        said.append("WARNING: --system contradicts the training; the Modelfile has it, the other files have their own")
    if max_tokens is not None and max_tokens != source.prompt.max_tokens:
        said.append(
            f"WARNING: --max-tokens: {max_tokens} contradicts the training, which had {source.prompt.max_tokens}; only "
            "the Modelfile has it"
        )
    return said


def load_source(source: ExportSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with its weights in the stored type, or in float32 with an adapter merged into them, and its tokenizer.

    Raises:
        ConfigError: it cannot be loaded, or an adapter cannot be merged.
    """
    from selfroute.backends.torch.loading import load_model

    if (source.folder / ADAPTER).is_file():
        return _merged(source)
    return load_model(source.folder, tokenizer_path=source.tokenizer, dtype="auto", device="cpu")


def _merged(source: ExportSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from selfroute.backends.torch.loading import load_model

    if find_spec("peft") is None:
        raise ConfigError(f"'{source.folder}' is a LoRA adapter, which needs peft to be merged; run: pip install peft")
    from selfroute.train.pretrained import with_adapter

    settings = json.loads((source.folder / ADAPTER).read_text(encoding="utf-8"))
    base = str(settings.get("base_model_name_or_path") or "")
    if not base:
        raise ConfigError(
            f"'{source.folder}' names no base model; export the run's checkpoint, which holds the whole model"
        )
    own = (source.tokenizer / "tokenizer_config.json").is_file()
    # In float32: what an adapter adds may be less than a step of the base's own type.
    model, tokenizer = load_model(
        Path(base) if Path(base).is_dir() else base, tokenizer_path=source.tokenizer if own else None, dtype="float32",
        device="cpu",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's notes on its own layers
        merged = with_adapter(model, source.folder)
    return merged.train(False), tokenizer


def export_model(
    model: str,
    out: Path,
    *,
    formats: Sequence[str],
    types: Sequence[str],
    name: str | None = None,
    system: str | None = None,
    max_tokens: int | None = None,
    force: bool = False,
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Exported:
    """Find, load and write a model.

    Args:
        name, system, max_tokens: in place of the model's own; the rest is as in `selfroute.export.run.export`.

    Raises:
        ConfigError: options, model or folder are not what they have to be.
    """
    from selfroute.export.run import check_options, export

    check_options(out, formats, types, force=force)
    source = export_source(model)
    if name is not None and (not name or Path(name).name != name):
        raise ConfigError(f"--name: '{name}' is no file name; leave out folders")
    quiet_libraries()
    loaded, tokenizer = load_source(source)
    made = export(
        loaded,
        tokenizer,
        out,
        name=name or source.name,
        formats=formats,
        types=types,
        system=source.system if system is None else system,
        max_tokens=max_tokens or source.max_tokens,
        prompt=source.prompt,
        force=force,
        on_progress=on_progress,
    )
    return replace(made, notes=[*_about_prompt(source, system, max_tokens), *made.notes])
