"""Measuring the noise of a layer, for a thread of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal
from napari_dip.qt.background import answered
from napari_dip.run.lazy import in_memory
from napari_dip.run.measuring import NoiseReport, noise_report
from napari_dip.run.runner import Control

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec
    from napari_dip.qt.worker import Switch

#: What comes of it: figures, a sentence, or nothing if nobody waits any more.
Measured = NoiseReport | Refusal | None


def measured(spec: ImageSpec, pixels: Any, switch: Switch) -> Measured:
    """Measure; whatever goes wrong comes back as a value, and a lazy array is computed here.

    Parameters
    ----------
    spec : ImageSpec
    pixels : array
        In the axes of `spec`, lazy or not.
    switch : Switch
    """

    def work() -> Measured:
        array = in_memory(spec.name, pixels)
        return None if switch() is Control.DISCARD else noise_report(spec, array)

    return answered(work, "Measuring the noise of", spec.name)
