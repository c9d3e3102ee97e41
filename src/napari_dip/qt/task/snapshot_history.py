"""The pictures of a run on its way: a slider that goes back to them, and a button that keeps one.

At its right end the slider follows the run or, after it, shows its result.

A snapshot as a layer of its own: another stop than the one that the run took by itself.

Pictures of a run on its way, as many as a bound on memory allows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import ref

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QSizePolicy, QSlider, QWidget

from napari_dip.errors.notes import StopReason, make_stop, report_stop
from napari_dip.pipeline.machine import format_bytes
from napari_dip.qt.shell.layers import (
    METADATA_KEY,
    Preview,
    adjust_contrast_limits,
    build_provenance,
    compute_value_range,
    preserve_view,
)
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.run_completion import attempt
from napari_dip.qt.shell.settings_form import WheelGuard
from napari_dip.version import __version__

if TYPE_CHECKING:
    import napari.layers
    import napari.viewer
    import numpy as np
    import numpy.typing as npt

    from napari_dip.pipeline.events import Event, Restoration
    from napari_dip.qt.task.request import RunRequest

#: What a run's report says of its own picture, and not of another one.
_RESULT_ONLY_KEYS = (
    "verdict",
    "residual",
    "output_sha256",
    "best_iteration",
    "stop_reason",
    "stop_code",
)


class SnapshotLayers:
    """Makes layers of one run's snapshots; what only the end of the run tells is added then.

    Parameters
    ----------
    request : RunRequest
        What the run was asked for.
    """

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._result: Restoration | None = None
        self._kept: list[tuple[ref[napari.layers.Image], Snapshot]] = []

    def __bool__(self) -> bool:
        """Whether any was kept."""
        return bool(self._kept)

    def add(self, viewer: napari.viewer.Viewer, snapshot: Snapshot) -> str:
        """Add a snapshot as a new layer; returns the layer's name."""
        request = self._request
        name = f"{request.name} {request.plan.recipe.task.done}, {describe_snapshot(snapshot)}"
        metadata = {
            **request.look["metadata"],
            METADATA_KEY: self._build_snapshot_provenance(snapshot),
        }
        with preserve_view(viewer):
            look = adjust_contrast_limits(
                request.look, compute_value_range(snapshot.picture), part=bool(request.trial)
            )
            layer = viewer.add_image(
                snapshot.picture.copy(), name=name, **{**look, "metadata": metadata}
            )
        self._kept.append((ref(layer), snapshot))
        return str(layer.name)

    def end(self, result: Restoration) -> None:
        """Write what the run found out into the layers that were kept while it was on."""
        self._result = result
        for item, snapshot in self._kept:
            if (layer := item()) is not None:
                layer.metadata[METADATA_KEY] = self._build_snapshot_provenance(snapshot)

    def _build_snapshot_provenance(self, snapshot: Snapshot) -> dict[str, Any]:
        """How a snapshot came about, in plain JSON types."""
        plan, result = self._request.plan, self._result
        place = describe_snapshot(snapshot)
        facts: dict[str, Any] = {
            "version": __version__,
            "recipe": plan.recipe.to_dict(),
            "seed": plan.recipe.run_settings.seed,
            "device": plan.device,
            "input": {"name": self._request.name, "sha256": None},
            "seconds": round(snapshot.seconds, 2),
        }
        if result is not None:
            report = {
                key: item for key, item in result.report.items() if key not in _RESULT_ONLY_KEYS
            }
            facts |= {**build_provenance(self._request.name, result), "report": report}
            facts["automatic"] = {
                "best_iteration": result.best_iteration,
                **report_stop(result.stop),
            }
        return {
            **facts,
            "inputs": self._request.look["metadata"][METADATA_KEY]["inputs"],
            "iterations": snapshot.iteration,
            "best_iteration": snapshot.iteration,
            "unit": [snapshot.unit, snapshot.units],
            **report_stop(make_stop(StopReason.HISTORY, place=place)),
            "shows": "snapshot",
        }


def describe_snapshot(snapshot: Snapshot) -> str:
    """Say where in the run a snapshot was taken."""
    text = f"iteration {snapshot.iteration}"
    return text if snapshot.units == 1 else f"part {snapshot.unit}, {text}"


#: Memory for the snapshots of one run: a sixteenth of the 4 GB that small computers have, and 244
#: pictures of 512 x 512.
MAX_SNAPSHOT_BYTES = 256_000_000
#: A slider 300 pixels wide in the dock does not tell more apart.
MAX_SNAPSHOTS = 100


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Snapshot:
    """The picture at one moment of a run.

    Attributes
    ----------
    picture : ndarray
        As `Event.preview`.
    number : int
        Count of the pictures that came before it.
    iteration, iterations : int
        In its fit, and planned there.
    unit, units : int
        Which part of the run the fit is.
    seconds : float
        Since the start.
    """

    picture: npt.NDArray[np.float32]
    number: int
    iteration: int
    iterations: int
    unit: int
    units: int
    seconds: float


class SnapshotBuffer:
    """Snapshots in the order that they came, evenly spread over the run.

    When no more fit, every other one is let go, and of those that come only every other is taken
    from then on.

    Parameters
    ----------
    most_bytes, most_snapshots : int
        Bounds.
    """

    def __init__(
        self, most_bytes: int = MAX_SNAPSHOT_BYTES, most_snapshots: int = MAX_SNAPSHOTS
    ) -> None:
        self.most_bytes = most_bytes
        self._most = most_snapshots
        self._every = 1
        self._came = 0
        self.snapshots: list[Snapshot] = []

    @property
    def bytes(self) -> int:
        """Memory taken now."""
        return sum(snapshot.picture.nbytes for snapshot in self.snapshots)

    def add(self, event: Event) -> None:
        """Take in an event's picture, if it has a new one and there is room for two such."""
        picture, last = event.preview, self.snapshots[-1].picture if self.snapshots else None
        if picture is None or picture is last or 2 * picture.nbytes > self.most_bytes:
            return
        number, self._came = self._came, self._came + 1
        if number % self._every:
            return
        snapshot = Snapshot(
            picture=picture,
            number=number,
            iteration=event.iteration,
            iterations=event.iterations,
            unit=event.unit,
            units=event.units,
            seconds=event.seconds,
        )
        self.snapshots.append(snapshot)
        while len(self.snapshots) > self._most or self.bytes > self.most_bytes:
            self._every *= 2
            self.snapshots = [
                snapshot for snapshot in self.snapshots if snapshot.number % self._every == 0
            ]


_HISTORY_TOOLTIP = (
    "Go back to the pictures that the run went through. 'Use this iteration' makes a layer of "
    "the one in sight; nothing else is changed. At the right end: the run as it goes on, then its "
    "result."
)


class HistorySlider(QWidget):
    """Slider, words and button; owns the preview layer.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    #: Unit and iteration of the snapshot in sight, or None.
    moved = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._request: RunRequest | None = None
        self._kept: SnapshotLayers | None = None
        self._preview: Preview | None = None
        self._running = False
        self._selected: Snapshot | None = None
        self._message = ""
        self.film = SnapshotBuffer()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setAccessibleName("History")
        self.slider.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._wheel = WheelGuard()
        self.slider.installEventFilter(self._wheel)
        self.message_label = make_message_label()
        self.keep_button = QPushButton("Use this iteration")
        self.keep_button.setToolTip("<qt>Add the picture in sight as a layer of its own</qt>")
        self._arrange()
        self.slider.valueChanged.connect(self._on_move)
        self.keep_button.clicked.connect(self.keep)

    @property
    def live(self) -> bool:
        """Whether no snapshot is in sight, but the run or its result."""
        return self._selected is None

    @property
    def preview(self) -> Preview | None:
        """The layer that shows the run, if it is on."""
        return self._preview

    @property
    def any_kept(self) -> bool:
        """Whether a snapshot of the latest run was kept."""
        return bool(self._kept)

    def begin(self, request: RunRequest) -> None:
        """Forget the run before and follow a new one."""
        self.forget()
        request = replace(request, pixels={})  # the history outlives the run; its inputs need not
        self._request, self._kept, self._running = request, SnapshotLayers(request), True
        self._preview = _make_preview(self._viewer, request)

    def show_event(self, event: Event) -> None:
        """Take in a picture and show it, unless an earlier one is looked at.

        Raises
        ------
        Exception
            As `Preview.show`.
        """
        self.film.add(event)
        self._fit()
        if self._preview is not None and self.live:
            self._preview.show(event.preview)

    def note(self, result: Restoration) -> None:
        """Write into what was kept how the run ended."""
        if self._kept is not None:
            self._kept.end(result)

    def end(self) -> None:
        """Take the preview away and go to the right end, where the result is.

        Raises
        ------
        Exception
            If napari does not let the preview go.
        """
        self._running, self._selected = False, None
        self._fit()
        self._hide()

    def forget(self) -> None:
        """Let go of all snapshots."""
        self.film = SnapshotBuffer()
        self._running, self._request, self._selected = False, None, None
        attempt(self._hide, "The preview layer could not be removed")
        self._fit()

    def rest(self) -> None:
        """Go to the right end."""
        self.slider.setValue(self.slider.maximum())

    def keep(self) -> None:
        """Make a layer of the snapshot in sight."""
        kept, selected = self._kept, self._selected
        if kept is None or selected is None:
            return
        names: list[str] = []
        failing = "The picture could not be kept"
        trouble = attempt(lambda: names.append(kept.add(self._viewer, selected)), failing)
        self._say(trouble or f"Kept: '{names[0]}'.")

    def _hide(self) -> None:
        preview, self._preview = self._preview, None
        if preview is not None:
            preview.remove()

    def _fit(self) -> None:
        """Bring the slider in line with the film; what is in sight stays so."""
        snapshots = self.film.snapshots
        if self._selected is not None and self._selected not in snapshots:  # thinned out
            number = self._selected.number
            self._selected = min(
                snapshots, key=lambda item: abs(item.number - number), default=None
            )
        place = len(snapshots) if self._selected is None else snapshots.index(self._selected)
        with QSignalBlocker(self.slider):
            self.slider.setRange(0, len(snapshots))
            self.slider.setPageStep(max(1, len(snapshots) // 10))
            self.slider.setValue(place)
        self.setVisible(bool(snapshots))
        self._say(self._message if self._selected is not None else "")

    def _on_move(self, place: int) -> None:
        snapshots = self.film.snapshots
        self._selected = snapshots[place] if place < len(snapshots) else None
        trouble = attempt(self._show_seen, "The picture cannot be shown")
        self._say(trouble)

    def _show_seen(self) -> None:
        selected, request = self._selected, self._request
        if request is None:
            return
        if selected is None:
            if self._running and self.film.snapshots and self._preview is not None:
                self._preview.show(self.film.snapshots[-1].picture)
            elif not self._running:
                self._hide()
            return
        if self._preview is None or self._preview.dismissed:
            self._preview = _make_preview(self._viewer, request)
        self._preview.show(selected.picture)

    def _say(self, entry: str = "") -> None:
        """Say where the slider stands, or what there is else to tell of that place."""
        self._message = entry
        film, selected = self.film, self._selected
        self.keep_button.setVisible(selected is not None)
        self.moved.emit(None if selected is None else (selected.unit, selected.iteration))
        if selected is not None:
            place = describe_snapshot(selected)
            self.message_label.setText(
                entry or f"{place[:1].upper()}{place[1:]} of {selected.iterations}"
            )
            return
        count = len(film.snapshots)
        pictures = "1 picture" if count == 1 else f"{count} pictures"
        self.message_label.setText(
            entry
            or f"{pictures} in {format_bytes(film.bytes)} "
            f"of at most {format_bytes(film.most_bytes)}"
        )

    def _arrange(self) -> None:
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(2)
        layout.setColumnStretch(1, 1)
        layout.addWidget(QLabel("History"), 0, 0)
        layout.addWidget(self.slider, 0, 1, 1, 2)
        self.message_label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        layout.addWidget(self.message_label, 1, 0, 1, 2)
        layout.addWidget(self.keep_button, 1, 2)
        self.setToolTip(f"<qt>{_HISTORY_TOOLTIP}</qt>")
        self.setVisible(False)  # until there is something to go back to


def _make_preview(viewer: napari.viewer.Viewer, request: RunRequest) -> Preview:
    return Preview(viewer, request.name, request.look, part=bool(request.trial))
