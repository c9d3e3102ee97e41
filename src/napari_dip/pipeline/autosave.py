"""Save a run while it is in progress, so that it can be resumed after a crash, and find such runs.

Each run has a `RunFolder`, whose manifest describes the run and its inputs. The folder also has the
pixels of inputs that are in no file. The running process locks it. A folder without a lock is an
interrupted run. A run that ends normally removes its folder.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import DipError, RefusedError
from napari_dip.errors.templates import format_bytes, make_printable
from napari_dip.io.atomic import write_atomically
from napari_dip.io.reading import open_pixels, read_header
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.assess.report_fields import (
    CountField,
    NameField,
    StrictModel,
    TextField,
    read_record,
)
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import hash_file_pixels
from napari_dip.pipeline.machine import Machine
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_NAME, CheckpointStore
from napari_dip.pipeline.store.run_folder import (
    ENTRY_SUFFIX,
    RUN_MANIFEST_FILE,
    RunFolder,
    get_pixel_versions,
    is_folder_locked,
    is_run_folder,
    remove_run_folder,
)
from napari_dip.pipeline.store.tensor_file import DAMAGE_ERRORS, read_metadata
from napari_dip.pipeline.store.unit_results import make_tile_name

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration

#: Age in seconds from which a folder without a manifest counts as left over from a crash.
_STALE_FOLDER_SECONDS = 60.0
#: Maximum number of interrupted runs that are kept; each may hold a gigabyte of pixels.
MAX_SAVED_RUNS = 5
#: Fields of the machine in a manifest, by name in the program.
_MACHINE_KEYS = {field.name: field.name for field in fields(Machine)} | {
    "torch_version": "torch",
    "no_gpu_reason": "missing",
}
#: Seconds after the start at which saving begins; shorter runs are quickly repeated.
AUTOSAVE_DELAY_SECONDS = 5.0
#: Maximum bytes of pixels that are copied because they are in no file: a quarter of the memory of
#: small computers. A run with more is not saved.
MAX_COPIED_BYTES = 1_000_000_000


class _TaskFields(StrictModel):
    task: TextField


class _InputFields(StrictModel):
    layer: NameField
    sha256: TextField
    file: NameField | None
    path: NameField | None


class _RunFields(StrictModel):
    """Schema of run.json."""

    schema_version: Literal[1] = Field(alias="schema")
    version: TextField
    torch: TextField
    recipe: _TaskFields
    label: NameField
    begun: TextField
    iterations: CountField
    tiles: CountField
    machine: dict[str, Any]
    inputs: dict[str, _InputFields]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InterruptedRun:
    """A run that was interrupted, and can be resumed.

    Attributes
    ----------
    folder : Path
    manifest : mapping
        Content of run.json: the output of `summarise_run`, versions and inputs.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def inputs(self) -> Mapping[str, Mapping[str, Any]]:
        """Description of each input, by name: at least layer, sha256, path and file."""
        inputs: Mapping[str, Mapping[str, Any]] = self.manifest["inputs"]
        return inputs

    @property
    def machine(self) -> Machine:
        """The machine that the run was planned for; it gives the same plan again."""
        stored = self.manifest["machine"]
        values = {name: stored[key] for name, key in _MACHINE_KEYS.items() if key in stored}
        return TypeAdapter(Machine).validate_python(values)

    @property
    def is_resumable(self) -> bool:
        """Whether the run can be resumed: versions of this package and of torch are the same."""
        return all(self.manifest[name] == value for name, value in get_pixel_versions().items())

    @property
    def start_time(self) -> datetime:
        """Start of the run."""
        return datetime.fromisoformat(self.manifest["begun"])

    @property
    def completed_iterations(self) -> int:
        """Iterations in the checkpoint; 0 if it cannot be read. Finished tiles are not counted."""
        try:
            header = read_metadata(self.folder / f"{CHECKPOINT_NAME}{ENTRY_SUFFIX}")
            fit, outcomes = header["fit"], header["outcomes"]
            current_iterations = 0 if fit is None else int(fit["history"][-1][0])
            return current_iterations + sum(int(outcome["iterations"]) for outcome in outcomes)
        except DAMAGE_ERRORS:
            return 0

    def describe(self) -> str:
        """Return a sentence for the user: label, start and progress of the run."""
        start = self.start_time.astimezone()
        date = f"{start.day} {start:%B %Y at %H:%M}"
        iterations = self.completed_iterations
        limit = self.manifest["iterations"]
        progress = f"{iterations:,} of at most {limit:,} iterations"
        if iterations > limit:  # a fit was repeated
            progress = f"{iterations:,} iterations"
        if self.manifest["tiles"]:
            finished = list(self.folder.glob(f"{make_tile_name('*')}{ENTRY_SUFFIX}"))
            progress = f"{len(finished)} of {self.manifest['tiles']} tiles"
        return make_printable(
            f"{self.manifest['label']}, begun on {date}, was cut off after {progress}."
        )

    def remove(self) -> None:
        """Delete the files of the run."""
        remove_run_folder(self.folder)


def find_interrupted_runs(home: Path, task: str) -> tuple[InterruptedRun, ...]:
    """Return the interrupted runs of a task, latest first, without reading pixels.

    Parameters
    ----------
    home : Path
        Folder that holds the folders of the runs; need not exist.
    task : str
        Key in `TASKS`.
    """
    candidates = [
        _read_run_folder(folder)
        for folder in _list_subfolders(home)
        if not is_folder_locked(folder)
    ]
    runs = [run for run in candidates if run is not None and run.manifest["recipe"]["task"] == task]
    return tuple(sorted(runs, key=lambda run: run.manifest["begun"], reverse=True))


def remove_stale_runs(home: Path) -> None:
    """Remove what is left of runs that crashed at their start, and the oldest of too many runs.

    Folders and files that no run has written are not touched.
    """
    old = time.time() - _STALE_FOLDER_SECONDS
    runs = []
    for folder in _list_subfolders(home):
        with suppress(OSError):
            if not is_run_folder(folder) or is_folder_locked(folder):
                continue
            if (folder / RUN_MANIFEST_FILE).exists():
                runs.append((folder.stat().st_mtime, folder))
            elif folder.stat().st_mtime < old:
                remove_run_folder(folder)
    for _, folder in sorted(runs)[: max(0, len(runs) - MAX_SAVED_RUNS + 1)]:
        remove_run_folder(folder)


def summarise_run(plan: Any, label: str, machine: Machine) -> dict[str, Any]:
    """Return recipe, label, start, size and machine of a run in plain JSON types.

    Parameters
    ----------
    plan : Plan
    label : str
        Name of the run for the user, such as "Denoise cells".
    machine : Machine
        The machine that the run was planned for.
    """
    refit = plan.fit_config.refit_iterations
    return {
        "recipe": plan.recipe.to_dict(),
        "label": label,
        "begun": datetime.now().astimezone().isoformat(timespec="seconds"),
        "iterations": sum(unit.iterations + refit for unit in plan.units),
        "tiles": len(plan.tiles),
        "machine": {_MACHINE_KEYS[name]: value for name, value in asdict(machine).items()},
    }


def _list_subfolders(home: Path) -> list[Path]:
    try:
        return [path for path in home.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _read_run_folder(folder: Path) -> InterruptedRun | None:
    """Return the run in a folder; None if there is none that can be read."""
    try:
        manifest = read_record(folder / RUN_MANIFEST_FILE, "manifest of a run", _RunFields)
        if not set(manifest["machine"]) <= set(_MACHINE_KEYS.values()):
            return None
        run = InterruptedRun(folder=folder, manifest=manifest)
        run.describe(), run.machine
    except (DipError, OSError, ValueError, OverflowError):  # OverflowError: a date out of range
        return None
    files = [description["file"] for description in run.inputs.values()]
    has_outside_files = any(file is not None and Path(file).name != file for file in files)
    return None if has_outside_files else run


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AutosaveTarget:
    """Folder of an autosave, and the description of its run.

    Attributes
    ----------
    folder : Path
        Folder of this run alone.
    run_summary : mapping
        Output of `summarise_run`.
    inputs : mapping of str to mapping
        Description of each input, by name, in plain JSON types: "layer", "path" of its file or
        None, and further fields of the caller.
    resume : bool
        Whether to resume the run in that folder.
    """

    folder: Path
    run_summary: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resume: bool = False


def run_with_autosave(
    target: AutosaveTarget,
    plan: Plan,
    inputs: Mapping[str, Any],
    *,
    poll_control: PollControl = lambda: Control.GO,
    preview_seconds: float | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore as `run` does, with autosave; yields, returns and raises as `run` does.

    The saved files are removed when the run ends normally or is ended by the user. They stay after
    a crash or a failure, since the run may be resumed with more memory or on another device, and
    after an error of `poll_control`, which is also asked once the result is there.
    """
    run_options: dict[str, Any] = {"poll_control": poll_control, "preview_seconds": preview_seconds}

    def save_inputs() -> None:
        if not plan.tiles:  # inputs of tiles were saved at the start
            _save_inputs(target, plan, inputs, folder, folder.identity["inputs"])

    checkpoints = CheckpointStore(
        target.folder,
        resume=target.resume,
        first_write_seconds=AUTOSAVE_DELAY_SECONDS,
        save_inputs=save_inputs,
        is_resumable_when_ended=False,
    )
    folder = checkpoints.folder
    try:
        _lock_run_folder(target, plan, inputs, folder)
    except OSError:  # run without autosave rather than not at all
        return (yield from run(plan, inputs, **run_options))
    is_finished = False
    try:
        result = yield from run(plan, inputs, checkpoints=checkpoints, **run_options)
        poll_control()
        is_finished = True
        return result
    except RefusedError:
        is_finished = not target.resume
        raise
    finally:
        folder.release()
        if is_finished or not folder.has_entries():
            folder.remove()


def _lock_run_folder(
    target: AutosaveTarget, plan: Plan, inputs: Mapping[str, Any], folder: RunFolder
) -> None:
    """Create and lock the folder of a run; raises OSError if nothing can be saved there."""
    if target.resume:
        folder.lock()
        return
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_runs(target.folder.parent)
    if os.path.lexists(target.folder):
        raise FileExistsError(17, "a folder of that name is there")
    folder.create(0o700)
    try:
        folder.lock()
        if plan.tiles:  # tiles are read during the run, so inputs are saved at the start
            _save_inputs(target, plan, inputs, folder)
            folder.write_manifest()
    except OSError:
        folder.release()
        folder.remove()
        raise


def _save_inputs(
    target: AutosaveTarget,
    plan: Plan,
    inputs: Mapping[str, Any],
    folder: RunFolder,
    hashes: Mapping[str, str] | None = None,
) -> None:
    """Copy the pixels that are in no file, and describe the run for the manifest.

    Parameters
    ----------
    target, plan, inputs
        As for `run_with_autosave`.
    folder : RunFolder
        Receives the description.
    hashes : mapping of str to str, optional
        SHA-256 of the inputs that the run has read, by name.

    Raises
    ------
    OSError
        If the pixels are too many, have changed since they were read, or cannot be written.
    """
    if target.resume:
        return
    descriptions = {
        name: _serialise_saved_input(name, description, inputs[name])
        for name, description in target.inputs.items()
    }
    for name, description in descriptions.items():
        if description["sha256"] != (hashes or {}).get(name, description["sha256"]):
            raise OSError(
                f"the pixels of '{description['layer']}' have changed since they were read"
            )
    copied = {
        name: np.asarray(inputs[name])
        for name, description in descriptions.items()
        if description["file"]
    }
    byte_count = sum(array.nbytes for array in copied.values())
    if byte_count > MAX_COPIED_BYTES:
        raise OSError(
            f"{format_bytes(byte_count)} of pixels lie in no file, and "
            f"{format_bytes(MAX_COPIED_BYTES)} is the most"
        )
    if shutil.disk_usage(target.folder).free < 2 * (byte_count + plan.peak_bytes):
        raise OSError("no space left beside what it would take")
    folder.clear()  # what is copied stays
    for name, array in copied.items():
        with (
            write_atomically(target.folder / f"{name}.npy", overwrite=True) as temporary_path,
            temporary_path.open("xb") as file,
        ):
            np.save(file, array, allow_pickle=False)
    folder.summary = {**target.run_summary, "inputs": descriptions}


def _serialise_saved_input(name: str, description: Mapping[str, Any], array: Any) -> dict[str, Any]:
    """Return the description of an input, with its hash and the file that holds its pixels."""
    digest = compute_sha256(array)
    path = description.get("path")
    if path is not None and hash_file_pixels(path, tuple(array.shape)) != digest:
        path = None
    return {**description, "sha256": digest, "path": path, "file": None if path else f"{name}.npy"}


def read_run_inputs(run: InterruptedRun, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of an interrupted run.

    Parameters
    ----------
    run : InterruptedRun
    layers : mapping of str to array
        Pixels of open layers that may be those of an input, by the name of the input.

    Returns
    -------
    dict of str to ndarray or None
        Pixels of each input; None where the open layer holds the same pixels.

    Raises
    ------
    RefusedError
        If the pixels are missing, or have changed.
    """
    return {name: _find_input_pixels(run, name, layers.get(name)) for name in run.inputs}


def _find_input_pixels(run: InterruptedRun, name: str, layer: Any) -> Any:
    description = run.inputs[name]
    if layer is not None and compute_sha256(np.asarray(layer)) == description["sha256"]:
        return None
    location = description["path"] or str(run.folder / description["file"])
    try:
        if description["path"]:
            pixels = np.asarray(open_pixels(read_header(description["path"]))[...])
        else:
            pixels = np.load(run.folder / description["file"], allow_pickle=False)
    except (DipError, OSError, ValueError) as error:
        facts = {"layer": description["layer"], "path": location}
        raise RefusedError("unfinished-gone", **facts) from error
    if compute_sha256(pixels) != description["sha256"]:
        raise RefusedError("unfinished-changed", layer=description["layer"], path=location)
    return pixels
