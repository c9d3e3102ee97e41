"""The sections of a task's dock that measure before a run: noise, and the PSF from beads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import pyqtgraph as pg
from pydantic_core import PydanticCustomError
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_dip.errors import Fault, Refusal, RefusedError
from napari_dip.pipeline.lazy_inputs import load_array
from napari_dip.pipeline.measure.noise_report import NoiseReport, make_noise_report
from napari_dip.pipeline.plan.layout import refuse_header
from napari_dip.pipeline.recipe import list_settings
from napari_dip.qt.shell.background_call import find_call, start_call
from napari_dip.qt.shell.dock_plots import TRAINING_COLOUR, VALIDATION_COLOUR, DockPlot, make_legend
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    CollapsibleSection,
    Connections,
    fill_grid,
    load_button,
    load_tooltip,
    make_button,
    make_form,
    preserve_view,
    require,
    style_table,
)
from napari_dip.qt.shell.layer_headers import (
    get_full_resolution,
    measure_pixel_sizes,
    read_layer_header,
)
from napari_dip.qt.shell.layer_inputs import NO_LAYER, is_original, is_selectable
from napari_dip.qt.shell.napari_layers import find_layer
from napari_dip.qt.shell.run_bar import make_message_label, show_refusal
from napari_dip.qt.shell.settings_form import (
    fill_combo,
    make_combo,
    make_field_widget,
    make_line_edit,
)
from napari_dip.tasks.psf.psf_settings import get_pixel_size_nm
from napari_dip.tasks.shared_settings import normalise_blind_spot, read_blind_spot

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Image
    from napari.viewer import Viewer
    from qtpy.QtGui import QKeyEvent, QPaintEvent

    from napari_dip.io import FloatArray, ImageHeader
    from napari_dip.pipeline.measure.noise_report import ChannelNoise
    from napari_dip.pipeline.measure.psf_measurement import PsfReport
    from napari_dip.qt.shell.layer_inputs import ImageChooser, LayerInputs
    from napari_dip.qt.shell.settings_form import SettingsForm
    from napari_dip.tasks.base import Task

#: The variance axis ends at this percentile of the variances, times a margin. A block with
#: structure would otherwise compress all other points.
_VARIANCE_PERCENTILE = 98
#: Ratio of the end of the variance axis to `_VARIANCE_PERCENTILE` of the variances.
_VARIANCE_AXIS_MARGIN = 1.3
#: Height of a row of the correlation table, in pixels.
_CORRELATION_ROW_HEIGHT = 17
_CORRELATION_STYLE = "QTableView, QHeaderView { font-size: 8pt; padding: 0px; }"
#: Colours of the profiles along each axis: three of the Okabe-Ito palette.
_PROFILE_COLOURS = {"Z": "#009E73", "Y": VALIDATION_COLOUR, "X": TRAINING_COLOUR}
#: Of computed profiles: a grey that is visible on the dark and on the light theme.
_COMPUTED_COLOUR = "#999999"
_BEADS_TIP = "A plane or stack of bright beads on dark ground, recorded as the image was."
#: Settings of *Deblur* that are asked for beside the beads, too, and the axes that have them.
_SIZE_AXES = {"pixel_size": "X", "z_step": "Z"}
_BEADS_HINT = DOCK_TEXTS["measure-beads-hint"]
_NOISE_HINT = DOCK_TEXTS["measure-noise-hint"]


def _measure_layer_noise(header: ImageHeader, pixels: Any) -> NoiseReport:
    """Measure the noise of an image; its lazy pixels are computed in this thread."""
    return make_noise_report(header, load_array(header.name, pixels))


def _measure_layer_psf(
    header: ImageHeader, pixels: Any, task: Task, settings: dict[str, Any]
) -> PsfReport:
    """Measure the PSF from a layer of beads; its lazy pixels are computed in this thread."""
    from napari_dip.pipeline.measure.psf_measurement import (
        list_microscope_settings,
        make_psf_report,
    )

    settings = list_microscope_settings(task, header) | settings
    return make_psf_report(header, partial(load_array, header.name, pixels), **settings)


class PhotonTransferPlot(DockPlot):
    """A photon transfer curve: variance against mean of flat blocks, with the fitted lines."""

    def __init__(self) -> None:
        super().__init__(
            "Noise against brightness",
            ("Brightness", "Variance"),
            make_legend(
                (TRAINING_COLOUR, "●", "image parts"), (VALIDATION_COLOUR, "━", "measured noise")
            ),
            DOCK_TEXTS["measure-photon-transfer-curve"],
        )
        dots = {"symbol": "o", "symbolSize": 4, "symbolBrush": TRAINING_COLOUR, "symbolPen": None}
        self.dots: Any = self.plot(pen=None, **dots)
        self.line: Any = self.plot(pen=pg.mkPen(VALIDATION_COLOUR, width=2), connect="finite")

    def show_noise(self, channels: tuple[ChannelNoise, ...]) -> None:
        """Plot the blocks and the variance model of each channel."""
        pairs = [point for channel in channels for point in channel.points]
        points = np.array(pairs).reshape(-1, 2)
        self.setVisible(len(points) > 0)
        if not len(points):
            return
        self.dots.setData(points[:, 0], points[:, 1])
        line_points = []
        for channel_noise in channels:
            means = [point[0] for point in channel_noise.points]
            ends = min(means), max(means)
            line_points += [[mean, channel_noise.compute_variance(mean)] for mean in ends]
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
        self.setToolTip(load_tooltip("measure-correlation-tip"))
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
        for header in map(require, (self.horizontalHeader(), self.verticalHeader())):
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
            item = require(self.item(row, column))  # the table is full
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
        self.table: CorrelationTable = CorrelationTable()
        legend = QLabel(
            make_legend((VALIDATION_COLOUR, "■", "hidden"), (TRAINING_COLOUR, "■", "shares noise"))
            + "<br>Shared noise in %, by pixels along X (columns) and Y (rows)"
        )
        legend.setWordWrap(True)
        self.use_button: QPushButton = load_button("blind-spot-use")
        self.clear_button: QPushButton = load_button("blind-spot-clear")
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


class MeasurementSection(CollapsibleSection):
    """A section of the dock with a button that measures something in the background."""

    def __init__(self, title: str, page: QWidget, tooltip: str, hint: str) -> None:
        super().__init__(title, page)
        self.measure_button: QPushButton = make_button("Measure", tooltip)
        self.message_label: QLabel = make_message_label(hint)

    def _start(
        self,
        work: Callable[[], Any],
        on_measured: Callable[[Any], object],
        activity: str,
        name: str,
    ) -> None:
        """Start a measurement; its outcome or refusal is passed on, or shown."""

        def end(outcome: Any) -> None:
            self._reset()
            if isinstance(outcome, Fault):
                show_refusal(self.message_label, outcome)
            else:
                on_measured(outcome)

        self._reset()
        self.measure_button.setEnabled(False)
        self.measure_button.setText("Measuring …")
        start_call(work, self, end, activity=activity, name=name)

    def _reset(self) -> None:
        """Discard a running measurement and enable the button."""
        if (call := find_call(self)) is not None:
            call.discard()
        self.measure_button.setEnabled(True)
        self.measure_button.setText("Measure")


class NoiseSection(MeasurementSection):
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
        tooltip = "Measure the noise of the image now; nothing is restored."
        super().__init__("Noise", page, tooltip, _NOISE_HINT)
        self._image_chooser, self._form = image_chooser, form
        self._measured_image: tuple[int, str] | None = None
        self.plot: PhotonTransferPlot = PhotonTransferPlot()
        self.blind_spot_page: BlindSpotPage = BlindSpotPage(form)
        rows = (form.noise_page, self.measure_button, self.plot, self.message_label)
        fill_grid(page, [[widget] for widget in (*rows, self.blind_spot_page)])
        form.noise_page.setVisible(True)
        self.measure_button.clicked.connect(self.measure)
        image_chooser.changed.connect(self._on_image)

    def measure(self) -> None:
        """Measure the noise of the chosen image in the background."""
        layer, header = self._image_chooser.get_layer(), self._image_chooser.read_header()
        refusal = header if isinstance(header, Refusal) else refuse_header(header)
        if isinstance(header, Refusal) or refusal is not None or layer is None:
            self.message_label.setText(refusal.message if refusal else "")
            return
        self._measured_image = self._identify_image()
        work = partial(_measure_layer_noise, header, get_full_resolution(layer))
        self._start(work, self._show_report, "Measuring the noise of", header.name)

    def _show_report(self, report: NoiseReport) -> None:
        # a gain is entered without the sign that an inverted image gives it
        gains = " / ".join(f"{abs(channel.gain):.4g}" for channel in report.channels)
        # what is measured in the dark may exceed the read noise of the detector
        limits = " / ".join(f"{channel.darkest_std:.4g}" for channel in report.channels)
        figures = {"gain": f"{gains}, measured", "read_noise": f"{limits}, at most"}
        self._form.show_measured_values(figures)
        self.plot.show_noise(report.channels)
        self.blind_spot_page.show_report(report)
        self.message_label.setText("\n".join(report.sentences))

    def _on_image(self) -> None:
        """Clear the measurement if another image is chosen."""
        if self._measured_image in (None, self._identify_image()):
            return
        self._measured_image = None
        self._reset()
        self._form.show_measured_values({})
        self.plot.setVisible(False)
        self.blind_spot_page.setVisible(False)
        self.message_label.setText(_NOISE_HINT)

    def _identify_image(self) -> tuple[int, str] | None:
        """Return a key that differs for other pixels or other axes; None without an image."""
        layer, header = self._image_chooser.get_layer(), self._image_chooser.read_header()
        if layer is None or isinstance(header, Refusal):
            return None
        return id(layer.data), header.axes


class PsfPlot(DockPlot):
    """Profiles of a measured PSF, with dashed ones of the PSF that was computed."""

    def __init__(self) -> None:
        tooltip = DOCK_TEXTS["psf-profiles-tooltip"]
        super().__init__("Profiles of the PSF", ("nm", "Share of the peak"), "", tooltip)

    def show_profiles(self, report: PsfReport) -> None:
        """Plot the profiles along each axis."""
        self.clear()
        dashed = pg.mkPen(_COMPUTED_COLOUR, width=2, style=Qt.PenStyle.DashLine)
        # computed ones are drawn last, since measured ones may hide them
        for profile in sorted(report.list_profiles(), key=lambda each: not each.is_measured):
            solid = pg.mkPen(_PROFILE_COLOURS[profile.axis], width=2)
            pen = solid if profile.is_measured else dashed
            self.plot(profile.positions, profile.values, pen=pen)
        entries = [(_PROFILE_COLOURS[axis], "━", axis) for axis in report.axes]
        if report.computed_psf is not None:
            entries.append((_COMPUTED_COLOUR, "┅", "without aberrations"))
        self.legend: str = make_legend(*entries)
        unit = "nm" if report.has_pixel_sizes else "Pixels"
        self.labels: tuple[str, str] = (unit, self.labels[1])
        self.update_labels()
        self.setXRange(-report.profile_reach, report.profile_reach, padding=0)
        self.setYRange(0, 1, padding=0.05)
        self.setVisible(True)


class PsfSection(MeasurementSection):
    """A section of the dock that makes a PSF from a layer of beads, and chooses it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : LayerInputs
        Its extra input "psf" becomes the measured PSF.
    form : SettingsForm
        Has the fields of the microscope, with whose PSF the measured one is compared.
    """

    def __init__(self, viewer: Viewer, inputs: LayerInputs, form: SettingsForm) -> None:
        page = QWidget()
        tooltip = "Make a PSF from the beads, and choose it; nothing is restored."
        super().__init__("PSF from beads", page, tooltip, _BEADS_HINT)
        self._viewer, self._inputs, self._form = viewer, inputs, form
        self._psf_layer: ref[Image] | None = None  # that plot and message are about
        self.bead_chooser: QComboBox = make_combo("Beads", _BEADS_TIP, length=len(NO_LAYER))
        self.diameter_edit: QLineEdit = make_line_edit(
            "Bead diameter", DOCK_TEXTS["measure-diameter-tip"], "not taken out"
        )
        self.plot: PsfPlot = PsfPlot()
        fields = QWidget()
        rows = make_form(fields)
        rows.addRow("Beads", self.bead_chooser)
        rows.addRow("Bead diameter (nm)", self.diameter_edit)
        self.size_edits: dict[str, QLineEdit] = {}
        for name in _SIZE_AXES:
            field = list_settings("deblur")[name]
            self.size_edits[name] = make_field_widget(field).native
            rows.addRow(field.setting.label, self.size_edits[name])
        self.field_box: QCheckBox = QCheckBox("PSF changes over the field")
        self.field_box.setToolTip(load_tooltip("measure-field-tip"))
        rows.addRow(self.field_box)
        fill_grid(page, [[fields], [self.measure_button], [self.plot], [self.message_label]])
        self._z_step_label: Any = rows.labelForField(self.size_edits["z_step"])
        self._sized_layer: Callable[[], Image | None] = lambda: None  # whose sizes are in sight
        self.measure_button.clicked.connect(self.measure)
        self.bead_chooser.activated.connect(self._show_sizes)
        self._connections = Connections(self)
        self._connections.follow_layers(self._refresh, viewer)
        self._refresh()

    def measure(self) -> None:
        """Measure the PSF of the chosen layer in the background."""
        self.plot.setVisible(False)
        layer = find_layer(self._viewer, self.bead_chooser.currentText())
        if layer is None:
            self.message_label.setText(_BEADS_HINT)
            return
        try:
            diameter = float(self.diameter_edit.text().strip().replace(",", ".") or 0)
        except ValueError:
            self.message_label.setText(
                f"The bead diameter '{self.diameter_edit.text()}' is not a number."
            )
            return
        try:
            task, sizes = self._form.build_recipe().task, self._read_sizes()
        except RefusedError as error:
            self.message_label.setText(error.reason.message)
            return
        header = read_layer_header(layer)
        settings = {"bead_diameter": diameter, "field": self.field_box.isChecked(), **sizes}
        pixels = get_full_resolution(layer)
        work = partial(_measure_layer_psf, header, pixels, task, settings)
        self._start(work, partial(self._show_report, layer), "Measuring the PSF of", header.name)

    def _show_report(self, layer: Image, report: PsfReport) -> None:
        """Add the PSF as a layer, choose it, and show widths and profiles."""
        dims, leading = report.psf.ndim, 0 if report.field is None else 2
        own = zip(measure_pixel_sizes(layer)[-dims:], layer.units[-dims:], strict=True)
        sizes = [  # those typed come before those of the layer
            (size / 1000, "micrometer") if size else own_size
            for size, own_size in zip(report.pixel_nm, own, strict=True)
        ]
        with preserve_view(self._viewer):
            psf_layer = self._viewer.add_image(
                report.psf if report.field is None else report.field.psfs,
                name=f"{layer.name} PSF",
                scale=(*(1.0,) * leading, *(size for size, _ in sizes)),
                units=(*("pixel",) * leading, *(unit for _, unit in sizes)),
                colormap="magma",
                visible=False,  # it lies over a corner of the image
            )
        self._psf_layer = ref(psf_layer)
        self._inputs.extra_inputs.choose({"psf": psf_layer.name})
        self.plot.show_profiles(report)
        sentences = [f"The PSF is '{psf_layer.name}'.", *report.sentences]
        chooser = self._inputs.image_chooser
        others = [other for other in self._viewer.layers if is_original(other)]
        others = [other for other in others if other not in (layer, psf_layer)]
        if chooser.get_layer() is layer and others:  # it followed the selection to the beads
            chooser.choose(others[-1].name, is_by_hand=False)
            sentences.insert(1, f"The image to deblur is '{others[-1].name}'.")
        self.message_label.setText("\n".join(sentences))

    def _refresh(self, _: object = None) -> None:
        """Update the list to the images of the viewer, and keep the choice."""
        layers = [layer for layer in self._viewer.layers if is_selectable(layer)][::-1]
        names = [layer.name for layer in layers]
        bead_names = [name for name in names if "bead" in name.lower()]
        chosen, last_layer = self.bead_chooser.currentText(), self._sized_layer()
        if chosen not in names and last_layer is not None and last_layer in layers:
            chosen = last_layer.name  # another one by now
        chosen = chosen if chosen in names else next(iter(bead_names), NO_LAYER)
        fill_combo(self.bead_chooser, [NO_LAYER, *names], chosen)
        self._show_sizes()
        if self._psf_layer is not None and self._psf_layer() not in self._viewer.layers:
            self._psf_layer = None
            self.plot.setVisible(False)
            self.message_label.setText(_BEADS_HINT)

    def _show_sizes(self, _: object = None) -> None:
        """Show the sizes that the chosen layer states; those typed were of the layer before."""
        layer = find_layer(self._viewer, self.bead_chooser.currentText())
        header = None if layer is None else read_layer_header(layer)
        for setting, edit in self.size_edits.items():
            size = None if header is None else get_pixel_size_nm(header, _SIZE_AXES[setting])
            edit.setPlaceholderText(f"{size:.6g}, stated" if size else "not stated")
            edit.setText(edit.text() if layer is self._sized_layer() else "")
        self._sized_layer = (lambda: None) if layer is None else ref(layer)
        has_planes = header is not None and header.get_size("Z") > 1
        for widget in (self.size_edits["z_step"], self._z_step_label):
            widget.setVisible(has_planes)

    def _read_sizes(self) -> dict[str, float]:
        """Return the sizes that were typed; those of the layer are in its header."""
        sizes = {n: self._form.read_number(n, edit.text()) for n, edit in self.size_edits.items()}
        return {name: size for name, size in sizes.items() if size is not None}
