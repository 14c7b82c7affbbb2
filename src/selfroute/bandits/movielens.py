"""MovieLens from a local copy: the ratings of the most rated films as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError

__all__ = ["read_movielens"]

# File of ratings, what separates its columns, file of films, and what separates theirs: MovieLens 1M and 100K.
_LAYOUTS = (("ratings.dat", "::", "movies.dat", "::"), ("u.data", "\t", "u.item", "|"))


def read_movielens(folder: Path, films: int, *, seed: int = 0) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Ratings and titles of the most rated films; 0 where a user did not rate, as the paper's code has it.

    Users are shuffled by the seed, so that the first ones are a sample.

    Args:
        folder: with `ratings.dat` and `movies.dat` of MovieLens 1M, or `u.data` and `u.item` of 100K.

    Returns:
        The table, shape (users, films), and the titles.

    Raises:
        ConfigError: the files are not there, a line is broken, or there are fewer films than asked for.
    """
    layout = next((one for one in _LAYOUTS if all((folder / name).is_file() for name in one[::2])), None)
    if layout is None:
        raise ConfigError(f"'{folder}' holds neither ratings.dat and movies.dat nor u.data and u.item of MovieLens")
    ratings_name, ratings_sep, films_name, films_sep = layout
    rated = [(row[0], row[1], row[2]) for row in _rows(folder / ratings_name, ratings_sep, 3)]
    most = [film for film, _ in Counter(film for _, film, _ in rated).most_common(films)]
    if len(most) < films:
        raise ConfigError(f"'{folder}' has ratings of {len(most)} films, and {films} are asked for")
    titles = {row[0]: row[1] for row in _rows(folder / films_name, films_sep, 2)}
    users = sorted({user for user, _, _ in rated})
    np.random.default_rng(seed).shuffle(users)
    row_of, column_of = ({key: place for place, key in enumerate(keys)} for keys in (users, most))
    table = np.zeros((len(users), films))
    for user, film, stars in rated:
        if film in column_of:
            table[row_of[user], column_of[film]] = float(stars)
    return table, [titles.get(film, f"film {film}") for film in most]


def _rows(path: Path, separator: str, columns: int) -> Iterator[list[str]]:
    for number, line in enumerate(path.read_text(encoding="latin-1").split("\n"), 1):
        row = line.split(separator)
        if line and len(row) < columns:
            raise ConfigError(f"{path}:{number}: {len(row)} columns, and a line has {columns} at least")
        if line:
            yield row
