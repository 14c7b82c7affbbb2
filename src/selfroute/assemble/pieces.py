"""What every command puts together from a recipe: templates, rows, models that remember their answers."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from selfroute.backends.base import Backend
from selfroute.backends.files import ModelFiles
from selfroute.config import BACKENDS, Spec, at, make_backend, prepare_backend
from selfroute.errors import ConfigError
from selfroute.prompts import PromptTemplate, find_template
from selfroute.tasks.base import Row, Task

if TYPE_CHECKING:
    from selfroute.backends.transformers import TransformersBackend
    from selfroute.evaluation.counting.costs import PriceTable

__all__ = [
    "check_new",
    "check_writable",
    "closing",
    "first_rows",
    "model_with_layers",
    "named_files",
    "price_table",
    "quiet_libraries",
    "remembered",
    "template_of",
]


def quiet_libraries() -> None:
    """Leave the terminal to our own progress: no bars for loading and saving weights, no notes between libraries."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`", category=UserWarning)


def check_writable(out: Path) -> None:
    """See, before any work, that a run's folder can be made and written to; nothing is left there.

    Raises:
        ConfigError: it cannot.
    """
    place = next(one for one in (out.absolute(), *out.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        raise ConfigError(f"out: cannot write to '{place}': {error.strerror}; choose another folder") from None


def check_new(out: Path) -> None:
    """See that a run which is made in one go finds no other one in its folder.

    Raises:
        ConfigError: it holds one.
    """
    if (out / "run.json").exists():
        raise ConfigError(f"'{out}' already holds a run; choose another out=")


def model_with_layers(model: Spec, *, where: str) -> TransformersBackend:
    """A model that is to be cut in two, loaded.

    Raises:
        ConfigError: there is none, or its layers are not at hand; names the key.
    """
    load = prepare_backend(model, where=where)
    quiet_libraries()
    from selfroute.backends.transformers import TransformersBackend

    backend = load()
    if not isinstance(backend, TransformersBackend):
        raise ConfigError(f"{where}: {backend.name} has no layers at hand; name one of transformers, or embedded")
    return backend


def template_of(task: Task) -> PromptTemplate:
    """The prompt template that a task names.

    Raises:
        ConfigError: there is no such template, or its file cannot be read.
    """
    return find_template(task.template, where=f"task '{task.name}'")


def first_rows(task: Task, split: str, limit: int | None) -> list[Row]:
    """The first `limit` rows of a split, or all of them.

    Raises:
        ConfigError: the split is empty.
    """
    rows = list(islice(task.rows(split), limit))
    if not rows:
        raise ConfigError(f"split '{split}' of task '{task.name}' is empty; choose another split or check the data")
    return rows


def named_files(model: str) -> ModelFiles | None:
    """The files of a model that is written as the tables have it, `smollm2` or `embedded:device`; None for other text.

    Raises:
        ConfigError: it is written so, and there is no such model.
    """
    name, _, value = model.partition(":")
    if name not in BACKENDS or (place := BACKENDS[name].files) is None:
        return None
    find: Callable[..., ModelFiles] = at(place)
    given = (value,) if value else ()
    return find(*given) if len(signature(find).parameters) == len(given) else None


def remembered(spec: Spec, cache: Path, *, where: str, requests_per_minute: float | None = None) -> Backend:
    """A model whose answers are kept in `cache` and never asked for twice.

    Args:
        requests_per_minute: most calls a minute, if the model is behind an endpoint.
    """
    from selfroute.backends.cache import AnswerCache, cached

    backend = make_backend(spec, where=where)
    if requests_per_minute is not None and BACKENDS[spec.name].remote:
        from selfroute.backends.rate_limited import RateLimited

        backend = RateLimited(backend, requests_per_minute=requests_per_minute)
    return cached(backend, AnswerCache(cache))


@asynccontextmanager
async def closing(*backends: Backend) -> AsyncIterator[None]:
    """Close the backends, whatever happens."""
    try:
        yield
    finally:
        for backend in backends:
            await backend.aclose()


def price_table(
    file: Path | None, priced_as: Mapping[str, str], *, device: Spec | str, cloud: Spec | str
) -> PriceTable | None:
    """The prices of a pair; None without a file.

    Args:
        priced_as: names of `device` and `cloud` in the file, if not those of the models.

    Raises:
        ConfigError: another key in `priced_as`, or a file that `load_prices` refuses.
    """
    from selfroute.evaluation.counting.costs import load_prices

    if wrong := [key for key in priced_as if key not in ("device", "cloud")]:
        raise ConfigError(f"priced_as: unknown key '{wrong[0]}'; known: device, cloud")
    names = {"device": _price_names(device, "device"), "cloud": _price_names(cloud, "cloud")}
    names |= {side: [name] for side, name in priced_as.items()}
    return None if file is None else load_prices(file, **names)


def _price_names(model: Spec | str, side: str) -> list[str]:
    """Under what a model may stand in a price table, best first."""
    if isinstance(model, str):
        return [model, side]
    own = model.options.get("name") or model.options.get("model") or f"{model.name}:{model.value or ''}".rstrip(":")
    return [str(own), side]
