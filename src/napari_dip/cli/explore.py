"""`napari-dip explore EXPERIMENT IMAGE -o FOLDER`: see the prior on one's own picture."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from napari_dip.cli.progress import SINGLE_RUN, choose_reporter
from napari_dip.cli.terminal import print_message, print_result
from napari_dip.io.outputs import OutputLock

if TYPE_CHECKING:
    from pathlib import Path


def explore(
    experiment: str,
    image: str,
    *,
    output: str,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> int:
    """Carry out the command; 0 if all is saved.

    Parameters
    ----------
    experiment : str
        One of `EXPERIMENTS` in `cli.words`.
    image : str
        Path of the image.
    output : str
        Folder of the page, the pictures and the tables.
    overwrite, quiet : bool
    **settings : str
        As for the functions of `napari_dip.explore`.

    Raises
    ------
    Refused, Failed
        As these.
    """
    from napari_dip import explore as experiments
    from napari_dip.explore.output.files import check_experiment_folder

    check_experiment_folder(experiment, output, overwrite=overwrite)  # says no before any work
    given = {name: value for name, value in settings.items() if value is not None}
    call = getattr(experiments, experiment)
    with OutputLock(output):
        check_experiment_folder(
            experiment, output, overwrite=overwrite
        )  # another run may have ended just now
        with closing(choose_reporter(quiet, SINGLE_RUN)) as reporter:
            found = call(image, progress=reporter.show, **given)
        page: Path = found.save(output, overwrite=overwrite)
    if not quiet:
        for line in found.sentences:
            print_message(line)
        print_result(str(page), saved=True)
    return 0
