"""Results of a batch as layers: what is in sight is read from the disk, and never the whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.reading import read_spec
from napari_dip.io.regions import open_pixels
from napari_dip.pipeline.assess.report_figures import compute_contrast_limits, select_middle_plane
from napari_dip.qt.shell.dock_widget import make_single_shot_timer
from napari_dip.qt.shell.layers import METADATA_KEY, build_report_provenance, preserve_view
from napari_dip.qt.shell.run_completion import attempt
from napari_dip.qt.shell.worker import BackgroundCall, catch_errors
from napari_dip.scale.batch.records import read_file_record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import napari.viewer

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.qt.shell.worker import Switch
    from napari_dip.scale.batch.jobs import Job

#: Pixels along the sides of what is read at once, and of a plane whose contrast is looked at.
_TILE, _CONTRAST_SAMPLE_SIDE = 1024, 1024
#: Most layers that one press opens: each of them costs the window some hundredths of a second.
MAX_OPENED_RESULTS = 24


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LazyLayer:
    """A layer on its way into the viewer.

    Attributes
    ----------
    pixels : dask array
    look : mapping
        As `add_image` takes it.
    """

    pixels: Any
    look: dict[str, Any]


class BatchLayers(QObject):
    """Opens results one after another, so that the window stays alive.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    parent : QObject
    """

    said = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._remaining: list[tuple[Job, Recipe]] = []
        self._call: BackgroundCall | None = None
        self._names: list[str] = []
        self._with_input = False
        self._opened_layers: list[LazyLayer] = []
        self._breath = make_single_shot_timer(self)
        self._breath.timeout.connect(self._add_next)

    def show_results(self, jobs: Iterable[Job], recipe: Recipe, *, neighbours: bool) -> None:
        """Open the results of some files, and their inputs below them if wished.

        Parameters
        ----------
        jobs : iterable of Job
        recipe : Recipe
        neighbours : bool
        """
        self._remaining += [(job, recipe) for job in jobs]
        self._with_input, self._names = neighbours, []
        if self._call is None and not self._breath.isActive():
            self._next()

    def shut_down(self) -> None:
        """Open nothing more."""
        self._remaining = []
        self._breath.stop()
        if self._call is not None:
            self._call.discard()
        self._call = None

    def _next(self) -> None:
        """Have the next one opened, if there is one."""
        self._call = None
        if self._remaining:
            job, recipe = self._remaining.pop(0)
            self._call = BackgroundCall(
                partial(_load_layers_or_refusal, job, recipe, self._with_input), self
            )
            self._call.ended.connect(self._on_opened)
            self._call.start()
        elif self._names:
            count = len(self._names)
            text = f"'{self._names[0]}'" if count == 1 else f"{count} results"
            self.said.emit(f"Opened: {text}. What is in sight is read from the disk.")

    def _on_opened(self, layer: tuple[LazyLayer, ...] | Refusal) -> None:
        if isinstance(layer, Refusal):
            self.said.emit(layer.message)
        else:
            self._opened_layers = list(layer)
            self._names.append(layer[-1].look["name"])
        self._add_next()

    def _add_next(self) -> None:
        """Add one layer; each in a breath of its own, since napari takes a tenth of a second."""
        if not self._opened_layers:
            self._next()
            return
        item = self._opened_layers.pop(0)
        if not self._is_there(item.look["metadata"][METADATA_KEY]["path"]):
            trouble = attempt(partial(self._add, item), "The result could not be opened")
            if trouble:
                self.said.emit(trouble)
        self._breath.start()

    def _add(self, layer: LazyLayer) -> None:
        with preserve_view(self._viewer):
            self._viewer.add_image(layer.pixels, **layer.look)

    def _is_there(self, path: str) -> bool:
        """Whether a file is open already."""
        ours = (layer.metadata.get(METADATA_KEY) for layer in self._viewer.layers)
        return any(isinstance(our, dict) and our.get("path") == path for our in ours)


def _load_layers_or_refusal(
    job: Job, recipe: Recipe, neighbours: bool, _: Switch
) -> tuple[LazyLayer, ...] | Refusal:
    return catch_errors(
        lambda: load_result_layers(job, recipe, neighbours),
        "Opening the result of",
        str(job.source),
    )


def load_result_layers(job: Job, recipe: Recipe, neighbours: bool) -> tuple[LazyLayer, ...]:
    """Get at the result of a file of a batch, and at the file itself if wished.

    Parameters
    ----------
    job : Job
    recipe : Recipe
    neighbours : bool

    Returns
    -------
    tuple of LazyLayer
        The result last.

    Raises
    ------
    Refused
        If it is gone or damaged.
    """
    assert not isinstance(job.plan, Refusal)  # a refused file has no result
    source = job.plan.source
    receipt = read_file_record(job.paths, source, recipe)
    if receipt is None:
        raise Refused(refusal("file-missing", path=make_printable(str(job.paths.record))))
    name = make_printable(job.source.stem)
    inputs = {
        item: {"layer": make_printable(path.name), "path": str(path.absolute())}
        for item, path in job.inputs.items()
    }
    inputs["image"]["axes"] = source.axes
    provenance = build_report_provenance(
        make_printable(job.source.name), receipt["recipe"], receipt["report"]
    )
    facts = {**provenance, "inputs": inputs, "shows": "result"}
    place = _compute_placement(job.plan, job.plan.factors)
    result = _make_lazy_layer(
        job.paths.result, f"{name} {recipe.task.done}", source.axes, facts, place
    )
    if not neighbours:
        return (result,)
    place = {**_compute_placement(job.plan), "contrast_limits": result.look["contrast_limits"]}
    return _make_lazy_layer(
        job.source, make_printable(job.source.name), source.axes, {}, place
    ), result


def _make_lazy_layer(
    path: Path, name: str, axes: str, entry: dict[str, Any], place: dict[str, Any]
) -> LazyLayer:
    """Make the layer of a file, in that place and, where no contrast limits are, with its own."""
    lazy = make_dask_array(open_pixels(read_spec(path, axes)), axes)
    look: dict[str, Any] = {
        "name": name,
        "rgb": axes.endswith("S"),
        "axis_labels": tuple(axis.lower() for axis in axes if axis != "S"),
        "metadata": {METADATA_KEY: {**entry, "path": str(path.absolute())}},
        **place,
    }
    if "contrast_limits" not in look:
        look["contrast_limits"] = _estimate_contrast_limits(lazy, axes)
    return LazyLayer(pixels=lazy, look=look)


def make_dask_array(pixels: Any, axes: str) -> Any:
    """Make an array of which only the parts that are asked for are read.

    Parameters
    ----------
    pixels : array
        Reads by slices, as by `napari_dip.io.regions.open_pixels`.
    axes : str

    Returns
    -------
    dask.array.Array
        In this computer's byte order.
    """
    import dask.array

    tile = tuple(
        min(_TILE, side) if axis in "YX" else side if axis == "S" else 1
        for axis, side in zip(axes, pixels.shape, strict=True)
    )
    return dask.array.from_array(pixels, chunks=tile, name=False)  # type: ignore[no-untyped-call]


def _compute_placement(plan: Plan, factors: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Say where pixels lie and how large they are, of the input or so many times finer."""
    source = plan.source
    kept = [place for place, axis in enumerate(source.axes) if axis != "S"]
    scale = np.array(source.scale or [1.0] * len(source.shape))[kept]
    units = source.units or ("pixel",) * len(source.shape)
    finer = np.array(factors or [1] * len(source.shape))[kept]
    return {
        "scale": tuple(scale / finer),
        "translate": tuple(scale * (0.5 / finer - 0.5)),  # both cover the same ground
        "units": tuple(units[place] for place in kept),
    }


def _estimate_contrast_limits(lazy: Any, axes: str) -> tuple[float, float]:
    """Look at the middle of the middle plane only."""
    place = {axis: axes.index(axis) for axis in "YX"}
    middle = [slice(None)] * lazy.ndim
    for axis in "YX":
        side = lazy.shape[place[axis]]
        start = max(0, (side - _CONTRAST_SAMPLE_SIDE) // 2)
        middle[place[axis]] = slice(start, start + _CONTRAST_SAMPLE_SIDE)
    for axis in "TZ":
        if axis in axes:
            half = lazy.shape[axes.index(axis)] // 2
            middle[axes.index(axis)] = slice(half, half + 1)
    low, high = compute_contrast_limits(select_middle_plane(np.asarray(lazy[tuple(middle)]), axes))
    return (low, high) if high > low else (low, low + 1.0)
