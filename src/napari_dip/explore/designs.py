"""Which designs are set beside each other, and what of the one that is chosen can be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable
from napari_dip.tasks.designs import DEEPEST, PRESET, Design, Network, designs_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_dip.explore.subject import Subject

__all__ = [
    "DEEPEST",
    "PRESET",
    "Design",
    "called",
    "chosen",
    "designs_of",
    "every_design",
    "kept_by",
    "settings_of",
]

#: Names that a denoising knows.
_KNOWN = get_args(get_args(Network)[0])


def designs_of(subject: Subject) -> dict[str, Design]:
    """Give all designs by name, that of the preset first."""
    return designs_for(subject.plan.budget.widths, subject.rate, subject.skip)


def every_design() -> dict[str, Design]:
    """Give all designs that there are for any network, by name; only what they are called counts.

    A network has none of its own depth.
    """
    names = list(designs_for((1, 1), 0.0))
    names.insert(names.index("depth-1") + 1, "depth-2")
    both = designs_for((1, 1), 0.0) | designs_for((1,), 0.0)
    return {name: both[name] for name in names}


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


def kept_by(design: Design) -> str:
    """Name the network by which a denoising takes a design over; "" if none can."""
    return design.name if design.name in _KNOWN else ""


def called(design: Design) -> str:
    """Name a design for people who type no names."""
    return "the preset's" if design.name == PRESET else design.words


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
