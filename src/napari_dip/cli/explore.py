"""Run `napari-dip explore EXPERIMENT IMAGE -o FOLDER`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from napari_dip.cli.progress import SINGLE_RUN, choose_reporter
from napari_dip.cli.terminal import print_message, print_result
from napari_dip.io.outputs import OutputLock
from napari_dip.pipeline.recipe import OLD_EXPERIMENT_SETTINGS, rename_keys

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
    """Run an experiment and save its report; return 0.

    Parameters
    ----------
    experiment : str
        Key in `EXPERIMENT_SUMMARIES` of `cli.terminal`.
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
        As the functions of `napari_dip.explore`.
    """
    from napari_dip import explore as experiments
    from napari_dip.explore.output.files import check_experiment_folder

    check_experiment_folder(experiment, output, overwrite=overwrite)  # refuse before any work
    values = {name: value for name, value in settings.items() if value is not None}
    if experiment != "features":  # whose setting `network` has another meaning
        values, notes = rename_keys(values, OLD_EXPERIMENT_SETTINGS)
        for note in () if quiet else notes:
            print_message(note)
    run_experiment = getattr(experiments, experiment)
    with OutputLock(output):
        check_experiment_folder(
            experiment, output, overwrite=overwrite
        )  # another run may have ended just now
        with closing(choose_reporter(quiet, SINGLE_RUN)) as reporter:
            result = run_experiment(image, progress=reporter.show, **values)
        page: Path = result.save(output, overwrite=overwrite)
    if not quiet:
        for line in result.sentences:
            print_message(line)
        print_result(str(page), saved=True)
    return 0
