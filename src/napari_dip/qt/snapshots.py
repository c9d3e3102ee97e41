"""Pictures of a run on its way, as many as a bound on memory allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_dip.run.events import Event

#: Memory for the snapshots of one run: a sixteenth of the 4 GB that small computers have, and 244
#: pictures of 512 x 512.
MOST_BYTES = 256_000_000
#: A slider 300 pixels wide in the dock does not tell more apart.
MOST_SNAPSHOTS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The picture at one moment of a run.

    Attributes
    ----------
    picture : ndarray
        As `Event.preview`.
    number : int
        Count of the pictures that came before it.
    iteration, iterations : int
        In its fit, and planned there.
    unit, units : int
        Which part of the run the fit is.
    seconds : float
        Since the start.
    """

    picture: npt.NDArray[np.float32]
    number: int
    iteration: int
    iterations: int
    unit: int
    units: int
    seconds: float


class Film:
    """Snapshots in the order that they came, evenly spread over the run.

    When no more fit, every other one is let go, and of those that come only every other is taken
    from then on.

    Parameters
    ----------
    most_bytes, most_snapshots : int
        Bounds.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most_snapshots: int = MOST_SNAPSHOTS) -> None:
        self.most_bytes = most_bytes
        self._most = most_snapshots
        self._every = 1
        self._came = 0
        self.snapshots: list[Snapshot] = []

    @property
    def bytes(self) -> int:
        """Memory taken now."""
        return sum(one.picture.nbytes for one in self.snapshots)

    def add(self, event: Event) -> None:
        """Take in an event's picture, if it has a new one and there is room for two such."""
        picture, last = event.preview, self.snapshots[-1].picture if self.snapshots else None
        if picture is None or picture is last or 2 * picture.nbytes > self.most_bytes:
            return
        number, self._came = self._came, self._came + 1
        if number % self._every:
            return
        kept = event.iteration, event.iterations, event.unit, event.units, event.seconds
        self.snapshots.append(Snapshot(picture, number, *kept))
        while len(self.snapshots) > self._most or self.bytes > self.most_bytes:
            self._every *= 2
            self.snapshots = [one for one in self.snapshots if one.number % self._every == 0]
