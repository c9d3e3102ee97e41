"""What a task is: a frozen value whose typed fields become the form, the command and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec


@dataclass(frozen=True, slots=True)
class Setting:
    """How a field of a task is shown to people; goes into `typing.Annotated`.

    Attributes
    ----------
    label : str
        Its name in the dock.
    help : str
        Tooltip and command-line help, in the user's words, with units.
    choices : mapping of value to words
        Names of the values of a `Literal` field, as the dock shows them.
    least, most, step : float or None
        Limits and step of a number, in its unit.
    advanced : bool
        Folded away at first.
    """

    label: str
    help: str
    choices: Mapping[str, str] | None = None
    least: float | None = None
    most: float | None = None
    step: float | None = None
    advanced: bool = True


class Task(Protocol):
    """One thing a user wants. Implementations are frozen pydantic dataclasses."""

    name: ClassVar[str]
    title: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    done: ClassVar[str]

    def check(self, spec: ImageSpec) -> Refusal | None:
        """Say no to a picture that this task cannot restore, from its header alone."""
        ...

    def together(self, spec: ImageSpec) -> bool:
        """Whether one fit takes all channels at once."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that differ from their defaults, in plain JSON types."""
        ...
