"""The noise section of a task's dock: measures the variance model and plots it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from pydantic_core import PydanticCustomError
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_dip.errors import Refusal
from napari_dip.pipeline.lazy_inputs import load_array
from napari_dip.pipeline.noise_report import NoiseReport, make_noise_report
from napari_dip.pipeline.plan.layout import refuse_header
from napari_dip.qt.shell.background_call import start_call
from napari_dip.qt.shell.dock_plots import (
    TRAINING_COLOUR,
    VALIDATION_COLOUR,
    DockPlot,
    make_legend,
)
from napari_dip.qt.shell.dock_widget import (
    CollapsibleSection,
    fill_grid,
    make_button,
    style_table,
)
from napari_dip.qt.shell.napari_layers import get_full_resolution
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.tasks.shared_settings import normalise_blind_spot, read_blind_spot

if TYPE_CHECKING:
    from napari.layers import Image
    from qtpy.QtGui import QKeyEvent, QPaintEvent

    from napari_dip.io import FloatArray, ImageHeader
    from napari_dip.pipeline.noise_report import ChannelNoise
    from napari_dip.qt.shell.background_call import BackgroundCall
    from napari_dip.qt.shell.layer_inputs import ImageChooser
    from napari_dip.qt.shell.settings_form import SettingsForm

#: The variance axis ends at this percentile of the variances, times a margin. A block with
#: structure would otherwise compress all other points.
_VARIANCE_PERCENTILE, _VARIANCE_AXIS_MARGIN = 98, 1.3
#: Height of a row of the correlation table, in pixels.
_CORRELATION_ROW_HEIGHT = 17
_CORRELATION_STYLE = "QTableView, QHeaderView { font-size: 8pt; padding: 0px; }"
_CORRELATION_TIP = (
    "How much of its noise a pixel shares with its neighbours, in %: the column is the distance in "
    "pixels along X, the row along Y. Where it is more than a few per cent, a neighbour betrays "
    "the noise and should be hidden. Click a number, or press the space bar, to hide it or not."
)
_NOISE_HINT = (
    "What is left empty is measured from the image when the run starts, or now by Measure."
)


def _measure_layer_noise(header: ImageHeader, pixels: Any) -> NoiseReport | Refusal:
    """Measure the noise of an image; its lazy pixels are computed in this thread."""
    return make_noise_report(header, load_array(header.name, pixels))


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
            "The line is the noise that the restoration assumes; dots far above it hold structure.",
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


class CorrelationTable(QTableWidget):
    """The correlation of the noise by lag, on which the user draws a blind spot.

    A click or the space bar hides a lag, or shows it again; the opposite one follows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Correlation of the noise, and blind spot")
        self.setToolTip(f"<qt>{_CORRELATION_TIP}</qt>")
        style_table(self, _CORRELATION_ROW_HEIGHT)
        self.setStyleSheet(_CORRELATION_STYLE)
        self.setTextElideMode(Qt.TextElideMode.ElideNone)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setTabKeyNavigation(False)  # else the tab key would not leave the table
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._hidden = np.ones((1, 1), bool)
        self._correlation: FloatArray = np.ones((1, 1))
        self.cellClicked.connect(self.toggle)

    @property
    def shape_text(self) -> str:
        """What is drawn, as a value of the setting."""
        rows = self._hidden.astype(int).astype(str)
        return normalise_blind_spot("/".join(map("".join, rows)))

    def show_correlation(self, correlation: FloatArray) -> None:
        """Fill the table with the correlation (L, L), whose lag 0 is in the middle."""
        self._correlation, half = correlation, len(correlation) // 2
        lags = [str(lag).replace("-", "−") for lag in range(-half, half + 1)]
        self.setRowCount(len(lags))
        self.setColumnCount(len(lags))
        self.setVerticalHeaderLabels(lags)
        self.setHorizontalHeaderLabels(lags)
        for header in (self.horizontalHeader(), self.verticalHeader()):
            assert header is not None  # a table has both
            header.setVisible(True)
            header.setHighlightSections(False)
            header.setMinimumSectionSize(_CORRELATION_ROW_HEIGHT)
            header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.setFixedHeight((len(lags) + 1) * _CORRELATION_ROW_HEIGHT + 8)
        for row, column in np.ndindex(correlation.shape):
            percent = round(float(100 * correlation[row, column]))
            item = QTableWidgetItem(str(percent).replace("-", "−"))
            item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
            self.setItem(row, column, item)
        self.setCurrentCell(half, half)

    def draw(self, shape_text: str) -> None:
        """Draw a value of the setting."""
        rows = np.array(read_blind_spot(shape_text), bool)
        margins = [(len(self._correlation) - side) // 2 for side in rows.shape]
        self._hidden = np.pad(rows, [(margin, margin) for margin in margins])
        self._colour()

    def toggle(self, row: int, column: int) -> None:
        """Hide a lag and the opposite one, or show them again; lag 0 is always hidden."""
        if (row, column) != (len(self._hidden) // 2,) * 2:
            self._hidden[row, column] ^= True
            self._hidden[-1 - row, -1 - column] = self._hidden[row, column]
            self._colour()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Let the space bar do what a click does."""
        if event is not None and event.key() == Qt.Key.Key_Space:
            self.toggle(self.currentRow(), self.currentColumn())
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Frame the lag that the keys are at, which napari's style does not show."""
        super().paintEvent(event)
        if self.hasFocus():
            painter = QPainter(self.viewport())
            painter.setPen(QPen(QColor(TRAINING_COLOUR), 3))
            painter.drawRect(self.visualRect(self.currentIndex()))

    def _colour(self) -> None:
        """Colour hidden lags, and the others by their correlation."""
        for row, column in np.ndindex(self._hidden.shape):
            item = self.item(row, column)
            assert item is not None  # the table is full
            is_hidden, correlation = self._hidden[row, column], self._correlation[row, column]
            colour = QColor(VALIDATION_COLOUR if is_hidden else TRAINING_COLOUR)
            colour.setAlphaF(1.0 if is_hidden else float(np.clip(correlation, 0, 1)))
            item.setBackground(colour)
            item.setData(Qt.ItemDataRole.ForegroundRole, QColor("black") if is_hidden else None)
            state = "hidden" if is_hidden else "not hidden"
            item.setData(Qt.ItemDataRole.AccessibleTextRole, f"{item.text()} %, {state}")


class BlindSpotPage(QWidget):
    """The correlation of the noise as a picture, and buttons that set the blind spot drawn on it.

    Parameters
    ----------
    form : SettingsForm
        With the setting, or without it; then the page stays hidden.
    """

    def __init__(self, form: SettingsForm) -> None:
        super().__init__()
        self._setting = form.widgets.get("blind_spot_shape")
        self._suggested = ""
        self.table = CorrelationTable()
        legend = QLabel(
            make_legend((VALIDATION_COLOUR, "■", "hidden"), (TRAINING_COLOUR, "■", "shares noise"))
            + "<br>Shared noise in %, by pixels along X (columns) and Y (rows)"
        )
        legend.setWordWrap(True)
        self.use_button = make_button(
            "Use this shape", "Hide exactly these pixels, by the setting Blind spot."
        )
        self.clear_button = make_button(
            "Automatic", "Empty the setting Blind spot: a rectangle is hidden, as wide as measured."
        )
        fill_grid(self, ([legend], [self.table], [self.use_button, self.clear_button]))
        self.setVisible(False)
        if self._setting is not None:
            self.use_button.clicked.connect(lambda: self._set_shape(self.table.shape_text))
            self.clear_button.clicked.connect(lambda: self._set_shape(""))
            self._setting.changed.connect(self._draw_setting)

    def show_report(self, report: NoiseReport) -> None:
        """Show the measured correlation, with the blind spot that is set or suggested."""
        self._suggested = report.blind_spot_shape
        self.table.show_correlation(report.correlation)
        self._draw_setting()
        self.setVisible(self._setting is not None)

    def _set_shape(self, shape_text: str) -> None:
        assert self._setting is not None  # the page is hidden without it
        self._setting.value = shape_text
        self._draw_setting()

    def _draw_setting(self, _: object = None) -> None:
        """Draw the setting, or the suggestion if it is empty; keep the drawing if it is invalid."""
        if not self._suggested:  # nothing was measured yet
            return
        text = "" if self._setting is None else str(self._setting.value)
        try:
            self.table.draw(normalise_blind_spot(text) or self._suggested)
        except PydanticCustomError:
            return


class NoiseSection(CollapsibleSection):
    """A section of the dock that measures the noise before a run, and shows its settings.

    Parameters
    ----------
    image_chooser : ImageChooser
        Chooses the image that is measured.
    form : SettingsForm
        Has the fields that override the measurement.
    """

    def __init__(self, image_chooser: ImageChooser, form: SettingsForm) -> None:
        page = QWidget()
        super().__init__("Noise", page)
        self._image_chooser, self._form = image_chooser, form
        self._measurement_call: BackgroundCall | None = None
        self._measured_image: tuple[int, str] | None = None
        self.measure_button = make_button(
            "Measure", "Measure the noise of the image now; nothing is restored."
        )
        self.message_label = make_message_label()
        self.message_label.setText(_NOISE_HINT)
        self.plot = PhotonTransferPlot()
        self.blind_spot_page = BlindSpotPage(form)
        rows = [
            form.noise_page,
            self.measure_button,
            self.plot,
            self.message_label,
            self.blind_spot_page,
        ]
        fill_grid(page, [[widget] for widget in rows])
        form.noise_page.setVisible(True)
        self.measure_button.clicked.connect(self.measure)
        image_chooser.changed.connect(self._on_image)

    def measure(self) -> None:
        """Measure the noise of the chosen image in the background."""
        layer, header = self._image_chooser.get_layer(), self._image_chooser.read_header()
        refusal = header if isinstance(header, Refusal) else refuse_header(header)
        if isinstance(header, Refusal) or refusal is not None or layer is None:
            self._show_message(refusal.message if refusal else "")
            return
        self._reset()
        self._measured_image = _identify_image(layer, header.axes)
        self.measure_button.setEnabled(False)
        self.measure_button.setText("Measuring …")
        self._measurement_call = start_call(
            partial(_measure_layer_noise, header, get_full_resolution(layer)),
            self,
            self._on_measured,
            activity="Measuring the noise of",
            name=header.name,
        )

    @property
    def is_busy(self) -> bool:
        """Whether a measurement is running."""
        return self._measurement_call is not None

    def shut_down(self) -> None:
        """Discard a running measurement; the image_chooser is deleted with the same dock."""
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
        self.blind_spot_page.show_report(report)
        self._show_message("\n".join(report.sentences))

    def _on_image(self) -> None:
        """Clear the measurement if another image is chosen."""
        layer, header = self._image_chooser.get_layer(), self._image_chooser.read_header()
        current_image = None
        if layer is not None and not isinstance(header, Refusal):
            current_image = _identify_image(layer, header.axes)
        if self._measured_image is None or current_image == self._measured_image:
            return
        self._measured_image = None
        self._reset()
        self._form.show_measured_values({})
        self.plot.setVisible(False)
        self.blind_spot_page.setVisible(False)
        self._show_message(_NOISE_HINT)

    def _reset(self) -> None:
        """Discard a running measurement and enable the button."""
        if self._measurement_call is not None:
            self._measurement_call.discard()
        self._measurement_call = None
        self.measure_button.setEnabled(True)
        self.measure_button.setText("Measure")

    def _show_message(self, text: str) -> None:
        self.message_label.setText(text)
        self.adjust_page_height()


def _identify_image(layer: Image, axes: str) -> tuple[int, str]:
    """Return a key that differs for other pixels or other axes."""
    return id(layer.data), axes
