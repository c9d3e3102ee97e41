"""Designs of networks that are set beside each other: what is varied, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_dip.explore.subject import Subject

#: Rates of the other optimisers, with which the energy of camera (scikit-image, its middle of
#: 64 x 64 pixels) fell fastest in 60 iterations without breaking down: docs/explore.md.
RATES = {"sgd": 0.1, "l-bfgs": 1.0}
#: Channels of the deep decoders, the narrow one with fewer weights than there are pixels, and their
#: grids: Heckel and Hand take 64 or 128 channels and 6 grids for pictures of 512 x 512.
NARROW, WIDE, GRIDS = 24, 64, 6
#: Most grids of an hourglass that are tried; one is without any coarser one.
DEEPEST = 6
#: What is compared with all others.
PRESET = "preset"


@dataclass(frozen=True, slots=True)
class Design:
    """A network, what it is fed with and how its weights move.

    Attributes
    ----------
    name : str
        As commands and tables call it.
    words : str
        What is different from the preset's.
    structure : str
        "hourglass", "decoder" or "deep decoder".
    widths : tuple of int
        Channels at each grid, finest first.
    rate : float
    skip : int
        Channels that a skip passes on.
    upsampling : str
        "bilinear", "nearest" or "transposed".
    weights : str
        How they begin: "uniform", as torch draws them, or "He".
    code : str
        "uniform", "Gaussian" or "coordinates".
    optimiser : str
        "adam", "sgd" or "l-bfgs".
    """

    name: str
    words: str
    structure: str
    widths: tuple[int, ...]
    rate: float
    skip: int = 0
    upsampling: str = "bilinear"
    weights: str = "uniform"
    code: str = "uniform"
    optimiser: str = "adam"


def designs_of(subject: Subject) -> dict[str, Design]:
    """Give all designs by name, that of the preset first."""
    widths = subject.plan.budget.widths
    scales = " → ".join(map(str, widths))
    words = f"hourglass of {scales} channels, skips of {subject.skip}"
    base = Design(PRESET, words, "hourglass", widths, subject.rate, skip=subject.skip)
    half = tuple(max(1, width // 2) for width in widths)
    found = (
        base,
        replace(base, name="no-skips", words="no skips", skip=0),
        replace(base, name="decoder", words="decoder only", structure="decoder", skip=0),
        *_depths(base),
        replace(base, name="half-width", words="half the channels", widths=half),
        replace(base, name="nearest", words="nearest upsampling", upsampling="nearest"),
        replace(base, name="transposed", words="learned upsampling", upsampling="transposed"),
        replace(base, name="he-weights", words="weights begin after He", weights="He"),
        replace(base, name="gaussian-code", words="fed Gaussian noise", code="Gaussian"),
        replace(base, name="coordinates", words="fed coordinates", code="coordinates"),
        _moved(base, "sgd", "SGD with momentum"),
        _moved(base, "l-bfgs", "L-BFGS, no line search"),
        _deep_decoder(base, "deep-decoder", NARROW),
        _deep_decoder(base, "wide-deep-decoder", WIDE),
    )
    return {one.name: one for one in found}


def chosen(subject: Subject, only: str | Iterable[str] | None) -> tuple[Design, ...]:
    """Pick designs by their names, that of the preset always among them.

    Parameters
    ----------
    subject : Subject
    only : str, iterable of str or None
        Names, one after another or with commas between; None: all.

    Raises
    ------
    Refused
        If there is no such design.
    """
    known = designs_of(subject)
    if only is None:
        return tuple(known.values())
    given = only.split(",") if isinstance(only, str) else only
    names = [str(one).strip() for one in given]
    strange = [one for one in names if one not in known]
    if strange or not names:
        why = f"there are {', '.join(known)}"
        hint = "Give some of these names with commas between, or leave it out to compare all."
        value = repr(printable(strange[0] if strange else ""))
        raise Refused(refusal("setting-wrong", field="only", value=value, why=why, hint=hint))
    return tuple(one for name, one in known.items() if name == PRESET or name in names)


def settings_of(design: Design) -> Mapping[str, object]:
    """Give a design in plain JSON types."""
    return {
        "name": design.name,
        "structure": design.structure,
        "widths": list(design.widths),
        "skip": design.skip,
        "upsampling": design.upsampling,
        "weights": design.weights,
        "code": design.code,
        "optimiser": design.optimiser,
        "rate": design.rate,
    }


def _depths(base: Design) -> list[Design]:
    """Vary how many grids there are; the coarsest of the preset's is repeated."""
    made = []
    for count in range(1, DEEPEST + 1):
        if count == len(base.widths):
            continue
        widths = (base.widths + base.widths[-1:] * DEEPEST)[:count]
        words = f"{count} grids" if count > 1 else "1 grid, no coarser one"
        made.append(replace(base, name=f"depth-{count}", words=words, widths=widths))
    return made


def _moved(base: Design, optimiser: str, words: str) -> Design:
    return replace(base, name=optimiser, words=words, optimiser=optimiser, rate=RATES[optimiser])


def _deep_decoder(base: Design, name: str, width: int) -> Design:
    words = f"deep decoder of {width} channels"
    widths = (width,) * GRIDS
    return replace(base, name=name, words=words, structure="deep decoder", widths=widths, skip=0)
