"""Names of length and time units, as files write them and as they are named here."""

from __future__ import annotations

import re

#: What files write -> name used here, which is also what napari understands.
_NAMES = {
    "µm": "micrometer",
    "μm": "micrometer",  # the Greek letter, which looks the same
    "um": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "micrometre": "micrometer",
    "nm": "nanometer",
    "nanometre": "nanometer",
    "å": "angstrom",
    "pm": "picometer",
    "mm": "millimeter",
    "millimetre": "millimeter",
    "cm": "centimeter",
    "centimetre": "centimeter",
    "m": "meter",
    "metre": "meter",
    "in": "inch",
    "inches": "inch",
    "s": "second",
    "sec": "second",
    "ms": "millisecond",
    "min": "minute",
    "h": "hour",
    "pixels": "pixel",
    "": "pixel",
}
#: Metres in one unit of length.
_METERS = {
    "picometer": 1e-12,
    "angstrom": 1e-10,
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "inch": 0.0254,
    "meter": 1.0,
}
_SYMBOLS = {
    "picometer": "pm",
    "angstrom": "Å",
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "inch": "in",
    "meter": "m",
    "second": "s",
    "millisecond": "ms",
    "minute": "min",
    "hour": "h",
    "pixel": "pixel",
}
#: How ImageJ writes a letter that is not of ASCII.
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")


def unit_name(written: str) -> str:
    """Name a unit in one way, whichever way a file writes it; unknown ones stay as they are."""
    text = _ESCAPED.sub(_letter, written).strip()
    return _NAMES.get(text, _NAMES.get(text.lower(), text))


def _letter(escaped: re.Match[str]) -> str:
    letter = chr(int(escaped[1], 16))
    return letter if letter.isprintable() else escaped[0]


def escaped_unit(name: str) -> str:
    """Write a unit as ImageJ does: in ASCII, other letters by their four digits."""
    letters = (one for one in name if one <= "\uffff")  # ImageJ, too, leaves out what is beyond
    return "".join(
        one if one.isprintable() and one.isascii() and one != "\\" else f"\\u{ord(one):04x}"
        for one in letters
    )


def unit_symbol(name: str) -> str | None:
    """Abbreviate a unit as OME-XML wants it; None for a unit it does not know."""
    return _SYMBOLS.get(name)


def meters(name: str) -> float | None:
    """Metres in one unit; None where the unit is no length."""
    return _METERS.get(name)
