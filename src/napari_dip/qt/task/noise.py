"""The noise of the chosen image: a button that measures it, and fields that overrule it.

Variance against mean: dots for the flat blocks of the image, a line for what they say.

Measuring the noise of a layer, for a thread of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_dip.errors import Refusal
from napari_dip.pipeline.events import Control
from napari_dip.pipeline.lazy_inputs import load_array
from napari_dip.pipeline.noise_report import NoiseReport, make_noise_report
from napari_dip.pipeline.plan.layout import check_header
from napari_dip.qt.shell.dock_widget import CollapsibleSection
from napari_dip.qt.shell.layers import get_full_resolution
from napari_dip.qt.shell.plot import (
    TRAINING_COLOUR,
    VALIDATION_COLOUR,
    disable_plot_interaction,
    recolour,
)
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.worker import BackgroundCall, catch_errors

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.noise_report import ChannelNoise
    from napari_dip.qt.shell.input_chooser import InputChooser
    from napari_dip.qt.shell.settings_form import SettingsForm
    from napari_dip.qt.shell.worker import Switch

#: What comes of it: figures, a sentence, or nothing if nobody waits any more.
MeasurementOutcome = NoiseReport | Refusal | None


def measure_layer_noise(spec: ImageSpec, pixels: Any, switch: Switch) -> MeasurementOutcome:
    """Measure; whatever goes wrong comes back as a value, and a lazy array is computed here.

    Parameters
    ----------
    spec : ImageSpec
    pixels : array
        In the axes of `spec`, lazy or not.
    switch : Switch
    """

    def work() -> MeasurementOutcome:
        array = load_array(spec.name, pixels)
        return None if switch() is Control.DISCARD else make_noise_report(spec, array)

    return catch_errors(work, "Measuring the noise of", spec.name)


_PHOTON_TRANSFER_LEGEND = "&nbsp;&nbsp;&nbsp;".join(
    f'<span style="color:{colour}">{sign}</span> {text}'
    for colour, sign, text in (
        (TRAINING_COLOUR, "●", "flat parts"),
        (VALIDATION_COLOUR, "━", "measured noise"),
    )
)
#: Percentile of the variances that the plot goes up to, times a little: a block with structure in
#: it would squeeze all others.
_VARIANCE_PERCENTILE, _VARIANCE_AXIS_MARGIN = 98, 1.3


class PhotonTransferPlot(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph ships no types
    """What the noise was measured from, of all channels."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        dots = {"symbol": "o", "symbolSize": 4, "symbolBrush": TRAINING_COLOUR, "symbolPen": None}
        self.dots = self.plot(pen=None, **dots)
        self.line = self.plot(pen=pg.mkPen(VALIDATION_COLOUR, width=2), connect="finite")
        disable_plot_interaction(self)
        self.setVisible(False)
        self.setToolTip(
            "Each dot is a flat part of the image: its brightness, and how much its pixels vary. "
            "The line is the noise that the restoration reckons with; dots far above it hold "
            "structure."
        )
        self.setAccessibleName("Noise against brightness")

    def show_noise(self, channels: tuple[ChannelNoise, ...]) -> None:
        """Draw the points and the line of each channel."""
        points = np.array([point for channel in channels for point in channel.points]).reshape(
            -1, 2
        )
        self.setVisible(len(points) > 0)
        if not len(points):
            return
        self.dots.setData(points[:, 0], points[:, 1])
        ends = []
        for item in channels:
            means = np.array([point[0] for point in item.points])
            ends += [
                [mean, item.gain * mean + item.intercept] for mean in (means.min(), means.max())
            ]
            ends.append([np.nan, np.nan])  # between two channels the pen is lifted
        line = np.array(ends)
        self.line.setData(line[:, 0], line[:, 1])
        highest = max(np.percentile(points[:, 1], _VARIANCE_PERCENTILE), np.nanmax(line[:, 1]))
        self.setYRange(0, _VARIANCE_AXIS_MARGIN * float(highest), padding=0)

    def recolour(self, text: str, background: str) -> None:
        """Follow napari's theme."""
        label = {"bottom": "Brightness", "left": "Variance"}
        recolour(self, text, background, label, _PHOTON_TRANSFER_LEGEND)


_NOISE_HINT = (
    "What is left empty is measured from the image when the run starts, or now by Measure."
)


class NoiseSection(CollapsibleSection):
    """What is known of the noise before a run.

    Parameters
    ----------
    chooser : InputChooser
        Whose image is measured.
    form : SettingsForm
        Whose fields say what overrules the measurement.
    """

    def __init__(self, chooser: InputChooser, form: SettingsForm) -> None:
        page = QWidget()
        super().__init__("Noise", page)
        self._chooser, self._form = chooser, form
        self._measuring: BackgroundCall | None = None
        self._of: tuple[int, str] | None = None
        self.button = QPushButton("Measure")
        self.button.setToolTip("<qt>Measure the noise of the image now; nothing is restored.</qt>")
        self.message_label = make_message_label()
        self.message_label.setText(_NOISE_HINT)
        self.plot = PhotonTransferPlot()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (form.noise, self.button, self.plot, self.message_label):
            layout.addWidget(widget)
        form.noise.setVisible(True)
        self.button.clicked.connect(self.measure)
        chooser.changed.connect(self._on_image)

    def measure(self) -> None:
        """Measure the chosen image; the answer comes later."""
        layer, header = self._chooser.layer(), self._chooser.header()
        refused = header if isinstance(header, Refusal) else check_header(header)
        if isinstance(header, Refusal) or refused is not None or layer is None:
            self._say(refused.message if refused else "")
            return
        self._drop()
        self._of = _identify_image(layer, header.axes)
        self.button.setEnabled(False)
        self.button.setText("Measuring …")
        self._measuring = BackgroundCall(
            partial(measure_layer_noise, header, get_full_resolution(layer)), self
        )
        self._measuring.ended.connect(self._on_measured)
        self._measuring.start()

    @property
    def busy(self) -> bool:
        """Whether a measurement is on."""
        return self._measuring is not None

    def shut_down(self) -> None:
        """Wait for no answer any more; the chooser, of the same dock, falls silent by itself."""
        self._drop()

    def _on_measured(self, outcome: MeasurementOutcome) -> None:
        self._drop()
        if isinstance(outcome, Refusal):
            self._say(outcome.message)
        elif outcome is not None:
            self._show(outcome)

    def _show(self, report: NoiseReport) -> None:
        figures = {
            name: " / ".join(f"{getattr(channel, figure):.4g}" for channel in report.channels)
            for name, figure in (("gain", "gain"), ("read_noise", "noise_in_dark"))
        }
        said = {key: f"{value}, measured" for key, value in figures.items()}
        said["read_noise"] += " in the dark"  # the detector's own may be less
        self._form.say_measured(said)
        self.plot.show_noise(report.channels)
        self._say("\n".join(report.sentences))

    def _on_image(self) -> None:
        """Forget what was measured of another image."""
        layer, header = self._chooser.layer(), self._chooser.header()
        now = None
        if layer is not None and not isinstance(header, Refusal):
            now = _identify_image(layer, header.axes)
        if self._of is None or now == self._of:
            return
        self._of = None
        self._drop()
        self._form.say_measured({})
        self.plot.setVisible(False)
        self._say(_NOISE_HINT)

    def _drop(self) -> None:
        """Be ready to measure again."""
        if self._measuring is not None:
            self._measuring.discard()
        self._measuring = None
        self.button.setEnabled(True)
        self.button.setText("Measure")

    def _say(self, text: str) -> None:
        self.message_label.setText(text)
        self.grown()


def _identify_image(layer: Image, axes: str) -> tuple[int, str]:
    """Tell images apart: other pixels, or other axes, are another image."""
    return id(layer.data), axes
