"""A network that was fitted to many files, in a file of its own: what it is, and whom it serves."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.integrity import compute_file_sha256
from napari_dip.io.paths import check_readable_file
from napari_dip.pipeline.plan.costs import estimate_costs
from napari_dip.pipeline.plan.types import SHOWN, SharedNetwork
from napari_dip.pipeline.plan.units import groups_of, later_iterations, units_of
from napari_dip.pipeline.store.checkpoint_file import read_header, read_outcome, read_tensors
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_ERRORS

if TYPE_CHECKING:
    from napari_dip.pipeline.calibrate.types import Calibration
    from napari_dip.pipeline.plan.types import Plan

#: Raised by one whenever such a file written before would be read differently.
SCHEMA = 1
#: What such a file is called among the inputs of a run.
KEY = "shared_network"
#: Settings of a task that a network may be shown images with, whatever it was fitted with: they
#: are about frames and planes.
FREE = ("neighbours", "steadiness", "sharing")
#: Notes on a plan and on a run.
NO_PLANE = "It is no single plane restored whole, so the network of the series is not used for it."
BY_ITSELF = "It was restored by itself, not by the network of the series, since {why}."


def read_network(path: str | os.PathLike[str]) -> SharedNetwork:
    """Read what a file says of its network; loads no torch, and proves nothing of the weights.

    Raises
    ------
    Refused
        If it is not such a file, or cannot be read.
    """
    place, _ = check_readable_file(path)
    shown = make_printable(str(place))
    digest = compute_file_sha256(place)
    try:
        told = read_header(place)["network"]
        if told["schema"] != SCHEMA:
            raise ValueError(f"its schema is {told['schema']}")
        return SharedNetwork(
            os.fspath(path),
            digest,
            str(told["task"]),
            dict(told["settings"]),
            str(told["preset"]),
            str(told["version"]),
            int(told["repeats"]),
            str(told["prior"]),
            tuple(int(one) for one in told["widths"]),
            bool(told["halved"]),
            tuple(tuple(int(c) for c in group) for group in told["groups"]),
            tuple(str(one["name"]) for one in told["files"]),
            tuple(read_outcome(one) for one in told["outcomes"]),
        )
    except CHECKPOINT_ERRORS as error:
        why = "it was not written as one, or it is damaged"
        raise Refused(refusal("series-broken", path=shown, why=why)) from error


def read_series(network: SharedNetwork) -> dict[str, dict[str, Any]]:
    """Read the weights, by the names of their series, and prove them.

    Raises
    ------
    Refused
        If they are not what was written, or the file is another than was planned with.
    """
    path, shown = Path(network.path), make_printable(network.path)
    if compute_file_sha256(path) != network.sha256:
        why = "it has changed since it was looked at"
        raise Refused(refusal("series-broken", path=shown, why=why))
    try:
        tensors = read_tensors(path)
    except CHECKPOINT_ERRORS as error:
        why = "its weights are damaged"
        raise Refused(refusal("series-broken", path=shown, why=why)) from error
    found: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        series, _, name = key.partition("/")
        found.setdefault(series, {})[name] = value
    return found


def served_by(plan: Plan | Refusal, network: SharedNetwork | None) -> Plan | Refusal:
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
    if not recipe.task.serves(plan.budget.prior) or plan.budget.rivals or plan.others:
        return refusal("series-alone", name=source.name)
    if plan.tiles or plan.layout.volume or plan.layout.count(source) > 1:
        return replace(plan, notes=(*plan.notes, NO_PLANE))
    if network.sha256 and (no := _check(plan, network)):
        return no
    return _taught(plan, network)


def suited(plan: Plan, calibration: Calibration) -> Plan:
    """Plan anew once the pixels are known: a network of another kind than they ask for is no use.

    Parameters
    ----------
    plan : Plan
        As the pixels have changed it; comes back as it is where it has no network.
    calibration : Calibration
    """
    network, constant, why = plan.network, set(calibration.constant), ""
    if network is None:
        return plan
    if plan.budget.prior != network.prior:
        why = f"its noise asks for '{plan.budget.prior}', and that is of '{network.prior}'"
    elif (calibration.coarse is not None) != network.halved:
        why = "it is oversampled in another way than those files"
    elif plan.budget.widths != network.widths:
        why = "its size asks for a network of another depth"
    elif any(constant & set(group) and not constant >= set(group) for group in network.groups):
        why = "some of its channels hold one value only"
    if not why:
        return _taught(plan, network)
    units = units_of(plan.recipe, plan.source, plan.budget, plan.layout, plan.tiles)
    notes = (*plan.notes, BY_ITSELF.format(why=why))
    return _costed(replace(plan, units=units, notes=notes, network=None))


def _taught(plan: Plan, network: SharedNetwork) -> Plan:
    """Let each fit be a look by the network, which goes on by itself only if trials say so."""
    own = later_iterations(plan.budget)
    units = [
        replace(
            unit,
            iterations=0,
            warm=True,
            role=SHOWN,
            series=f"c{unit.channels[0]}r{unit.restart}",
            own=own,
        )
        for unit in plan.units
    ]
    return _costed(replace(plan, units=tuple(units), network=network))


def _costed(plan: Plan) -> Plan:
    """Estimate anew what the fits of a plan take; that of a network which serves is done."""
    from napari_dip.pipeline.plan.tiling import grid_of

    grid = grid_of(plan.recipe, plan.source, plan.others, plan.layout, plan.tiles)
    how = plan.units, plan.device, plan.threads, plan.budget
    return replace(plan, costs=estimate_costs(grid, *how, half=plan.half))


def _check(plan: Plan, network: SharedNetwork) -> Refusal | None:
    """Say no to a network of another version, of other settings or of other channels."""
    from napari_dip.version import __version__

    path, recipe = make_printable(network.path), plan.recipe
    if network.version != __version__:
        return refusal("series-version", path=path, found=network.version, here=__version__)
    wanted = {"task": recipe.task.name, "preset": recipe.common.preset, **recipe.task.to_dict()}
    found = {"task": network.task, "preset": network.preset, **(network.settings or {})}
    wanted, found = json.loads(json.dumps(wanted)), json.loads(json.dumps(found))
    for field in dict.fromkeys((*wanted, *found)):
        ours, theirs = wanted.get(field, "the default"), found.get(field, "the default")
        if ours != theirs and field not in FREE:
            facts = {"path": path, "field": field, "found": repr(theirs), "wanted": repr(ours)}
            return refusal("series-settings", **facts)
    if plan.budget.restarts > network.repeats:
        facts = {"found": network.repeats, "wanted": plan.budget.restarts}
        return refusal("series-repeats", path=path, **facts)
    return check_channels(plan, network.groups)


def check_channels(plan: Plan, groups: tuple[tuple[int, ...], ...]) -> Refusal | None:
    """Say no to other channels than a network takes, or to the same taken otherwise."""
    ours = tuple(groups_of(plan.recipe, plan.source))
    if ours == groups:
        return None
    facts = {"found": _words(ours), "wanted": _words(groups)}
    return refusal("series-channels", name=plan.source.name, **facts)


def _words(groups: tuple[tuple[int, ...], ...]) -> str:
    count = sum(map(len, groups))
    if count == 1:
        return "1 channel"
    how = "together" if len(groups) == 1 else "one by one"
    return f"{count} channels, fitted {how}"
