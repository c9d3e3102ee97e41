"""Define the result of a run, as the Python functions return it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from napari_dip.errors import RefusedError
from napari_dip.errors.templates import format_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.errors.notes import Stop, StopReason
    from napari_dip.io import AnyArray, Float32Array
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.public_types import FilePath, FittedNetwork, RegionTraces, Report


class OutputWriter(Protocol):
    """Write and show results of one run, as `pipeline.store.result_files.ResultWriter` does."""

    def save(
        self, result: Restoration, paths: Mapping[str, FilePath | None], *, overwrite: bool
    ) -> None:
        """Save outputs of a result, by name of the output; None is not saved."""

    def convert_to_xarray(self, result: Restoration) -> Any:
        """Return the image as an `xarray.DataArray`."""

    def compare_traces(
        self, result: Restoration, image: AnyArray, regions: AnyArray
    ) -> RegionTraces:
        """Compare traces of regions of a movie before and after."""
        ...

    def render_html(self, result: Restoration) -> str:
        """Return a small image and the card of a result, as HTML."""
        ...

    def use_template(self, template: Any) -> OutputWriter:
        """Return the writer of results of a `xarray.DataArray`."""
        ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Restoration:
    """Result of a run: image, uncertainty and report.

    Attributes
    ----------
    image : ndarray
        In the axes and units of the input; float32, or its type if the recipe asks for that.
    uncertainty : ndarray
        Standard deviation of each pixel of `image`, in the same units.
    stop : Stop
    best_iteration : int
    history : tuple of (iteration, training loss, validation loss)
        Of the first restart of the first work unit; NaN where not measured.
    recipe : Recipe
    learned_parameters : mapping of str to ndarray
        Other fitted quantities, such as {"psf": ...}.
    report : Report
    residual : ndarray or None
        Measurement minus the operator's output for `image`; 0 where nothing was measured.
    failure_score : float
        How much of edges or brightness the result has lost; from 1 on, it has failed.
    writer : OutputWriter or None
        None for a part of an image.
    repeat_map : ndarray or None
        Correlation of two halves' fine detail around each pixel: 1 where all came again.
    null_image : ndarray or None
        Result of the same run for noise without an object.
    run_network : FittedNetwork or None
    """

    image: AnyArray
    uncertainty: Float32Array
    stop: Stop
    best_iteration: int
    history: tuple[tuple[int, float, float], ...]
    recipe: Recipe
    learned_parameters: Mapping[str, Float32Array] = field(default_factory=dict)
    report: Report = field(default_factory=lambda: cast("Report", {}))
    residual: Float32Array | None = None
    failure_score: float = 0.0
    writer: OutputWriter | None = None
    repeat_map: Float32Array | None = None
    null_image: Float32Array | None = None
    run_network: FittedNetwork | None = None

    def save(
        self,
        path: FilePath,
        *,
        uncertainty: FilePath | None = None,
        residual: FilePath | None = None,
        report: FilePath | None = None,
        recipe: FilePath | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Save the image as the command line does, with axes and provenance; return its path.

        Parameters
        ----------
        path : path ending in .tif, .tiff, .zarr; .ome.tif and .ome.tiff make an OME-TIFF
        uncertainty, residual : path, optional
            Images of the same formats to save beside it.
        report, recipe : path ending in .json, optional
        overwrite : bool
            Whether earlier files of these names may be replaced; an input is never replaced.

        Raises
        ------
        RefusedError
            If one of the names cannot be used; nothing was written.
        FailedError
            If a file cannot be written.

        Examples
        --------
        >>> result = dip.denoise(image, preset="fast", max_iterations=10)
        >>> result.save("denoised.tif", report="denoised.json").name
        'denoised.tif'
        """
        paths = {"uncertainty": uncertainty, "residual": residual, "report": report}
        paths |= {"output": path, "recipe": recipe}
        self._get_writer().save(self, paths, overwrite=overwrite)
        return Path(path)

    def to_xarray(self) -> Any:
        """Return the image as an `xarray.DataArray`.

        It has the dimensions and coordinates of an input that was one. Otherwise its dimensions
        are the axes in small letters, and its coordinates come from the pixel size.

        Examples
        --------
        >>> dip.denoise(image, preset="fast", max_iterations=10).to_xarray().dims
        ('y', 'x')
        """
        return self._get_writer().convert_to_xarray(self)

    def traces(self, image: AnyArray, regions: AnyArray) -> RegionTraces:
        """Compare traces of regions of a movie before and after: slope, offset and delay of each.

        Parameters
        ----------
        image : ndarray
            The movie that was restored.
        regions : ndarray
            (Y, X) labels, 0 outside of regions; or bool, (Y, X) or (regions, Y, X).

        Raises
        ------
        RefusedError
            If there is no time axis, or no region of the movie's size.

        Examples
        --------
        >>> result = dip.denoise(movie, axes="TYX", preset="instant", max_iterations=4)
        >>> result.traces(movie, labels).measured.shape
        (16, 2)
        """
        return self._get_writer().compare_traces(self, image, regions)

    def _repr_html_(self) -> str:
        """Return a small image and the sentences of the quality checks, for notebooks."""
        return repr(self) if self.writer is None else self.writer.render_html(self)

    def _get_writer(self) -> OutputWriter:
        if self.writer is None:
            raise RefusedError("save-part")
        return self.writer

    @property
    def network(self) -> FittedNetwork:
        """Last network that was fitted; `RefusedError` with tiles, or without a network."""
        if self.run_network is None:
            raise RefusedError("network-none")
        return self.run_network

    @property
    def learned(self) -> Mapping[str, Float32Array]:
        """Other name of `learned_parameters`."""
        return self.learned_parameters

    @property
    def repeated(self) -> Float32Array | None:
        """Earlier name of `repeat_map`, for one version."""
        return self.repeat_map

    @property
    def stop_reason(self) -> StopReason:
        """Why the fit ended, as a value to compare; `str(result.stop)` is a text for the user."""
        return self.stop.reason

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before the result is used; empty if nothing was found."""
        return tuple(self.report["verdict"]["warnings"]) if "verdict" in self.report else ()

    def __repr__(self) -> str:
        """Return one line: task, shape, type and stop reason."""
        size, task = format_sizes(self.image.shape), self.recipe.task.spec.name
        return f"<Restoration: {task}, {size}, {self.image.dtype}; ended since {self.stop}>"
