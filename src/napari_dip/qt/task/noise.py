"""The noise section of a task's dock: measures the variance model and plots it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QWidget

from napari_dip.errors import Refusal
from napari_dip.pipeline.lazy_inputs import load_array
from napari_dip.pipeline.noise_report import NoiseReport, make_noise_report
from napari_dip.pipeline.plan.layout import check_header
from napari_dip.qt.shell.dock_widget import CollapsibleSection, fill_grid, make_button
from napari_dip.qt.shell.layers import get_full_resolution
from napari_dip.qt.shell.plot import (
    TRAINING_COLOUR,
    VALIDATION_COLOUR,
    DockPlot,
    make_legend,
)
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.worker import start_call

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.noise_report import ChannelNoise
    from napari_dip.qt.shell.layer_inputs import InputChooser
    from napari_dip.qt.shell.settings_form import SettingsForm
    from napari_dip.qt.shell.worker import BackgroundCall

#: The variance axis ends at this percentile of the variances, times a margin. A block with
#: structure would otherwise compress all other points.
_VARIANCE_PERCENTILE, _VARIANCE_AXIS_MARGIN = 98, 1.3
_NOISE_HINT = (
    "What is left empty is measured from the image when the run starts, or now by Measure."
)


def _measure_layer_noise(spec: ImageSpec, pixels: Any) -> NoiseReport | Refusal:
    """Measure the noise of an image; its lazy pixels are computed in this thread."""
    return make_noise_report(spec, load_array(spec.name, pixels))


class PhotonTransferPlot(DockPlot):
    """A photon transfer curve: variance against mean of flat blocks, with the fitted lines."""

    def __init__(self) -> None:
        super().__init__(
            "Noise against brightness",
            ("Brightness", "Variance"),
            make_legend(
                (TRAINING_COLOUR, "●", "flat parts"), (VALIDATION_COLOUR, "━", "measured noise")
            ),
            "Each dot is a flat part of the image: its brightness, and how much its pixels vary. "
            "The line is the noise that the restoration reckons with; dots far above it hold "
            "structure.",
        )
        dots = {"symbol": "o", "symbolSize": 4, "symbolBrush": TRAINING_COLOUR, "symbolPen": None}
        self.dots = self.plot(pen=None, **dots)
        self.line = self.plot(pen=pg.mkPen(VALIDATION_COLOUR, width=2), connect="finite")

    def show_noise(self, channels: tuple[ChannelNoise, ...]) -> None:
        """Plot the blocks and the variance model of each channel."""
        points = np.array([point for channel in channels for point in channel.points]).reshape(
            -1, 2
        )
        self.setVisible(len(points) > 0)
        if not len(points):
            return
        self.dots.setData(points[:, 0], points[:, 1])
        line_points = []
        for channel_noise in channels:
            means = np.array([point[0] for point in channel_noise.points])
            line_points += [
                [mean, channel_noise.gain * mean + channel_noise.intercept]
                for mean in (means.min(), means.max())
            ]
            line_points.append([np.nan, np.nan])  # separates the lines of two channels
        lines = np.array(line_points)
        self.line.setData(lines[:, 0], lines[:, 1])
        highest = max(np.percentile(points[:, 1], _VARIANCE_PERCENTILE), np.nanmax(lines[:, 1]))
        self.setYRange(0, _VARIANCE_AXIS_MARGIN * float(highest), padding=0)


class NoiseSection(CollapsibleSection):
    """A section of the dock that measures the noise before a run, and shows its settings.

    Parameters
    ----------
    chooser : InputChooser
        Chooses the image that is measured.
    form : SettingsForm
        Has the fields that override the measurement.
    """

    def __init__(self, chooser: InputChooser, form: SettingsForm) -> None:
        page = QWidget()
        super().__init__("Noise", page)
        self._chooser, self._form = chooser, form
        self._measurement_call: BackgroundCall | None = None
        self._measured_image: tuple[int, str] | None = None
        self.button = make_button(
            "Measure", "Measure the noise of the image now; nothing is restored."
        )
        self.message_label = make_message_label()
        self.message_label.setText(_NOISE_HINT)
        self.plot = PhotonTransferPlot()
        fill_grid(page, ([form.noise], [self.button], [self.plot], [self.message_label]))
        form.noise.setVisible(True)
        self.button.clicked.connect(self.measure)
        chooser.changed.connect(self._on_image)

    def measure(self) -> None:
        """Measure the noise of the chosen image in the background."""
        layer, header = self._chooser.get_layer(), self._chooser.read_header()
        refusal = header if isinstance(header, Refusal) else check_header(header)
        if isinstance(header, Refusal) or refusal is not None or layer is None:
            self._show_message(refusal.message if refusal else "")
            return
        self._reset()
        self._measured_image = _identify_image(layer, header.axes)
        self.button.setEnabled(False)
        self.button.setText("Measuring …")
        self._measurement_call = start_call(
            partial(_measure_layer_noise, header, get_full_resolution(layer)),
            self,
            self._on_measured,
            doing="Measuring the noise of",
            name=header.name,
        )

    @property
    def is_busy(self) -> bool:
        """Whether a measurement is running."""
        return self._measurement_call is not None

    def shut_down(self) -> None:
        """Discard a running measurement; the chooser is deleted with the same dock."""
        self._reset()

    def _on_measured(self, outcome: NoiseReport | Refusal) -> None:
        self._reset()
        if isinstance(outcome, Refusal):
            self._show_message(outcome.message)
        else:
            self._show_report(outcome)

    def _show_report(self, report: NoiseReport) -> None:
        figures = {
            name: " / ".join(f"{getattr(channel, figure):.4g}" for channel in report.channels)
            for name, figure in (("gain", "gain"), ("read_noise", "noise_in_dark"))
        }
        placeholders = {key: f"{value}, measured" for key, value in figures.items()}
        placeholders["read_noise"] += " in the dark"  # may exceed the read noise of the detector
        self._form.show_measured_values(placeholders)
        self.plot.show_noise(report.channels)
        self._show_message("\n".join(report.sentences))

    def _on_image(self) -> None:
        """Clear the measurement if another image is chosen."""
        layer, header = self._chooser.get_layer(), self._chooser.read_header()
        current_image = None
        if layer is not None and not isinstance(header, Refusal):
            current_image = _identify_image(layer, header.axes)
        if self._measured_image is None or current_image == self._measured_image:
            return
        self._measured_image = None
        self._reset()
        self._form.show_measured_values({})
        self.plot.setVisible(False)
        self._show_message(_NOISE_HINT)

    def _reset(self) -> None:
        """Discard a running measurement and enable the button."""
        if self._measurement_call is not None:
            self._measurement_call.discard()
        self._measurement_call = None
        self.button.setEnabled(True)
        self.button.setText("Measure")

    def _show_message(self, text: str) -> None:
        self.message_label.setText(text)
        self.fit_page_height()


def _identify_image(layer: Image, axes: str) -> tuple[int, str]:
    """Return a key that differs for other pixels or other axes."""
    return id(layer.data), axes
