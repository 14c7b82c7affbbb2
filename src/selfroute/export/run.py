"""One export: a model folder in, a folder of whole files out."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from selfroute.backends.carried import MODELFILE_MARK
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.export import gguf_file, tensors
from selfroute.export.modelfile import ROLES, Chat, infer_chat, modelfile
from selfroute.export.tensors import Array
from selfroute.export.vocabulary import overlapping
from selfroute.prompts import TrainedPrompt, write_prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["FORMATS", "Exported", "Written", "check_options", "export"]

FORMATS = ("hf", "gguf")
HF_FOLDER, MODELFILE = "hf", "Modelfile"
STAGING = ".export-"  # what a killed export leaves

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Written:
    """One thing that was written: its path, what it is for, and its bytes."""

    path: Path
    what: str
    size: int


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what a reader of it has to know."""

    files: list[Written]
    notes: list[str]


def check_options(out: Path, formats: Sequence[str], types: Sequence[str], *, force: bool) -> None:
    """Refuse what cannot be, before a model is loaded.

    Raises:
        ConfigError: an unknown format or type, a folder that holds something, or a package that is missing.
    """
    for given, known, option in ((formats, FORMATS, "--format"), (types, tensors.TYPES, "--type")):
        for value in given:
            if value not in known:
                raise ConfigError(f"{option}: no '{value}'; known: {', '.join(known)}")
    if "gguf" in formats and find_spec("gguf") is None:
        raise ConfigError(
            "GGUF files need the package gguf, which is not installed; run: pip install 'selfroute[export]'"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: '{out}' is a file; name a folder")
    if not force and out.is_dir() and any(not file.name.startswith(STAGING) for file in out.iterdir()):
        raise ConfigError(
            f"--out: '{out}' already holds files; add --force to replace those of an export, or name another"
        )


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    name: str,
    formats: Sequence[str] = FORMATS,
    types: Sequence[str] = tensors.TYPES,
    system: str = "",
    max_tokens: int = 512,
    prompt: TrainedPrompt | None = None,
    force: bool = False,
    on_progress: Progress = lambda done, total, what: None,
) -> Exported:
    """Write a model as `OUT/hf/`, `OUT/NAME-f16.gguf`, `OUT/NAME-q8_0.gguf` and `OUT/Modelfile`.

    Everything is written under another name first and renamed when all of it is whole.

    Args:
        formats: of `FORMATS`; "gguf" brings the Modelfile.
        types: of `selfroute.export.tensors.TYPES`, for GGUF.
        system: of the Modelfile, the system prompt of conversations without one.
        max_tokens: of the Modelfile, the most tokens of an answer.
        prompt: that of the training, which goes into every format; None if it is not known.
        force: replace what an export has written to `out` before.
        on_progress: called with the tensors done, those of all files, and the file under way.

    Raises:
        ConfigError: as `check_options`, or if llama.cpp cannot have the model or its tokenizer.
        SelfRouteError: the disk is full, or the folder may not be written to.
    """
    check_options(out, formats, types, force=force)
    if '"""' in system:
        raise ConfigError("--system: three quotation marks in a row cannot stand in a Modelfile; leave them out")
    kinds = [kind for kind in tensors.TYPES if kind in types] if "gguf" in formats else []
    with _staging(out) as staging:
        pieces = _stage(model, tokenizer, staging, name, kinds, on_progress, keep="hf" in formats, prompt=prompt)
        if kinds:
            files = [f"{name}-{kind}.gguf" for kind in kinds]
            text = _modelfile(model, tokenizer, files, system, max_tokens, prompt)
            (staging / MODELFILE).write_text(text, encoding="utf-8")
            pieces.append((MODELFILE, "Ollama"))
        notes = _notes(staging / HF_FOLDER) if kinds else []
        return Exported([_move(staging, out, piece, what) for piece, what in pieces], notes)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder inside `out`, so on the same disk, that is gone afterwards; so is `out` if it is new and empty."""
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=out))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if is_new and not any(out.iterdir()):
                out.rmdir()
    except OSError as error:
        raise SelfRouteError(f"cannot write to '{out}': {error.strerror or error}") from error


def _stage(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    staging: Path,
    name: str,
    kinds: Sequence[str],
    on_progress: Progress,
    *,
    keep: bool,
    prompt: TrainedPrompt | None,
) -> list[tuple[str, str]]:
    """Write weights to a folder: what was written, and what it is. The tokenizer is written in any case."""
    folder = staging / HF_FOLDER
    tokenizer.save_pretrained(folder)
    if prompt is not None:
        write_prompt(folder, prompt)
    prepared = _prepare(model, tokenizer, name, folder, prompt) if kinds else None
    if prepared is not None:
        gguf_file.check(prepared)
    total = (len(model.state_dict()) if keep else 0) + len(kinds) * len(prepared.shapes if prepared else ())
    pieces, done = [], 0
    if keep:
        on_progress(0, total, HF_FOLDER)
        model.save_pretrained(folder)
        pieces, done = [(HF_FOLDER, "transformers")], len(model.state_dict())
    for kind in kinds:
        file = f"{name}-{kind}.gguf"
        assert prepared is not None

        def on_tensor(file: str = file) -> None:
            nonlocal done
            done += 1
            on_progress(min(done, total), total, file)

        gguf_file.write_gguf(prepared, staging / file, kind, on_tensor)
        pieces.append((file, "llama.cpp"))
    on_progress(total, total, "")
    return pieces


def _prepare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    folder: Path,
    prompt: TrainedPrompt | None,
) -> gguf_file.GGUFModel:
    config = model.config.to_dict()
    tensors.architecture(config)  # before anything is read that only the supported ones have
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError("its tokenizer has no tokenizer.json, which GGUF is made from; save it as a fast tokenizer")
    state = model.state_dict()
    return gguf_file.GGUFModel(
        name=name,
        config=config,
        shapes={source: tuple(weight.shape) for source, weight in state.items()},
        read=lambda source: _numbers(state[source]),
        frequencies=_numbers(model.get_submodule("model.rotary_emb").get_buffer("inv_freq")),
        folder=folder,
        add_bos=bool(_bos(tokenizer)),
        ends=_ends(model, tokenizer),
        prompt="" if prompt is None else prompt.text(),
    )


def _numbers(weight: torch.Tensor) -> Array:
    numbers: Array = weight.detach().float().cpu().numpy()
    return numbers


def _render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]], answer: bool) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer))


def _bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning-of-sequence token if both the tokenizer and the chat template put it first, else nothing.

    The policy is trained on what the chat template writes, and llama.cpp must not add to that.
    """
    ids = tokenizer("x")["input_ids"]
    if not tokenizer.bos_token or not ids or ids[0] != tokenizer.bos_token_id:
        return ""
    if tokenizer.chat_template and not _render(tokenizer, [("user", "x")], True).startswith(tokenizer.bos_token):
        return ""
    return str(tokenizer.bos_token)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends an answer, the tokenizer's own first."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    return tuple(dict.fromkeys(i for i in listed if isinstance(i, int)))


def _modelfile(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[str],
    system: str,
    max_tokens: int,
    prompt: TrainedPrompt | None,
) -> str:
    chat: Chat | None = Chat(dict.fromkeys(ROLES, ("", "")), "")
    if tokenizer.chat_template:
        chat = infer_chat(lambda turns, answer: _render(tokenizer, turns, answer), bos=_bos(tokenizer))
    # Ollama puts the question into its words itself, so a gateway in front of it must not.
    wrap = prompt.around if prompt is not None and prompt.wrap and chat is not None else ("", "")
    told = None if prompt is None else replace(prompt, wrap=prompt.wrap and not any(wrap))
    return modelfile(
        files[0],
        chat,
        others=files[1:],
        system=system,
        shown=[] if prompt is None else [(turn.role, turn.content) for turn in prompt.shown],
        stop=[str(tokenizer.convert_ids_to_tokens(i)) for i in _ends(model, tokenizer)],
        context_tokens=int(model.config.max_position_embeddings),
        max_tokens=max_tokens,
        wrap=wrap,
        notes=[] if told is None else [f"{MODELFILE_MARK}{told.text()}"],
    )


def _notes(folder: Path) -> list[str]:
    pair = overlapping(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    if pair is None:
        return []
    return [
        f"where the end of {pair[0]!r} begins {pair[1]!r}, llama.cpp takes the longest of the two tokens and "
        "transformers the first; elsewhere they agree"
    ]


def _move(staging: Path, out: Path, piece: str, what: str) -> Written:
    """Put one finished piece in its place; an old one leaves first, since a folder cannot be replaced in one step."""
    made, place = staging / piece, out / piece
    files = [made] if made.is_file() else [file for file in made.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    if place.is_dir():
        place.replace(staging / f"{piece}.old")
    made.replace(place)
    return Written(place, what, size)
