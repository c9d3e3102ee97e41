"""Restore one file, or plan it: all refusals first, then the run, then the output files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.cli.options import list_extra_outputs
from napari_dip.cli.terminal import (
    EXIT_INTERRUPT,
    EXIT_SUCCESS,
    PLAN_TIME_NOTE,
    InterruptCatcher,
    describe_end,
    print_lines,
    print_message,
    print_result,
    run_and_show,
)
from napari_dip.errors import FailedError, raise_if_refused
from napari_dip.errors.notes import make_note, parse_report_notes
from napari_dip.errors.templates import render_text
from napari_dip.io.outputs import (
    check_unmoved,
    lock_outputs,
    remove_result,
    remove_stale_temporary_files,
    resolve_output_folder,
    resolve_outputs,
)
from napari_dip.io.paths import PARTIAL_MARK, shorten_name
from napari_dip.io.reading import read_header, read_pixels, read_provenance
from napari_dip.pipeline.assess.artefact_detection import NO_CLIPPED_PIXELS, detect_clipping
from napari_dip.pipeline.assess.card import NO_BREAK, make_card
from napari_dip.pipeline.assess.quality_checks import list_clipping_notes
from napari_dip.pipeline.assess.report_fields import has_reported_pixels, migrate_record
from napari_dip.pipeline.calibrate.inputs import arrange_inputs, fill_empty_areas, inspect_early
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.execute.tile_calibration import measure_tiles
from napari_dip.pipeline.interactive_run import make_keep_after_control
from napari_dip.pipeline.lazy_inputs import open_plan_inputs, stamp_files
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import (
    OLD_INPUTS,
    OLD_SETTINGS,
    RunSettings,
    list_settings,
    load_task_recipe,
    make_recipe,
    recipe_from_dict,
    rename_keys,
    rename_settings,
)
from napari_dip.pipeline.store.checkpoints import MAX_STATE_SUFFIX_BYTES, CheckpointStore
from napari_dip.pipeline.store.network_files import (
    NETWORK_FILE_INPUT,
    pop_network_file,
    refuse_network,
)
from napari_dip.pipeline.store.result_files import (
    add_to_failure,
    choose_free_name,
    convert_to_failure,
    iter_output_writers,
    list_marked_files,
    raise_if_mixed,
    rescue_result,
    save_image,
)
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, ImageHeader
    from napari_dip.pipeline.calibrate.types import RunInputs
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.pipeline.restoration import Restoration

#: Settings that outputs ask for, by name of the output.
REPEATABILITY_BY_OUTPUT = {"repeated": "halves", "null_image": "null_control"}
#: Codes of notes that say why halves or null control give no output.
NO_REPEATABILITY_NOTES = ("repeatability-ended", "repeatability-noise-unknown")
#: Bytes on the disk per value of a tiled result, besides the result itself: images and deviations
#: of the tiles, and merged image, deviation and residual.
TILED_VALUE_BYTES = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """The options of a command, sorted by purpose.

    Attributes
    ----------
    settings : mapping of str to str
        Settings from the command line.
    images : mapping of str to str
        Paths of the images, by their names in the task.
    outputs : mapping of str to str
        Paths of the outputs; includes "output" except for a plan.
    targets : mapping of str to Path
        Real paths of the outputs when they were checked, so that nothing is written elsewhere.
    from_recipe, axes, keep_after : str or None
    overwrite, resume, quiet, verbose : bool
    """

    settings: Mapping[str, str]
    images: Mapping[str, str]
    outputs: Mapping[str, str]
    from_recipe: str | None = None
    axes: str | None = None
    keep_after: str | None = None
    overwrite: bool = False
    resume: bool = False
    quiet: bool = False
    verbose: bool = False
    targets: Mapping[str, Path] = field(default_factory=dict)

    def print_lines(self, *lines: object) -> None:
        """Print messages, unless the command is to be quiet."""
        print_lines(*lines, is_quiet=self.quiet)


def run_restore_command(task: str, image: str, **arguments: Any) -> int:
    """Run `napari-dip TASK IN -o OUT ...` and return the exit code."""
    options = _parse_options(task, image, arguments)
    recipe = _build_recipe(task, options)
    header = read_header(image, options.axes)
    check = partial(_resolve_outputs, options, header.pixel_count)
    with lock_outputs(check, *options.outputs.values()) as targets:
        return _restore_locked(replace(options, targets=targets), recipe, header)


def _restore_locked(options: CommandOptions, recipe: Recipe, header: ImageHeader) -> int:
    """Restore with all outputs locked, and return the exit code."""
    plan = _make_plan(recipe, header, options)
    if "save_network" in options.outputs:
        raise_if_refused(refuse_network(plan))
    if prod(plan.factors) > 1:
        _resolve_outputs(options, prod(plan.result_shape))
    if plan.tiles:
        folder = Path(options.outputs["output"]).parent
        resolve_output_folder(folder, TILED_VALUE_BYTES * prod(plan.result_shape))
    make_keep_after_control(options.keep_after)  # refuse a wrong value before any work
    stamps = stamp_files(plan)
    inputs = open_plan_inputs(plan, stamps)
    run_inputs, input_notes = _inspect_pixels(plan, inputs)
    if "residual" in options.outputs and plan.task_plan.keeps_measured_pixels:
        options.print_lines(make_note("residual-zero"))
    printed_notes = [
        *_list_plan_notes(plan),
        *_list_clipping_notes(plan, run_inputs, inputs["image"]),
        *input_notes,
    ]
    options.print_lines(f"{plan.summary} {PLAN_TIME_NOTE}", *printed_notes)
    checkpoints = _open_run_store(options)
    with InterruptCatcher(is_quiet=options.quiet) as interrupt:
        poll_control = make_keep_after_control(options.keep_after, interrupt.poll_control)
        loop = run(
            plan,
            inputs,
            poll_control=poll_control,
            checkpoints=checkpoints,
            stamps=stamps,
            run_inputs=run_inputs,
        )
        try:
            result = run_and_show(loop, is_quiet=options.quiet)
        except FailedError as failure:
            raise _add_resume_hint(failure, checkpoints) from failure
        is_interrupted = interrupt.is_requested  # later, the result is complete and is saved
        _report_result(options, result, checkpoints, printed_notes)
        if is_interrupted:
            return _save_interrupted(options, plan, result, checkpoints)
        assert result is not None  # the control never discards
        raise_if_mixed(options.targets["output"], plan, result, checkpoints)
        _save_outputs(options, plan, result)
        checkpoints.remove()
        remove_stale_temporary_files(Path(options.outputs["output"]).parent)
        if options.resume:
            _remove_partial_images(options, result)
    return EXIT_SUCCESS


def _report_result(
    options: CommandOptions,
    result: Restoration | None,
    checkpoints: CheckpointStore,
    printed_notes: Sequence[Note],
) -> None:
    """Print problems with the checkpoint, and the card of the result."""
    for problem in filter(None, (checkpoints.fallback_notice, checkpoints.failure)):
        print_message(problem.message)
    if result is None or options.quiet:
        return
    card = make_card(result.report)
    details = [note for note in card.details if note not in printed_notes]
    # a search for a plain space misses this one, and a terminal breaks lines anywhere
    lines = [line.replace(NO_BREAK, " ") for line in card.list_lines(printed_notes)]
    options.print_lines(*lines, *(details if options.verbose else ()))
    if details and not options.verbose:
        options.print_lines(render_text("card-details", count=len(details)))


def run_plan_command(task: str, image: str, **arguments: Any) -> int:
    """Run `napari-dip plan TASK IN ...` and return the exit code."""
    options = _parse_options(task, image, arguments)
    recipe = _build_recipe(task, options)
    plan = _make_plan(recipe, read_header(image, options.axes), options)
    early_names = _list_early_inputs(plan)
    extra_inputs = {name: read_pixels(plan.extra_headers[name]) for name in early_names}
    notes = (*_list_plan_notes(plan), *inspect_early(plan, extra_inputs))
    print_result(f"{plan.summary} {PLAN_TIME_NOTE}")
    for note in notes:
        print_result(str(note))
    return EXIT_SUCCESS


def _parse_options(task: str, image: str, arguments: Mapping[str, Any]) -> CommandOptions:
    values = {name: value for name, value in arguments.items() if value is not None}
    names = OLD_SETTINGS.get(task, {})
    values, renaming_notes = rename_keys(values, {**names, **OLD_INPUTS})

    def select(names: Iterable[str]) -> dict[str, Any]:
        return {name: values[name] for name in names if name in values}

    settings, notes = rename_settings(task, select(list_settings(task)))
    input_names = [task_input.name for task_input in TASKS[task].spec.inputs[1:]]
    settings |= {REPEATABILITY_BY_OUTPUT[name]: "yes" for name in select(REPEATABILITY_BY_OUTPUT)}
    flags = ("from_recipe", "axes", "keep_after", "overwrite", "resume", "quiet", "verbose")
    options = CommandOptions(
        settings=settings,
        images={"image": image, **select([*input_names, NETWORK_FILE_INPUT])},
        outputs=select(("output", *list_extra_outputs(task))),
        **select(flags),
    )
    options.print_lines(*renaming_notes, *notes)
    return options


def _build_recipe(task: str, options: CommandOptions) -> Recipe:
    """Build the recipe from the options, on top of a recipe file if there is one."""
    if options.from_recipe is None:
        return make_recipe(task, **options.settings)
    path = Path(options.from_recipe) if options.from_recipe else ""
    record = load_task_recipe(path, task).to_dict()
    for name, value in options.settings.items():
        fields = record if name in RunSettings.model_fields else record["settings"]
        fields[name] = value
    return recipe_from_dict(record)


def _resolve_outputs(options: CommandOptions, pixel_count: int) -> dict[str, Path]:
    """Check all outputs and return their real paths; raise `RefusedError` for an unusable one.

    `pixel_count` is that of the result.
    """
    inputs = list(options.images.values())
    if options.from_recipe:
        inputs.append(options.from_recipe)
    images = ("output", "uncertainty", "residual", *REPEATABILITY_BY_OUTPUT)
    image_count = sum(name in images for name in options.outputs)
    bytes_needed = 4 * pixel_count * image_count
    return resolve_outputs(options.outputs, inputs, options.overwrite, bytes_needed)


def _make_plan(recipe: Recipe, header: ImageHeader, options: CommandOptions) -> Plan:
    extra_paths = {name: path for name, path in options.images.items() if name != "image"}
    network = pop_network_file(extra_paths)
    extra_headers = {name: read_header(path) for name, path in extra_paths.items()}
    return raise_if_refused(preflight(recipe, header, detect_machine(), extra_headers, network))


def _list_plan_notes(plan: Plan) -> list[Note]:
    return list(dict.fromkeys((*plan.header.axes_notes, *plan.notes)))


def _list_clipping_notes(
    plan: Plan, run_inputs: RunInputs | None, image: AnyArray
) -> tuple[Note, ...]:
    """Return notes about clipped pixels, before the run spends time on them."""
    if plan.task_plan.keeps_measured_pixels or run_inputs is None:  # with tiles
        return ()
    filled, _ = fill_empty_areas(run_inputs.stack)  # a burnt-in mark is not saturated
    stack = filled.astype(image.dtype)
    _, largest = detect_clipping(stack, are_colours="S" in plan.header.axes)
    return list_clipping_notes(NO_CLIPPED_PIXELS, largest)  # the noise tells whether dark ones are


def _inspect_pixels(
    plan: Plan, inputs: Mapping[str, Any]
) -> tuple[RunInputs | None, tuple[Note, ...]]:
    """Arrange the pixels before torch is loaded, and return the task's notes; only check tiles."""
    if plan.tiles:
        measure_tiles(plan, inputs["image"])
        return None, inspect_early(plan, {name: inputs[name] for name in _list_early_inputs(plan)})
    run_inputs = arrange_inputs(plan, inputs)
    return run_inputs, run_inputs.inspection.notes


def _list_early_inputs(plan: Plan) -> list[str]:
    """List the given extra inputs that the task inspects before the run."""
    inputs = plan.recipe.task.spec.inputs
    return [
        item.name for item in inputs if item.is_inspected_early and item.name in plan.extra_headers
    ]


def _save_outputs(options: CommandOptions, plan: Plan, result: Restoration) -> None:
    """Write all outputs, the result first; an error with one does not stop the others."""
    failures, missing = [], dict(options.targets)
    for name, write in iter_output_writers(plan, result, options.overwrite):
        if name not in options.targets:
            continue
        target = missing.pop(name)
        try:
            check_unmoved(target)
            write(target)
        except Exception as failure:  # a full disk must not cost the result of a long run
            is_result = name == "output"
            rescue_failure = rescue_result(failure, target, plan, result) if is_result else None
            failures.append(rescue_failure or convert_to_failure(failure, target))
    if failures:
        raise failures[0]
    options.print_lines(describe_end(result))
    notes = parse_report_notes(result.report)
    reasons = [note for note in notes if note.code in NO_REPEATABILITY_NOTES]
    for path in missing.values() if reasons else ():
        options.print_lines(make_note("output-unmade", path=str(path), reason=str(reasons[0])))
    if not options.quiet:
        print_result(options.outputs["output"], is_saved=True)


def _remove_partial_images(options: CommandOptions, result: Restoration) -> None:
    """Remove the partial images that the interrupted run left, now that the run is finished."""
    for partial_path in list_marked_files(Path(options.outputs["output"]), PARTIAL_MARK):
        with suppress(Exception):  # a file that cannot be read is not ours
            provenance = migrate_record(read_provenance(partial_path) or {})
            report = provenance.get("report", {})
            if (
                report.get("input_sha256") == result.report["input_sha256"]
                and provenance["recipe"] == result.recipe.to_dict()
                and not partial_path.is_symlink()
                and has_reported_pixels(partial_path, report)
            ):
                remove_result(partial_path)
                options.print_lines(f"'{partial_path}' of the interrupted run was removed.")


def _add_resume_hint(failure: FailedError, checkpoints: CheckpointStore) -> FailedError:
    """Add a hint on --resume to a failure if a checkpoint exists."""
    if not checkpoints.folder.has_entries():
        return failure
    return add_to_failure(failure, make_note("resume-hint"))


def _open_run_store(options: CommandOptions) -> CheckpointStore:
    """Open the checkpoint store next to OUT, and print whether an earlier run is there."""
    output = Path(options.outputs["output"])
    default_path = output.with_name(
        f"{shorten_name(output.name, MAX_STATE_SUFFIX_BYTES)}.unfinished"
    )
    checkpoints = CheckpointStore(default_path, resume=options.resume)
    path = checkpoints.folder.path
    has_state = checkpoints.folder.has_entries()
    if path != default_path:
        options.print_lines(
            f"'{default_path}' is not of this program and stays; the run is kept in '{path}'."
        )
    if options.resume and not has_state:
        options.print_lines(f"There is no unfinished run at '{path}'; starting from the beginning.")
    if has_state and not options.resume:
        options.print_lines(
            f"The unfinished run in '{path}' will be replaced; --resume continues it."
        )
    return checkpoints


def _save_interrupted(
    options: CommandOptions, plan: Plan, result: Restoration | None, checkpoints: CheckpointStore
) -> int:
    """Save the image of an interrupted run under a name of its own, without overwriting."""
    if result is None:
        print_message("Interrupted before there was an image to keep; nothing was saved.")
        return EXIT_INTERRUPT
    path = choose_free_name(Path(options.outputs["output"]), PARTIAL_MARK)
    try:
        check_unmoved(options.targets["output"])
        save_image(path, result.image, plan.header, plan.result_scale, result, False)
    except Exception as failure:
        raise _add_resume_hint(rescue_result(failure, path, plan, result), checkpoints) from failure
    hints = [make_note("resume-hint")] if checkpoints.folder.has_entries() else []
    options.print_lines(f"Interrupted; the best image so far was saved as '{path}'.", *hints)
    reason = "Only the image is saved of an interrupted run; it holds recipe and figures."
    for name, target in options.outputs.items():
        if name != "output":
            options.print_lines(make_note("output-unmade", path=target, reason=reason))
    return EXIT_INTERRUPT
