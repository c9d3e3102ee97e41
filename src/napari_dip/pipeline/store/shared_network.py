"""A network that was fitted to many files, in a file of its own: what it is, and whom it serves."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.io.integrity import compute_file_sha256
from napari_dip.io.paths import check_readable_file
from napari_dip.pipeline.plan.costs import estimate_costs
from napari_dip.pipeline.plan.types import INFERENCE, SharedNetwork
from napari_dip.pipeline.plan.units import compute_warm_start_iterations, group_channels, make_units
from napari_dip.pipeline.store.checkpoint_file import read_header, read_outcome, read_tensors
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_ERRORS

if TYPE_CHECKING:
    from napari_dip.pipeline.calibrate.calibration import Calibration
    from napari_dip.pipeline.plan.types import Plan

#: Raised by one whenever such a file written before would be read differently.
NETWORK_FILE_SCHEMA = 1
#: What such a file is called among the inputs of a run.
SHARED_NETWORK_INPUT = "network_file"
#: Settings of a task that a network may be shown images with, whatever it was fitted with: they
#: are about frames and planes.
IGNORED_SETTINGS = ("neighbouring_frames", "temporal_smoothing", "series_training")


def read_network(path: str | os.PathLike[str]) -> SharedNetwork:
    """Read what a file says of its network; loads no torch, and proves nothing of the weights.

    Raises
    ------
    Refused
        If it is not such a file, or cannot be read.
    """
    place, _ = check_readable_file(path)
    printable = make_printable(str(place))
    digest = compute_file_sha256(place)
    try:
        facts = read_header(place)["network"]
        if facts["schema"] != NETWORK_FILE_SCHEMA:
            raise ValueError(f"its schema is {facts['schema']}")
        return SharedNetwork(
            path=os.fspath(path),
            sha256=digest,
            task=str(facts["task"]),
            settings=dict(facts["settings"]),
            preset=str(facts["preset"]),
            version=str(facts["version"]),
            repeats=int(facts["repeats"]),
            prior=str(facts["prior"]),
            widths=tuple(int(item) for item in facts["widths"]),
            uses_half_resolution=bool(facts["halved"]),
            groups=tuple(tuple(int(c) for c in group) for group in facts["groups"]),
            files=tuple(str(item["name"]) for item in facts["files"]),
            outcomes=tuple(read_outcome(item) for item in facts["outcomes"]),
        )
    except CHECKPOINT_ERRORS as error:
        why = "it was not written as one, or it is damaged"
        raise Refused(refusal("series-broken", path=printable, why=why)) from error


def read_network_weights(network: SharedNetwork) -> dict[str, dict[str, Any]]:
    """Read the weights, by the names of their series, and prove them.

    Raises
    ------
    Refused
        If they are not what was written, or the file is another than was planned with.
    """
    path, printable = Path(network.path), make_printable(network.path)
    if compute_file_sha256(path) != network.sha256:
        why = "it has changed since it was looked at"
        raise Refused(refusal("series-broken", path=printable, why=why))
    try:
        tensors = read_tensors(path)
    except CHECKPOINT_ERRORS as error:
        why = "its weights are damaged"
        raise Refused(refusal("series-broken", path=printable, why=why)) from error
    weights: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        series, _, name = key.partition("/")
        weights.setdefault(series, {})[name] = value
    return weights


def plan_with_network(plan: Plan | Refusal, network: SharedNetwork | None) -> Plan | Refusal:
    """Plan that an image is shown a network of other files instead of one being fitted to it.

    Parameters
    ----------
    plan : Plan or Refusal
        By the image alone.
    network : SharedNetwork or None

    Returns
    -------
    Plan or Refusal
        Stacks, movies and images in tiles stay as they are planned, with a note.
    """
    if network is None or isinstance(plan, Refusal):
        return plan
    source, recipe = plan.source, plan.recipe
    if not recipe.task.serves(plan.budget.prior) or plan.budget.rivals or plan.extra_inputs:
        return refusal("series-alone", name=source.name)
    if plan.tiles or plan.layout.is_volume or plan.layout.count(source) > 1:
        return replace(plan, notes=(*plan.notes, make_note("series-unused")))
    if network.sha256 and (no := _check_network(plan, network)):
        return no
    return _make_inference_plan(plan, network)


def replan_with_calibration(plan: Plan, calibration: Calibration) -> Plan:
    """Plan anew once the pixels are known: a network of another kind than they ask for is no use.

    Parameters
    ----------
    plan : Plan
        As the pixels have changed it; comes back as it is where it has no network.
    calibration : Calibration
    """
    network, constant, why = plan.network, set(calibration.constant_channels), ""
    if network is None:
        return plan
    if plan.budget.prior != network.prior:
        why = f"its noise asks for '{plan.budget.prior}', and that is of '{network.prior}'"
    elif (calibration.half_resolution is not None) != network.uses_half_resolution:
        why = "it is oversampled in another way than those files"
    elif plan.budget.widths != network.widths:
        why = "its size asks for a network of another depth"
    elif any(constant & set(group) and not constant >= set(group) for group in network.groups):
        why = "some of its channels hold one value only"
    if not why:
        return _make_inference_plan(plan, network)
    units = make_units(plan.recipe, plan.source, plan.budget, plan.layout, plan.tiles)
    notes = (*plan.notes, make_note("series-unfit", why=why))
    return _update_costs(replace(plan, units=units, notes=notes, network=None))


def _make_inference_plan(plan: Plan, network: SharedNetwork) -> Plan:
    """Let each fit be a look by the network, which goes on by itself only if trials say so."""
    own = compute_warm_start_iterations(plan.budget)
    units = [
        replace(
            unit,
            iterations=0,
            is_warm_start=True,
            role=INFERENCE,
            series=f"c{unit.channels[0]}r{unit.restart}",
            fine_tune_iterations=own,
        )
        for unit in plan.units
    ]
    return _update_costs(replace(plan, units=tuple(units), network=network))


def _update_costs(plan: Plan) -> Plan:
    """Estimate anew what the fits of a plan take; that of a network which serves is done."""
    from napari_dip.pipeline.plan.tiling import compute_fit_grid

    grid = compute_fit_grid(plan.recipe, plan.source, plan.extra_inputs, plan.layout, plan.tiles)
    how = plan.units, plan.device, plan.threads, plan.budget
    return replace(plan, costs=estimate_costs(grid, *how, half=plan.has_bfloat16))


def _check_network(plan: Plan, network: SharedNetwork) -> Refusal | None:
    """Say no to a network of another version, of other settings or of other channels."""
    from napari_dip.version import __version__

    path, recipe = make_printable(network.path), plan.recipe
    if network.version != __version__:
        return refusal("series-version", path=path, found=network.version, here=__version__)
    wanted = {
        "task": recipe.task.name,
        "preset": recipe.run_settings.preset,
        **recipe.task.to_dict(),
    }
    entries = {"task": network.task, "preset": network.preset, **(network.settings or {})}
    wanted, entries = json.loads(json.dumps(wanted)), json.loads(json.dumps(entries))
    for field in dict.fromkeys((*wanted, *entries)):
        ours, theirs = wanted.get(field, "the default"), entries.get(field, "the default")
        if ours != theirs and field not in IGNORED_SETTINGS:
            facts = {"path": path, "field": field, "found": repr(theirs), "wanted": repr(ours)}
            return refusal("series-settings", **facts)
    if plan.budget.restarts > network.repeats:
        facts = {"found": network.repeats, "wanted": plan.budget.restarts}
        return refusal("series-repeats", path=path, **facts)
    return check_channels(plan, network.groups)


def check_channels(plan: Plan, groups: tuple[tuple[int, ...], ...]) -> Refusal | None:
    """Say no to other channels than a network takes, or to the same taken otherwise."""
    ours = tuple(group_channels(plan.recipe, plan.source))
    if ours == groups:
        return None
    facts = {"found": _describe_channel_groups(ours), "wanted": _describe_channel_groups(groups)}
    return refusal("series-channels", name=plan.source.name, **facts)


def _describe_channel_groups(groups: tuple[tuple[int, ...], ...]) -> str:
    count = sum(map(len, groups))
    if count == 1:
        return "1 channel"
    how = "together" if len(groups) == 1 else "one by one"
    return f"{count} channels, fitted {how}"
