"""A network that was fitted to many files, in a file of its own: what it is, and whom it serves."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.io.digest import file_sha256
from napari_dip.io.paths import printable, readable_file
from napari_dip.run.checkpoint_file import read_header, read_tensors
from napari_dip.run.checkpoint_parts import read_outcome
from napari_dip.run.checkpoints import BROKEN
from napari_dip.run.costs import estimate_costs
from napari_dip.run.sharing import SHARED, SHOWN
from napari_dip.run.units import groups_of, later_iterations, units_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.run.merge import Merge
    from napari_dip.run.plan import Plan
    from napari_dip.run.prepare import Calibration
    from napari_dip.run.units import UnitOutcome, WorkUnit

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
SERVED = (
    "The network was not fitted to this image alone: it is that of the series in '{name}', fitted "
    "to {count} files."
)


@dataclass(frozen=True, slots=True)
class SharedNetwork:
    """What is known of such a network without its weights.

    Attributes
    ----------
    path : str
    sha256 : str
        Of the file; "" for one that is still to be fitted.
    task : str
    settings : mapping
        Of the task it was fitted for, those that differ from their defaults.
    preset, version : str
    repeats : int
    prior : str
    widths : tuple of int
        Channels of the network at each scale.
    halved : bool
        Whether it was fitted to images at half their size.
    groups : tuple of tuple of int
        Channels that it takes together.
    files : tuple of str
        Names of those that it was fitted to.
    outcomes : tuple of UnitOutcome
        How the fit to all went, and its trials.
    """

    path: str
    sha256: str = ""
    task: str = ""
    settings: Mapping[str, Any] | None = None
    preset: str = ""
    version: str = ""
    repeats: int = 0
    prior: str = ""
    widths: tuple[int, ...] = ()
    halved: bool = False
    groups: tuple[tuple[int, ...], ...] = ()
    files: tuple[str, ...] = ()
    outcomes: tuple[UnitOutcome, ...] = ()

    @property
    def name(self) -> str:
        """Name of the file alone."""
        return Path(self.path).name

    @property
    def words(self) -> dict[str, Any]:
        """Name it in a report."""
        return {"file": self.name, "sha256": self.sha256}

    def tell(self, merge: Merge, units: tuple[WorkUnit, ...]) -> None:
        """Tell a run how the fits went that it goes on from, unless it knows."""
        there = {one.unit for one in merge.outcomes}
        wanted = {unit.series for unit in units}
        for one in self.outcomes:
            if one.series not in wanted or one.unit in there:
                continue
            if one.role == SHARED:
                told = SERVED.format(name=printable(self.name), count=one.members)
                one = replace(one, notes=(told, *one.notes[1:]))
            merge.outcomes.append(one)


def read_network(path: str | os.PathLike[str]) -> SharedNetwork:
    """Read what a file says of its network; loads no torch, and proves nothing of the weights.

    Raises
    ------
    Refused
        If it is not such a file, or cannot be read.
    """
    place, _ = readable_file(path)
    shown = printable(str(place))
    digest = file_sha256(place)
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
    except BROKEN as error:
        why = "it was not written as one, or it is damaged"
        raise Refused(refusal("series-broken", path=shown, why=why)) from error


def read_series(network: SharedNetwork) -> dict[str, dict[str, Any]]:
    """Read the weights, by the names of their series, and prove them.

    Raises
    ------
    Refused
        If they are not what was written, or the file is another than was planned with.
    """
    path, shown = Path(network.path), printable(network.path)
    if file_sha256(path) != network.sha256:
        why = "it has changed since it was looked at"
        raise Refused(refusal("series-broken", path=shown, why=why))
    try:
        tensors = read_tensors(path)
    except BROKEN as error:
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
    from napari_dip.run.tiling import grid_of

    grid = grid_of(plan.recipe, plan.source, plan.others, plan.layout, plan.tiles)
    how = plan.units, plan.device, plan.threads, plan.budget
    return replace(plan, costs=estimate_costs(grid, *how, half=plan.half))


def _check(plan: Plan, network: SharedNetwork) -> Refusal | None:
    """Say no to a network of another version, of other settings or of other channels."""
    from napari_dip import __version__

    path, recipe = printable(network.path), plan.recipe
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
