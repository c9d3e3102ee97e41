"""What an experiment leaves in a folder: a page, pictures, tables and the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.explore.architecture_page import architecture_page
from napari_dip.explore.captions import impedance_page, spectrum_page
from napari_dip.explore.comparison import rows_of
from napari_dip.explore.feature_files import features_files
from napari_dip.explore.place import check_place
from napari_dip.explore.report import (
    band_curves,
    design_pictures,
    design_scores,
    energy_curves,
    power_curves,
    stopping_curves,
)
from napari_dip.explore.tables import table
from napari_dip.io.paths import make_folder
from napari_dip.io.writing import write_bytes, write_text
from napari_dip.run.results import json_text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from napari_dip.explore.comparison import Architectures
    from napari_dip.explore.energies import Impedance
    from napari_dip.explore.outcome import Outcome
    from napari_dip.explore.spectra import Spectrum


def save_outcome(found: Outcome, folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Write the files of an experiment; gives the page.

    Raises
    ------
    Refused
        If the folder cannot be used, or holds such files already.
    Failed
        If the disk does not take them.
    """
    place = _made(found.experiment, folder, overwrite=overwrite)  # says no before anything is drawn
    return _written(place, _CONTENT[found.experiment](found), overwrite=overwrite)


def _impedance(found: Impedance) -> dict[str, str | bytes]:
    """Make `FILES["impedance"]`, the page first."""
    picture = energy_curves(found)
    count = len(found.energies["image"])
    columns = [range(1, count + 1), *(curve.tolist() for curve in found.energies.values())]
    return {
        "impedance.html": impedance_page(found, picture),
        "impedance.png": picture,
        "impedance.csv": table(("iteration", *found.energies), zip(*columns, strict=True)),
        "impedance.json": json_text(found.to_dict()),
    }


def _spectrum(found: Spectrum) -> dict[str, str | bytes]:
    """Make `FILES["spectrum"]`, the page first."""
    pictures = (power_curves(found), band_curves(found), stopping_curves(found))
    power = [found.frequency.tolist(), *(curve.tolist() for curve in found.power.values())]
    heads = [f"iteration_{name}" if name.isdigit() else name for name in found.power]
    return {
        "spectrum.html": spectrum_page(found, pictures),
        **dict(zip(("power.png", "bands.png", "stopping.png"), pictures, strict=True)),
        "power.csv": table(("cycles_per_pixel", *heads), zip(*power, strict=True)),
        "bands.csv": _bands(found),
        "held_out.csv": table(("iteration", "held_out_error"), found.held_out.judged),
        "spectrum.json": json_text(found.to_dict()),
    }


def _architectures(found: Architectures) -> dict[str, str | bytes]:
    """Make `FILES["architectures"]`, the page first."""
    pictures = (design_scores(found), design_pictures(found))
    rows = rows_of(found)
    return {
        "architectures.html": architecture_page(found, pictures),
        **dict(zip(("architectures.png", "pictures.png"), pictures, strict=True)),
        "architectures.csv": table(tuple(rows[0]), (tuple(row.values()) for row in rows)),
        "curves.csv": _curves(found),
        "architectures.json": json_text(found.to_dict()),
        "denoising.json": found.denoising.to_json(),
    }


def _bands(found: Spectrum) -> str:
    """Write one line for each iteration."""
    bands = [f"band_{number}" for number in range(1, found.correspondence.shape[1] + 1)]
    heads = ["iteration", "energy", *bands, "blurriness", "sharpness", "ratio"]
    columns = [found.energy, *found.correspondence.T, found.blurriness, found.sharpness]
    columns.append(found.ratio)
    if found.psnr is not None:
        heads.append("psnr")
        columns.append(found.psnr)
    count = range(1, len(found.energy) + 1)
    return table(heads, zip(count, *(one.tolist() for one in columns), strict=True))


def _curves(found: Architectures) -> str:
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
    return table(heads, lines)


def _made(experiment: str, folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Make the folder of an experiment; raises Refused where that cannot be."""
    place = check_place(experiment, folder, overwrite=overwrite)
    make_folder(place)
    return place


def _written(place: Path, content: dict[str, str | bytes], *, overwrite: bool) -> Path:
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
    "architectures": _architectures,
    "features": features_files,
    "impedance": _impedance,
    "spectrum": _spectrum,
}
