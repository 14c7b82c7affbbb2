"""Plain values, from YAML and `key=value` arguments, to typed ones, with errors that name key, value and next step."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from selfroute.bounds import Bounds, Choice, suggest
from selfroute.config.variables import Filled, fill
from selfroute.errors import ConfigError
from selfroute.shipped import recipe_file, shipped_recipes

__all__ = [
    "Spec",
    "build",
    "check_keys",
    "convert",
    "load_recipe",
    "load_values",
    "parse_overrides",
    "parse_spec",
    "suggest",
    "to_values",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spec:
    """A named thing with options, as written in YAML: `name`, `name:value` or `{name: value or options}`.

    Attributes:
        name: of an entry in `selfroute.config.tables`.
        value: the one value of the short forms, e.g. a path; None if there is none.
        options: keyword options of the long form.
    """

    name: str
    value: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


# --- Files and arguments to plain values -----------------------------------------------------------------------------


def load_recipe(recipe: type[T], path: Path | str, overrides: Sequence[str] = ()) -> T:
    """Read a recipe file, put `key=value` arguments over it, and check the whole.

    Args:
        recipe: one of the recipe dataclasses.
        overrides: e.g. `["seed=7", "reward.cloud=0.25"]`; values are YAML.

    Raises:
        ConfigError: the file is missing or is no mapping; a key is unknown; a value has the wrong type or range.
    """
    return build(recipe, load_values(path, overrides), where=str(path))


def load_values(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe as plain values, not yet checked, with its variables filled in.

    Raises:
        ConfigError: the file cannot be read, an override is none, or a variable is not set.
    """
    values = _overridden(overrides, _read(Path(path)))
    try:
        return _filled(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: fill(value, key) for key, value in values.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(recipe_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = suggest(str(path).removesuffix(".yaml").removeprefix("recipes/"), shipped_recipes())
        known = "`selfroute recipes` lists those that come along"
        raise ConfigError(f"recipe '{path}' does not exist{near}; {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe '{path}' cannot be read: {_one_line(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe '{path}' is not valid YAML: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe '{path}' must be a mapping of keys to values, not {_kind(values)}")
    return values


def parse_overrides(overrides: Iterable[str], *, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Put `key=value` and `key.nested=value` arguments over a mapping, and fill in variables.

    Raises:
        ConfigError: no `=`, a value that is no YAML, a nested key below a plain value, or a variable that is not set.
    """
    return _filled(_overridden(overrides, over or {}))


def _overridden(overrides: Iterable[str], over: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = dict(over)
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{text}' is not key=value; write e.g. seed=7")
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text}: the value is not valid YAML: {_one_line(error)}") from None
        _put(values, key.split("."), value, text)
    return values


def _put(values: dict[str, Any], path: Sequence[str], value: Any, text: str) -> None:
    key, *rest = path
    if not rest:
        values[key] = value
        return
    inner = values.get(key, {})
    if inner == rest[0]:  # `task: countdown` with task.countdown.seed=1
        inner = {rest[0]: {}}
    if inner is None:
        inner = {}
    if not isinstance(inner, Mapping):
        whole = "{" + ": {".join(rest) + f": {text.partition('=')[2]}" + "}" * len(rest)
        raise ConfigError(f"{text}: '{key}' is {inner!r} and has no keys of its own; write '{key}={whole}'")
    values[key] = dict(inner)
    _put(values[key], rest, value, text)


# --- Plain values to typed ones --------------------------------------------------------------------------------------


def build(recipe: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Check plain values against a dataclass and make one.

    Args:
        where: what the messages name first: a file, or a key of one.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a value outside its range.
    """
    fields = {f.name: f for f in dataclasses.fields(recipe)}  # type: ignore[arg-type]
    hints = get_type_hints(recipe, include_extras=True)
    check_keys(values, fields, where)
    missing = [
        n for n, f in fields.items() if f.default is MISSING and f.default_factory is MISSING and n not in values
    ]
    if missing:
        raise ConfigError(f"{where}: key '{missing[0]}' is missing; add {missing[0]}: …")
    return recipe(**{key: convert(value, hints[key], f"{where}: {key}") for key, value in values.items()})


def convert(value: Any, hint: Any, name: str) -> Any:
    """A YAML value as the type a field or argument asks for.

    Raises:
        ConfigError: names `name`, the value and what was expected.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        converted = convert(value, arguments[0], name)
        for extra in arguments[1:]:
            if isinstance(extra, Bounds | Choice):
                extra.check(name, converted)
        return converted
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, name)
    if origin is Literal:
        if value not in arguments:
            raise _unlisted(value, arguments, name)
        return value
    if origin is not None and inspect.isclass(origin):
        return _convert_container(value, origin, arguments, name)
    if dataclasses.is_dataclass(hint) and hint is not Spec:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}: {value!r} must be a mapping, e.g. {{{_first_field(hint)}: …}}")
        return build(hint, value, where=name)  # type: ignore[arg-type]
    if isinstance(value, Filled) and hint in (bool, int, float):
        value = _scalar(value)
    reader = _SCALARS.get(hint)
    return reader(value, name) if reader else value


def _scalar(text: str) -> Any:
    """Text of a variable as the number or truth value that it writes; itself if it writes none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _convert_union(value: Any, arguments: Sequence[Any], name: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    rest = [a for a in arguments if a is not type(None)]
    if len(rest) == 1:
        return convert(value, rest[0], name)
    for argument in rest:
        try:
            return convert(value, argument, name)
        except ConfigError:
            continue
    raise _wrong(value, " or ".join(getattr(a, "__name__", str(a)) for a in rest), name)


def _convert_container(value: Any, origin: type, arguments: Sequence[Any], name: str) -> Any:
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(value, "a mapping of names to values", name)
        return {str(key): convert(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    if issubclass(origin, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _wrong(value, "a list, e.g. [a, b]", name)
        return tuple(convert(item, arguments[0], f"{name}[{index}]") for index, item in enumerate(value))
    return value


def _read_bool(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, "true or false", name)
    return value


def _read_int(value: Any, name: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, "a whole number", name)
    return value


def _read_float(value: Any, name: str) -> float:
    if isinstance(value, str):  # YAML reads 3e-4 as text
        try:
            value = float(value)
        except ValueError:
            raise _wrong(value, "a number", name) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(value, "a number", name)
    if value != value:
        raise _wrong(value, "a number", name)
    return float(value)


def _read_str(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "text", name)
    return value


def _read_path(value: Any, name: str) -> Path:
    if not isinstance(value, str) or not value:
        raise _wrong(value, "a path", name)
    return Path(value).expanduser()


def parse_spec(value: Any, name: str) -> Spec:
    """`countdown`, `embedded:device`, `{transformers: path}` or `{openai: {model: …}}` as a `Spec`."""
    if isinstance(value, str) and value:
        head, colon, tail = value.partition(":")
        return Spec(head, tail if colon else None)
    if isinstance(value, Mapping) and len(value) == 1:
        ((head, inner),) = value.items()
        if inner is None or isinstance(inner, str):
            return Spec(str(head), inner)
        if isinstance(inner, Mapping):
            return Spec(str(head), None, {str(k): v for k, v in inner.items()})
    raise _wrong(value, "a name, name:value, or {name: {option: value}}", name)


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
    Path: _read_path,
    Spec: parse_spec,
}


def to_values(value: Any) -> Any:
    """A recipe as plain values for `config.yaml`; `build` reads it back to an equal recipe."""
    if isinstance(value, Spec):
        return {value.name: to_values(value.options) if value.options else value.value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_values(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_values(item) for item in value]
    return str(value) if isinstance(value, Path | str) else value


# --- Messages --------------------------------------------------------------------------------------------------------


def check_keys(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{suggest(key, known) or '; known: ' + ', '.join(known)}")


def _first_field(cls: Any) -> str:
    return dataclasses.fields(cls)[0].name


def _wrong(value: Any, expected: str, name: str) -> ConfigError:
    return ConfigError(f"{name}: {value!r} is not {expected}")


def _unlisted(value: Any, known: Sequence[Any], name: str) -> ConfigError:
    return ConfigError(f"{name}: '{value}' is not one of {', '.join(map(str, known))}{suggest(value, known)}")


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
