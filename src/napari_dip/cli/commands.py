"""Run all commands but restoring, from `noise` and `batch` to `demo`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.cli.terminal import (
    EXIT_FAILURE,
    EXIT_INTERRUPT,
    EXIT_REFUSAL,
    EXIT_SUCCESS,
    PLAN_TIME_NOTE,
    SINGLE_RUN,
    WHOLE_BATCH,
    InterruptCatcher,
    choose_reporter,
    describe_end,
    print_lines,
    print_message,
    print_result,
    run_and_show,
)
from napari_dip.errors import Fault, RefusedError, raise_if_refused
from napari_dip.errors.notes import serialise_stop
from napari_dip.errors.templates import make_printable
from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.io.header import ImageHeader
from napari_dip.io.outputs import JSON_SUFFIXES, lock_outputs, resolve_folder_files, resolve_output
from napari_dip.io.paths import find_free_path, make_folder
from napari_dip.io.reading import read_header, read_pixels
from napari_dip.io.writing import write_bytes, write_image, write_text
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.assess.report_fields import read_run_report
from napari_dip.pipeline.assess.report_figures import plot_before_after
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.machine import (
    detect_machine,
    examine_installation,
    find_missing_dock_package,
)
from napari_dip.pipeline.measure.camera_maps import CAMERA_MAP_FILES, measure_camera_maps
from napari_dip.pipeline.measure.noise_report import measure_noise
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import Event, drain_generator
from napari_dip.pipeline.recipe import (
    OLD_EXPERIMENT_SETTINGS,
    OLD_INPUTS,
    OLD_SWITCHES,
    make_recipe,
    rename_keys,
)
from napari_dip.pipeline.store.result_files import format_json
from napari_dip.samples import MITOCHONDRIA
from napari_dip.scale.batch.plan import find_remaining_plans
from napari_dip.scale.batch_run import run_batch, summarise_batch_plan, summarise_batch_result
from napari_dip.scale.cluster.dask_cluster import plan_with_workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_dip.pipeline.interactive_run import PollControl
    from napari_dip.scale.batch.jobs import BatchEvent, BatchPlan, FileOutcome
    from napari_dip.scale.batch_run import BatchResult
    from napari_dip.scale.cluster.pool import DaskWorkerPool

_STOPPING_MESSAGE = "Stopping; all finished results are kept. Press Ctrl-C again to end at once."
_RESUME_HINT = "The same command with --resume continues from there."
_ABORT_MESSAGE = f"Ended at once; results that have a record are whole. {_RESUME_HINT}"


def run_batch_command(
    recipe: str,
    *inputs: str,
    output: str,
    axes: str | None = None,
    resume: bool = False,
    quiet: bool = False,
    workers: str | None = None,
    scheduler: str | None = None,
    threads: str | None = None,
    joint_training: bool = False,
    **extra_paths: str | None,
) -> int:
    """Run the command `batch`.

    Parameters
    ----------
    recipe : str
        Path of a recipe.
    *inputs : str
        Files, folders, patterns.
    output : str
        Folder of the results.
    axes : str or None
        Axes that override those in each file.
    resume, quiet, joint_training : bool
    workers, scheduler, threads : str or None
        As typed.
    **extra_paths : str or None
        Paths of extra inputs, by name.

    Returns
    -------
    int
        0 if every file has a result, 1 if some have none, 2 if nothing was started, 130 if the
        batch was interrupted.

    Raises
    ------
    RefusedError, FailedError
        As `napari_dip.batch`.
    """
    values = {name: path for name, path in extra_paths.items() if path}
    values, notes = rename_keys(values, {**OLD_INPUTS, **OLD_SWITCHES})
    joint_training = bool(values.pop("joint_training", joint_training))
    print_lines(*notes, is_quiet=quiet)
    options: dict[str, Any] = {"resume": resume, "axes": axes, "joint_training": joint_training}
    options |= {"workers": workers, "scheduler": scheduler, "threads": threads}
    options["extra_paths"] = values
    with plan_with_workers(recipe, inputs, output, **options) as (plan, start_pool):
        for source, refusal in plan.refused_files:
            print_message(_describe_file_fault(source, refusal))
        if len(plan.refused_files) == len(plan.jobs):
            return EXIT_REFUSAL
        with InterruptCatcher(is_quiet=quiet, message=_STOPPING_MESSAGE) as interrupt:
            try:
                with start_pool() as pool:
                    result = _run_and_show_batch(plan, interrupt.poll_control, pool, is_quiet=quiet)
            except KeyboardInterrupt:
                print_message(_ABORT_MESSAGE)
                return EXIT_INTERRUPT
            return _report_batch_end(result, is_quiet=quiet)


def _report_batch_end(result: BatchResult, *, is_quiet: bool) -> int:
    """Print the summary of a batch and return the exit code."""
    print_lines(f"{summarise_batch_result(result)} Table: '{result.page}'.", is_quiet=is_quiet)
    if result.count("waiting"):
        print_message(_RESUME_HINT)
        return EXIT_INTERRUPT
    return EXIT_FAILURE if result.count("refused", "failed") else EXIT_SUCCESS


def _describe_batch_plan(plan: BatchPlan, pool: DaskWorkerPool | None) -> list[str]:
    if pool is not None:
        summary = summarise_batch_plan(plan, pool.worker_count)
        return [*map(str, (*plan.notes, *pool.notes)), summary]
    time_note = [PLAN_TIME_NOTE] if find_remaining_plans(plan) else []
    return [*map(str, plan.notes), " ".join([summarise_batch_plan(plan), *time_note])]


def _run_and_show_batch(
    plan: BatchPlan, poll_control: PollControl, pool: DaskWorkerPool | None, *, is_quiet: bool
) -> BatchResult:
    """Run the batch and print progress and outcome of each file."""
    refusals = [refusal for _, refusal in plan.refused_files]
    print_lines(*_describe_batch_plan(plan, pool), is_quiet=is_quiet)
    with closing(choose_reporter(is_quiet)) as reporter:

        def show_event(event: BatchEvent) -> None:
            if event.event is not None:
                position = f"{event.number} of {event.count}, " if event.number else ""
                text = f"{position}{event.source.name}: {event.event.message}"
                reporter.show(replace(event.event, message=text), event.number)
                if event.count > 1:
                    batch_event = Event(message=event.progress.message, progress=event.progress)
                    reporter.show(batch_event, WHOLE_BATCH)
            if event.outcome is not None:
                reporter.end(event.number)
                if event.outcome.fault not in refusals:
                    _report_file_outcome(event.outcome, is_quiet=is_quiet)

        return drain_generator(run_batch(plan, poll_control=poll_control, pool=pool), show_event)


def _report_file_outcome(outcome: FileOutcome, *, is_quiet: bool) -> None:
    """Print the result of a file, or why it has none."""
    if outcome.fault is not None:
        print_message(_describe_file_fault(outcome.source, outcome.fault))
    elif outcome.result is not None and not is_quiet:
        print_result(str(outcome.result), is_saved=True)


def _describe_file_fault(source: Path, fault: Fault) -> str:
    """Return the message of a fault, with the path in front if the message lacks it."""
    path = make_printable(str(source))
    return fault.message if path in fault.facts.values() else f"{path}: {fault.message}"


#: Folder of the images, in the working folder; numbered if it already holds some.
DEMO_FOLDER = "demo"
DEMO_IMAGE = "before_after.png"
DEMO_RESULT = "mitochondria_denoised.tif"


def run_noise_command(
    image: str,
    *,
    axes: str | None = None,
    dark: str | None = None,
    flat: str | None = None,
    as_json: bool = False,
    report: str | None = None,
    overwrite: bool = False,
) -> int:
    """Measure the noise of an image and print it; return 0.

    Parameters
    ----------
    image : str
        Path of the image.
    axes : str or None
        Axes that override those in the file.
    dark, flat : str or None
        Paths of camera frames: without light, and of even light.
    as_json : bool
        Whether to print JSON instead of sentences.
    report : str or None
        Path for the figures as JSON.
    overwrite : bool
        Whether an earlier report may be replaced.

    Raises
    ------
    RefusedError
        If the image, or the path of the report, cannot be used.
    """
    read_header(image, axes)  # refuse the image before the path of the report
    if report is not None:
        inputs = [path for path in (image, dark, flat) if path is not None]
        report_path = resolve_output(report, inputs, overwrite, suffixes=JSON_SUFFIXES)
    noise = measure_noise(image, axes, dark=dark, flat=flat)
    json_text = format_json(noise.to_dict())
    if report is not None:
        write_text(report_path, json_text, overwrite=overwrite)
    for line in [json_text.rstrip("\n")] if as_json else noise.sentences:
        print_result(line, is_saved=report is not None)
    return 0


def run_doctor_command(*, as_json: bool = False) -> int:
    """Examine the installation and print it; return 1 if nothing can be restored here, else 0."""
    if not as_json:
        print_message("Trying PyTorch; this takes some seconds.")
    report = examine_installation()
    if as_json:
        print_result(json.dumps(report.to_dict(), indent=2))
    else:
        print_result("\n".join(report.sentences))
    return 0 if report.is_usable else 1


def run_camera_maps_command(
    dark: Sequence[str],
    flat: Sequence[str] = (),
    *,
    output: str,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Make the maps of a camera and save them; return 0.

    Parameters
    ----------
    dark, flat : sequence of str
        Paths of the frames without light, and of those with even light.
    output : str
        Folder of the maps.
    overwrite, quiet : bool

    Raises
    ------
    RefusedError, FailedError
        As `measure_camera_maps`.
    """
    check = partial(
        resolve_folder_files, output, CAMERA_MAP_FILES, (*dark, *flat), overwrite=overwrite
    )
    with lock_outputs(check, output):
        progress = None if quiet else print_message
        report = measure_camera_maps(list(dark), list(flat), progress=progress)
        saved_path = report.save(output, overwrite=overwrite)
    _print_saved(report.sentences, saved_path, is_quiet=quiet)
    return 0


def _print_saved(sentences: Iterable[str], saved_path: Path, *, is_quiet: bool) -> None:
    print_lines(*sentences, is_quiet=is_quiet)
    if not is_quiet:
        print_result(str(saved_path), is_saved=True)


def run_psf_command(
    image: str,
    *,
    output: str,
    axes: str | None = None,
    bead_diameter: float = 0.0,
    field: bool = False,
    report: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **microscope: str | None,
) -> int:
    """Measure the PSF from an image of beads and save it with a figure; return 0.

    Parameters
    ----------
    image, output : str
        Paths of the beads and of the PSF.
    axes : str or None
        Axes that override those in the file.
    bead_diameter : float
        In nm; 0: not taken out.
    field : bool
        Whether the PSF changes over the field.
    report : str or None
        Path for the figures as JSON.
    overwrite, quiet : bool
    **microscope : str or None
        Settings of *Deblur* that name the microscope; None: default.

    Raises
    ------
    RefusedError, FailedError
        As `napari_dip.pipeline.measure.psf_measurement`.
    """
    # needed here alone: SciPy's filters take 0.25 s of CPU time to import
    from napari_dip.pipeline.measure.psf_measurement import measure_psf, resolve_psf_outputs

    read_header(image, axes)  # refuse the image before the paths of the results
    if report is not None:
        report_path = resolve_output(report, (image,), overwrite, suffixes=JSON_SUFFIXES)
    # texts, which `measure_psf` validates
    settings: Any = {name: value for name, value in microscope.items() if value is not None}
    check = partial(resolve_psf_outputs, output, (image,), overwrite=overwrite)
    with lock_outputs(check, output):
        psf = measure_psf(image, axes, bead_diameter=bead_diameter, field=field, **settings)
        saved_path = psf.save(output, overwrite=overwrite)
    if report is not None:
        write_text(report_path, format_json(psf.to_dict()), overwrite=overwrite)
    _print_saved(psf.sentences, saved_path, is_quiet=quiet)
    return 0


def run_methods_command(result: str) -> int:
    """Print the methods section of a result with its references; return 0.

    Parameters
    ----------
    result : str
        Path of a TIFF that napari-dip saved, or of the report of a run.

    Raises
    ------
    RefusedError
        If the file cannot be read, or holds no provenance.
    """
    print_result(write_methods_section(read_run_report(result)).rstrip("\n"))
    return 0


def run_explore_command(
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
        Key in `EXPERIMENTS`.
    image : str
        Path of the image.
    output : str
        Folder of the page, the images and the tables.
    overwrite, quiet : bool
    **settings : str
        As for the functions of `napari_dip.explore`.

    Raises
    ------
    RefusedError, FailedError
        As the functions of `napari_dip.explore`.
    """
    from napari_dip import explore as experiments

    spec = EXPERIMENTS[experiment]
    values = {name: value for name, value in settings.items() if value is not None}
    if "network" not in spec.settings:  # which has another meaning there
        values, notes = rename_keys(values, OLD_EXPERIMENT_SETTINGS)
        print_lines(*notes, is_quiet=quiet)
    run = getattr(experiments, experiment)
    check = partial(resolve_folder_files, output, spec.files, overwrite=overwrite)
    with lock_outputs(check, output):
        with closing(choose_reporter(quiet, SINGLE_RUN)) as reporter:
            result = run(image, progress=reporter.show, **values)
        page: Path = result.save(output, overwrite=overwrite)
    _print_saved(result.sentences, page, is_quiet=quiet)
    return 0


def run_demo_command(opens_window: bool | None, preset: str) -> int:
    """Run the demo and return the exit code.

    Parameters
    ----------
    opens_window : bool or None
        Whether to open napari; None: if a display and napari are available.
    preset : str
        "instant", "fast", "balanced" or "best".
    """
    why = _explain_no_window()
    if opens_window and why:
        raise RefusedError("window-missing", why=why)
    if opens_window or (opens_window is None and not why):
        print_message("Opening napari with the sample; close its window to end the demo.")
        command = [sys.executable, "-m", "napari_dip.qt.demo", preset]
        if subprocess.run(command, check=False).returncode == 0:
            return 0
        print_message("napari could not show its window, so the demo goes on without one.")
    return _save_demo_images(preset)


def _explain_no_window() -> str:
    """Return why no window can be opened here, "" if one can."""
    if sys.platform not in ("win32", "darwin"):
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            return "there is no display"
    missing = find_missing_dock_package()
    return f"{missing} is not installed" if missing else ""


def _save_demo_images(preset: str) -> int:
    folder = Path(DEMO_FOLDER)
    if any(os.path.lexists(folder / name) for name in (DEMO_IMAGE, DEMO_RESULT)):
        folder = find_free_path(".", DEMO_FOLDER)  # the files may be those of an earlier demo
    image_path, result_path = folder / DEMO_IMAGE, folder / DEMO_RESULT
    make_folder(folder)
    resolve_output(image_path, suffixes=(".png",))
    resolve_output(result_path)
    noisy, reference = read_pixels(read_header(MITOCHONDRIA))
    header = ImageHeader(
        name=MITOCHONDRIA.name, shape=noisy.shape, dtype=noisy.dtype.name, axes="YX"
    )
    recipe = make_recipe("denoise", preset=preset)
    plan = raise_if_refused(preflight(recipe, header, detect_machine()))
    print_message(f"{plan.summary} {PLAN_TIME_NOTE}")
    result = run_and_show(run(plan, {"image": noisy}))
    assert result is not None  # the control never discards
    provenance = {"recipe": result.recipe.to_dict(), **serialise_stop(result.stop)}
    write_image(result_path, result.image, axes="YX", provenance=provenance)
    titles = ("One noisy exposure", "Restored from it alone", "Long exposure, for comparison")
    overview = plot_before_after(noisy, result.image, reference, titles=titles)
    write_bytes(image_path, overview)
    print_message(f"{describe_end(result)} Before and after, and the restored image:")
    print_result(str(image_path.resolve()), is_saved=True)
    print_result(str(result_path.resolve()), is_saved=True)
    return 0
