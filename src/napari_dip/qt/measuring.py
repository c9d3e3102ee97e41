"""Measuring the noise of a layer in a thread of its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal
from superqt.utils import FunctionWorker, create_worker

from napari_dip.errors import DipError, Refusal, refusal
from napari_dip.qt.worker import Switch, in_words
from napari_dip.run.machine import is_memory_error
from napari_dip.run.measuring import NoiseReport, noise_report
from napari_dip.run.runner import Control

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec

log = logging.getLogger(__name__)

#: What comes of it: figures, a sentence, or nothing if nobody waits any more.
Measured = NoiseReport | Refusal | None


def measured(spec: ImageSpec, pixels: Any, switch: Switch) -> Measured:
    """Measure; whatever goes wrong comes back as a value, and a lazy array is computed here."""
    try:
        array = np.asarray(pixels)
        return None if switch() is Control.DISCARD else noise_report(spec, array)
    except DipError as error:
        return error.refusal
    except Exception as error:
        log.error("Measuring the noise of '%s' failed.", spec.name, exc_info=error)
        if is_memory_error(error):
            return refusal("memory-out", name=spec.name)
        return refusal("unexpected", why=in_words(error))


class BackgroundMeasuring(QObject):
    """One measurement; lives in the GUI thread and speaks through a signal, once.

    Parameters
    ----------
    spec : ImageSpec
    pixels : array
        In the axes of `spec`, lazy or not.
    parent : QObject
        Whose end is the end of it.
    """

    ended = Signal(object)  # Measured

    def __init__(self, spec: ImageSpec, pixels: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._switch = switch = Switch()
        self._worker: FunctionWorker[Measured] | None = create_worker(
            measured,
            spec,
            pixels,
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

    def _end(self, outcome: Measured) -> None:
        self._worker = None
        if self._switch() is not Control.DISCARD:
            self.ended.emit(outcome)
        self.deleteLater()
