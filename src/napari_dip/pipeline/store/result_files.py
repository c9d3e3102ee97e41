"""Save results as image files with their provenance, and format reports as JSON.

A result that cannot be saved at its target is saved elsewhere, and the error message says where.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import numpy as np

from napari_dip.errors import FailedError, RefusedError
from napari_dip.errors.notes import make_note, parse_report_notes, serialise_stop
from napari_dip.errors.templates import make_printable
from napari_dip.io.header import make_plane_header
from napari_dip.io.outputs import lock_outputs, resolve_outputs
from napari_dip.io.paths import (
    PARTIAL_MARK,
    RESCUED_MARK,
    describe_exception,
    make_save_fault,
    resolve_target,
    shorten_name,
)
from napari_dip.io.writing import write_image, write_text
from napari_dip.pipeline.assess.card import make_card
from napari_dip.pipeline.assess.report import select_repeatable_fields
from napari_dip.pipeline.assess.report_figures import (
    make_element,
    make_elements,
    make_image,
    plot_plane,
    select_middle_plane,
)
from napari_dip.pipeline.assess.traces import average_regions, measure_region_traces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, ImageHeader
    from napari_dip.io.header import SourceTags
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.public_types import FilePath, RegionTraces

#: First characters that make a spreadsheet read a cell, such as a file name, as a formula.
_FORMULA_PREFIXES = ("=", "+", "-", "@")


def save_image(
    path: FilePath,
    image: Any,
    header: ImageHeader,
    scale: tuple[float, ...] | None,
    result: Restoration,
    overwrite: bool,
    shows: str = "result",
) -> None:
    """Save one image of a result as TIFF or OME-Zarr, atomically.

    The content of the file does not depend on the time and place of writing: equal pixels give
    equal bytes.

    Parameters
    ----------
    path : path
    image : ndarray
        In the axes of `header`.
    header : ImageHeader
        Header of the image that was restored.
    scale : tuple of float or None
        Pixel size of `image` along each axis.
    result : Restoration
        Source of the provenance that is stored in the file.
    overwrite : bool
    shows : str
        What the image shows: "result", or another output of the run.

    Raises
    ------
    FailedError
        If the file cannot be written.
    """
    from napari_dip.version import __version__

    provenance = {
        "program": f"napari-dip {__version__}",
        "source": header.name,
        **({} if shows == "result" else {"shows": shows}),
        "recipe": result.recipe.to_dict(),
        "best_iteration": result.best_iteration,
        **serialise_stop(result.stop),
        "report": _replace_non_finite(select_repeatable_fields(result.report)),
    }
    write_image(
        path,
        image,
        axes=header.axes,
        scale=scale,
        units=header.units,
        provenance=provenance,
        overwrite=overwrite,
        like=header.path,
        tags=_shift_origin(header, scale),
    )


def iter_output_writers(
    plan: Plan, result: Restoration, overwrite: bool
) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Yield the name of each output and the function that writes it, the image first."""

    def make_image_writer(
        image: Any, header: ImageHeader, scale: Any, shows: str = "result"
    ) -> Callable[[Path], object]:
        return lambda path: save_image(path, image, header, scale, result, overwrite, shows)

    def make_text_writer(content: str) -> Callable[[Path], object]:
        return lambda path: write_text(path, content, overwrite=overwrite)

    # brightness may be inverted (0 is white) and has limits of display, but errors have not
    header = plan.header
    error_tags = replace(header.tags, is_white_zero=False, contrast_limits=())
    error = replace(header, tags=error_tags)
    yield "output", make_image_writer(result.image, plan.header, plan.result_scale)
    input_scale = plan.header.scale
    for name, image, image_header, scale in (
        ("uncertainty", result.uncertainty, error, plan.result_scale),
        ("residual", result.residual, error, input_scale),
        ("repeated", result.repeat_map, error, input_scale),
        ("null_image", result.null_image, header, input_scale),
    ):
        if image is not None or name in ("uncertainty", "residual"):
            yield name, make_image_writer(image, image_header, scale, name)
    for name in result.recipe.task.spec.extra_outputs:
        learned = result.learned_parameters[name]
        plane_header = make_plane_header(header, learned.shape, plan.layout.grid_axes)
        write_learned = make_image_writer(learned, plane_header, plane_header.scale, "found")
        yield f"{name}_out", write_learned
    yield "report", make_text_writer(format_json(result.report))
    yield "recipe", make_text_writer(result.recipe.to_json())
    yield "save_network", lambda path: result.network.write(path, overwrite=overwrite)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ResultWriter:
    """Save, convert and show results of one run, by its axes and pixel size.

    Attributes
    ----------
    plan : Plan
    template : DataArray or None
        The image that was restored, if it was an `xarray.DataArray`.
    """

    plan: Plan
    template: Any = None

    def use_template(self, template: Any) -> ResultWriter:
        """Return the writer of results of a `xarray.DataArray`."""
        return replace(self, template=template)

    def save(
        self, result: Restoration, paths: Mapping[str, FilePath | None], *, overwrite: bool
    ) -> None:
        """Save outputs of a result, by the names of `iter_output_writers`; None is not saved."""
        header, extra_headers = self.plan.header, self.plan.extra_headers.values()
        inputs = [entry.path for entry in (header, *extra_headers) if entry.path]
        given_paths = {name: path for name, path in paths.items() if path is not None}
        if result.residual is None and "residual" in given_paths:
            raise RefusedError("residual-none")
        bytes_needed = result.image.nbytes * len(given_paths)
        check = partial(resolve_outputs, given_paths, inputs, overwrite, bytes_needed)
        with lock_outputs(check, given_paths["output"]) as targets:
            for name, write in iter_output_writers(self.plan, result, overwrite):
                if name in targets:
                    try:
                        write(targets[name])
                    except Exception as error:
                        raise convert_to_failure(error, targets[name]) from error

    def convert_to_xarray(self, result: Restoration) -> Any:
        """Return the image as an `xarray.DataArray`; see `Restoration.to_xarray`."""
        try:
            import xarray
        except ImportError:
            raise RefusedError("xarray-missing") from None
        header, image, template = self.plan.header, result.image, self.template
        if template is not None and template.shape == image.shape:
            return template.copy(data=image)
        if template is None:
            dims: Sequence[Any] = [axis.lower() for axis in header.axes]
            sizes = zip(dims, image.shape, self.plan.result_scale or (), strict=False)
            coords = {dim: step * np.arange(count) for dim, count, step in sizes}
            return xarray.DataArray(image, coords, dims)
        coordinates: dict[Any, Any] = {}
        for dim, factor, count in zip(template.dims, self.plan.factors, image.shape, strict=True):
            if dim not in template.coords:
                continue
            coordinate = template.coords[dim]
            # the fine pixels cover the area of the coarse ones
            positions = (np.arange(count) + 0.5) / factor - 0.5
            values = np.asarray(coordinate.values)
            if factor > 1:
                values = values[0] + positions * (values[1] - values[0])
            coordinates[dim] = (dim, values, coordinate.attrs)
        return xarray.DataArray(image, coordinates, template.dims, template.name, template.attrs)

    def compare_traces(
        self, result: Restoration, image: AnyArray, regions: AnyArray
    ) -> RegionTraces:
        """Compare traces of regions; see `Restoration.traces`."""
        axes, residual = self.plan.header.axes, result.residual
        restored = result.image if residual is None else np.subtract(image, residual)
        measured, counts = average_regions(image, axes, regions)
        return measure_region_traces(
            measured, average_regions(restored, axes, regions)[0], counts, result.report["noise"]
        )

    def render_html(self, result: Restoration) -> str:
        """Return one line on the result, its middle plane, and its card, as HTML."""
        plane = select_middle_plane(result.image, self.plan.header.axes)
        lines = make_card(result.report).list_lines()
        line = make_element("p", repr(result))
        return make_element("div", line, make_image(plot_plane(plane)), make_elements("p", lines))


def _shift_origin(header: ImageHeader, scale: tuple[float, ...] | None) -> SourceTags:
    """Return the tags with the centre of the first pixel shifted for a new pixel size.

    Input and result then cover the same area.
    """
    origin = header.tags.origin
    if origin is None or header.scale is None or scale is None:
        return header.tags
    shifted_origin = tuple(
        start + (new_size - old_size) / 2
        for start, old_size, new_size in zip(origin, header.scale, scale, strict=True)
    )
    return replace(header.tags, origin=shifted_origin)


def format_json(value: Any) -> str:
    """Format plain types as readable JSON, with unprintable characters escaped."""
    text = json.dumps(_replace_non_finite(value), indent=2, ensure_ascii=False)
    return "".join(
        letter if letter == "\n" or letter.isprintable() else _escape_character(letter)
        for letter in f"{text}\n"
    )


def format_csv(
    headers: Iterable[str], rows: Iterable[Iterable[Any]], *, quotes_texts: bool = False
) -> str:
    """Return a table as CSV, with all digits of the numbers and without formulas."""
    buffer = io.StringIO()
    writer = csv.writer(
        buffer,
        lineterminator="\n",
        quoting=csv.QUOTE_NONNUMERIC if quotes_texts else csv.QUOTE_MINIMAL,
    )
    writer.writerow(map(escape_formula, headers))
    writer.writerows(map(escape_formula, row) for row in rows)
    return buffer.getvalue()


def _escape_character(letter: str) -> str:
    return "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]


def _replace_non_finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, since JSON cannot represent them."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _replace_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(entry) for entry in value]
    return value


def convert_to_failure(error: Exception, output: Path) -> FailedError:
    """Convert any error while saving a file to FailedError."""
    if isinstance(error, FailedError):
        return error
    if isinstance(error, RefusedError):
        return FailedError(error.reason)
    if isinstance(error, OSError):
        return FailedError(make_save_fault(output, error))
    printable = make_printable(str(output))
    return FailedError("save-unexpected", path=printable, why=describe_exception(error))


def rescue_result(failure: Exception, output: Path, plan: Plan, result: Restoration) -> FailedError:
    """Save a result elsewhere: beside its missing folder, or in one of `list_rescue_folders`.

    Parameters
    ----------
    failure : Exception
        Error from saving the result at its target.
    output : Path
        The target.
    plan : Plan
    result : Restoration

    Returns
    -------
    FailedError
        The same error, with a note on where the image was saved.
    """
    failed = convert_to_failure(failure, output)
    folders = list_rescue_folders(plan)
    if failed.reason.code in ("save-taken", "save-unexpected"):
        folders.insert(0, output.parent)
    elif not output.parent.exists():
        folders.insert(0, output.parent.parent)
    for folder in folders:
        path = choose_free_name(folder / output.name, RESCUED_MARK)
        with suppress(Exception), _restrict_permissions(folder):  # else try the next folder
            save_image(path, result.image, plan.header, plan.result_scale, result, False)
            return add_to_failure(failed, make_note("result-rescued", path=path))
    for folder in folders:  # the metadata may have caused the error, so save pixels only
        path = choose_free_name(folder / f"{output.name}.tif", RESCUED_MARK)
        with suppress(Exception), _restrict_permissions(folder):
            write_image(path, result.image, axes=plan.header.axes)
            return add_to_failure(failed, make_note("result-rescued-bare", path=path))
    places = ", ".join(make_printable(str(folder)) for folder in folders)
    return add_to_failure(failed, make_note("result-lost", places=places))


def raise_if_mixed(
    output: Path, plan: Plan, result: Restoration, checkpoints: CheckpointStore
) -> None:
    """Raise `FailedError` if the input changed between tiles; keep the result as a partial image.

    Parameters
    ----------
    output : Path
        Where the result would be saved.
    plan : Plan
    result : Restoration
    checkpoints : CheckpointStore
        Removed, since its tiles are mixed, too.
    """
    notes = parse_report_notes(result.report)
    names = [note.facts["name"] for note in notes if note.code == "input-changed-in-tiles"]
    if not names:
        return
    checkpoints.remove()
    path = choose_free_name(output, PARTIAL_MARK)
    try:
        save_image(path, result.image, plan.header, plan.result_scale, result, False)
    except Exception as error:
        raise rescue_result(error, path, plan, result) from error
    raise add_to_failure(
        FailedError("input-mixed", name=names[0]), make_note("result-partial", path=path)
    )


def choose_free_name(output: Path, kind: str) -> Path:
    """Return a free file name next to a result: OUT.kind.tif, or a numbered one."""
    return next(path for path in _iter_marked_names(output, kind) if not os.path.lexists(path))


def list_marked_files(output: Path, kind: str) -> list[Path]:
    """List the files with names from `choose_free_name`."""
    return list(itertools.takewhile(os.path.lexists, _iter_marked_names(output, kind)))


def _iter_marked_names(output: Path, kind: str) -> Iterator[Path]:
    yield _insert_name_suffix(output, kind)
    yield from (_insert_name_suffix(output, f"{kind}-{number}") for number in itertools.count(2))


def _insert_name_suffix(output: Path, kind: str) -> Path:
    """Return a path with `.kind` inserted before the suffix of a result's name."""
    stem = output.name.removesuffix(output.suffix)
    suffix = f".ome{output.suffix}" if stem.lower().endswith(".ome") else output.suffix
    stem = stem[:-4] if stem.lower().endswith(".ome") else stem
    name_end = f".{kind}{suffix}"
    return output.with_name(shorten_name(stem, len(name_end)) + name_end)


def list_rescue_folders(plan: Plan) -> list[Path]:
    """Return folders to save a result in: the input's, the home folder, and the temporary one."""
    folders = [resolve_target(Path(plan.header.path)).parent] if plan.header.path else []
    with suppress(RuntimeError):  # there is no home folder
        folders.append(Path.home())
    with suppress(OSError):  # no temporary folder is writable
        folders.append(Path(tempfile.gettempdir()))
    return list(dict.fromkeys(folders))


@contextmanager
def _restrict_permissions(folder: Path) -> Iterator[None]:
    """Make new files readable by the user only, if all users can write to the folder."""
    if not folder.stat().st_mode & stat.S_IWOTH:
        yield
        return
    old_umask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(old_umask)


def add_to_failure(failure: FailedError, note: Note) -> FailedError:
    """Return the same error with a further note."""
    original = failure.reason
    return FailedError(replace(original, extra_advice=(*original.extra_advice, note)))


def escape_formula(value: object) -> object:
    """Escape text that a spreadsheet would read as a formula; return other values unchanged."""
    if not isinstance(value, str):
        return value
    printable = make_printable(value)
    # spreadsheets ignore leading spaces, and treat full-width characters like ASCII ones
    normalised = normalize("NFKC", value).lstrip()
    return f"'{printable}" if normalised.startswith(_FORMULA_PREFIXES) else printable
