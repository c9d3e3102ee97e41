"""The held-out curve: how well the picture explains pixels that it never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QSizePolicy, QWidget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Blue and orange of the Okabe-Ito palette: told apart by every kind of colour vision.
TRAINING_COLOUR, VALIDATION_COLOUR = "#56B4E9", "#E69F00"
#: In pixels: tall enough to read, low enough for all of it to be in sight, in a window of 1280 x
#: 720, below a result of which there is much to say.
_HEIGHT = 164
#: Shortest axis; a shorter one has tenths of iterations.
_MIN_AXIS_ITERATIONS = 10
#: In pixels: of the words above the curves, which pyqtgraph gives 30. The topmost number needs 7.
_LEGEND_HEIGHT = 20
#: Of each further line of these words.
_LEGEND_LINE = 16
#: Stands above the curves, where it can hide none of them.
_VALIDATION_LEGEND = "&nbsp;&nbsp;&nbsp;".join(
    f'<span style="color:{colour}">{sign}</span> {text}'
    for colour, sign, text in (
        (TRAINING_COLOUR, "━", "fitted"),
        (VALIDATION_COLOUR, "━", "validation"),
        (VALIDATION_COLOUR, "●", "best so far"),
    )
)


class ValidationCurve(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph ships no types
    """Loss of fitted and of held-out pixels against the iteration, best point marked."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._points: list[tuple[int, float, float]] = []
        self._unit = 0
        self._fitted = self.plot(pen=pg.mkPen(TRAINING_COLOUR, width=1.5))
        self._held_out = self.plot(pen=pg.mkPen(VALIDATION_COLOUR, width=2))
        best = {"symbol": "o", "symbolSize": 9, "symbolBrush": VALIDATION_COLOUR}
        self._best = self.plot(pen=None, **best)
        self._mark = pg.InfiniteLine(angle=90, pen=pg.mkPen(TRAINING_COLOUR, width=1))
        self._mark.setVisible(False)
        self.addItem(self._mark, ignoreBounds=True)
        disable_plot_interaction(self)
        self.setVisible(False)  # until there is something to see
        self.setToolTip(
            "Some pixels are hidden from the fit. While their loss falls, the picture gets better; "
            "when it rises, the network begins to copy noise, and the best point is kept."
        )
        self.setAccessibleName("Held-out curve")

    def restart(self) -> None:
        """Empty the plot."""
        self._points.clear()
        self._unit = 0
        self._draw(0)

    def extend(self, points: Iterable[tuple[int, int, float, float]], best: int) -> None:
        """Add points (unit, iteration, fitted loss, held-out loss); mark the iteration `best`.

        A new unit begins a new curve.
        """
        for unit, iteration, fitted, held_out in points:
            if unit != self._unit:
                self._unit = unit
                self._points.clear()
            self._points.append((iteration, fitted, held_out))
        self._draw(best)

    def mark(self, place: tuple[int, int] | None) -> None:
        """Draw a line where a picture of the history is from: (unit, iteration), None for none."""
        self._mark.setVisible(place is not None and place[0] == self._unit)
        if place is not None:
            self._mark.setValue(place[1])

    @property
    def count(self) -> int:
        """Number of points shown."""
        return len(self._points)

    def recolour(self, text: str, background: str) -> None:
        """Follow napari's theme."""
        label = {"bottom": "Iteration", "left": "Loss (low is good)"}
        recolour(self, text, background, label, _VALIDATION_LEGEND)
        self._best.setSymbolPen(text)
        self._mark.setPen(text)

    def _draw(self, best: int) -> None:
        self.setVisible(bool(self._points))
        table = np.array(self._points, dtype=float).reshape(-1, 3)
        iteration = table[:, 0]
        for curve, losses in ((self._fitted, table[:, 1]), (self._held_out, table[:, 2])):
            finite = np.isfinite(losses)
            curve.setData(iteration[finite], losses[finite])
        marked = (iteration == best) & np.isfinite(table[:, 2])
        self._best.setData(iteration[marked], table[marked, 2])
        # fitted to a single point, the axis would go from below zero
        self.setXRange(0, max(_MIN_AXIS_ITERATIONS, 1.03 * iteration.max(initial=0)), padding=0)


def disable_plot_interaction(plot: pg.PlotWidget) -> None:
    """Make a plot that is looked at and not played with."""
    item = plot.getPlotItem()
    item.setMenuEnabled(False)
    item.hideButtons()
    plot.setMouseEnabled(x=False, y=False)  # the wheel scrolls the dock instead
    item.layout.setContentsMargins(2, 0, 8, 2)
    plot.setFixedHeight(_HEIGHT)
    plot.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)


def recolour(
    plot: pg.PlotWidget, text: str, background: str, message: Mapping[str, str], legend: str
) -> None:
    """Give a plot the colours of a theme, and its words, which have colours, too.

    Parameters
    ----------
    plot : PlotWidget
    text, background : str
        Colours.
    message : mapping
        Of the axes: "bottom", "left".
    legend : str
        Stands above, as rich text.
    """
    plot.setBackground(background)
    item = plot.getPlotItem()
    for side, label in message.items():
        axis = item.getAxis(side)
        axis.setPen(text)
        axis.setTextPen(text)
        axis.setLabel(label, color=text)
        axis.enableAutoSIPrefix(False)
    item.setTitle(legend, color=text, size="9pt")
    more = _LEGEND_LINE * legend.count("<br>")
    item.titleLabel.setMaximumHeight(_LEGEND_HEIGHT + more)
    item.layout.setRowFixedHeight(0, _LEGEND_HEIGHT + more)
    plot.setFixedHeight(_HEIGHT + more)  # the curves keep their height
