"""One run at a time, however many docks and viewers are open: the others wait in line.

Two runs at once would share cores and memory, take as long together, and could fill the memory
that each was promised.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakMethod

from qtpy.QtCore import QObject, Signal

if TYPE_CHECKING:
    from collections.abc import Callable


class Place:
    """A place in the line.

    Parameters
    ----------
    label : str
        What runs, for those who wait behind it.
    tell : bound method
        Called with this place when its turn comes, and before that when the line moves. Held
        weakly, and not called once its owner is gone.
    """

    def __init__(self, queue: RunQueue, label: str, tell: Callable[[Place], None]) -> None:
        self._queue = queue
        self._tell = WeakMethod(tell)
        self.label = label
        self.begun = False
        self.ahead: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What is waited for."""
        first, more = self.ahead[0], len(self.ahead) - 1
        others = "" if not more else f", and then for {more} more" if more > 1 else ", and another"
        return f"Waiting for '{first}' to end{others}. It begins by itself."

    def leave(self) -> None:
        """Give the place up; may be called from any thread, and twice."""
        with suppress(RuntimeError):  # Qt is gone already, with all who wait
            self._queue.left.emit(self)

    def tell(self) -> None:
        """Let the owner look."""
        if (tell := self._tell()) is not None:
            tell(self)


class RunQueue(QObject):
    """The line; its first has its turn."""

    left = Signal(object)  # Place; from whatever thread the run was in

    def __init__(self) -> None:
        super().__init__()
        self._line: list[Place] = []
        self.left.connect(self._on_left)

    def join(self, label: str, owner: QObject, tell: Callable[[Place], None]) -> Place:
        """Take a place at the end; `tell` is called at once, also if its turn has come.

        Parameters
        ----------
        label : str
            Such as "Denoise cells".
        owner : QObject
            With it goes a place whose turn has not come.
        tell : bound method of `owner`
        """
        place = Place(self, label, tell)
        self._line.append(place)
        owner.destroyed.connect(lambda *_: None if place.begun else place.leave())
        self._advance()
        return place

    def _on_left(self, place: Place) -> None:
        if place in self._line:
            self._line.remove(place)
            self._advance()

    def _advance(self) -> None:
        """Let the first begin, and tell those behind it what they wait for."""
        for number, place in enumerate(tuple(self._line)):
            ahead = tuple(one.label for one in self._line[:number])
            if place.begun or (number and place.ahead == ahead):
                continue
            place.begun, place.ahead = number == 0, ahead
            place.tell()


@cache
def run_queue() -> RunQueue:
    """Give the one line of this program; in the GUI thread."""
    return RunQueue()
