"""Write the files of an experiment into a folder: page, figures, tables and recipe.

The module also checks that the folder can be used before an experiment starts.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import RefusedError
from napari_dip.errors.fault import make_printable
from napari_dip.explore.comparison import make_comparison_rows
from napari_dip.explore.feature_layers import PRIOR_LABELS, make_feature_rows
from napari_dip.explore.output.figures import (
    plot_architecture_pictures,
    plot_architecture_scores,
    plot_band_curves,
    plot_energy_curves,
    plot_feature_pictures,
    plot_power_curves,
    plot_stopping_curves,
)
from napari_dip.explore.output.pages import (
    ReportFigure,
    ReportTable,
    render_page,
    write_architecture_page,
    write_impedance_page,
    write_spectrum_page,
)
from napari_dip.explore.progress import set_writer
from napari_dip.io.outputs import check_folder
from napari_dip.io.paths import make_folder
from napari_dip.io.writing import write_bytes, write_text
from napari_dip.pipeline.assess.references import PAPERS
from napari_dip.pipeline.store.results import escape_formula, format_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from napari_dip.explore.comparison import ArchitectureComparison
    from napari_dip.explore.feature_layers import FeatureInversionResult
    from napari_dip.explore.noise_impedance import ImpedanceResult
    from napari_dip.explore.progress import ExperimentResult
    from napari_dip.explore.spectra import SpectrumResult

#: File names of each experiment, the page first.
EXPERIMENT_FILES = {
    "architectures": (
        "architectures.html",
        "architectures.png",
        "pictures.png",
        "architectures.csv",
        "curves.csv",
        "architectures.json",
        "denoising.json",
    ),
    "features": ("features.html", "features.png", "features.csv", "features.json"),
    "impedance": ("impedance.html", "impedance.png", "impedance.csv", "impedance.json"),
    "spectrum": (
        "spectrum.html",
        "power.png",
        "bands.png",
        "stopping.png",
        "power.csv",
        "bands.csv",
        "held_out.csv",
        "spectrum.json",
    ),
}


def format_csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as CSV, with all digits of the numbers."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(map(escape_formula, row) for row in rows)
    return buffer.getvalue()


def make_feature_files(result: FeatureInversionResult) -> dict[str, str | bytes]:
    """Return the files of `EXPERIMENT_FILES["features"]`, the page first."""
    picture = plot_feature_pictures(result)
    rows = make_feature_rows(result)
    return {
        "features.html": _write_feature_page(result, picture),
        "features.png": picture,
        "features.csv": format_csv(tuple(rows[0]), (tuple(row.values()) for row in rows)),
        "features.json": format_json(result.to_dict()),
    }


def _write_feature_page(rows: FeatureInversionResult, picture: bytes) -> str:
    figure = ReportFigure(
        picture=picture, title="What each layer keeps", caption=_caption_features()
    )
    references = (PAPERS["feature inversion"], PAPERS["guide"], PAPERS["total variation"])
    title = f"Features of {rows.recipe['network']}: {rows.name}"
    summary = (*rows.sentences, *map(str, rows.notes))
    return render_page(
        title, summary, (figure,), rows.recipe, references, table=_make_feature_table(rows)
    )


def _make_feature_table(rows: FeatureInversionResult) -> ReportTable:
    heads = ("layer", "answer", *(f"{label}" for label in PRIOR_LABELS.values()))
    lines = tuple(
        (
            row[0].layer,
            row[0].answer,
            *(f"{inversion.correlation:.3f} ({inversion.distance:.4f})" for inversion in row),
        )
        for row in rows.rows
    )
    caption = (
        "Correlation of what came back with the image; in brackets the squared distance of the "
        "activations in the last iterations, in their own mean square. A picture may answer the "
        "layer as the image does and look like nothing: then the layer keeps little, and the prior "
        "has to tell."
    )
    return ReportTable(heads=heads, rows=lines, caption=caption)


def _caption_features() -> str:
    return (
        "Left the image, then what came back from the layer's activations alone: with an untrained "
        "network (Deep Image Prior), with a penalty on the total variation of free pixels, and "
        "with free pixels only. All at the same limits of contrast."
    )


def find_free_folder(parent: str | os.PathLike[str], name: str) -> Path:
    """Return a folder name that does not exist yet, with a number if necessary.

    Parameters
    ----------
    parent : path
    name : str
        Preferred name; characters that some file systems forbid become hyphens.
    """
    stem = "".join(
        character if character.isalnum() or character in " ._-" else "-" for character in name
    ).strip(" .")
    folder, number = Path(parent) / (stem or "report"), 2
    while os.path.lexists(folder):
        folder, number = Path(parent) / f"{stem}-{number}", number + 1
    return folder


def check_experiment_folder(
    experiment: str, folder: str | os.PathLike[str], *, overwrite: bool
) -> Path:
    """Check that the files of an experiment can be saved in a folder, which need not exist yet.

    Parameters
    ----------
    experiment : str
        Key in `EXPERIMENT_FILES`.
    folder : path
    overwrite : bool
        Whether earlier files of the experiment may be replaced.

    Raises
    ------
    RefusedError
        If it is no folder, cannot be written to, or holds such files.
    """
    checked_folder = check_folder(folder)
    for name in EXPERIMENT_FILES[experiment]:
        path = checked_folder / name
        if os.path.lexists(path) and not overwrite:
            raise RefusedError("output-exists", path=path)
        if path.is_dir():
            facts = {"path": make_printable(str(path)), "suffix": path.suffix}
            raise RefusedError("output-is-folder", **facts)
    return checked_folder


def save_outcome(
    outcome: ExperimentResult, folder: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write the files of an experiment and return the path of the page.

    Raises
    ------
    RefusedError
        If the folder cannot be used, or already holds such files.
    FailedError
        If the files cannot be written.
    """
    checked_folder = _make_experiment_folder(
        outcome.experiment, folder, overwrite=overwrite
    )  # refuse before any figure is drawn
    return _write_files(checked_folder, _CONTENT[outcome.experiment](outcome), overwrite=overwrite)


def _make_impedance_files(impedance: ImpedanceResult) -> dict[str, str | bytes]:
    """Return the files of `EXPERIMENT_FILES["impedance"]`, the page first."""
    picture = plot_energy_curves(impedance)
    count = len(impedance.energies["image"])
    columns = [range(1, count + 1), *(curve.tolist() for curve in impedance.energies.values())]
    return {
        "impedance.html": write_impedance_page(impedance, picture),
        "impedance.png": picture,
        "impedance.csv": format_csv(("iteration", *impedance.energies), zip(*columns, strict=True)),
        "impedance.json": format_json(impedance.to_dict()),
    }


def _make_spectrum_files(spectrum: SpectrumResult) -> dict[str, str | bytes]:
    """Return the files of `EXPERIMENT_FILES["spectrum"]`, the page first."""
    pictures = (
        plot_power_curves(spectrum),
        plot_band_curves(spectrum),
        plot_stopping_curves(spectrum),
    )
    power = [spectrum.frequency.tolist(), *(curve.tolist() for curve in spectrum.power.values())]
    heads = [f"iteration_{name}" if name.isdigit() else name for name in spectrum.power]
    return {
        "spectrum.html": write_spectrum_page(spectrum, pictures),
        **dict(zip(("power.png", "bands.png", "stopping.png"), pictures, strict=True)),
        "power.csv": format_csv(("cycles_per_pixel", *heads), zip(*power, strict=True)),
        "bands.csv": _format_band_csv(spectrum),
        "held_out.csv": format_csv(
            ("iteration", "held_out_error"), spectrum.validation_stop.validation_errors
        ),
        "spectrum.json": format_json(spectrum.to_dict()),
    }


def _make_architecture_files(architectures: ArchitectureComparison) -> dict[str, str | bytes]:
    """Return the files of `EXPERIMENT_FILES["architectures"]`, the page first."""
    pictures = (plot_architecture_scores(architectures), plot_architecture_pictures(architectures))
    rows = make_comparison_rows(architectures)
    return {
        "architectures.html": write_architecture_page(architectures, pictures),
        **dict(zip(("architectures.png", "pictures.png"), pictures, strict=True)),
        "architectures.csv": format_csv(tuple(rows[0]), (tuple(row.values()) for row in rows)),
        "curves.csv": _format_curve_csv(architectures),
        "architectures.json": format_json(architectures.to_dict()),
        "denoising.json": architectures.denoising_recipe.to_json(),
    }


def _format_band_csv(spectrum: SpectrumResult) -> str:
    """Return the curves of a spectrum as CSV, one row per iteration."""
    bands = [f"band_{number}" for number in range(1, spectrum.correspondence.shape[1] + 1)]
    heads = ["iteration", "energy", *bands, "blurriness", "sharpness", "ratio"]
    columns = [spectrum.energy, *spectrum.correspondence.T, spectrum.blurriness, spectrum.sharpness]
    columns.append(spectrum.ratio)
    if spectrum.psnr is not None:
        heads.append("psnr")
        columns.append(spectrum.psnr)
    count = range(1, len(spectrum.energy) + 1)
    return format_csv(heads, zip(count, *(column.tolist() for column in columns), strict=True))


def _format_curve_csv(architectures: ArchitectureComparison) -> str:
    """Return the curves of a comparison as CSV, one row per architecture and iteration."""
    heads = ["design", "iteration", "energy", "energy_of_noise", "held_out_error"]
    heads += [
        f"band_{number}" for number in range(1, architectures.fits[0].correspondence.shape[1] + 1)
    ]
    heads += [] if architectures.truth is None else ["psnr"]
    lines: list[tuple[Any, ...]] = []
    for fit in architectures.fits:
        columns = [fit.energy, fit.noise, fit.validation_errors, *fit.correspondence.T]
        columns += [] if fit.psnr is None else [fit.psnr]
        count = range(1, len(fit.energy) + 1)
        values = zip(count, *(curve.tolist() for curve in columns), strict=True)
        lines += [(fit.architecture.name, *line) for line in values]
    return format_csv(heads, lines)


def _make_experiment_folder(
    experiment: str, folder: str | os.PathLike[str], *, overwrite: bool
) -> Path:
    """Create the folder of an experiment; raise `RefusedError` where that is impossible."""
    checked_folder = check_experiment_folder(experiment, folder, overwrite=overwrite)
    make_folder(checked_folder)
    return checked_folder


def _write_files(place: Path, content: dict[str, str | bytes], *, overwrite: bool) -> Path:
    """Write all files, the page last, so that a page implies complete files."""
    for name in reversed(content):
        file_content = content[name]
        path = place / name
        if isinstance(file_content, bytes):
            write_bytes(path, file_content, overwrite=overwrite)
        else:
            write_text(path, file_content, overwrite=overwrite)
    return place / next(iter(content))


_CONTENT: Mapping[str, Callable[[Any], dict[str, str | bytes]]] = {
    "architectures": _make_architecture_files,
    "features": make_feature_files,
    "impedance": _make_impedance_files,
    "spectrum": _make_spectrum_files,
}
set_writer(save_outcome)
