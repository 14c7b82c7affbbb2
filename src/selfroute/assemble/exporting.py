"""`selfroute export`: from the name of a model to files for other programs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from selfroute.assemble.pieces import named_files, quiet_libraries, template_of
from selfroute.config import algorithm_of, at, build, load_values, make_task
from selfroute.errors import ConfigError
from selfroute.prompts import TEMPLATES, PromptTemplate

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
        system: the system prompt it was trained with; empty if that is not known.
        max_tokens: the most tokens of an answer in its training.
    """

    name: str
    folder: Path
    tokenizer: Path
    system: str = ""
    max_tokens: int = ANSWER_TOKENS


def export_source(model: str) -> ExportSource:
    """Find a model: a training run's folder, a model folder, or `embedded:name`.

    Raises:
        ConfigError: there is no model.
    """
    named = named_files(model) if ":" in model else None
    if named is not None:
        system = "" if named.template is None else _system(TEMPLATES[named.template])
        return ExportSource(model.partition(":")[2], Path(named.model), Path(named.tokenizer), system)
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
    system, max_tokens = _training(run)
    return ExportSource((run or folder).resolve().name, folder, folder, system, max_tokens)


def _system(template: PromptTemplate, *, offer_handoff: bool = True) -> str:
    return template.device_messages([], offer_handoff=offer_handoff)[0].content


def _training(run: Path | None) -> tuple[str, int]:
    """System prompt and answer length of a training run, as far as its recipe tells."""
    recipe = run / "config.yaml" if run else None
    if recipe is None or not recipe.is_file():
        return "", ANSWER_TOKENS
    values = load_values(recipe)
    algorithm = algorithm_of(values)
    try:
        loaded = build(at(algorithm.options), values, where=str(recipe))
        template = template_of(make_task(loaded.task))
    except ConfigError:  # of another version, or its data are elsewhere: the model is whole all the same
        return "", ANSWER_TOKENS
    system = _system(template, offer_handoff=algorithm.offers_handoff)
    return system, getattr(loaded, "max_new_tokens", ANSWER_TOKENS)


def load_source(source: ExportSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with its weights in the stored type, or in float32 with an adapter merged into them, and its tokenizer.

    Raises:
        ConfigError: it cannot be loaded, or an adapter cannot be merged.
    """
    from selfroute.backends.transformers import load_model

    if (source.folder / ADAPTER).is_file():
        return _merged(source)
    return load_model(source.folder, tokenizer_path=source.tokenizer, dtype="auto", device="cpu")


def _merged(source: ExportSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from selfroute.backends.transformers import load_model

    if find_spec("peft") is None:
        raise ConfigError(f"'{source.folder}' is a LoRA adapter, which needs peft to be merged; run: pip install peft")
    from selfroute.train.pretrained import with_adapter

    settings = json.loads((source.folder / ADAPTER).read_text(encoding="utf-8"))
    base = str(settings.get("base_model_name_or_path") or "")
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
    return export(
        loaded,
        tokenizer,
        out,
        name=name or source.name,
        formats=formats,
        types=types,
        system=source.system if system is None else system,
        max_tokens=max_tokens or source.max_tokens,
        force=force,
        on_progress=on_progress,
    )
