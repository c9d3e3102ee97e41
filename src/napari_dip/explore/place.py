"""Where an experiment may leave its files: all that can be wrong with it, said before any work."""

from __future__ import annotations

import os
from pathlib import Path

from napari_dip.errors import Refused, refusal
from napari_dip.io.outputs import check_folder
from napari_dip.io.paths import printable

#: Files of each experiment; the page first.
FILES = {
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


def free_folder(parent: str | os.PathLike[str], name: str) -> Path:
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


def check_place(experiment: str, folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Make sure that the files can be saved in a folder, which need not be there yet.

    Parameters
    ----------
    experiment : str
        Key in `FILES`.
    folder : path
    overwrite : bool
        Whether earlier files of the experiment may be replaced.

    Raises
    ------
    Refused
        If it is no folder, cannot be written to, or holds such files.
    """
    place = check_folder(folder)
    for name in FILES[experiment]:
        path = place / name
        if os.path.lexists(path) and not overwrite:
            raise Refused(refusal("output-exists", path=printable(str(path))))
        if path.is_dir():
            facts = {"path": printable(str(path)), "suffix": path.suffix}
            raise Refused(refusal("output-is-folder", **facts))
    return place
