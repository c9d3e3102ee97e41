"""The plot of a running experiment: a curve over the iterations for each target or band."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg

from napari_dip.explore.experiment_setup import TARGETS
from napari_dip.explore.spectra import BAND_NAMES, compute_band_edges
from napari_dip.qt.shell.plot import disable_plot_interaction, recolour

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qtpy.QtWidgets import QWidget

    Points = Iterable[tuple[str, int, Mapping[str, float]]]

#: Colours of the Okabe-Ito palette, distinct in every kind of colour vision, by target.
_TARGET_COLOURS = dict(zip(TARGETS, ("#56B4E9", "#009E73", "#E69F00", "#D55E00"), strict=True))
#: Colours from the lowest band to the highest, visible on dark and light backgrounds.
_BAND_COLOURS = dict(
    zip(BAND_NAMES, ("#4C86E8", "#2BA8B8", "#4FAE5A", "#D99A1C", "#DB5B3B"), strict=True)
)
_CURVE_COLOURS = {
    "impedance": _TARGET_COLOURS,
    "spectrum": _BAND_COLOURS,
    "architectures": {name: _TARGET_COLOURS[name] for name in ("image", "noise")},
}
#: Ticks of the iteration axis; the automatic labels of a logarithmic axis would overlap.
_ITERATION_TICKS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
_ENERGY = "Not learned (1: all)"
_Y_AXIS_LABELS = {"impedance": _ENERGY, "spectrum": "Learned (1: all)", "architectures": _ENERGY}
_PLOT_TOOLTIPS = {
    "impedance": "How much of each target the network has not learned yet. It takes up an image "
    "long before noise: its structure resists noise.",
    "spectrum": "How much of each band of frequencies of the image is there. Low frequencies come "
    "first; noise lies in the high ones.",
    "architectures": "How much of the image, and of noise, this network has not learned yet.",
}


class ExplorerPlot(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph ships no types
    """A plot of curves over the logarithm of the iteration, as in the paper's figure."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.experiment = "impedance"
        self._points: dict[str, list[tuple[int, float]]] = {}
        self._group = ""
        self._theme = ("#ffffff", "#000000")
        self.curves: dict[str, pg.PlotDataItem] = {}
        self.setLogMode(x=True)
        disable_plot_interaction(self)
        self.getAxis("bottom").setTicks(
            [[(np.log10(tick), f"{tick}") for tick in _ITERATION_TICKS]]
        )
        self.getAxis("left").setStyle(maxTickLevel=0)
        self.setVisible(False)  # until it has points
        self.setAccessibleName("Course of the experiment")

    @property
    def count(self) -> int:
        """Number of points of the longest curve."""
        return max((len(point) for point in self._points.values()), default=0)

    @property
    def group(self) -> str:
        """Label of the architecture whose curves are shown; "" in other experiments."""
        return self._group

    def restart(self, experiment: str) -> None:
        """Empty the plot and set it up for an experiment."""
        self.experiment = experiment
        for curve in self.curves.values():
            self.removeItem(curve)
        self.curves = {
            name: self.plot(pen=pg.mkPen(colour, width=2))
            for name, colour in _CURVE_COLOURS[experiment].items()
        }
        self.setYRange(0, 1.1 if experiment != "spectrum" else 1, padding=0)
        self.setToolTip(f"<qt>{_PLOT_TOOLTIPS[experiment]}</qt>")
        self.setVisible(False)
        self._begin("")

    def extend(self, points: Points) -> None:
        """Add points; another group begins new curves."""
        for group, iteration, values in points:
            if group != self._group:
                self._begin(group)
            for name, value in values.items():
                self._points[name].append((iteration, value))
        self._draw()

    def show_group(self, group: str, curves: Mapping[str, Iterable[float]]) -> None:
        """Replace the curves by the complete curves of a group."""
        self._begin(group)
        for name, values in curves.items():
            self._points[name] = list(enumerate(values, 1))
        self._draw()

    def recolour(self, text: str, background: str) -> None:
        """Apply the colours of napari's theme."""
        self._theme = (text, background)
        label = {"bottom": "Iteration", "left": _Y_AXIS_LABELS[self.experiment]}
        recolour(self, text, background, label, self._make_legend())

    def _begin(self, group: str) -> None:
        self._group = group
        self._points = {name: [] for name in self.curves}
        self.recolour(*self._theme)
        self._draw()

    def _draw(self) -> None:
        self.setVisible(self.count > 0)
        for name, curve in self.curves.items():
            points = np.array(self._points[name], dtype=float).reshape(-1, 2)
            curve.setData(points[:, 0], points[:, 1])

    def _make_legend(self) -> str:
        """Return the legend above the plot, where it hides no curve, as rich text."""
        band_edges = compute_band_edges()
        labels: Mapping[str, str] = TARGETS
        if self.experiment == "spectrum":
            labels = {
                name: f"{band_edges[number]:.1f}–{band_edges[number + 1]:.1f}"
                for number, name in enumerate(BAND_NAMES)
            }
        entries = [
            f'<span style="color:{colour}">━</span>&nbsp;{labels[name].replace(" ", "&nbsp;")}'
            for name, colour in _CURVE_COLOURS[self.experiment].items()
        ]
        gap = "&nbsp;&nbsp; "
        if self.experiment == "spectrum":  # two lines, with the unit of the bands
            return f"{gap.join(entries[:3])}<br>{gap.join(entries[3:])}{gap}cycles/pixel"
        if self.experiment == "impedance":
            return f"{gap.join(entries[:2])}<br>{gap.join(entries[2:])}"
        head = f"{self._group}<br>" if self._group else ""
        return f"{head}{gap.join(entries)}"
