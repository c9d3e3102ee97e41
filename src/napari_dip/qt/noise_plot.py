"""Variance against mean: dots for the flat blocks of the image, a line for what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg

from napari_dip.qt.plot import FITTED_COLOUR, HELD_OUT_COLOUR, as_picture, recolour

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_dip.run.measuring import ChannelNoise

_LEGEND = "&nbsp;&nbsp;&nbsp;".join(
    f'<span style="color:{colour}">{sign}</span> {words}'
    for colour, sign, words in (
        (FITTED_COLOUR, "●", "flat parts"),
        (HELD_OUT_COLOUR, "━", "measured noise"),
    )
)
#: Percentile of the variances that the plot goes up to, times a little: a block with structure in
#: it would squeeze all others.
_HIGHEST, _ROOM = 98, 1.3


class NoisePlot(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph ships no types
    """What the noise was measured from, of all channels."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        dots = {"symbol": "o", "symbolSize": 4, "symbolBrush": FITTED_COLOUR, "symbolPen": None}
        self.dots = self.plot(pen=None, **dots)
        self.line = self.plot(pen=pg.mkPen(HELD_OUT_COLOUR, width=2), connect="finite")
        as_picture(self)
        self.setVisible(False)
        self.setToolTip(
            "Each dot is a flat part of the image: its brightness, and how much its pixels vary. "
            "The line is the noise that the restoration reckons with; dots far above it hold "
            "structure."
        )
        self.setAccessibleName("Noise against brightness")

    def show_noise(self, channels: tuple[ChannelNoise, ...]) -> None:
        """Draw the points and the line of each channel."""
        points = np.array([point for one in channels for point in one.points]).reshape(-1, 2)
        self.setVisible(len(points) > 0)
        if not len(points):
            return
        self.dots.setData(points[:, 0], points[:, 1])
        ends = []
        for one in channels:
            means = np.array([point[0] for point in one.points])
            ends += [[mean, one.gain * mean + one.intercept] for mean in (means.min(), means.max())]
            ends.append([np.nan, np.nan])  # between two channels the pen is lifted
        line = np.array(ends)
        self.line.setData(line[:, 0], line[:, 1])
        highest = max(np.percentile(points[:, 1], _HIGHEST), np.nanmax(line[:, 1]))
        self.setYRange(0, _ROOM * float(highest), padding=0)

    def recolour(self, text: str, background: str) -> None:
        """Follow napari's theme."""
        words = {"bottom": "Brightness", "left": "Variance"}
        recolour(self, text, background, words, _LEGEND)
