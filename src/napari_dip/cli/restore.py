"""Restore one file: all refusals first, then the work, then the files."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.cli.options import list_extra_outputs
from napari_dip.cli.progress import run_and_show
from napari_dip.cli.terminal import (
    EXIT_INTERRUPT,
    EXIT_SUCCESS,
    PLAN_TIME_NOTE,
    Interrupt,
    describe_axes,
    print_message,
    print_result,
)
from napari_dip.errors import Failed, Refusal, Refused, refusal
from napari_dip.errors.notes import make_note, read_note, read_report_notes
from napari_dip.io.header import make_plane_spec
from napari_dip.io.outputs import (
    IMAGE_SUFFIXES,
    JSON_SUFFIXES,
    OutputLock,
    check_folder,
    check_output,
    check_outputs_differ,
    check_unmoved,
    remove_parts,
    remove_result,
)
from napari_dip.io.paths import shorten_name
from napari_dip.io.reading import read_provenance, read_spec
from napari_dip.io.writing import write_text
from napari_dip.pipeline.api import load_recipe
from napari_dip.pipeline.assess.artefact_detection import detect_clipped_pixels
from napari_dip.pipeline.assess.quality_checks import cut_off_notes
from napari_dip.pipeline.calibrate.inputs import sort_inputs
from napari_dip.pipeline.execute.crop_preview import make_keep_after_control
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.execute.tile_calibration import measure_tiles, open_plan_inputs
from napari_dip.pipeline.lazy_inputs import stamp_plan_files
from napari_dip.pipeline.machine import detect_machine, format_duration
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import (
    OLD_INPUTS,
    OLD_SETTINGS,
    RunSettings,
    make_recipe,
    migrate_record,
    recipe_from_dict,
    rename_keys,
    rename_settings,
)
from napari_dip.pipeline.reproduce.report_lookup import has_reported_pixels
from napari_dip.pipeline.store.checkpoints import MAX_STATE_SUFFIX_BYTES, CheckpointStore
from napari_dip.pipeline.store.results import (
    add_to_failure,
    choose_free_name,
    convert_to_failure,
    format_json,
    insert_name_suffix,
    rescue_result,
    save_picture,
)
from napari_dip.pipeline.store.shared_network import (
    SHARED_NETWORK_INPUT,
    plan_with_network,
    read_network,
)
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe

#: Bytes on the disk for each value of a result in tiles: pictures and deviations of tiles, and
#: picture, deviation and residual put together, beside the result itself.
TILE_BYTES = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for, split by who needs it.

    Attributes
    ----------
    settings : mapping of str to str
        Settings that were given on the command line.
    images : mapping of str to str
        Paths of the images, by the task's names.
    outputs : mapping of str to str
        Paths of the results, "output" among them unless only a plan is wanted.
    targets : mapping of str to Path
        Where these led to when they were checked, so that nothing is written elsewhere.
    from_recipe, axes, keep_after : str or None
    overwrite, resume, quiet : bool
    """

    settings: Mapping[str, str]
    images: Mapping[str, str]
    outputs: Mapping[str, str]
    from_recipe: str | None
    axes: str | None
    keep_after: str | None
    overwrite: bool
    resume: bool
    quiet: bool
    targets: Mapping[str, Path] = field(default_factory=dict)


def run_restore_command(task: str, image: str, **options: Any) -> int:
    """Carry out `napari-dip TASK IN -o OUT ...`; returns the exit code."""
    request = _parse_options(task, image, options)
    recipe = _build_recipe(task, request)
    spec = read_spec(image, request.axes)
    _check_outputs(request, recipe, spec)
    with ExitStack() as locks:
        for path in request.outputs.values():
            locks.enter_context(OutputLock(path))
        # again: another run may have ended just now
        targets = _check_outputs(request, recipe, spec)
        return _restore_locked(replace(request, targets=targets), recipe, spec)


def _restore_locked(request: Request, recipe: Recipe, spec: ImageSpec) -> int:
    """Restore with all outputs locked; returns the exit code."""
    plan = _make_plan(recipe, spec, request)
    if plan.tiles:
        folder = Path(request.outputs["output"]).parent
        check_folder(folder, TILE_BYTES * prod(plan.result_shape))
    make_keep_after_control(request.keep_after)  # says no before any work
    plan = stamp_plan_files(plan)
    data = _load_pixels(plan)
    before = [*_list_plan_notes(plan), *_list_clipping_notes(plan, data)]
    if not request.quiet:
        for line in (f"{plan.summary} {PLAN_TIME_NOTE}", *before):
            print_message(str(line))
    store = _open_run_store(request)
    with Interrupt(quiet=request.quiet) as interrupt:
        control = make_keep_after_control(request.keep_after, interrupt.control)
        loop = run(plan, data, control=control, store=store)
        try:
            result = run_and_show(loop, quiet=request.quiet)
        except Failed as failure:
            raise _add_resume_hint(failure, store) from failure
    _report_notes(request, result, store, before)
    if interrupt.is_requested:
        return _keep(request, plan, result, store)
    if result is None:  # only a control that says so can end a run with nothing
        raise RuntimeError("the run ended without a picture")
    _save_outputs(request, plan, result)
    store.remove()
    remove_parts(Path(request.outputs["output"]).parent)
    if request.resume:
        _forget_partial(request, result)
    return EXIT_SUCCESS


def _report_notes(
    request: Request, result: Restoration | None, store: CheckpointStore, before: Sequence[Note]
) -> None:
    """Say what went wrong with keeping, then notes and verdict that were not said at the start."""
    for trouble in (store.fallback_notice, store.failure):
        if trouble is not None:
            print_message(trouble.message)
    if result is None or request.quiet:
        return
    judged = map(read_note, result.report.get("verdict", {"codes": []})["codes"])
    for note in dict.fromkeys((*read_report_notes(result.report), *judged)):
        if note not in before:
            print_message(str(note))


def run_plan_command(task: str, image: str, **options: Any) -> int:
    """Carry out `napari-dip plan TASK IN ...`; returns the exit code."""
    request = _parse_options(task, image, options)
    recipe = _build_recipe(task, request)
    plan = _make_plan(recipe, read_spec(image, request.axes), request)
    print_result(f"{plan.summary} {PLAN_TIME_NOTE}")
    for note in _list_plan_notes(plan):
        print_result(str(note))
    return EXIT_SUCCESS


def _parse_options(task: str, image: str, options: Mapping[str, Any]) -> Request:
    values = {name: value for name, value in options.items() if value is not None}
    names = OLD_SETTINGS.get(task, {})
    values, old = rename_keys(values, {**names, **OLD_INPUTS})
    setting_names = {*(name for name in TASKS[task].setting_names()), *RunSettings.model_fields}
    settings = {name: value for name, value in values.items() if name in setting_names}
    settings, notes = rename_settings(task, settings)
    if not values.get("quiet", False):
        for note in (*old, *notes):
            print_message(note)
    others = [*(item.name for item in TASKS[task].inputs[1:]), SHARED_NETWORK_INPUT]
    return Request(
        settings=settings,
        images={"image": image, **{name: values[name] for name in others if name in values}},
        outputs={
            name: values[name] for name in ("output", *list_extra_outputs(task)) if name in values
        },
        from_recipe=values.get("from_recipe"),
        axes=values.get("axes"),
        keep_after=values.get("keep_after"),
        overwrite=values.get("overwrite", False),
        resume=values.get("resume", False),
        quiet=values.get("quiet", False),
    )


def _build_recipe(task: str, request: Request) -> Recipe:
    """Build the recipe from the options, on top of the one in a file if there is one."""
    if request.from_recipe is None:
        return make_recipe(task, **request.settings)
    base = load_recipe(Path(request.from_recipe) if request.from_recipe else "")
    if base.task.name != task:
        facts = {"path": request.from_recipe, "found": base.task.name, "wanted": task}
        raise Refused(refusal("recipe-task", **facts))
    raw = base.to_dict()
    for name, value in request.settings.items():
        place = raw if name in RunSettings.model_fields else raw["settings"]
        place[name] = value
    return recipe_from_dict(raw)


def _check_outputs(request: Request, recipe: Recipe, spec: ImageSpec) -> dict[str, Path]:
    """Refuse outputs that cannot be; give where they lead to."""
    targets = {}
    inputs = list(request.images.values())
    if request.from_recipe:
        inputs.append(request.from_recipe)
    images = sum(name in ("output", "uncertainty", "residual") for name in request.outputs)
    for name, path in request.outputs.items():
        suffixes = JSON_SUFFIXES if name in ("report", "recipe") else IMAGE_SUFFIXES
        room = 4 * spec.pixels * prod(recipe.task.factors(spec.axes)) * images
        targets[name] = check_output(
            path, inputs, request.overwrite, suffixes=suffixes, bytes_needed=room
        )
    check_outputs_differ(request.outputs.values())
    return targets


def _make_plan(recipe: Recipe, spec: ImageSpec, request: Request) -> Plan:
    named = {name: path for name, path in request.images.items() if name != "image"}
    network = (
        read_network(named.pop(SHARED_NETWORK_INPUT)) if SHARED_NETWORK_INPUT in named else None
    )
    others = {name: read_spec(path) for name, path in named.items()}
    plan = plan_with_network(preflight(recipe, spec, detect_machine(), others), network)
    if isinstance(plan, Refusal):
        raise Refused(plan)
    return plan


def _list_plan_notes(plan: Plan) -> list[Note]:
    return list(dict.fromkeys((*describe_axes(plan.source), *plan.notes)))


def _list_clipping_notes(plan: Plan, data: Mapping[str, Any]) -> tuple[Note, ...]:
    """Say which pixels hold no brightness, before time is spent; after it, where some are holes."""
    if plan.recipe.task.keeps_measured() or plan.tiles:
        return ()
    return cut_off_notes(*detect_clipped_pixels(data["image"]))


def _load_pixels(plan: Plan) -> dict[str, Any]:
    data = open_plan_inputs(plan)
    # the run asks again, but loads torch first
    sorted_ = measure_tiles(plan, data["image"]) if plan.tiles else sort_inputs(plan, data)
    if isinstance(sorted_, Refusal):
        raise Refused(sorted_)
    return data


def _save_outputs(request: Request, plan: Plan, result: Restoration) -> None:
    """Write the result first: it is what the time went into; what fails holds up no other file."""
    failures = []
    for name, write in _iter_writers(plan, result, request.overwrite):
        if name not in request.targets:
            continue
        place = request.targets[name]
        try:
            check_unmoved(place)
            write(place)
        except Exception as failure:  # hours of work must not end with a full disk or a slip
            is_picture = name == "output"
            kept = rescue_result(failure, place, plan, result) if is_picture else None
            failures.append(kept or convert_to_failure(failure, place))
    if failures:
        raise failures[0]
    if not request.quiet:
        seconds = result.report.get("seconds")
        took = f" in {format_duration(seconds)}" if seconds else ""
        print_message(f"Done{took}, since {result.stop}.")
        print_result(request.outputs["output"], saved=True)


def _iter_writers(
    plan: Plan, result: Restoration, overwrite: bool
) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Give what writes each output, by its name; the result first."""

    def picture(image: Any, spec: ImageSpec, scale: Any) -> Callable[[Path], object]:
        return lambda path: save_picture(path, image, spec, scale, result, overwrite)

    def text(content: str) -> Callable[[Path], object]:
        return lambda path: write_text(path, content, overwrite=overwrite)

    # brightness may count backwards, but errors do not
    error = replace(plan.source, tags=replace(plan.source.tags, is_white_zero=False))
    yield "output", picture(result.image, plan.source, plan.result_scale)
    yield "uncertainty", picture(result.uncertainty, error, plan.result_scale)
    yield "residual", picture(result.residual, error, plan.source.scale)
    for name in result.recipe.task.gives:
        spec = make_plane_spec(plan.source, result.learned[name].shape)
        yield f"{name}_out", picture(result.learned[name], spec, spec.scale)
    yield "report", text(format_json(result.report))
    yield "recipe", text(result.recipe.to_json())


def _forget_partial(request: Request, result: Restoration) -> None:
    """Remove the picture that an interrupted run of the same kind left, now that it is finished."""
    before = insert_name_suffix(Path(request.outputs["output"]), "partial")
    with suppress(Exception):  # whoever wrote it: what cannot be read is not ours
        facts = migrate_record(read_provenance(before) or {})
        same = facts.get("report", {}).get("input_sha256") == result.report["input_sha256"]
        same = same and facts["recipe"] == result.recipe.to_dict()
        if same and not before.is_symlink() and has_reported_pixels(before, facts["report"]):
            remove_result(before)
            if not request.quiet:
                print_message(f"'{before}' of the interrupted run was removed.")


def _add_resume_hint(failure: Failed, store: CheckpointStore) -> Failed:
    """Say that the same command goes on from there, if it does."""
    if not store.has_saved_state():
        return failure
    return add_to_failure(failure, make_note("resume-hint"))


def _open_run_store(request: Request) -> CheckpointStore:
    """Keep the checkpoint beside OUT, and say so if one lies there already."""
    output = Path(request.outputs["output"])
    wanted = output.with_name(f"{shorten_name(output.name, MAX_STATE_SUFFIX_BYTES)}.unfinished")
    store = CheckpointStore(wanted, resume=request.resume)
    has_state = store.has_saved_state()
    if store.path != wanted and not request.quiet:
        print_message(
            f"'{wanted}' is not of this program and stays; the run is kept in '{store.path}'."
        )
    if request.resume and not has_state and not request.quiet:
        print_message(f"There is no unfinished run at '{store.path}'; starting from the beginning.")
    if has_state and not request.resume and not request.quiet:
        print_message(
            f"The unfinished run in '{store.path}' will be replaced; --resume continues it."
        )
    return store


def _keep(request: Request, plan: Plan, result: Restoration | None, store: CheckpointStore) -> int:
    """Save what an interrupted run had, beside the result's own name and never over a file."""
    if result is None:
        print_message("Interrupted before there was a picture to keep; nothing was saved.")
        return EXIT_INTERRUPT
    path = find_partial_path(Path(request.outputs["output"]))
    try:
        check_unmoved(request.targets["output"])
        save_picture(path, result.image, plan.source, plan.result_scale, result, False)
    except Exception as failure:
        raise _add_resume_hint(rescue_result(failure, path, plan, result), store) from failure
    if not request.quiet:
        print_message(f"Interrupted; the best picture so far was saved as '{path}'.")
        if store.has_saved_state():
            print_message(str(make_note("resume-hint")))
    return EXIT_INTERRUPT


def find_partial_path(output: Path) -> Path:
    """Name the picture of an interrupted run: OUT.partial.tif, or a numbered one if that exists."""
    return choose_free_name(output, "partial")
