"""What a method of the quality benchmark is, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from quality_sets import Case, Picture


@dataclass(frozen=True, slots=True)
class Output:
    """A restored picture, and what is worth knowing of how it came about."""

    image: npt.NDArray[Any]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """One column of the comparison.

    Attributes
    ----------
    title : str
        Its name in tables.
    run : callable
        (case, noisy, truth) -> Output; only what is called an oracle looks at the truth.
    applies : callable
        Which pictures it is for.
    settings : callable
        (case, noisy) -> what its output depends on beside the pixels.
    """

    title: str
    run: Callable[[Case, Picture, Picture], Output]
    applies: Callable[[Case], bool] = lambda case: True
    settings: Callable[[Case, Picture], dict[str, Any]] = lambda case, noisy: {}
