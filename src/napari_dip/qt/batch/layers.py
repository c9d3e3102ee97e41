"""Results of a batch as lazy layers, of which only the visible part is read from the disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_dip.errors import Refusal, RefusedError
from napari_dip.errors.fault import make_printable
from napari_dip.io.reading import open_pixels, read_spec
from napari_dip.pipeline.assess.report_figures import compute_contrast_limits, select_middle_plane
from napari_dip.qt.shell.dock_widget import make_single_shot_timer
from napari_dip.qt.shell.layers import METADATA_KEY, build_report_provenance, preserve_view
from napari_dip.qt.shell.worker import call_reporting_errors, start_call
from napari_dip.scale.batch.records import read_file_record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import napari.viewer

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.qt.shell.worker import BackgroundCall
    from napari_dip.scale.batch.jobs import Job

#: Sides in pixels: of a chunk of a lazy array, and of the sample for the contrast limits.
_TILE, _CONTRAST_SAMPLE_SIDE = 1024, 1024
#: Largest number of results opened at once; each blocks the window for hundredths of a second.
MAX_OPENED_RESULTS = 24


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LazyLayer:
    """A layer that is to be added to the viewer.

    Attributes
    ----------
    pixels : dask array
    layer_attributes : mapping
        Arguments of `add_image`.
    """

    pixels: Any
    layer_attributes: dict[str, Any]


class BatchLayers(QObject):
    """Opens results one after another, so that the window stays responsive.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    parent : QObject
    """

    message_emitted = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._remaining: list[tuple[Job, Recipe]] = []
        self._call: BackgroundCall | None = None
        self._names: list[str] = []
        self._with_input = False
        self._opened_layers: list[LazyLayer] = []
        self._next_timer = make_single_shot_timer(self)
        self._next_timer.timeout.connect(self._add_next)

    def show_results(self, jobs: Iterable[Job], recipe: Recipe, *, neighbours: bool) -> None:
        """Open the results of files, optionally with their inputs below.

        Parameters
        ----------
        jobs : iterable of Job
        recipe : Recipe
        neighbours : bool
            Whether the inputs are opened, too.
        """
        self._remaining += [(job, recipe) for job in jobs]
        self._with_input, self._names = neighbours, []
        if self._call is None and not self._next_timer.isActive():
            self._open_next()

    def shut_down(self) -> None:
        """Cancel all results that are still to be opened."""
        self._remaining = []
        self._next_timer.stop()
        if self._call is not None:
            self._call.discard()
        self._call = None

    def _open_next(self) -> None:
        """Open the next result in the background, or report that all are open."""
        self._call = None
        if self._remaining:
            job, recipe = self._remaining.pop(0)
            self._call = start_call(
                partial(load_result_layers, job, recipe, self._with_input),
                self,
                self._on_opened,
                doing="Opening the result of",
                name=str(job.source),
            )
        elif self._names:
            count = len(self._names)
            opened = f"'{self._names[0]}'" if count == 1 else f"{count} results"
            self.message_emitted.emit(f"Opened: {opened}. What is in sight is read from the disk.")

    def _on_opened(self, layer: tuple[LazyLayer, ...] | Refusal) -> None:
        if isinstance(layer, Refusal):
            self.message_emitted.emit(layer.message)
        else:
            self._opened_layers = list(layer)
            self._names.append(layer[-1].layer_attributes["name"])
        self._add_next()

    def _add_next(self) -> None:
        """Add one layer per event loop cycle, because napari takes a tenth of a second for each."""
        if not self._opened_layers:
            self._open_next()
            return
        layer = self._opened_layers.pop(0)
        if not self._is_open(layer.layer_attributes["metadata"][METADATA_KEY]["path"]):
            trouble = call_reporting_errors(
                partial(self._add_layer, layer), "The result could not be opened"
            )
            if trouble:
                self.message_emitted.emit(trouble)
        self._next_timer.start()

    def _add_layer(self, layer: LazyLayer) -> None:
        with preserve_view(self._viewer):
            self._viewer.add_image(layer.pixels, **layer.layer_attributes)

    def _is_open(self, path: str) -> bool:
        """Whether a layer of a file exists already."""
        records = (layer.metadata.get(METADATA_KEY) for layer in self._viewer.layers)
        return any(isinstance(our, dict) and our.get("path") == path for our in records)


def load_result_layers(job: Job, recipe: Recipe, neighbours: bool) -> tuple[LazyLayer, ...]:
    """Return the layer of a result of a batch, optionally after the layer of its input.

    Parameters
    ----------
    job : Job
    recipe : Recipe
    neighbours : bool
        Whether the input is opened, too.

    Returns
    -------
    tuple of LazyLayer
        The result is the last one.

    Raises
    ------
    RefusedError
        If the result is missing or damaged.
    """
    assert not isinstance(job.plan, Refusal)  # a refused file has no result
    source = job.plan.source
    record = read_file_record(job.paths, source, recipe)
    if record is None:
        raise RefusedError("file-missing", path=job.paths.record)
    name = make_printable(job.source.stem)
    inputs = {
        input_name: {"layer": make_printable(path.name), "path": str(path.absolute())}
        for input_name, path in job.inputs.items()
    }
    inputs["image"]["axes"] = source.axes
    provenance = build_report_provenance(
        make_printable(job.source.name), record["recipe"], record["report"]
    )
    metadata = {**provenance, "inputs": inputs, "shows": "result"}
    placement = _compute_placement(job.plan, job.plan.factors)
    result = _make_lazy_layer(
        job.paths.result,
        f"{name} {recipe.task.spec.result_suffix}",
        source.axes,
        metadata,
        placement,
    )
    if not neighbours:
        return (result,)
    placement = {
        **_compute_placement(job.plan),
        "contrast_limits": result.layer_attributes["contrast_limits"],
    }
    return _make_lazy_layer(
        job.source, make_printable(job.source.name), source.axes, {}, placement
    ), result


def _make_lazy_layer(
    path: Path, name: str, axes: str, entry: dict[str, Any], place: dict[str, Any]
) -> LazyLayer:
    """Return the layer of a file; contrast limits are estimated unless `place` has them."""
    lazy = make_dask_array(open_pixels(read_spec(path, axes)), axes)
    attributes: dict[str, Any] = {
        "name": name,
        "rgb": axes.endswith("S"),
        "axis_labels": tuple(axis.lower() for axis in axes if axis != "S"),
        "metadata": {METADATA_KEY: {**entry, "path": str(path.absolute())}},
        **place,
    }
    if "contrast_limits" not in attributes:
        attributes["contrast_limits"] = _estimate_contrast_limits(lazy, axes)
    return LazyLayer(pixels=lazy, layer_attributes=attributes)


def make_dask_array(pixels: Any, axes: str) -> Any:
    """Return a lazy array in chunks of one plane or less.

    Parameters
    ----------
    pixels : array
        An array that is read by slices, as by `napari_dip.io.reading.open_pixels`.
    axes : str

    Returns
    -------
    dask.array.Array
    """
    import dask.array

    tile = tuple(
        min(_TILE, side) if axis in "YX" else side if axis == "S" else 1
        for axis, side in zip(axes, pixels.shape, strict=True)
    )
    return dask.array.from_array(pixels, chunks=tile, name=False)  # type: ignore[no-untyped-call]


def _compute_placement(plan: Plan, factors: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Return scale, position and units of the input, or of a result upscaled by factors."""
    source = plan.source
    spatial_indices = [index for index, axis in enumerate(source.axes) if axis != "S"]
    scale = np.array(source.scale or [1.0] * len(source.shape))[spatial_indices]
    units = source.units or ("pixel",) * len(source.shape)
    scale_factors = np.array(factors or [1] * len(source.shape))[spatial_indices]
    return {
        "scale": tuple(scale / scale_factors),
        # so that input and result cover the same area
        "translate": tuple(scale * (0.5 / scale_factors - 0.5)),
        "units": tuple(units[index] for index in spatial_indices),
    }


def _estimate_contrast_limits(lazy: Any, axes: str) -> tuple[float, float]:
    """Return contrast limits of the centre of the middle plane."""
    axis_index = {axis: axes.index(axis) for axis in "YX"}
    region = [slice(None)] * lazy.ndim
    for axis in "YX":
        side = lazy.shape[axis_index[axis]]
        start = max(0, (side - _CONTRAST_SAMPLE_SIDE) // 2)
        region[axis_index[axis]] = slice(start, start + _CONTRAST_SAMPLE_SIDE)
    for axis in "TZ":
        if axis in axes:
            middle_index = lazy.shape[axes.index(axis)] // 2
            region[axes.index(axis)] = slice(middle_index, middle_index + 1)
    low, high = compute_contrast_limits(select_middle_plane(np.asarray(lazy[tuple(region)]), axes))
    return (low, high) if high > low else (low, low + 1.0)
