"""The history of a run: its losses, snapshots within a memory limit, and a slider to view them.

At its right end, the slider follows the run and afterwards shows the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QSizePolicy, QSlider, QWidget

from napari_dip.errors.notes import StopReason, make_stop, serialise_stop
from napari_dip.errors.templates import format_bytes
from napari_dip.qt.shell.background_call import call_reporting_errors, try_call
from napari_dip.qt.shell.dock_plots import TRAINING_COLOUR, VALIDATION_COLOUR, DockPlot, make_legend
from napari_dip.qt.shell.dock_widget import guard_wheel, load_button, load_tooltip, preserve_view
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.shell.napari_layers import (
    SNAPSHOT,
    Preview,
    build_report_provenance,
    make_image_attributes,
)
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Image
    from napari.viewer import Viewer

    from napari_dip.io import Float32Array, FloatArray
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.qt.shell.job_controller import JobRequest, ResultTarget

#: Keys of a report that are about the result and do not apply to a snapshot.
_RESULT_ONLY_KEYS = (
    "verdict",
    "residual",
    "halves",
    "null_control",
    "output_sha256",
)
_SINGLE_LOSS_HINT = "This fit has one measured loss, at iteration {}. Longer presets have a curve."
#: Shortest range of the axis of iterations; a shorter one would have ticks at tenths.
_MIN_AXIS_ITERATIONS = 10
#: Share of the range of losses that is left free above and below.
_LOSS_PADDING = 0.06
#: Distance of the lowest loss from the upper limit, in distances from the median: a curve that
#: falls evenly, with 2, is shown as a whole, and the steep beginning of another is cut off.
_MAX_FALL = 4.0
#: Room for the training loss above and below the validation loss, in ranges of the latter, which
#: thus takes at least a quarter of the height.
_MAX_ROOM = 1.5
#: Memory for the snapshots of a run in bytes: a sixteenth of the 4 GB of small computers, or 244
#: images of 512 x 512.
MAX_SNAPSHOT_BYTES = 256_000_000
#: Largest number of snapshots: a slider of 300 pixels in the dock cannot resolve more.
MAX_SNAPSHOTS = 100


class ValidationCurve(DockPlot):
    """A plot of training and validation loss over the iterations, with that of the result marked.

    The vertical axis shows the shape of the validation loss. The training loss may lie outside.
    A label, `hint_label`, stands for a plot of a single point, as after the preset *Instant*.
    """

    def __init__(self) -> None:
        super().__init__("Validation curve", ("Iteration", "Loss (low is good)"), "")
        self.hint_label: QLabel = make_message_label()
        self.hint_label.setVisible(False)
        self._points: list[tuple[int, float, float]] = []
        self._unit_index = 0
        self._fit_curve = self.plot(pen=pg.mkPen(TRAINING_COLOUR, width=1.5))
        self._validation_curve = self.plot(pen=pg.mkPen(VALIDATION_COLOUR, width=2))
        dot = {"symbol": "o", "symbolSize": 9, "symbolBrush": VALIDATION_COLOUR}
        self._result_dot = self.plot(pen=None, **dot)
        self._mark = pg.InfiniteLine(angle=90, pen=pg.mkPen(TRAINING_COLOUR, width=1))
        self._mark.setVisible(False)
        self.addItem(self._mark, ignoreBounds=True)

    def restart(self) -> None:
        """Empty the plot."""
        self._points.clear()
        self._unit_index = 0
        self._draw(0)

    def extend(self, points: Iterable[tuple[int, int, float, float]], best_iteration: int) -> None:
        """Add points (unit, iteration, training loss, validation loss); mark that of the result.

        A new unit begins new curves.
        """
        for unit_index, iteration, training_loss, validation_loss in points:
            if unit_index != self._unit_index:
                self._unit_index = unit_index
                self._points.clear()
            self._points.append((iteration, training_loss, validation_loss))
        self._draw(best_iteration)

    def show_result(self, outcome: Restoration) -> None:
        """Draw the curve of the only fit, or of the one that was taken among several."""
        if outcome.report.get("fit", {}).get("finished_fit_count", 1) == 1 and outcome.history:
            self._points = list(outcome.history)
            self._draw(outcome.best_iteration)

    def mark_snapshot(self, position: tuple[int, int] | None) -> None:
        """Mark a snapshot of the history by a vertical line: (unit_index, iteration), or None."""
        self._mark.setVisible(position is not None and position[0] == self._unit_index)
        if position is not None:
            self._mark.setValue(position[1])

    @property
    def point_count(self) -> int:
        """Number of points in the plot."""
        return len(self._points)

    def recolour(self, text: str, background: str) -> None:
        """Apply the colours of napari's theme."""
        super().recolour(text, background)
        self._result_dot.setSymbolPen(text)
        self._mark.setPen(text)

    def _draw(self, best_iteration: int) -> None:
        self.setVisible(len(self._points) > 1)
        self.hint_label.setVisible(len(self._points) == 1)
        if len(self._points) == 1:
            self.hint_label.setText(_SINGLE_LOSS_HINT.format(self._points[0][0]))
        points = np.array(self._points, dtype=float).reshape(-1, 3)
        iteration = points[:, 0]
        is_finite = np.isfinite(points[:, 1:])
        training, validation = (points[is_finite[:, index], index + 1] for index in (0, 1))
        self._fit_curve.setData(iteration[is_finite[:, 0]], training)
        self._validation_curve.setData(iteration[is_finite[:, 1]], validation)
        is_result = (iteration == best_iteration) & is_finite[:, 1]
        self._result_dot.setData(iteration[is_result], points[is_result, 2])
        # an automatic range for a single point would begin below zero
        self.setXRange(0, max(_MIN_AXIS_ITERATIONS, 1.03 * iteration.max(initial=0)), padding=0)
        low, high = compute_loss_range(training, validation)
        marked = points[is_result, 2]
        low, high = min(low, marked.min(initial=low)), max(high, marked.max(initial=high))
        self.setYRange(low, high, padding=_LOSS_PADDING)
        # a single point inside would be the end of a vertical stroke
        is_outside = ((training >= low) & (training <= high)).sum() < min(2, training.size)
        self._fit_curve.setVisible(not is_outside)
        sign = ("↑" if training[-1] > high else "↓") if is_outside else "━"
        self._describe(validation.size > 0, bool(is_result.any()), sign)

    def _describe(self, has_validation: bool, has_result: bool, training_sign: str) -> None:
        """Set legend and tooltip to what is plotted."""
        entries = [(TRAINING_COLOUR, training_sign, "training")]
        entries += [(VALIDATION_COLOUR, "━", "validation")] * has_validation
        entries += [(VALIDATION_COLOUR, "●", "result")] * has_result
        tip = "history-loss-tip" if has_validation else "history-training-tip"
        self.setToolTip(load_tooltip(tip))
        if (legend := make_legend(*entries)) != self.legend:
            self.legend: str = legend
            self.update_labels()


def compute_loss_range(training: FloatArray, validation: FloatArray) -> tuple[float, float]:
    """Return the limits of the axis of losses: (low, high).

    They show the validation loss, and of the training loss what leaves it a quarter of the height.
    The first losses of a curve, which may be hundreds of times larger, are cut off.

    Parameters
    ----------
    training, validation : ndarray (points,)
        Finite losses; both may be empty.
    """
    ranges = [
        (float(losses.min()), min(float(losses.max()), _find_highest_loss(losses)))
        for losses in (validation, training)
        if losses.size
    ]
    if not ranges:
        return 0.0, 1.0
    low, high = ranges[0]
    room = _MAX_ROOM * (high - low) if high > low else float("inf")
    lowest, highest = ranges[-1]
    if lowest <= high + room and highest >= low - room:  # else there is nothing to be shown
        low, high = min(low, max(lowest, low - room)), max(high, min(highest, high + room))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _find_highest_loss(losses: FloatArray) -> float:
    """Return the limit above which the losses at the beginning of a curve are cut off."""
    lowest = losses.min()
    spread = np.median(losses) - lowest
    return float(lowest + _MAX_FALL * spread if spread > 0 else losses.max())


class SnapshotLayers:
    """Adds snapshots of a run as layers, and completes their provenance at the end of the run.

    Parameters
    ----------
    request : JobRequest

    Attributes
    ----------
    target : ResultTarget
        That of the request.
    """

    def __init__(self, request: JobRequest) -> None:
        assert request.plan is not None and request.target is not None  # only a batch has none
        self._plan, self.target = request.plan, request.target
        self._result: Restoration | None = None
        self._snapshot_layers: list[tuple[ref[Image], Snapshot]] = []

    def __bool__(self) -> bool:
        """Whether a snapshot was added."""
        return bool(self._snapshot_layers)

    def add(self, viewer: Viewer, snapshot: Snapshot) -> str:
        """Add a snapshot as a new layer; return the name of the layer."""
        target = self.target
        suffix = self._plan.recipe.task.spec.result_suffix
        name = f"{target.name} {suffix}, {describe_snapshot(snapshot)}"
        metadata = {
            **target.layer_attributes["metadata"],
            METADATA_KEY: self._build_snapshot_provenance(snapshot),
        }
        with preserve_view(viewer):
            attributes = make_image_attributes(target, snapshot.image)
            layer = viewer.add_image(
                snapshot.image.copy(), name=name, **{**attributes, "metadata": metadata}
            )
        self._snapshot_layers.append((ref(layer), snapshot))
        return str(layer.name)

    def end(self, result: Restoration) -> None:
        """Add the report of the finished run to the layers of its snapshots."""
        self._result = result
        for layer_ref, snapshot in self._snapshot_layers:
            if (layer := layer_ref()) is not None:
                layer.metadata[METADATA_KEY] = self._build_snapshot_provenance(snapshot)

    def _build_snapshot_provenance(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return the provenance of a snapshot, in plain JSON types."""
        plan, result, name, event = self._plan, self._result, self.target.name, snapshot.event
        provenance: dict[str, Any] = {
            "version": __version__,
            "recipe": plan.recipe.to_dict(),
            "seed": plan.recipe.run_settings.seed,
            "device": plan.device,
            "input": {"name": name, "sha256": None},
            "seconds": round(snapshot.event.seconds, 2),
        }
        end = {
            "iterations": event.iteration,
            "best_iteration": event.iteration,
            **serialise_stop(make_stop(StopReason.HISTORY, place=describe_snapshot(snapshot))),
        }
        if result is not None:
            report: dict[str, Any] = {
                key: value for key, value in result.report.items() if key not in _RESULT_ONLY_KEYS
            } | end
            report["fit"] = {**report["fit"], "refined": False, "blended": False}  # as previews
            provenance |= build_report_provenance(name, result.recipe.to_dict(), report)
            provenance["automatic"] = {
                "best_iteration": result.best_iteration,
                **serialise_stop(result.stop),
            }
        return {
            **provenance,
            "inputs": self.target.layer_attributes["metadata"][METADATA_KEY]["inputs"],
            **end,
            "unit": [event.unit, event.units],
            "shows": SNAPSHOT,
        }


def describe_snapshot(snapshot: Snapshot) -> str:
    """Return the iteration of a snapshot as text, with its work unit if there are several."""
    event = snapshot.event
    return ", ".join(filter(None, [event.unit_name, f"iteration {event.iteration}"]))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Snapshot:
    """The image of a run at one iteration.

    Attributes
    ----------
    image : ndarray
        As `Event.preview`.
    number : int
        Index among all images of the run, including those that the buffer dropped.
    event : Event
        The event that brought the image: iteration, work unit and time.
    """

    image: Float32Array
    number: int
    event: Event


@dataclass(slots=True, eq=False)
class SnapshotBuffer:
    """Snapshots in chronological order, evenly spread over the run.

    At a limit, every second snapshot is dropped; see `add`.

    Attributes
    ----------
    max_bytes : int
        Limit of memory.
    max_snapshots : int
        Limit of their number.
    """

    max_bytes: int = MAX_SNAPSHOT_BYTES
    max_snapshots: int = MAX_SNAPSHOTS
    snapshots: list[Snapshot] = field(default_factory=list)
    _stride: int = 1
    _image_count: int = 0

    @property
    def byte_count(self) -> int:
        """Memory of all snapshots."""
        return sum(snapshot.image.nbytes for snapshot in self.snapshots)

    def add(self, event: Event) -> None:
        """Add the image of an event if it is new and was not to be skipped.

        Each time that the limit of number or memory is exceeded, every second snapshot is dropped,
        and half as many images are added from then on. An image larger than half the limit of
        memory is not added, since a history needs two.
        """
        image = event.preview
        last_image = self.snapshots[-1].image if self.snapshots else None
        if image is None or image is last_image or 2 * image.nbytes > self.max_bytes:
            return
        number, self._image_count = self._image_count, self._image_count + 1
        if number % self._stride:
            return
        self.snapshots.append(Snapshot(image=image, number=number, event=event))
        while len(self.snapshots) > self.max_snapshots or self.byte_count > self.max_bytes:
            self._stride *= 2
            self.snapshots = [
                snapshot for snapshot in self.snapshots if snapshot.number % self._stride == 0
            ]


class HistorySlider(QWidget):
    """The slider over the snapshots of a run, which also owns the preview layer.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    preview : Preview or None
        The preview of the run, or of a snapshot; None if no preview is shown.
    """

    #: Emitted with work unit and iteration of the snapshot that is shown, or None.
    moved: Signal = Signal(object)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._target: ResultTarget | None = None
        self._snapshot_layers: SnapshotLayers | None = None
        self.preview: Preview | None = None
        self._is_running = False
        self._selected: Snapshot | None = None
        self._message = ""
        self._discarded: list[tuple[SnapshotLayers, Snapshot]] = []
        self.snapshot_buffer: SnapshotBuffer = SnapshotBuffer()
        self.slider: QSlider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setAccessibleName("History")
        guard_wheel(self.slider)
        self.message_label: QLabel = make_message_label()
        self.keep_button: QPushButton = load_button("history-keep", self.keep)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(2)
        layout.setColumnStretch(1, 1)
        layout.addWidget(QLabel("History"), 0, 0)
        layout.addWidget(self.slider, 0, 1, 1, 2)
        self.message_label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        layout.addWidget(self.message_label, 1, 0, 1, 2)
        layout.addWidget(self.keep_button, 1, 2)
        self.setVisible(False)  # until there are snapshots
        self.slider.valueChanged.connect(self._on_move)

    @property
    def is_live(self) -> bool:
        """Whether the run or its result is shown, and no snapshot."""
        return self._selected is None

    @property
    def has_kept_snapshot(self) -> bool:
        """Whether a snapshot of the latest run was added as a layer."""
        return bool(self._snapshot_layers)

    def begin(self, request: JobRequest) -> None:
        """Drop the snapshots of the last run and follow a new one."""
        self.clear_contents()
        self._snapshot_layers = SnapshotLayers(request)
        self._target, self._is_running = self._snapshot_layers.target, True
        self.preview = Preview(self._viewer, self._target)

    def show_event(self, event: Event) -> None:
        """Add the image of an event, and show it unless a snapshot is shown.

        Raises
        ------
        Exception
            As `Preview.show`.
        """
        self.snapshot_buffer.add(event)
        self._update_slider()
        if self.preview is not None and self.is_live:
            self.preview.show(event.preview)

    def add_report(self, result: Restoration) -> None:
        """Add the report of the finished run to the kept snapshots."""
        if self._snapshot_layers is not None:
            self._snapshot_layers.end(result)

    def end(self) -> None:
        """Remove the preview and move to the right end, where the result is.

        Raises
        ------
        Exception
            Any error of napari while the preview is removed.
        """
        self._is_running, self._selected = False, None
        self._update_slider()
        self._remove_preview()

    def discard(self) -> bool:
        """Drop all snapshots but the last; return whether `undo_discard` can still add it."""
        snapshots, layers = self.snapshot_buffer.snapshots, self._snapshot_layers
        if snapshots and layers is not None:
            self._discarded.append((layers, snapshots[-1]))
        while sum(snapshot.image.nbytes for _, snapshot in self._discarded) > MAX_SNAPSHOT_BYTES:
            self._discarded.pop(0)
        self.clear_contents()
        return self.update_discarded() and self._discarded[-1][0] is layers

    def update_discarded(self) -> bool:
        """Drop discarded runs whose input was deleted; return whether there are others."""
        layers = self._viewer.layers
        self._discarded = [
            run for run in self._discarded if run[0].target.get_source_layer() in layers
        ]
        return bool(self._discarded)

    def undo_discard(self) -> str:
        """Add the last image of the run that was discarded last; return a message."""
        layers, snapshot = self._discarded[-1]
        name, error_message = try_call(
            lambda: layers.add(self._viewer, snapshot), "The image could not be added"
        )
        if not error_message:
            self._discarded.pop()
        return error_message or f"'{name}' is the last image before Discard."

    def clear_contents(self) -> None:
        """Drop all snapshots and remove the preview."""
        self.snapshot_buffer = SnapshotBuffer()
        self._is_running, self._target, self._selected = False, None, None
        call_reporting_errors(self._remove_preview, "The preview layer could not be removed")
        self._update_slider()

    def step(self, count: int) -> None:
        """Move the slider by a number of snapshots."""
        self.slider.setValue(self.slider.value() + count)

    def move_to_end(self) -> None:
        """Move the slider to its right end."""
        self.slider.setValue(self.slider.maximum())

    def keep(self) -> None:
        """Add the snapshot that is shown as a layer."""
        layers, selected = self._snapshot_layers, self._selected
        if layers is None or selected is None:
            return
        name, error_message = try_call(
            lambda: layers.add(self._viewer, selected), "The image could not be kept"
        )
        self._show_message(error_message or f"Kept: '{name}'.")

    def _remove_preview(self) -> None:
        preview, self.preview = self.preview, None
        if preview is not None:
            preview.remove()

    def _update_slider(self) -> None:
        """Update the slider to the snapshots; the one that is shown stays."""
        snapshots = self.snapshot_buffer.snapshots
        if self._selected is not None and self._selected not in snapshots:  # dropped meanwhile
            number = self._selected.number
            self._selected = min(
                snapshots, key=lambda item: abs(item.number - number), default=None
            )
        index = len(snapshots) if self._selected is None else snapshots.index(self._selected)
        with QSignalBlocker(self.slider):
            self.slider.setRange(0, len(snapshots))
            self.slider.setPageStep(max(1, len(snapshots) // 10))
            self.slider.setValue(index)
        self.setVisible(bool(snapshots))
        self._show_message(self._message if self._selected is not None else "")

    def _on_move(self, index: int) -> None:
        snapshots = self.snapshot_buffer.snapshots
        self._selected = snapshots[index] if index < len(snapshots) else None
        error_message = call_reporting_errors(
            self._show_selected_snapshot, "The image cannot be shown"
        )
        self._show_message(error_message)

    def _show_selected_snapshot(self) -> None:
        selected, target = self._selected, self._target
        if target is None:
            return
        if selected is None:
            if self._is_running and self.snapshot_buffer.snapshots and self.preview is not None:
                self.preview.show(self.snapshot_buffer.snapshots[-1].image)
            elif not self._is_running:
                self._remove_preview()
            return
        if self.preview is None or self.preview.is_dismissed:
            self.preview = Preview(self._viewer, target)
        self.preview.show(selected.image)

    def _show_message(self, text: str = "") -> None:
        """Show a message, or else which snapshot is selected."""
        self._message = text
        selected = self._selected
        self.keep_button.setVisible(selected is not None)
        position = None
        if selected is not None:
            event, iteration = selected.event, describe_snapshot(selected)
            position = event.unit, event.iteration
            text = text or f"{iteration[:1].upper()}{iteration[1:]} of {event.iterations}"
        self.moved.emit(position)
        self.message_label.setText(text)
        self.message_label.setVisible(bool(text))  # an empty line would push the curve down
        buffer = self.snapshot_buffer
        memory = f"{format_bytes(buffer.byte_count)} of at most {format_bytes(buffer.max_bytes)}"
        self.setToolTip(
            load_tooltip("history-tooltip", f" It holds {len(buffer.snapshots)} in {memory}.")
        )
