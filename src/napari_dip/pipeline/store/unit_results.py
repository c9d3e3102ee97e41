"""Store the results of finished fits, one file each, for the process that merges them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.pipeline.store.checkpoint_file import (
    read_metadata,
    read_outcome,
    read_tensors,
    write_tensors,
)
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_ERRORS
from napari_dip.pipeline.store.folder_lock import make_run_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.calibration import Planes
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome, WorkUnit

_ESTIMATE_TENSORS, _LEARNED_PREFIX = ("picture", "deviation", "prediction"), "learned/"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class UnitResult:
    """Hold the result of one fit.

    Attributes
    ----------
    outcome : UnitOutcome
    estimates : tuple of ndarray
        Picture, deviation and prediction, as for `ResultMerger.add`; empty for joint training.
    learned : mapping of str to ndarray
        Learned parameters, such as a PSF.
    """

    outcome: UnitOutcome
    estimates: tuple[Planes, ...] = ()
    learned: Mapping[str, Planes] = field(default_factory=dict)


class UnitFolder:
    """Store the fits of one run in a folder.

    Parameters
    ----------
    folder : Path
        Created when the first fit is saved.
    identity : mapping
        Identity of the run, in plain JSON types. Files of other runs are ignored.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity = dict(identity)

    def save(self, unit: WorkUnit, fitted: UnitResult) -> None:
        """Save the result of a fit; raise OSError if it cannot be written."""
        import torch

        arrays = dict(zip(_ESTIMATE_TENSORS, fitted.estimates, strict=False))
        arrays |= {_LEARNED_PREFIX + name: array for name, array in fitted.learned.items()}
        tensors = {
            name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()
        }
        make_run_folder(self._folder)
        metadata = {"identity": self._identity, "outcome": asdict(fitted.outcome)}
        write_tensors(self._get_unit_path(unit.id), tensors, metadata)

    def save_weights(self, series: str, weights: Mapping[str, Any]) -> None:
        """Save a jointly trained network; raise OSError if it cannot be written."""
        make_run_folder(self._folder)
        tensors = {name: value.contiguous() for name, value in weights.items()}
        write_tensors(self._get_weights_path(series), tensors, {"identity": self._identity})

    def load_weights(self, series: str) -> Mapping[str, Any]:
        """Return the weights of a jointly trained network."""
        return read_tensors(self._get_weights_path(series))

    def find_finished_units(self, plan: Plan) -> frozenset[str]:
        """Return the ids of the units in chains and joint groups that are stored completely."""
        joint_groups = (
            group
            for group in list_joint_unit_groups(plan)
            if self._is_valid(self._get_weights_path(group[0].series))
        )
        groups = (*joint_groups, *list_unit_chains(plan))
        finished_groups = (
            units
            for units in groups
            if all(self._is_valid(self._get_unit_path(unit.id)) for unit in units)
        )
        return frozenset(unit.id for finished in finished_groups for unit in finished)

    def merge_result(self, unit: WorkUnit, merger: ResultMerger) -> None:
        """Add the stored result of a unit to a merger."""
        path = self._get_unit_path(unit.id)
        outcome = read_outcome(read_metadata(path)["outcome"])
        if not outcome.has_estimate:
            merger.outcomes.append(outcome)
            return
        arrays = {name: tensor.numpy() for name, tensor in read_tensors(path).items()}
        learned = {
            n.removeprefix(_LEARNED_PREFIX): a
            for n, a in arrays.items()
            if n.startswith(_LEARNED_PREFIX)
        }
        picture, deviation, prediction = (arrays[name] for name in _ESTIMATE_TENSORS)
        merger.add(unit, picture, deviation, prediction, outcome, learned)

    def _is_valid(self, path: Path) -> bool:
        try:
            if not path.exists() or read_metadata(path)["identity"] != self._identity:
                return False
            read_tensors(path)  # verifies the digest
        except CHECKPOINT_ERRORS:
            return False
        return True

    def _get_unit_path(self, name: str) -> Path:
        return self._folder / f"{name}.fit"

    def _get_weights_path(self, series: str) -> Path:
        return self._folder / f"{series}.weights"


def list_unit_chains(plan: Plan) -> list[list[WorkUnit]]:
    """Group units with an estimate into chains that do not depend on each other.

    A unit depends on another one through warm starts, which stay within a segment. Frames of a
    movie depend on all restarts of the previous frame through temporal smoothing. Restarts use the
    prior that was selected in the first fit. Jointly trained networks come first, see
    `list_joint_unit_groups`.
    """
    warm_started = {
        (unit.channels, unit.restart)
        for unit in plan.units
        if unit.is_warm_start and not unit.series
    }
    chains: defaultdict[tuple[Any, ...], list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        unit_key = unit.channels, unit.restart
        if not unit.has_estimate:
            continue
        if unit.has_time_neighbours or plan.budget.other_candidates:
            chains[unit.channels, unit.segment].append(unit)
        elif unit_key in warm_started:
            chains[*unit_key, unit.segment].append(unit)
        else:
            chains[*unit_key, unit.part].append(unit)
    return list(chains.values())


def list_joint_unit_groups(plan: Plan) -> list[list[WorkUnit]]:
    """Return, for each jointly trained network, its joint fit and its fine-tuning probes."""
    groups: defaultdict[str, list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        if not unit.has_estimate:
            groups[unit.series].append(unit)
    return list(groups.values())
