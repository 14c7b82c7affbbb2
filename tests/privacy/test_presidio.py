"""Presidio behind the door, with a pipeline made here and sockets blocked."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from selfroute.errors import ConfigError
from selfroute.privacy.base import Span, find
from selfroute.privacy.patterns import Patterns
from selfroute.privacy.presidio import Presidio
from selfroute.privacy.redaction import Redactor
from selfroute.types import Message, Sampling

installed = pytest.mark.skipif(find_spec("presidio_analyzer") is None, reason="needs the extra privacy-presidio")
TEXT = "Please tell Clara Novak in Ghent that 4111 1111 1111 1111 was charged; write to a@b.org"


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    """A blank English pipeline that knows one name and one town."""
    import spacy

    made = spacy.blank("en")
    made.add_pipe("entity_ruler").add_patterns(  # type: ignore[attr-defined]
        [{"label": "PERSON", "pattern": "Clara Novak"}, {"label": "GPE", "pattern": "Ghent"}]
    )
    made.to_disk(tmp_path / "pipeline")
    return str(tmp_path / "pipeline")


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach another host, which fails."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        tried.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@installed
@pytest.mark.filterwarnings("ignore")
def test_it_finds_names_and_places_and_looks_nothing_up(pipeline: str, blocked: list[Any]) -> None:
    detector = Presidio.load(pipeline)
    found = {(TEXT[span.start : span.end], span.kind) for span in detector.spans(TEXT)}
    assert {("Clara Novak", "name"), ("Ghent", "address"), ("4111 1111 1111 1111", "card")} <= found
    assert not blocked


@installed
@pytest.mark.filterwarnings("ignore")
def test_it_stands_beside_the_other_detectors(pipeline: str) -> None:
    redactor = Redactor([Presidio.load(pipeline), Patterns()], {})
    shown = redactor.redact([Message("user", TEXT)], Sampling()).messages[0].content
    assert not any(value in shown for value in ("Clara", "Ghent", "4111", "a@b.org"))


class Analyzer:
    """As much of Presidio's analyser as the detector asks."""

    supported_languages = ("en",)

    def get_supported_entities(self, language: str) -> list[str]:
        return ["PERSON", "EMAIL_ADDRESS"]

    def analyze(self, text: str, *, language: str, entities: list[str], score_threshold: float) -> list[Any]:
        assert entities == ["PERSON"] and score_threshold == 0.4
        at = text.index("Clara")
        return [type("Found", (), {"start": at, "end": at + 5, "entity_type": "PERSON"})]


def test_of_an_analyser_it_asks_for_what_it_knows_and_nothing_that_is_looked_up() -> None:
    assert find("tell Clara", [Presidio(Analyzer())]) == [Span(5, 10, "name")]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="EMAIL_ADDRESS is looked up on the internet"):
        Presidio(Analyzer(), entities={"EMAIL_ADDRESS": "email"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no kind of value is named 'mail'"):
        Presidio(Analyzer(), entities={"PERSON": "mail"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="does not know 'de'; known are en"):
        Presidio(Analyzer(), language="de")  # type: ignore[arg-type]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'selfroute\[privacy-presidio\]'"):
        Presidio.load("en_core_web_sm")


def test_the_module_loads_without_it() -> None:
    code = (
        "import sys, selfroute.privacy.presidio; sys.exit('spacy' in sys.modules or 'presidio_analyzer' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
