"""Values that can be told by their form: mail, keys, addresses of machines and of houses, and listed names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence

from selfroute.errors import ConfigError
from selfroute.privacy.base import Span

__all__ = ["Patterns"]

_Found = Iterator[tuple[int, int]]
_REACH = 4096  # characters from its sign to the end of a value, at most

# Before each pattern stands a look for what any match must hold: most texts hold none of it, and that costs little.
_MAIL_SIGNS = ("@", "%40", "&#64;", "&#064;", "(at)", "[at]")
_MAIL = re.compile(r"[\w.+'-]+(?:@|%40|&#0*64;|\(at\)|\[at\])[\w-]+(?:\.[\w-]+)+(?<![.-])", re.IGNORECASE)

# Forms that providers give to their keys.
_KEY_SIGNS = (
    "sk-", "sk_", "rk_", "pk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "akia",
    "asia", "aiza", "ya29.", "xox", "xapp-", "hf_", "r8_", "sg.", "npm_", "pypi-", "dop_v1_", "gsk_", "xai-", "pplx-",
    "eyj",
)  # fmt: skip
_ARMOUR_SIGNS = ("private key",)  # stands within what a private key begins with
_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bsk-[A-Za-z0-9_-]{16,}|\b[srp]k_(?:live|test)_[A-Za-z0-9]{10,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{30,}|\bya29\.[0-9A-Za-z_-]{20,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bxapp-[A-Za-z0-9-]{10,}|\bhf_[A-Za-z0-9]{20,}|\br8_[A-Za-z0-9]{20,}"
    r"|\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[A-Za-z0-9_-]{30,}"
    r"|\bdop_v1_[a-f0-9]{40,}|\bgsk_[A-Za-z0-9]{20,}|\bxai-[A-Za-z0-9]{20,}|\bpplx-[A-Za-z0-9]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
)
# What a text itself calls a secret; it holds a digit or a sign, unlike the word behind "my password is".
_SECRET_SIGNS = ("passw", "passphrase", "pwd", "kennwort", "contraseña", "mot de passe", "secret", "token", "bearer")
_ACCESS_SIGNS = ("key", "token")  # with another word before them
_SECRET = re.compile(
    r"(?:passw(?:or[dt])|passwd|passphrase|kennwort|contraseña|mot de passe|secret|(?:api|access)[ _-]?key|bearer"
    r"|(?:(?:auth|access)[ _-]?|(?<![a-z]))token|(?<![a-z])pwd)"
    r"[\"']?\s*(?:is|ist|est|es|=|:|=>)?\s*[\"'`]?((?=[^\s\"'`,;]*[\d!@#$%^&*+=~?-])[^\s\"'`,;]{6,})",
    re.IGNORECASE,
)

_DIGIT, _DIGITS = re.compile(r"\d"), re.compile(r"\d+")
_DOTTED = re.compile(r"\d\.\d")
_IP4 = re.compile(r"(?<![\w.:])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
_IP6 = re.compile(r"(?<![\w.:])(?:[0-9a-fA-F]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4})(?![\w:])")

# Streets by language, as number and name stand in another order in each. A name is written with a capital: what is not
# would take "5 km up the hill" for one.
_CAPITAL = r"[^\W\d_a-zß-öø-ÿ]"
_NAME = rf"{_CAPITAL}[\w'’-]*\.?"
_SMALL = r"(?:de|del|della|dei|di|da|do|dos|des|du|la|le|les|los|las|von|van|der|den|het|of|the|sur|saint)"
_NAMES = rf"(?:(?:{_SMALL}|{_NAME}|\d{{1,2}}(?:st|nd|rd|th))\s+){{0,4}}(?:[ld]['’])?{_NAME}"
_HOUSE = r"\d{1,5}(?:\s?[a-zA-Z](?!\w))?(?:\s?[-/]\s?\d{1,4}[a-zA-Z]?)?(?!\w)"
_PLACE = rf"{_CAPITAL}[\w'’-]*(?:[ ](?:(?:am|an[ ]der|de|del|la|sur|upon|in|den|di)[ ])?{_CAPITAL}[\w'’-]*){{0,2}}"
_CODE = r"(?:[A-Z]{1,2}-)?\d{4,5}(?:\s?[A-Z]{2}(?!\w))?(?!\w)"  # before a town, or behind it as in Spain
_STATE = r"(?:[A-Z]{2}\s+\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2})(?!\w)"
_STATES = re.compile(_STATE)
_AROUND = 160  # characters of an address before and behind each of its numbers, at most
_TOWN = (
    rf"(?:,?\s+{_CODE},?\s+{_PLACE}(?:\s\([A-Z]{{2}}\))?|,\s+{_PLACE},\s+{_CODE}|(?:,?\s+{_PLACE}){{1,2}},?\s+{_STATE})"
)


def _form(signs: str, form: str, town: str = f"{_TOWN}?") -> tuple[tuple[str, ...], re.Pattern[str]]:
    """Words of which any address of this form has one, and its pattern with `TYPE` for them."""
    words = tuple(signs.split())
    return words, re.compile(form.replace("TYPE", f"(?i:{'|'.join(map(re.escape, words))})") + town)


_FLAT = r"(?:,?\s+(?:[Aa]pt|[Ss]uite|[Uu]nit|[Ff]lat|Appartamento|Piano|Puerta|Piso)\.?\s*[\w-]+\s?)?"
_STREETS = (
    _form(
        "street st avenue ave road rd lane ln drive dr boulevard blvd court ct way place pl square sq terrace close "
        "crescent highway hwy parkway pkwy circle cir trail mews gardens grove",
        rf"(?<!\w)\d{{1,5}}[a-zA-Z]?,?\s+{_NAMES}\s+TYPE(?!\w)\.?{_FLAT}",
    ),
    # Any street, if a state or a postcode stands behind the town.
    _form("", rf"(?<!\w)(?:(?:Flat|Studio|Unit|Suite|Apt)\.?\s\w+,?\s+)?(?:\d{{1,5}}[a-zA-Z]?,?\s+)?{_NAMES}{_FLAT}",
          rf",\s+{_PLACE},\s+{_STATE}"),
    _form("box", r"(?<!\w)(?:P\.?\s?O\.?\s?|Unit\s\d+\s)TYPE\s+\d+", rf"(?:,\s+[A-Z]{{3}}\s{_STATE})?"),
    _form(
        "straße strasse str. weg platz allee gasse ring ufer damm chaussee steig",
        rf"(?<!\w){_CAPITAL}[\w-]*(?:[ ]{_CAPITAL}[\w-]*)?[ -]?TYPE\s+{_HOUSE}",
    ),
    _form(
        "straat laan weg plein gracht kade singel dijk boulevard pad hof steeg dreef gatan vägen gade vej",
        rf"(?<!\w){_CAPITAL}[\w-]*(?:[ ]{_CAPITAL}[\w-]*)?TYPE\s+{_HOUSE}",
    ),
    _form(
        "rue avenue av. boulevard bd place chemin impasse allée quai route cours passage",
        rf"(?<!\w)\d{{1,5}}(?:\s?[a-zA-Z](?!\w))?,?\s+(?:bis\s+|ter\s+)?TYPE\s+{_NAMES}",
    ),
    _form("rue avenue boulevard place chemin impasse allée quai route cours", rf"(?<!\w)TYPE\s+{_NAMES}", _TOWN),
    _form(
        "calle c/ avenida av. avda. plaza paseo camino ronda rambla glorieta alameda acceso callejón cañada pasadizo "
        "pasaje rotonda urbanización cuesta vial via vía viale piazza corso vicolo largo strada contrada borgo canale "
        "rotonda rua travessa praça",
        rf"(?<!\w)TYPE\s+{_NAMES},?\s+(?:n\.?[º°]?\s*)?{_HOUSE}{_FLAT}",
    ),
    _form("ul. ulica al. aleja os.", rf"(?<!\w)TYPE\s+{_NAMES}\s+{_HOUSE}(?:/\d+)?"),
)  # fmt: skip


class Patterns:
    """Finds what has a form of its own.

    Args:
        names: to be found as they stand here, in any case; parts of longer words are not.

    Raises:
        ConfigError: a name is empty.
    """

    name = "patterns"

    def __init__(self, names: Sequence[str] = ()) -> None:
        if any(not name.strip() for name in names):
            raise ConfigError("privacy.names: a name is empty; leave it out")
        ordered = sorted({" ".join(name.split()) for name in names}, key=len, reverse=True)
        forms = (r"\s+".join(re.escape(part) for part in name.split()) for name in ordered)
        self._names = re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE) if ordered else None
        self._first = tuple({name.split()[0].lower() for name in ordered})
        self._finders: tuple[tuple[str, Callable[[str, str], _Found]], ...] = (
            ("key", _keys),
            ("email", _mails),
            ("ip", _machines),
            ("address", _streets),
            ("name", self._listed),
        )

    def spans(self, text: str) -> Iterator[Span]:
        small = text.lower()
        for kind, found in self._finders:
            for start, end in found(text, small):
                yield Span(start, end, kind)

    def _listed(self, text: str, small: str) -> _Found:
        if self._names is not None and _holds(small, self._first):
            yield from (match.span() for match in self._names.finditer(text))


def _holds(small: str, signs: Sequence[str]) -> bool:
    return any(sign in small for sign in signs)


def _near(
    form: re.Pattern[str], text: str, small: str, signs: Sequence[str], *, before: int
) -> Iterator[re.Match[str]]:
    """Matches around the signs that any match has, found without trying the form at every place.

    Args:
        before: characters of a match that may stand before its sign.
    """
    if len(small) != len(text):  # a letter whose small form is longer, as in Turkish
        yield from form.finditer(text)
        return
    for sign in signs:
        at = small.find(sign)
        while at >= 0:
            # To search would read on to the end of the text where nothing is.
            begun = (form.match(text, start, at + _REACH) for start in range(max(0, at - before), at + 1))
            if found := next((match for match in begun if match and match.end() > at), None):
                yield found
            at = small.find(sign, at + 1)


def _keys(text: str, small: str) -> _Found:
    yield from (match.span() for match in _near(_KEY, text, small, _KEY_SIGNS, before=0))
    yield from (match.span() for match in _near(_KEY, text, small, _ARMOUR_SIGNS, before=40))
    yield from (match.span(1) for match in _near(_SECRET, text, small, _SECRET_SIGNS, before=0))
    yield from (match.span(1) for match in _near(_SECRET, text, small, _ACCESS_SIGNS, before=7))


def _mails(text: str, small: str) -> _Found:
    yield from (match.span() for match in _near(_MAIL, text, small, _MAIL_SIGNS, before=64))


def _machines(text: str, small: str) -> _Found:
    if text.count(":") < 2 and _DIGIT.search(text) is None:
        return
    forms = [_IP4] if _DOTTED.search(text) else []
    forms += [_IP6] if text.count(":") >= 2 else []
    for match in (match for form in forms for match in form.finditer(text)):
        try:
            address = ipaddress.ip_address(match.group())
        except ValueError:
            continue
        if not address.is_unspecified:  # `::` stands for nothing
            yield match.span()


def _streets(text: str, small: str) -> _Found:
    for start, end in _around_digits(text):
        near = small[start:end] if len(small) == len(text) else small
        for signs, form in _STREETS:
            if _holds(near, signs) if signs else _STATES.search(text, start, end):
                for match in form.finditer(text, start, end):
                    yield match.start(), match.start() + len(match.group().rstrip(". "))


def _around_digits(text: str) -> _Found:
    """Stretches of a text in which an address may stand: there is none without a number."""
    start = end = -1
    for number in _DIGITS.finditer(text):
        before = max(0, number.start() - _AROUND)
        if before > end >= 0:
            yield start, end
            start = -1
        start = before if start < 0 else start
        end = min(len(text), number.end() + _AROUND)
    if end >= 0:
        yield start, end
