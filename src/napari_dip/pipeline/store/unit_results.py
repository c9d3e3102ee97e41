"""Fits that are done, one file each, for who merges them: whole or not at all, and proven."""

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
    """What one fit came to.

    Attributes
    ----------
    outcome : UnitOutcome
    estimates : tuple of ndarray
        Picture, deviation and prediction, as `Merge.add` takes them; empty where none comes of it.
    learned : mapping of str to ndarray
    """

    outcome: UnitOutcome
    estimates: tuple[Planes, ...] = ()
    learned: Mapping[str, Planes] = field(default_factory=dict)


class UnitFolder:
    """Keeps the fits of one run in a folder.

    Parameters
    ----------
    folder : Path
        Made when the first fit is put there.
    identity : mapping
        Which run they are of, in plain JSON types; those of another run are not there.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity = dict(identity)

    def save(self, unit: WorkUnit, fitted: UnitResult) -> None:
        """Keep a fit; raises OSError if the disk does not take it."""
        import torch

        arrays = dict(zip(_ESTIMATE_TENSORS, fitted.estimates, strict=False))
        arrays |= {_LEARNED_PREFIX + name: item for name, item in fitted.learned.items()}
        tensors = {
            name: torch.from_numpy(np.array(item, order="C")) for name, item in arrays.items()
        }
        make_run_folder(self._folder)
        text = {"identity": self._identity, "outcome": asdict(fitted.outcome)}
        write_tensors(self._get_unit_path(unit.id), tensors, text)

    def save_weights(self, series: str, weights: Mapping[str, Any]) -> None:
        """Keep a network that many are shown; raises OSError if the disk does not take it."""
        make_run_folder(self._folder)
        tensors = {name: item.contiguous() for name, item in weights.items()}
        write_tensors(self._get_weights_path(series), tensors, {"identity": self._identity})

    def load_weights(self, series: str) -> Mapping[str, Any]:
        """Give a network that is there."""
        return read_tensors(self._get_weights_path(series))

    def find_finished_units(self, plan: Plan) -> frozenset[str]:
        """Name the fits that are there with all that go on from each other."""
        lessons = (
            group
            for group in list_joint_unit_groups(plan)
            if self._is_valid(self._get_weights_path(group[0].series))
        )
        every = (*lessons, *list_unit_chains(plan))
        whole = (
            item
            for item in every
            if all(self._is_valid(self._get_unit_path(unit.id)) for unit in item)
        )
        return frozenset(unit.id for each in whole for unit in each)

    def merge_result(self, unit: WorkUnit, merge: ResultMerger) -> None:
        """Merge a fit that is there."""
        path = self._get_unit_path(unit.id)
        outcome = read_outcome(read_metadata(path)["outcome"])
        if not outcome.has_estimate:
            merge.outcomes.append(outcome)
            return
        arrays = {name: item.numpy() for name, item in read_tensors(path).items()}
        learned = {
            n.removeprefix(_LEARNED_PREFIX): a
            for n, a in arrays.items()
            if n.startswith(_LEARNED_PREFIX)
        }
        picture, deviation, prediction = (arrays[name] for name in _ESTIMATE_TENSORS)
        merge.add(unit, picture, deviation, prediction, outcome, learned)

    def _is_valid(self, path: Path) -> bool:
        try:
            if not path.exists() or read_metadata(path)["identity"] != self._identity:
                return False
            read_tensors(path)  # proven
        except CHECKPOINT_ERRORS:
            return False
        return True

    def _get_unit_path(self, name: str) -> Path:
        return self._folder / f"{name}.fit"

    def _get_weights_path(self, series: str) -> Path:
        return self._folder / f"{series}.weights"


def list_unit_chains(plan: Plan) -> list[list[WorkUnit]]:
    """Part the fits that pictures come of into those that need nothing of each other.

    Within a segment, planes and frames go on with the weights of the one before, unless each begins
    anew or is shown a network; frames are drawn to the mean of all repeats of the one before;
    repeats take the prior that won. Those that are shown a network need it first: see
    `list_joint_unit_groups`.
    """
    linked = {
        (unit.channels, unit.restart)
        for unit in plan.units
        if unit.is_warm_start and not unit.series
    }
    chains: defaultdict[tuple[Any, ...], list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        fits = unit.channels, unit.restart
        if not unit.has_estimate:
            continue
        if unit.has_time_neighbours or plan.budget.rivals:
            chains[unit.channels, unit.segment].append(unit)
        elif fits in linked:
            chains[*fits, unit.segment].append(unit)
        else:
            chains[*fits, unit.part].append(unit)
    return list(chains.values())


def list_joint_unit_groups(plan: Plan) -> list[list[WorkUnit]]:
    """Give, of each network that many are shown, the fits to all and the trials."""
    groups: defaultdict[str, list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        if not unit.has_estimate:
            groups[unit.series].append(unit)
    return list(groups.values())
