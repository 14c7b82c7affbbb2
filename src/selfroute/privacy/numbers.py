"""Numbers whose form can be checked: cards, bank accounts, telephones, and what states number persons by.

Checksums and plans of numbers are those of `python-stdnum` and `phonenumbers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from selfroute.errors import ConfigError
from selfroute.privacy.base import Span

__all__ = ["REGIONS", "Numbers"]

_SPACE = r"[ \u00a0\u2009\u202f]"
_GAP = rf"(?:{_SPACE}|[-.\u2010-\u2015])?"
_CARD = re.compile(rf"(?<![\w.])\d(?:{_GAP}\d){{12,18}}(?![\w]|\.\d)")
# First digits that issuers have: Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay, Maestro.
_ISSUER = re.compile(r"4|5[0-8]|2[2-7]|3[0-9]|6[0-9]|1800|2131")
_IBAN = re.compile(rf"(?<!\w)[A-Z]{{2}}{_GAP}\d{_GAP}\d(?:{_GAP}[A-Z0-9]){{11,30}}", re.IGNORECASE)
_IBAN_START = re.compile(r"[A-Za-z]{2}\W?\d")  # any account begins so, and this is soon looked for
_IBAN_LENGTHS = range(15, 35)
_TELEPHONE = re.compile(
    rf"(?<!\w)(?:\+|\()?{_SPACE}?\d(?:[\s\u00a0\u2009\u202f().\-/\u2010-\u2015]{{0,3}}\d){{6,16}}"
    r"(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?!\w)",
    re.IGNORECASE,
)
_EXTENSION = re.compile(r"\s?(?:x|ext\.?)\s?\d{1,6}$", re.IGNORECASE)
_ABROAD = re.compile(r"\(?\+\d")
_CALLED = re.compile(r"(?:tel|phone|call|mobil|cell|fax|whatsapp|handy|móvil|portable)\w*\W{0,4}$", re.IGNORECASE)
_AMERICAN = re.compile(r"(?:\+?1[ .-]?)?\(?\d{3}(?:\) ?|[ .-])\d{3}[ .-]\d{4}")
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}(?!\d)|(?<!\d)\d{1,2}[-./]\d{1,2}[-./]\d{4}(?!\d)")
_DIGITS = b"0123456789"
_LEAST = 6  # digits of the shortest of them
# Digits in a row, as far apart as in any number of a person; letters may stand before the first and behind the last.
_CLUSTER = re.compile(r"\d(?:[A-Za-z .+/-]{0,8}\d){4,}")
_BEFORE, _BEHIND = 8, 3
_LEAST_ABROAD = 9  # digits with a plus before them, country included
_LEAST_BARE = 10  # digits without a sign or a gap that are taken for a telephone


@dataclass(frozen=True, slots=True)
class _Id:
    """A number of persons: its form, its check in `python-stdnum`, and words that must stand before it."""

    form: str
    module: str
    said: str = ""


_GROUP3 = rf"\d{{3}}{_GAP}\d{{3}}{_GAP}\d{{3}}"
# Where a form is only digits and its check lets one in ten pass, words before it decide.
REGIONS: dict[str, tuple[_Id, ...]] = {
    "AT": (_Id(rf"\d{{4}}{_GAP}\d{{6}}", "at.vnr"),),
    "AU": (_Id(_GROUP3, "au.tfn", "tfn|tax file"),),
    "BE": (_Id(r"\d{2}\.?\d{2}\.?\d{2}-?\d{3}\.?\d{2}", "be.nn"),),
    "BR": (_Id(r"\d{3}\.?\d{3}\.?\d{3}-?\d{2}", "br.cpf"),),
    "CA": (_Id(rf"\d{{3}}{_GAP}\d{{3}}{_GAP}\d{{3}}", "ca.sin", "sin|social insurance|nas"),),
    "CH": (_Id(r"756\.?\d{4}\.?\d{4}\.?\d{2}", "ch.ssn"),),
    "CN": (_Id(r"\d{17}[\dXx]", "cn.ric"),),
    "DE": (_Id(rf"\d{{2}}{_GAP}\d{{3}}{_GAP}\d{{3}}{_GAP}\d{{3}}", "de.idnr"),),
    "DK": (_Id(r"\d{6}-?\d{4}", "dk.cpr", r"cpr|\d{6}-$"),),
    "ES": (_Id(r"\d{8}[- ]?[A-Z]", "es.dni"), _Id(r"[XYZ][- ]?\d{7}[- ]?[A-Z]", "es.nie")),
    "FI": (_Id(r"\d{6}[-+A]\d{3}[0-9A-Z]", "fi.hetu"),),
    "FR": (_Id(r"[12][ .]?\d{2}[ .]?\d{2}[ .]?(?:\d{2}|2[AB])[ .]?\d{3}[ .]?\d{3}[ .]?\d{2}", "fr.nir"),),
    "GB": (
        _Id(r"[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-DT]", ""),
        _Id(rf"\d{{3}}{_GAP}\d{{3}}{_GAP}\d{{4}}", "gb.nhs", "nhs"),
    ),
    "IN": (_Id(r"\d{4}[ -]?\d{4}[ -]?\d{4}", "in_.aadhaar"), _Id(r"[A-Z]{3}[PCHABGJLFT][A-Z]\d{4}[A-Z]", "in_.pan")),
    "IT": (_Id(r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", "it.codicefiscale"),),
    "NL": (_Id(r"\d{4}\.?\d{2}\.?\d{3}", "nl.bsn", "bsn|burgerservice|sofi"),),
    "NO": (_Id(r"\d{6} ?\d{5}", "no.fodselsnummer"),),
    "PL": (_Id(r"\d{11}", "pl.pesel"),),
    "PT": (_Id(r"\d{8} ?\d ?[A-Z0-9]{2}\d", "pt.cc"),),
    "SE": (_Id(r"(?:\d{2})?\d{6}[-+]\d{4}", "se.personnummer"),),
    "US": (_Id(r"\d{3}-\d{2}-\d{4}", "us.tin"), _Id(r"\d{3} ?\d{2} ?\d{4}", "us.ssn", "ssn|social security")),
}  # fmt: skip


class Numbers:
    """Finds cards, bank accounts, telephones and personal numbers.

    Args:
        regions: countries by two letters; whose telephones are known without their country's code, and whose personal
            numbers. Cards, bank accounts and telephones with `+` are found everywhere.

    Raises:
        ConfigError: a region is unknown, or a library is missing.
    """

    name = "numbers"

    def __init__(self, regions: Sequence[str]) -> None:
        self._phones = _library("phonenumbers")
        self._luhn, self._iban = _library("stdnum.luhn"), _library("stdnum.iban")
        known = self._phones.SUPPORTED_REGIONS
        for region in regions:
            if region not in known:
                raise ConfigError(f"privacy.regions: {region!r} is no country; give two letters, e.g. DE")
        self.regions = tuple(regions)
        self._dials = [_dial(self._phones, None), *(_dial(self._phones, region) for region in regions)]
        ids = [each for region in regions for each in REGIONS.get(region, ())]
        self._ids = [_checker(each) for each in ids]
        self._any_id = _form("|".join(each.form for each in ids) or r"(?!)")

    def spans(self, text: str) -> Iterator[Span]:
        written = text.encode(errors="replace")
        if len(written) - len(written.translate(None, _DIGITS)) < _LEAST:
            return
        taken: list[tuple[int, int]] = []
        for kind, found in (("card", self._cards), ("iban", self._accounts), ("id", self._persons)):
            for start, end in found(text):
                taken.append((start, end))
                yield Span(start, end, kind)
        for start, end in self._telephones(text, taken):
            yield Span(start, end, "phone")

    def _cards(self, text: str) -> Iterator[tuple[int, int]]:
        for match in _CARD.finditer(text):
            digits = re.sub(r"\D", "", match.group())
            if _ISSUER.match(digits) and self._luhn.is_valid(digits):
                yield match.span()

    def _accounts(self, text: str) -> Iterator[tuple[int, int]]:
        begun = (_IBAN.match(text, start.start()) for start in _IBAN_START.finditer(text))
        for match in filter(None, begun):
            places = [i for i, sign in enumerate(match.group()) if sign.isalnum()]
            written = "".join(match.group()[i] for i in places)
            for length in _lengths(written):
                if self._iban.is_valid(written[:length]):
                    yield match.start(), match.start() + places[length - 1] + 1

    def _telephones(self, text: str, taken: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for candidate in _TELEPHONE.finditer(text):
            start, end = candidate.span()
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            called = _CALLED.search(text[max(0, start - 20) : start]) is not None
            for found in self._numbers_in(candidate.group(), called=called):
                yield start + found[0], start + found[1]

    def _numbers_in(self, written: str, *, called: bool) -> Iterator[tuple[int, int]]:
        number = _EXTENSION.sub("", written)
        digits = re.sub(r"\D", "", number)
        bare = digits == written and not written.startswith("0")
        if (bare and len(written) < _LEAST_BARE and not called) or _DATE.match(written):
            return
        abroad = _ABROAD.match(number) and len(digits) >= _LEAST_ABROAD
        if abroad or _AMERICAN.fullmatch(number.strip()) or any(dial(number, digits) for dial in self._dials):
            yield 0, len(written)
        elif not bare:  # more than one, or one with something before or behind it
            for region in self.regions:
                for match in self._phones.PhoneNumberMatcher(written, region):
                    if not _DATE.search(match.raw_string):
                        yield match.start, match.end

    def _persons(self, text: str) -> Iterator[tuple[int, int]]:
        for cluster in _CLUSTER.finditer(text):
            reach = max(0, cluster.start() - _BEFORE), cluster.end() + _BEHIND
            for form, is_valid, said in self._ids if self._any_id.search(text, *reach) else ():
                for match in form.finditer(text, *reach):
                    before = text[max(0, match.start() - 40) : match.start()]
                    if (said is None or said.search(before)) and is_valid(match.group()):
                        yield match.span()


def _lengths(written: str) -> Iterator[int]:
    """How many signs of a text have an account's checksum; words may follow without anything between."""
    head = "".join(str(int(sign, 36)) for sign in written[:4])
    shift, country, rest = 10 ** len(head) % 97, int(head) % 97, 0
    for length, sign in enumerate(written[4:], 5):
        value = int(sign, 36)
        rest = (rest * (10 if value < 10 else 100) + value) % 97
        if length in _IBAN_LENGTHS and (rest * shift + country) % 97 == 1:
            yield length


def _dial(phones: Any, region: str | None) -> Callable[[str, str], bool]:
    """Whether something is a telephone number of a region, or one with `+` before its country.

    A look at the digits comes first, as most of what is asked is none, and to parse a number takes long.
    """
    form, prefix = re.compile(""), ""
    if region is not None:
        plan = phones.PhoneMetadata.metadata_for_region(region)
        form, prefix = re.compile(plan.general_desc.national_number_pattern), plan.national_prefix or ""

    def is_one(written: str, digits: str) -> bool:
        if (region is None) != written.lstrip(" (").startswith("+"):
            return False
        if region is not None and not (form.fullmatch(digits) or form.fullmatch(digits.removeprefix(prefix))):
            return False
        try:
            return bool(phones.is_valid_number(phones.parse(written, region)))
        except phones.NumberParseException:
            return False

    return is_one


def _checker(known: _Id) -> tuple[re.Pattern[str], Callable[[str], bool], re.Pattern[str] | None]:
    is_valid: Callable[[str], bool] = _library(f"stdnum.{known.module}").is_valid if known.module else bool
    said = re.compile(rf"(?<![a-z])(?:{known.said})", re.IGNORECASE) if known.said else None
    return _form(known.form), partial(_is_valid, is_valid), said


def _form(form: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.])(?:{form})(?![\w]|[.-]\d)", re.IGNORECASE)


def _is_valid(check: Callable[[str], bool], written: str) -> bool:
    """A check over the signs that count; some modules know one spelling alone."""
    return check(written) or check(re.sub(r"[^\w+-]", "", written)) or check(re.sub(r"\W", "", written))


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ConfigError(
            f"finding numbers needs '{name.partition('.')[0]}', which is not installed; "
            "pip install 'selfroute[privacy]'"
        ) from None
