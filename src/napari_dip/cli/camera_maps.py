"""`napari-dip camera-maps --dark FILES --flat FILES -o FOLDER`: maps of a camera's pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.cli.words import say, tell
from napari_dip.io.locks import OutputLock
from napari_dip.run.camera_maps import camera_maps, check_place

if TYPE_CHECKING:
    from collections.abc import Sequence


def make_maps(
    dark: Sequence[str], flat: Sequence[str], *, output: str, overwrite: bool, quiet: bool
) -> int:
    """Carry out the command; 0 if all is saved.

    Parameters
    ----------
    dark, flat : sequence of str
        Paths of the frames: without light, and of even light.
    output : str
        Folder of the maps.
    overwrite, quiet : bool

    Raises
    ------
    Refused, Failed
        As `napari_dip.run.camera_maps`.
    """
    inputs = (*dark, *flat)
    check_place(output, inputs, overwrite=overwrite)  # says no before any work
    with OutputLock(output):
        found = camera_maps(list(dark), list(flat), progress=None if quiet else say)
        check_place(output, inputs, overwrite=overwrite)  # another run may have ended just now
        place = found.save(output, overwrite=overwrite)
    if not quiet:
        for line in found.sentences:
            say(line)
        tell(str(place), saved=True)
    return 0
