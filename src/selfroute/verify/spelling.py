"""One spelling for the digits, signs and spaces of all scripts, so that the readers know ASCII alone.

Unicode's compatibility form (NFKC) does most of it. It would also turn `10²` into `102`, `x₂` into `x2` and `2½` into
`21⁄2`, so those come first; and it leaves the digits of other scripts as they are, so those come last.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["plain", "same_text"]

_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]{1,40}")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎]{1,40}")
_VULGAR = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞↉])")
_SIGNS = {
    **dict.fromkeys("‐‑‒–—−﹣", "-"),
    **dict.fromkeys("×∗⋅·∙", "*"),
    **dict.fromkeys("÷⁄∕", "/"),
    **dict.fromkeys("‘’′ʼ", "'"),
    **dict.fromkeys("“”″", '"'),
    **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad", ""),
    "٫": ".",
    "٬": ",",
    "٪": "%",
    "≦": "≤",
    "≧": "≥",
    "、": ",",
    "。": ". ",
}
_SIGN_OF = str.maketrans(_SIGNS)


def plain(text: str) -> str:
    """The text with ASCII digits, signs and spaces; letters of other scripts stay.

    Raised and lowered digits become `^{…}` and `_{…}`, vulgar fractions `1/2` behind a space. Cut long text first:
    the result may be several times as long.
    """
    if text.isascii():
        return text
    text = _RAISED.sub(lambda raised: f"^{{{unicodedata.normalize('NFKC', raised[0])}}}", text)
    text = _LOWERED.sub(lambda lowered: f"_{{{unicodedata.normalize('NFKC', lowered[0])}}}", text)
    text = unicodedata.normalize("NFKC", _VULGAR.sub(" ", text.replace("º", "°"))).translate(_SIGN_OF)
    return "".join(map(_ascii_digit, text))


def _ascii_digit(character: str) -> str:
    return character if character.isascii() else str(unicodedata.decimal(character, character))


def same_text(left: str, right: str) -> bool:
    """Equal but for runs of white space and for how accents are encoded; case counts."""
    return _composed(left) == _composed(right)


def _composed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
