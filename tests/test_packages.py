"""What an installation brings along, read from the metadata of what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MOST = 25


def brought_by(package: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """The packages that one asks for, each with the extras it asks them for."""
    for line in distribution(package).requires or ():
        wanted = Requirement(line)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield canonicalize_name(wanted.name), frozenset(wanted.extras)


def packages(*extras: str) -> set[str]:
    """Everything that `pip install selfroute[extras]` brings, itself not counted."""
    waiting, seen = [("selfroute", frozenset(extras))], set()
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting.extend(brought_by(*one))
    return {name for name, _ in seen} - {"selfroute"}


def test_the_gateway_brings_few_packages_and_no_torch() -> None:
    brought = packages("serve")
    assert len(brought) <= MOST, sorted(brought)
    assert {"aiohttp", "uvicorn", "typer"} <= brought
    assert not brought & {"torch", "transformers", "pydantic", "numpy"}


def test_the_count_sees_what_training_brings() -> None:
    assert {"torch", "transformers", "trl"} <= packages("train")
