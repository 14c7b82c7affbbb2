"""Units that two answers can be compared in. One table; a word that is not in it is no unit, and is ignored.

A definition is exact, so that 120 mm is 12 cm. Currencies are kinds of their own: there is no rate between them.
Left out are words that mean other things as often: "in", and "pounds", a mass or money.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["UNITS", "Unit", "unit_of"]


@dataclass(frozen=True, slots=True)
class Unit:
    """What is measured, and how many of that kind's first unit one is."""

    kind: str
    factor: Fraction


# kind: {names, divided by spaces: how many of the first}
_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "m meter meters metre metres": "1",
        "mm millimeter millimeters millimetre millimetres": "1/1000",
        "cm centimeter centimeters centimetre centimetres": "1/100",
        "km kilometer kilometers kilometre kilometres": "1000",
        "inch inches": "0.0254",
        "ft foot feet": "0.3048",
        "yd yard yards": "0.9144",
        "mi mile miles": "1609.344",
    },
    "mass": {
        "kg kilogram kilograms kilo kilos": "1",
        "g gram grams": "1/1000",
        "mg milligram milligrams": "1/1000000",
        "t ton tons tonne tonnes": "1000",
        "lb lbs": "0.45359237",
        "oz ounce ounces": "0.028349523125",
    },
    "time": {
        "s sec secs second seconds": "1",
        "ms millisecond milliseconds": "1/1000",
        "min mins minute minutes": "60",
        "h hr hrs hour hours": "3600",
        "day days": "86400",
        "week weeks": "604800",
    },
    "long time": {"month months": "1", "yr yrs year years": "12"},
    "volume": {"l L liter liters litre litres": "1", "ml milliliter milliliters millilitre millilitres": "1/1000"},
    "angle": {"° degree degrees deg": "1", "rad radian radians": ""},
    "dollars": {"$ dollar dollars usd us$": "1", "cent cents ¢": ""},
    "euros": {"€ euro euros eur": "1"},
    "pounds sterling": {"£ gbp": "1"},
    "yen": {"¥ yen jpy": "1"},
    "rupees": {"₹ rupee rupees inr rs rs.": "1"},
}


def _read(table: dict[str, dict[str, str]]) -> dict[str, Unit]:
    # Without a factor a unit is a kind of its own: a radian is no fraction of a degree.
    return {
        name: Unit(kind, Fraction(factor)) if factor else Unit(names, Fraction(1))
        for kind, units in table.items()
        for names, factor in units.items()
        for name in names.split()
    }


UNITS = _read(_TABLE)


def unit_of(word: str) -> Unit | None:
    """The unit of a name, symbol or currency; None if it is not in the table."""
    return UNITS.get(word.lower() if len(word) > 1 else word)
