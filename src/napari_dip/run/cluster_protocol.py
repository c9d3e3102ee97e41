"""What passes between a batch and the workers that it hands its work to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_dip.engine.control import Control
    from napari_dip.errors import Refusal
    from napari_dip.run.cluster_unit import Unit


@dataclass(frozen=True, slots=True)
class Heard:
    """One word about a unit.

    Attributes
    ----------
    unit : str
        Its name.
    worker : str
        Who says so; "" where it is the scheduler.
    event : mapping or None
        How far the work is.
    answer : mapping or None
        The outcome, where it has come to its end.
    given_up : bool
        Whether the scheduler gave it up, for deaths of the workers that it lay with.
    broke : str
        What went wrong that nobody foresaw.
    """

    unit: str
    worker: str = ""
    event: Mapping[str, Any] | None = None
    answer: Mapping[str, Any] | None = None
    given_up: bool = False
    broke: str = ""


class Crew(Protocol):
    """Workers that units can be handed to."""

    @property
    def count(self) -> int:
        """How many workers there are now."""
        ...

    @property
    def ahead(self) -> int:
        """How many units may wait with the scheduler beside those that are worked on."""
        ...

    @property
    def root(self) -> str:
        """Folder that workers see relative paths from; "" for the one that they work in."""
        ...

    @property
    def lost(self) -> Refusal | None:
        """Why nothing more will be heard, if so."""
        ...

    def send(self, unit: Unit, memory: int, device: str) -> None:
        """Hand out one unit, with what it needs."""
        ...

    def withdraw(self, name: str) -> None:
        """Take back a unit that no worker is known to have begun."""
        ...

    def wish(self, session: str, control: Control) -> None:
        """Tell all workers what the person wants."""
        ...

    def heard(self, seconds: float) -> Iterable[Heard]:
        """Give what has come in since, waiting at most so long for the first word."""
        ...
