"""Read network files of jointly trained networks, and plan runs that use them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused, make_refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.io.integrity import compute_file_sha256
from napari_dip.io.paths import check_readable_file
from napari_dip.pipeline.plan.costs import estimate_costs
from napari_dip.pipeline.plan.types import INFERENCE, JOINT, SharedNetwork
from napari_dip.pipeline.plan.units import compute_warm_start_iterations, group_channels, make_units
from napari_dip.pipeline.store.checkpoint_file import read_header, read_outcome, read_tensors
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_ERRORS
from napari_dip.tasks.shared_settings import has_reusable_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.pipeline.calibrate.calibration import Calibration
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome

#: Schema of network files; increased when older files would be misread.
NETWORK_FILE_SCHEMA = 1
#: Name of the network file among the inputs of a run.
SHARED_NETWORK_INPUT = "network_file"
#: Settings of a task that may differ from those of the network, since they concern only frames and
#: planes.
IGNORED_SETTINGS = ("neighbouring_frames", "temporal_smoothing", "series_training")


def read_network(path: str | os.PathLike[str]) -> SharedNetwork:
    """Read the description of a network file, without importing torch or verifying the weights.

    Raises
    ------
    Refused
        If the file is no network file, or cannot be read.
    """
    file_path, _ = check_readable_file(path)
    printable = make_printable(str(file_path))
    digest = compute_file_sha256(file_path)
    try:
        description = read_header(file_path)["network"]
        if description["schema"] != NETWORK_FILE_SCHEMA:
            raise ValueError(f"its schema is {description['schema']}")
        return SharedNetwork(
            path=os.fspath(path),
            sha256=digest,
            task=str(description["task"]),
            settings=dict(description["settings"]),
            preset=str(description["preset"]),
            version=str(description["version"]),
            repeats=int(description["repeats"]),
            prior=str(description["prior"]),
            widths=tuple(int(width) for width in description["widths"]),
            uses_half_resolution=bool(description["halved"]),
            groups=tuple(tuple(int(c) for c in group) for group in description["groups"]),
            files=tuple(str(width["name"]) for width in description["files"]),
            outcomes=tuple(read_outcome(width) for width in description["outcomes"]),
        )
    except CHECKPOINT_ERRORS as error:
        why = "it was not written as one, or it is damaged"
        raise Refused(make_refusal("series-broken", path=printable, why=why)) from error


def read_network_weights(network: SharedNetwork) -> dict[str, dict[str, Any]]:
    """Read and verify the weights of a network file, by series and parameter name.

    Raises
    ------
    Refused
        If the weights are damaged, or the file has changed since the run was planned.
    """
    path, printable = Path(network.path), make_printable(network.path)
    if compute_file_sha256(path) != network.sha256:
        why = "it has changed since it was looked at"
        raise Refused(make_refusal("series-broken", path=printable, why=why))
    try:
        tensors = read_tensors(path)
    except CHECKPOINT_ERRORS as error:
        why = "its weights are damaged"
        raise Refused(make_refusal("series-broken", path=printable, why=why)) from error
    weights: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        series, _, name = key.partition("/")
        weights.setdefault(series, {})[name] = value
    return weights


def list_network_outcomes(plan: Plan, outcomes: Sequence[UnitOutcome]) -> list[UnitOutcome]:
    """Return the outcomes of the network's own fits that are not among `outcomes` yet.

    The first note on joint training is replaced by one that names the network's file.
    """
    if plan.network is None:
        return []
    name = make_printable(plan.network.name)
    existing_ids = {outcome.unit for outcome in outcomes}
    series_names = {unit.series for unit in plan.units}
    missing_outcomes = []
    for outcome in plan.network.outcomes:
        if outcome.series not in series_names or outcome.unit in existing_ids:
            continue
        if outcome.role == JOINT:
            note = make_note("series-network", name=name, count=outcome.members)
            outcome = replace(outcome, notes=(note, *outcome.notes[1:]))
        missing_outcomes.append(outcome)
    return missing_outcomes


def plan_with_network(plan: Plan | Refusal, network: SharedNetwork | None) -> Plan | Refusal:
    """Return the plan with fits replaced by inference with a jointly trained network.

    Parameters
    ----------
    plan : Plan or Refusal
        Plan for the image without the network.
    network : SharedNetwork or None

    Returns
    -------
    Plan or Refusal
        For stacks, movies and tiled images, the given plan with a note.
    """
    if network is None or isinstance(plan, Refusal):
        return plan
    source = plan.source
    if (
        not has_reusable_network(plan.task_plan, plan.budget.prior)
        or plan.budget.other_candidates
        or plan.extra_inputs
    ):
        return make_refusal("series-alone", name=source.name)
    if plan.tiles or plan.layout.is_volume or plan.layout.count(source) > 1:
        return replace(plan, notes=(*plan.notes, make_note("series-unused")))
    if network.sha256 and (network_refusal := _check_network(plan, network)):
        return network_refusal
    return _make_inference_plan(plan, network)


def replan_with_calibration(plan: Plan, calibration: Calibration) -> Plan:
    """Update a plan with a network file after calibration; drop a network that does not fit.

    Parameters
    ----------
    plan : Plan
        With the prior that was chosen from the pixels. Without a network, it is returned unchanged.
    calibration : Calibration
    """
    network, constant_channels, why = plan.network, set(calibration.constant_channels), ""
    if network is None:
        return plan
    if plan.budget.prior != network.prior:
        why = f"its noise asks for '{plan.budget.prior}', and that is of '{network.prior}'"
    elif (calibration.half_resolution is not None) != network.uses_half_resolution:
        why = "it is oversampled in another way than those files"
    elif plan.budget.widths != network.widths:
        why = "its size asks for a network of another depth"
    elif any(
        constant_channels & set(group) and not constant_channels >= set(group)
        for group in network.groups
    ):
        why = "some of its channels hold one value only"
    if not why:
        return _make_inference_plan(plan, network)
    units = make_units(
        plan.recipe, plan.task_plan, plan.source, plan.budget, plan.layout, plan.tiles
    )
    notes = (*plan.notes, make_note("series-unfit", why=why))
    return _update_costs(replace(plan, units=units, notes=notes, network=None))


def _make_inference_plan(plan: Plan, network: SharedNetwork) -> Plan:
    """Return the plan with inference units, which are fine-tuned only if probes show a gain."""
    fine_tune_iterations = compute_warm_start_iterations(plan.budget)
    units = [
        replace(
            unit,
            iterations=0,
            is_warm_start=True,
            role=INFERENCE,
            series=f"c{unit.channels[0]}r{unit.restart}",
            fine_tune_iterations=fine_tune_iterations,
        )
        for unit in plan.units
    ]
    return _update_costs(replace(plan, units=tuple(units), network=network))


def _update_costs(plan: Plan) -> Plan:
    """Return the plan with updated costs, which exclude the training of the network."""
    from napari_dip.pipeline.plan.tiling import compute_fit_grid

    grid = compute_fit_grid(plan.recipe, plan.source, plan.extra_inputs, plan.layout, plan.tiles)
    arguments = plan.units, plan.device, plan.threads, plan.budget
    return replace(
        plan, costs=estimate_costs(grid, *arguments, uses_half_precision=plan.has_bfloat16)
    )


def _check_network(plan: Plan, network: SharedNetwork) -> Refusal | None:
    """Return a refusal if version, settings, restarts or channels of a network do not match."""
    from napari_dip.version import __version__

    path, recipe = make_printable(network.path), plan.recipe
    if network.version != __version__:
        return make_refusal("series-version", path=path, found=network.version, here=__version__)
    plan_settings = {
        "task": recipe.task.spec.name,
        "preset": recipe.run_settings.preset,
        **recipe.task.to_dict(),
    }
    network_settings = {"task": network.task, "preset": network.preset, **(network.settings or {})}
    plan_settings, network_settings = (
        json.loads(json.dumps(plan_settings)),
        json.loads(json.dumps(network_settings)),
    )
    for field in dict.fromkeys((*plan_settings, *network_settings)):
        plan_value, network_value = (
            plan_settings.get(field, "the default"),
            network_settings.get(field, "the default"),
        )
        if plan_value != network_value and field not in IGNORED_SETTINGS:
            facts = {
                "path": path,
                "field": field,
                "found": repr(network_value),
                "wanted": repr(plan_value),
            }
            return make_refusal("series-settings", **facts)
    if plan.budget.restarts > network.repeats:
        facts = {"found": network.repeats, "wanted": plan.budget.restarts}
        return make_refusal("series-repeats", path=path, **facts)
    return check_channels(plan, network.groups)


def check_channels(plan: Plan, groups: tuple[tuple[int, ...], ...]) -> Refusal | None:
    """Return a refusal if the channel groups of an image differ from those of a network."""
    plan_groups = tuple(group_channels(plan.task_plan, plan.source))
    if plan_groups == groups:
        return None
    facts = {
        "found": _describe_channel_groups(plan_groups),
        "wanted": _describe_channel_groups(groups),
    }
    return make_refusal("series-channels", name=plan.source.name, **facts)


def _describe_channel_groups(groups: tuple[tuple[int, ...], ...]) -> str:
    count = sum(map(len, groups))
    if count == 1:
        return "1 channel"
    how = "together" if len(groups) == 1 else "one by one"
    return f"{count} channels, fitted {how}"
