"""What an experiment leaves in a folder: a page, pictures, tables and the recipe.

The page of a comparison of layers, with picture, table and recipe; numbers come from the run.

Where an experiment may leave its files: all that can be wrong with it, said before any work.

Figures as text that every spreadsheet reads.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.explore.comparison import make_comparison_rows
from napari_dip.explore.feature_layers import PRIOR_LABELS, make_feature_rows
from napari_dip.explore.output.figures import (
    draw_architecture_pictures,
    draw_architecture_scores,
    draw_band_curves,
    draw_energy_curves,
    draw_feature_pictures,
    draw_power_curves,
    draw_stopping_curves,
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
from napari_dip.pipeline.store.results import escape_formula, json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from napari_dip.explore.comparison import Architectures
    from napari_dip.explore.energies import Impedance
    from napari_dip.explore.feature_layers import FeatureRows
    from napari_dip.explore.progress import ExperimentResult
    from napari_dip.explore.spectra import Spectrum


def format_csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table as CSV; numbers with all their digits, so that they are those of the run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(map(escape_formula, row) for row in rows)
    return text.getvalue()


def make_feature_files(found: FeatureRows) -> dict[str, str | bytes]:
    """Make `FILES["features"]`, the page first."""
    picture = draw_feature_pictures(found)
    rows = make_feature_rows(found)
    return {
        "features.html": _write_feature_page(found, picture),
        "features.png": picture,
        "features.csv": format_csv(tuple(rows[0]), (tuple(row.values()) for row in rows)),
        "features.json": json_text(found.to_dict()),
    }


def _write_feature_page(found: FeatureRows, picture: bytes) -> str:
    figure = ReportFigure(picture, "What each layer keeps", _caption_features())
    references = (PAPERS["features"], PAPERS["guide"], PAPERS["total variation"])
    title = f"Features of {found.recipe['network']}: {found.name}"
    summary = (*found.sentences, *found.notes)
    return render_page(
        title, summary, (figure,), found.recipe, references, table=_make_feature_table(found)
    )


def _make_feature_table(found: FeatureRows) -> ReportTable:
    heads = ("layer", "answer", *(f"{words}" for words in PRIOR_LABELS.values()))
    lines = tuple(
        (
            row[0].layer,
            row[0].answer,
            *(f"{one.correlation:.3f} ({one.distance:.4f})" for one in row),
        )
        for row in found.rows
    )
    words = (
        "Correlation of what came back with the image; in brackets the squared distance of the "
        "activations in the last iterations, in their own mean square. A picture may answer the "
        "layer as the image does and look like nothing: then the layer keeps little, and the prior "
        "has to tell."
    )
    return ReportTable(heads, lines, words)


def _caption_features() -> str:
    return (
        "Left the image, then what came back from the layer's activations alone: with an untrained "
        "network (Deep Image Prior), with a penalty on the total variation of free pixels, and "
        "with free pixels only. All at the same limits of contrast."
    )


#: Files of each experiment; the page first.
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


def find_free_folder(parent: str | os.PathLike[str], name: str) -> Path:
    """Name a folder that is not there yet, after what it is to hold; with a number if need be.

    Parameters
    ----------
    parent : path
    name : str
        Signs that file names do not take everywhere become hyphens.
    """
    stem = "".join(one if one.isalnum() or one in " ._-" else "-" for one in name).strip(" .")
    place, number = Path(parent) / (stem or "report"), 2
    while os.path.lexists(place):
        place, number = Path(parent) / f"{stem}-{number}", number + 1
    return place


def check_experiment_folder(
    experiment: str, folder: str | os.PathLike[str], *, overwrite: bool
) -> Path:
    """Make sure that the files can be saved in a folder, which need not be there yet.

    Parameters
    ----------
    experiment : str
        Key in `EXPERIMENT_FILES`.
    folder : path
    overwrite : bool
        Whether earlier files of the experiment may be replaced.

    Raises
    ------
    Refused
        If it is no folder, cannot be written to, or holds such files.
    """
    place = check_folder(folder)
    for name in EXPERIMENT_FILES[experiment]:
        path = place / name
        if os.path.lexists(path) and not overwrite:
            raise Refused(refusal("output-exists", path=make_printable(str(path))))
        if path.is_dir():
            facts = {"path": make_printable(str(path)), "suffix": path.suffix}
            raise Refused(refusal("output-is-folder", **facts))
    return place


def save_outcome(
    outcome: ExperimentResult, folder: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write the files of an experiment; gives the page.

    Raises
    ------
    Refused
        If the folder cannot be used, or holds such files already.
    Failed
        If the disk does not take them.
    """
    place = _make_experiment_folder(
        outcome.experiment, folder, overwrite=overwrite
    )  # says no before anything is drawn
    return _write_files(place, _CONTENT[outcome.experiment](outcome), overwrite=overwrite)


def _make_impedance_files(found: Impedance) -> dict[str, str | bytes]:
    """Make `FILES["impedance"]`, the page first."""
    picture = draw_energy_curves(found)
    count = len(found.energies["image"])
    columns = [range(1, count + 1), *(curve.tolist() for curve in found.energies.values())]
    return {
        "impedance.html": write_impedance_page(found, picture),
        "impedance.png": picture,
        "impedance.csv": format_csv(("iteration", *found.energies), zip(*columns, strict=True)),
        "impedance.json": json_text(found.to_dict()),
    }


def _make_spectrum_files(found: Spectrum) -> dict[str, str | bytes]:
    """Make `FILES["spectrum"]`, the page first."""
    pictures = (draw_power_curves(found), draw_band_curves(found), draw_stopping_curves(found))
    power = [found.frequency.tolist(), *(curve.tolist() for curve in found.power.values())]
    heads = [f"iteration_{name}" if name.isdigit() else name for name in found.power]
    return {
        "spectrum.html": write_spectrum_page(found, pictures),
        **dict(zip(("power.png", "bands.png", "stopping.png"), pictures, strict=True)),
        "power.csv": format_csv(("cycles_per_pixel", *heads), zip(*power, strict=True)),
        "bands.csv": _format_band_csv(found),
        "held_out.csv": format_csv(("iteration", "held_out_error"), found.held_out.judged),
        "spectrum.json": json_text(found.to_dict()),
    }


def _make_architecture_files(found: Architectures) -> dict[str, str | bytes]:
    """Make `FILES["architectures"]`, the page first."""
    pictures = (draw_architecture_scores(found), draw_architecture_pictures(found))
    rows = make_comparison_rows(found)
    return {
        "architectures.html": write_architecture_page(found, pictures),
        **dict(zip(("architectures.png", "pictures.png"), pictures, strict=True)),
        "architectures.csv": format_csv(tuple(rows[0]), (tuple(row.values()) for row in rows)),
        "curves.csv": _format_curve_csv(found),
        "architectures.json": json_text(found.to_dict()),
        "denoising.json": found.denoising.to_json(),
    }


def _format_band_csv(found: Spectrum) -> str:
    """Write one line for each iteration."""
    bands = [f"band_{number}" for number in range(1, found.correspondence.shape[1] + 1)]
    heads = ["iteration", "energy", *bands, "blurriness", "sharpness", "ratio"]
    columns = [found.energy, *found.correspondence.T, found.blurriness, found.sharpness]
    columns.append(found.ratio)
    if found.psnr is not None:
        heads.append("psnr")
        columns.append(found.psnr)
    count = range(1, len(found.energy) + 1)
    return format_csv(heads, zip(count, *(one.tolist() for one in columns), strict=True))


def _format_curve_csv(found: Architectures) -> str:
    """Write one line for each design and iteration."""
    heads = ["design", "iteration", "energy", "energy_of_noise", "held_out_error"]
    heads += [f"band_{number}" for number in range(1, found.fits[0].correspondence.shape[1] + 1)]
    heads += [] if found.truth is None else ["psnr"]
    lines: list[tuple[Any, ...]] = []
    for one in found.fits:
        columns = [one.energy, one.noise, one.held_out, *one.correspondence.T]
        columns += [] if one.psnr is None else [one.psnr]
        count = range(1, len(one.energy) + 1)
        values = zip(count, *(curve.tolist() for curve in columns), strict=True)
        lines += [(one.design.name, *line) for line in values]
    return format_csv(heads, lines)


def _make_experiment_folder(
    experiment: str, folder: str | os.PathLike[str], *, overwrite: bool
) -> Path:
    """Make the folder of an experiment; raises Refused where that cannot be."""
    place = check_experiment_folder(experiment, folder, overwrite=overwrite)
    make_folder(place)
    return place


def _write_files(place: Path, content: dict[str, str | bytes], *, overwrite: bool) -> Path:
    """Write the page last: where it is, all is."""
    for name in reversed(content):
        whole = content[name]
        path = place / name
        if isinstance(whole, bytes):
            write_bytes(path, whole, overwrite=overwrite)
        else:
            write_text(path, whole, overwrite=overwrite)
    return place / next(iter(content))


_CONTENT: Mapping[str, Callable[[Any], dict[str, str | bytes]]] = {
    "architectures": _make_architecture_files,
    "features": make_feature_files,
    "impedance": _make_impedance_files,
    "spectrum": _make_spectrum_files,
}
set_writer(save_outcome)
