"""Store the results of finished fits and tiles as entries of the run folder.

Another process can merge them, and a run can be interrupted at any time. The content does not
depend on the process that wrote it. If the disk is full, files go to fallback folders or stay in
memory until the run ends.
"""

from __future__ import annotations

import json
import tempfile
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_dip.errors import FailedError, RefusedError, make_refusal
from napari_dip.errors.templates import make_printable
from napari_dip.io.lazy_images import create_mapped_image
from napari_dip.io.paths import convert_save_errors, describe_write_error
from napari_dip.pipeline.assess.merge import UnitResult
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.units import list_joint_unit_groups, list_unit_chains
from napari_dip.pipeline.store.checkpoints import parse_outcome
from napari_dip.pipeline.store.tensor_file import (
    DAMAGE_ERRORS,
    group_tensors,
    map_tensors,
    read_metadata,
    read_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari_dip.errors import Refusal
    from napari_dip.io import Float32Array
    from napari_dip.io.lazy_images import MemoryMappedImage
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome, WorkUnit
    from napari_dip.pipeline.store.run_folder import RunFolder

WrittenT = TypeVar("WrittenT")

#: Names of the arrays of a result, in the order of `UnitResult.estimates`.
_ESTIMATE_NAMES = ("picture", "deviation", "prediction")
#: Name of the entry with the outcomes of the joint training of tiles and of its probes.
JOINT_NAME = "joint"


class ResultStore:
    """Store the results of one run in its folder.

    Parameters
    ----------
    folder : RunFolder
    fallback_folders : sequence of Path
        Folders in which temporary folders are created if the run folder cannot be written to.
    """

    def __init__(self, folder: RunFolder, fallback_folders: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._fallback_folders = list(fallback_folders)
        self._temporary_folders: list[tempfile.TemporaryDirectory[str]] = []
        self._moved_files: dict[str, Path] = {}
        self._memory: dict[str, tuple[Mapping[str, Any], Any]] = {}
        self._write_error = ""
        self._fallback_folder: Path | None = None
        self._uses_memory = False
        self._is_lock_owner = False

    def lock(self) -> None:
        """Create the folder, lock it against other runs, and write its manifest.

        Processes that resume the same run share the folder.

        Raises
        ------
        RefusedError
            If another run has locked the folder.
        FailedError
            If the folder cannot be written to.
        """
        folder = self._folder
        with convert_save_errors(folder.path):
            folder.create()
            self._is_lock_owner = self._try_lock()
            folder.initialise()

    def close(self) -> None:
        """Remove temporary folders and release the lock; memory-mapped images stay valid."""
        for temporary_folder in self._temporary_folders:
            temporary_folder.cleanup()
        if self._is_lock_owner:
            self._folder.release()

    def save(self, name: str, result: UnitResult, *, in_memory: bool = False) -> None:
        """Save a result.

        Parameters
        ----------
        name : str
            Id of the unit, output of `make_tile_name`, or `JOINT_NAME`.
        result : UnitResult
        in_memory : bool
            Whether to keep the result for this process only.
        """
        import torch

        arrays = dict(zip(_ESTIMATE_NAMES, result.estimates, strict=False))
        arrays |= {f"learned/{key}": array for key, array in result.learned_parameters.items()}
        tensors = {key: torch.from_numpy(np.array(a, order="C")) for key, a in arrays.items()}
        metadata = {
            "outcomes": [outcome.to_dict() for outcome in result.outcomes],
            "residual_sums": result.residual_sums,
        }
        self._save(name, tensors, metadata, in_memory=in_memory)

    def has(self, name: str) -> bool:
        """Return whether there is a result, on disk or in memory."""
        return name in self._memory or self._get_path(name).exists()

    def read_outcomes(self, name: str) -> tuple[UnitOutcome, ...]:
        """Return the outcomes of a result; empty if there is none."""
        return tuple(map(parse_outcome, self._read_metadata(name)["outcomes"]))

    def read_residual_sums(self, name: str) -> tuple[Any, ...]:
        """Return the residual sums of a tile; empty if it has no result."""
        return tuple(self._read_metadata(name)["residual_sums"])

    def open_estimates(self, name: str) -> tuple[Float32Array, ...]:
        """Return image, standard deviation and prediction, memory-mapped if they are on disk."""
        if name in self._memory:
            arrays = {key: tensor.numpy() for key, tensor in self._memory[name][0].items()}
        else:
            arrays = map_tensors(self._get_path(name))
        return tuple(arrays.get(key, arrays[_ESTIMATE_NAMES[0]]) for key in _ESTIMATE_NAMES)

    def save_weights(self, weights_name: str, weights: Mapping[str, Any]) -> None:
        """Save the weights of a network."""
        self._save(_make_entry_name(weights_name), weights, {})

    def load_weights(self, weights_name: str) -> Mapping[str, Any] | None:
        """Return the weights of a network; None if there are none of this name."""
        name = _make_entry_name(weights_name)
        if name in self._memory:
            return self._memory[name][0]
        path = self._get_path(name)
        return read_tensors(path) if path.exists() else None

    def drop_lost_networks(self, merger: ResultMerger) -> None:
        """Drop outcomes of joint training whose network is not stored: they are fitted again."""
        merger.outcomes[:] = [
            outcome for outcome in merger.outcomes if self.load_weights(outcome.joint_network_name)
        ]

    def find_finished_units(self, plan: Plan) -> frozenset[str]:
        """Return the ids of the units in chains and joint groups that are stored completely."""
        if not self._folder.resume:
            return frozenset()
        joint_groups = (
            group
            for group in list_joint_unit_groups(plan)
            if self._is_valid(_make_entry_name(group[0].joint_network_name))
        )
        groups = (*joint_groups, *list_unit_chains(plan))
        unit_ids = ([unit.id for unit in group] for group in groups)
        finished_ids = (ids for ids in unit_ids if all(map(self._is_valid, ids)))
        return frozenset(chain.from_iterable(finished_ids))

    def merge_result(self, unit: WorkUnit, merger: ResultMerger) -> None:
        """Add the stored result of a unit to a merger."""
        groups = group_tensors(read_tensors(self._get_path(unit.id)))
        estimates = tuple(groups[name][""].numpy() for name in _ESTIMATE_NAMES if name in groups)
        learned = {name: tensor.numpy() for name, tensor in groups.get("learned", {}).items()}
        outcomes = self.read_outcomes(unit.id)
        merger.add(
            unit, UnitResult(outcomes=outcomes, estimates=estimates, learned_parameters=learned)
        )

    def allocate_image(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> MemoryMappedImage | Float32Array:
        """Create an empty image on the first disk with enough space, or else in memory.

        Raises
        ------
        MemoryError
            If the image exceeds the memory of the computer, too.
        """
        try:
            return self._write_to_first_folder(
                name, lambda folder: create_mapped_image(folder / name, shape, dtype)
            )
        except OSError:
            if prod(shape) * dtype.itemsize > detect_machine().memory_bytes:
                raise MemoryError(f"there is no room for {name}") from None
            self._uses_memory = True
            return np.zeros(shape, dtype)

    def make_fallback_notice(self) -> Refusal | None:
        """Return a notice on where files are stored if the run folder failed; otherwise None."""
        if not self._write_error:
            return None
        fallback_folder = make_printable(str(self._fallback_folder))
        location = "in memory" if self._uses_memory else f"in '{fallback_folder}'"
        facts = {"path": self._folder.path, "why": self._write_error, "where": location}
        return make_refusal("tiles-moved", **facts)

    def check_tiles(self, order: Sequence[int]) -> None:
        """Raise FailedError if a finished tile no longer exists."""
        if not all(self.has(make_tile_name(index)) for index in order):
            raise FailedError("tiles-gone", path=self._folder.path)

    def _try_lock(self) -> bool:
        try:
            return self._folder.lock()
        except (BlockingIOError, PermissionError):
            if not self._folder.resume:
                raise RefusedError("run-twice", path=self._folder.path) from None
        except OSError:  # network disks may not support locks
            pass
        return False

    def _save(
        self, name: str, tensors: Mapping[str, Any], metadata: Any, *, in_memory: bool = False
    ) -> None:
        """Save an entry; keep it in memory if no folder can be written to."""
        self._memory.pop(name, None)
        try:
            if not in_memory:
                save = self._folder.save
                self._write_to_first_folder(
                    name, lambda folder: save(name, tensors, metadata, folder)
                )
                return
        except OSError:
            self._uses_memory = True
        self._memory[name] = tensors, json.loads(json.dumps(metadata))

    def _write_to_first_folder(self, name: str, write: Callable[[Path], WrittenT]) -> WrittenT:
        """Write a file to the first folder where that succeeds; return what `write` returns.

        Raises
        ------
        OSError
            If no folder can be written to; the error of the run folder.
        """
        failure = None
        for folder in self._iter_folders():
            try:
                written = write(folder)
            except OSError as error:
                failure = failure or error
                self._write_error = describe_write_error(failure)
                continue
            self._moved_files[name] = folder
            if folder != self._folder.path:
                self._fallback_folder = folder
            return written
        assert failure is not None
        raise failure

    def _iter_folders(self) -> Iterator[Path]:
        """Iterate over the run folder, existing temporary folders, and then new ones."""
        yield self._folder.path
        yield from (Path(folder.name) for folder in self._temporary_folders)
        while self._fallback_folders:
            try:
                directory = tempfile.TemporaryDirectory(
                    prefix="napari-dip-",
                    dir=self._fallback_folders.pop(0),
                    ignore_cleanup_errors=True,
                )
            except OSError:
                continue
            self._temporary_folders.append(directory)
            yield Path(directory.name)

    def _get_path(self, name: str) -> Path:
        return self._folder.get_path(name, self._moved_files.get(name))

    def _read_metadata(self, name: str) -> Any:
        if name in self._memory:
            return self._memory[name][1]
        path = self._get_path(name)
        return read_metadata(path) if path.exists() else {"outcomes": (), "residual_sums": ()}

    def _is_valid(self, name: str) -> bool:
        try:
            read_tensors(self._get_path(name))  # verifies the digest
        except DAMAGE_ERRORS:
            return False
        return True


def make_tile_name(index: int | str) -> str:
    """Return the name under which the result of a tile is stored; "*" stands for all tiles."""
    return f"tile-{index}"


def _make_entry_name(weights_name: str) -> str:
    return f"network-{weights_name}"
