"""What Microsoft's Presidio finds, as a detector: names of persons and places by a language model, and its patterns.

It loads spaCy and is slow beside the other detectors, so it is brought by hand, with a spaCy pipeline that lies on
this machine. Nothing is looked up: Presidio's recogniser of mail addresses, which fetches a list of suffixes, is not
asked; mail addresses are what `selfroute.privacy.patterns` finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfroute.errors import ConfigError
from selfroute.privacy.base import Span, checked_kind

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

__all__ = ["ENTITIES", "Presidio"]

# Presidio's names of entities and ours; the others are not asked for.
ENTITIES: Mapping[str, str] = {
    "PERSON": "name",
    "LOCATION": "address",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "CRYPTO": "key",
    "US_SSN": "id",
    "US_PASSPORT": "id",
    "US_DRIVER_LICENSE": "id",
    "UK_NHS": "id",
    "ES_NIF": "id",
    "IT_FISCAL_CODE": "id",
}


_LOOKED_UP = {"EMAIL_ADDRESS": "leave it out, mail addresses are found by Patterns"}


class Presidio:
    """Finds what an analyser of Presidio finds.

    Args:
        analyzer: with the recognisers and the spaCy pipeline that are wanted.
        language: of the texts, one that the analyser knows.
        least: score from which on a finding counts, in [0, 1].
        entities: Presidio's names and the kinds they stand for; by default all of `ENTITIES` that the analyser knows.

    Raises:
        ConfigError: an unknown kind; an entity that would be looked up; a language that the analyser does not know.
    """

    name = "presidio"

    def __init__(
        self,
        analyzer: AnalyzerEngine,
        *,
        language: str = "en",
        least: float = 0.4,
        entities: Mapping[str, str] = ENTITIES,
    ) -> None:
        if language not in analyzer.supported_languages:
            raise ConfigError(
                f"presidio.language: its analyser does not know '{language}'; known are "
                f"{', '.join(analyzer.supported_languages)}"
            )
        for name, kind in entities.items():
            checked_kind(kind, "presidio.entities")
            if name in _LOOKED_UP:
                raise ConfigError(f"presidio.entities: {name} is looked up on the internet; {_LOOKED_UP[name]}")
        known = set(analyzer.get_supported_entities(language=language))
        self._analyzer, self._language, self._least = analyzer, language, least
        self._kinds = {name: kind for name, kind in entities.items() if name in known}

    @classmethod
    def load(cls, pipeline: str, *, language: str = "en", least: float = 0.4) -> Presidio:
        """With Presidio's own recognisers and a spaCy pipeline of this machine.

        Args:
            pipeline: an installed package of spaCy or the folder of a pipeline; nothing is downloaded.

        Raises:
            ConfigError: the library or the pipeline is missing.
        """
        try:
            import spacy
            from presidio_analyzer import AnalyzerEngine
            from presidio_analyzer.nlp_engine import SpacyNlpEngine
        except ModuleNotFoundError as error:
            missing = (error.name or "presidio_analyzer").partition(".")[0]
            raise ConfigError(
                f"presidio needs '{missing}', which is not installed; pip install 'selfroute[privacy-presidio]'"
            ) from error
        try:
            loaded = spacy.load(pipeline)
        except OSError as error:
            raise ConfigError(
                f"presidio.pipeline: no spaCy pipeline '{pipeline}' on this machine ({error}); install one, or name "
                "its folder"
            ) from None
        engine: Any = SpacyNlpEngine(models=[{"lang_code": language, "model_name": pipeline}])
        engine.nlp = {language: loaded}
        return cls(AnalyzerEngine(nlp_engine=engine, supported_languages=[language]), language=language, least=least)

    def spans(self, text: str) -> Iterator[Span]:
        found: Sequence[Any] = self._analyzer.analyze(
            text, language=self._language, entities=list(self._kinds), score_threshold=self._least
        )
        for each in found:
            yield Span(each.start, each.end, self._kinds[each.entity_type])
