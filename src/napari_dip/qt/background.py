"""One call in a thread of its own, whatever it computes, and errors as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from qtpy.QtCore import QObject, Signal
from superqt.utils import FunctionWorker, create_worker

from napari_dip.errors import DipError, Refusal
from napari_dip.qt.worker import Switch, as_refusal
from napari_dip.run.runner import Control

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")


def answered(work: Callable[[], Answer], doing: str, name: str) -> Answer | Refusal:
    """Work; whatever goes wrong comes back as a value.

    Parameters
    ----------
    work : callable
    doing, name : str
        What is done to what, for the log: "Saving", "cells".
    """
    try:
        return work()
    except DipError as error:
        return error.refusal
    except Exception as error:
        return as_refusal(error, doing, name)


class BackgroundCall(QObject):
    """One call; lives in the GUI thread and speaks through a signal, once.

    Parameters
    ----------
    call : callable
        Takes the switch, which says when nobody waits any more, and raises nothing.
    parent : QObject
        Whose end is the end of it.
    """

    ended = Signal(object)  # what the call gave back

    def __init__(self, call: Callable[[Switch], object], parent: QObject) -> None:
        super().__init__(parent)
        self._switch = switch = Switch()
        self._worker: FunctionWorker[object] | None = create_worker(
            call,
            switch,
            _start_thread=False,
            _connect={"returned": self._end},
        )
        self.destroyed.connect(lambda *_: switch.set(Control.DISCARD))

    def start(self) -> None:
        """Begin; the answer comes from the event loop."""
        if self._worker is not None:
            self._worker.start()

    def discard(self) -> None:
        """Wait for no answer any more."""
        self._switch.set(Control.DISCARD)

    def _end(self, outcome: object) -> None:
        self._worker = None
        if self._switch() is not Control.DISCARD:
            self.ended.emit(outcome)
        self.deleteLater()
