"""The recipes that come along, found by name: in an installed package, and in a clone."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

__all__ = ["recipe_file", "shipped_recipes"]

_SUFFIX = ".yaml"


def shipped_recipes() -> dict[str, Path]:
    """Name, such as `countdown/gapg`, -> file, in alphabetical order."""
    return dict(_found())


def recipe_file(given: Path | str) -> Path:
    """The file that is meant: itself, or where there is none, the recipe that comes along under that name.

    `countdown/gapg`, `countdown/gapg.yaml` and `recipes/countdown/gapg.yaml` name the same. A name that is unknown is
    given back as it is, for the reader to say so.
    """
    path = Path(given)
    if path.exists():
        return path
    return shipped_recipes().get(_name(path), path)


def _name(path: Path) -> str:
    parts = path.parts[1:] if path.parts[:1] == ("recipes",) else path.parts
    return "/".join(parts).removesuffix(_SUFFIX)


@lru_cache(maxsize=1)
def _found() -> tuple[tuple[str, Path], ...]:
    folder = _folder()
    files = sorted(folder.rglob(f"*{_SUFFIX}"))
    return tuple((file.relative_to(folder).with_suffix("").as_posix(), file) for file in files)


def _folder() -> Path:
    """The wheel has the folder inside the package, a clone beside `src`."""
    package = Path(__file__).resolve().parent
    return inside if (inside := package / "recipes").is_dir() else package.parents[1] / "recipes"
