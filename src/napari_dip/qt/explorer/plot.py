"""The plot of a running experiment: a curve over the iterations for each target or band."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg

from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.qt.shell.plot import DockPlot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_dip.explore.experiments import PlotSpec

    Points = Iterable[tuple[str, int, Mapping[str, float]]]

#: Ticks of the iteration axis; the automatic labels of a logarithmic axis would overlap.
_ITERATION_TICKS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


class ExplorerPlot(DockPlot):
    """A plot of curves over the logarithm of the iteration, as in the paper's figure."""

    def __init__(self) -> None:
        super().__init__("Course of the experiment", ("Iteration", ""), "")
        self._spec: PlotSpec | None = None
        self._points: dict[str, list[tuple[int, float]]] = {}
        self._group = ""
        self.curves: dict[str, pg.PlotDataItem] = {}
        self.setLogMode(x=True)
        self.getAxis("bottom").setTicks(
            [[(np.log10(tick), f"{tick}") for tick in _ITERATION_TICKS]]
        )
        self.getAxis("left").setStyle(maxTickLevel=0)

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
        self._spec = spec = EXPERIMENTS[experiment].plot
        assert spec is not None  # those without are not in the dock
        for curve in self.curves.values():
            self.removeItem(curve)
        self.curves = {
            curve.name: self.plot(pen=pg.mkPen(curve.colour, width=2)) for curve in spec.curves
        }
        self.setYRange(0, spec.top, padding=0)
        self.setToolTip(f"<qt>{spec.tooltip}</qt>")
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

    def _begin(self, group: str) -> None:
        self._group = group
        self._points = {name: [] for name in self.curves}
        self.labels = "Iteration", self._spec.axis_label if self._spec else ""
        self.legend = self._make_legend()
        self.update_labels()
        self._draw()

    def _draw(self) -> None:
        self.setVisible(self.count > 0)
        for name, curve in self.curves.items():
            points = np.array(self._points[name], dtype=float).reshape(-1, 2)
            curve.setData(points[:, 0], points[:, 1])

    def _make_legend(self) -> str:
        """Return the legend above the plot, where it hides no curve, as rich text."""
        spec = self._spec
        if spec is None:
            return ""
        entries = [
            f'<span style="color:{curve.colour}">━</span>&nbsp;{curve.label.replace(" ", "&nbsp;")}'
            for curve in spec.curves
        ]
        gap, count = "&nbsp;&nbsp; ", spec.labels_per_line
        lines = [
            gap.join(entries[start : start + count]) for start in range(0, len(entries), count)
        ]
        lines[-1] += gap + spec.unit if spec.unit else ""
        return "<br>".join([self._group, *lines] if self._group else lines)
