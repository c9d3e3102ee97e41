"""Read the network files of jointly trained networks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable
from napari_dip.io.paths import compute_file_sha256, stat_readable_file
from napari_dip.pipeline.plan.types import JOINT, JointNetwork
from napari_dip.pipeline.store.checkpoints import read_outcome
from napari_dip.pipeline.store.tensor_file import (
    DAMAGE_ERRORS,
    group_tensors,
    read_metadata,
    read_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.pipeline.calibrate.types import RunPlan
    from napari_dip.pipeline.plan.types import UnitOutcome

#: Schema of network files; increased when older files would be misread.
NETWORK_FILE_SCHEMA = 1
#: Name of the network file among the inputs of a run.
NETWORK_FILE_INPUT = "network_file"


def pop_network_file(inputs: dict[str, Any]) -> JointNetwork | None:
    """Remove the network of a series from extra inputs and return it; None if there is none."""
    path = inputs.pop(NETWORK_FILE_INPUT, None)
    return None if path is None else read_network(path)


def read_network(path: str | os.PathLike[str]) -> JointNetwork:
    """Read the description of a network file, without importing torch or verifying the weights.

    Raises
    ------
    RefusedError
        If the file is no network file, or cannot be read.
    """
    file_path, _ = stat_readable_file(path)
    printable = make_printable(str(file_path))
    digest = compute_file_sha256(file_path)
    try:
        description = read_metadata(file_path)["network"]
        if description["schema"] != NETWORK_FILE_SCHEMA:
            raise ValueError(f"its schema is {description['schema']}")
        return JointNetwork(
            path=os.fspath(path),
            sha256=digest,
            task=str(description["task"]),
            settings=dict(description["settings"]),
            preset=str(description["preset"]),
            version=str(description["version"]),
            restarts=int(description["repeats"]),
            prior_key=str(description["prior"]),
            widths=tuple(int(width) for width in description["widths"]),
            uses_half_resolution=bool(description["halved"]),
            groups=tuple(tuple(int(c) for c in group) for group in description["groups"]),
            files=tuple(str(file["name"]) for file in description["files"]),
            outcomes=tuple(read_outcome(outcome) for outcome in description["outcomes"]),
        )
    except DAMAGE_ERRORS as error:
        why = "it was not written as one, or it is damaged"
        raise RefusedError("series-broken", path=printable, why=why) from error


def read_fitted_network(network: JointNetwork) -> JointNetwork:
    """Return a network of a plan as it was fitted, which may have been after the plan was made."""
    return network if network.sha256 else read_network(network.path)


def read_network_weights(network: JointNetwork) -> dict[str, dict[str, Any]]:
    """Read and verify the weights of a network file, by series and parameter name.

    Raises
    ------
    RefusedError
        If the weights are damaged, or the file has changed since the run was planned.
    """
    path, printable = Path(network.path), make_printable(network.path)
    if compute_file_sha256(path) != network.sha256:
        why = "it has changed since it was looked at"
        raise RefusedError("series-broken", path=printable, why=why)
    try:
        return group_tensors(read_tensors(path))
    except DAMAGE_ERRORS as error:
        why = "its weights are damaged"
        raise RefusedError("series-broken", path=printable, why=why) from error


def list_network_outcomes(plan: RunPlan, outcomes: Sequence[UnitOutcome]) -> list[UnitOutcome]:
    """Return the outcomes of the network's own fits that are not among `outcomes` yet.

    The first note on joint training is replaced by one that names the network's file.
    """
    if plan.network is None:
        return []
    name = make_printable(plan.network.name)
    existing_ids = {outcome.unit_id for outcome in outcomes}
    series_names = {unit.joint_network_name for unit in plan.units}
    missing_outcomes = []
    for outcome in plan.network.outcomes:
        if outcome.joint_network_name not in series_names or outcome.unit_id in existing_ids:
            continue
        if outcome.role == JOINT:
            note = make_note("series-network", name=name, count=outcome.region_count)
            outcome = replace(outcome, notes=(note, *outcome.notes[1:]))
        missing_outcomes.append(outcome)
    return missing_outcomes
