"""MovieLens files of both layouts, as they are published, in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selfroute.bandits.movielens import read_movielens
from selfroute.errors import ConfigError

RATED = [("1", "10", "5"), ("1", "20", "3"), ("2", "10", "4"), ("2", "30", "1"), ("3", "10", "2"), ("3", "20", "1")]
TITLES = {"10": "Toy Story (1995)", "20": "Amélie (2001)", "30": "Heat (1995)"}


def one_million(folder: Path) -> Path:
    (folder / "ratings.dat").write_text("".join(f"{'::'.join(row)}::978300760\n" for row in RATED))
    films = "".join(f"{film}::{title}::Drama|Comedy\n" for film, title in TITLES.items())
    (folder / "movies.dat").write_bytes(films.encode("latin-1"))
    return folder


def one_hundred_thousand(folder: Path) -> Path:
    (folder / "u.data").write_text("".join("\t".join((*row, "881250949")) + "\n" for row in RATED))
    films = "".join(f"{film}|{title}|01-Jan-1995||http://example\n" for film, title in TITLES.items())
    (folder / "u.item").write_bytes(films.encode("latin-1"))
    return folder


@pytest.mark.parametrize("layout", [one_million, one_hundred_thousand])
def test_the_most_rated_films_are_read(layout: object, tmp_path: Path) -> None:
    table, titles = read_movielens(layout(tmp_path), 2)  # type: ignore[operator]
    assert titles == ["Toy Story (1995)", "Amélie (2001)"]
    assert sorted(map(tuple, table.tolist())) == [(2.0, 1.0), (4.0, 0.0), (5.0, 3.0)]


def test_users_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    folder = one_million(tmp_path)
    orders = {tuple(read_movielens(folder, 1, seed=seed)[0][:, 0]) for seed in range(12)}
    assert len(orders) > 1
    assert np.array_equal(read_movielens(folder, 1)[0], read_movielens(folder, 1)[0])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither ratings\.dat"):
        read_movielens(tmp_path, 2)
    one_million(tmp_path)
    with pytest.raises(ConfigError, match="ratings of 3 films, and 4 are asked for"):
        read_movielens(tmp_path, 4)
    (tmp_path / "ratings.dat").write_text("1::2\n")
    with pytest.raises(ConfigError, match=r"ratings\.dat:1: 2 columns"):
        read_movielens(tmp_path, 1)
