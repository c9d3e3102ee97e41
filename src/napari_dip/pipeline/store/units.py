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

    from napari_dip.pipeline.assess.merge import Merge
    from napari_dip.pipeline.calibrate.types import Planes
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome, WorkUnit

_PICTURES, _LEARNED = ("picture", "deviation", "prediction"), "learned/"


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What one fit came to.

    Attributes
    ----------
    outcome : UnitOutcome
    pictures : tuple of ndarray
        Picture, deviation and prediction, as `Merge.add` takes them; empty where none comes of it.
    learned : mapping of str to ndarray
    """

    outcome: UnitOutcome
    pictures: tuple[Planes, ...] = ()
    learned: Mapping[str, Planes] = field(default_factory=dict)


class UnitShelf:
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

    def put(self, unit: WorkUnit, fitted: Fitted) -> None:
        """Keep a fit; raises OSError if the disk does not take it."""
        import torch

        arrays = dict(zip(_PICTURES, fitted.pictures, strict=False))
        arrays |= {_LEARNED + name: one for name, one in fitted.learned.items()}
        tensors = {name: torch.from_numpy(np.array(one, order="C")) for name, one in arrays.items()}
        make_run_folder(self._folder)
        words = {"identity": self._identity, "outcome": asdict(fitted.outcome)}
        write_tensors(self._path(unit.id), tensors, words)

    def put_weights(self, series: str, weights: Mapping[str, Any]) -> None:
        """Keep a network that many are shown; raises OSError if the disk does not take it."""
        make_run_folder(self._folder)
        tensors = {name: one.contiguous() for name, one in weights.items()}
        write_tensors(self._weights(series), tensors, {"identity": self._identity})

    def weights(self, series: str) -> Mapping[str, Any]:
        """Give a network that is there."""
        return read_tensors(self._weights(series))

    def chains(self, plan: Plan) -> frozenset[str]:
        """Name the fits that are there with all that go on from each other."""
        lessons = (one for one in lessons_of(plan) if self._proven(self._weights(one[0].series)))
        every = (*lessons, *chains_of(plan))
        whole = (one for one in every if all(self._proven(self._path(unit.id)) for unit in one))
        return frozenset(unit.id for each in whole for unit in each)

    def give(self, unit: WorkUnit, merge: Merge) -> None:
        """Merge a fit that is there."""
        path = self._path(unit.id)
        outcome = read_outcome(read_metadata(path)["outcome"])
        if not outcome.pictured:
            merge.outcomes.append(outcome)
            return
        arrays = {name: one.numpy() for name, one in read_tensors(path).items()}
        learned = {n.removeprefix(_LEARNED): a for n, a in arrays.items() if n.startswith(_LEARNED)}
        picture, deviation, prediction = (arrays[name] for name in _PICTURES)
        merge.add(unit, picture, deviation, prediction, outcome, learned)

    def _proven(self, path: Path) -> bool:
        try:
            if not path.exists() or read_metadata(path)["identity"] != self._identity:
                return False
            read_tensors(path)  # proven
        except CHECKPOINT_ERRORS:
            return False
        return True

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.fit"

    def _weights(self, series: str) -> Path:
        return self._folder / f"{series}.weights"


def chains_of(plan: Plan) -> list[list[WorkUnit]]:
    """Part the fits that pictures come of into those that need nothing of each other.

    Within a segment, planes and frames go on with the weights of the one before, unless each begins
    anew or is shown a network; frames are drawn to the mean of all repeats of the one before;
    repeats take the prior that won. Those that are shown a network need it first: see `lessons_of`.
    """
    linked = {(one.channels, one.restart) for one in plan.units if one.warm and not one.series}
    found: defaultdict[tuple[Any, ...], list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        fits = unit.channels, unit.restart
        if not unit.pictured:
            continue
        if unit.timely or plan.budget.rivals:
            found[unit.channels, unit.segment].append(unit)
        elif fits in linked:
            found[*fits, unit.segment].append(unit)
        else:
            found[*fits, unit.part].append(unit)
    return list(found.values())


def lessons_of(plan: Plan) -> list[list[WorkUnit]]:
    """Give, of each network that many are shown, the fits to all and the trials."""
    found: defaultdict[str, list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        if not unit.pictured:
            found[unit.series].append(unit)
    return list(found.values())
