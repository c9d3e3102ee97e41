"""Run as ever, and keep on the disk what it takes to go on after a crash; and read it back.

Runs that have not ended, kept on the disk so that a crash costs a few seconds of work.

Each lies in a folder of its own: what was asked for (run.json), the pixels of inputs that no file
holds, and a checkpoint. The process that is at it holds the folder; once none does and the folder
is still there, the run was cut off. A run that ends by itself takes its folder away.
"""

from __future__ import annotations

import json
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

from napari_dip.engine.control import Control
from napari_dip.errors import DipError, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.integrity import parse_strict_json
from napari_dip.io.paths import read_small_text
from napari_dip.io.reading import read_spec
from napari_dip.io.regions import open_pixels
from napari_dip.io.writing import write_text
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.assess.report_fields import (
    CountField,
    NameField,
    StrictModel,
    TextField,
    find_field_fault,
)
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import hash_file_pixels
from napari_dip.pipeline.machine import Machine, format_bytes, get_torch_version
from napari_dip.pipeline.recipe import migrate_record
from napari_dip.pipeline.store.checkpoint_file import read_header
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.folder_lock import (
    FolderLock,
    is_folder_locked,
    is_run_folder,
    make_run_folder,
    remove_run_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.events import Event, Restoration
    from napari_dip.pipeline.plan.types import Plan

#: Raised by one whenever what was kept before could not be read.
RUN_MANIFEST_SCHEMA = 1
#: The file that makes a folder an unfinished run; written after the inputs, and all of it at once.
RUN_MANIFEST_FILE = "run.json"
CHECKPOINT_FILE = "checkpoint"
#: Bytes that run.json may have: recipe and look of a few layers take some thousand.
_MAX_RUN_MANIFEST_BYTES = 1_000_000
#: Seconds after which a folder that holds no run is what a crash has left of its beginning.
_STALE_FOLDER_SECONDS = 60.0
#: Runs that are kept at most; each may hold a gigabyte of pixels.
MAX_SAVED_RUNS = 5
#: What is raised where a checkpoint's header is none.
_HEADER_ERRORS = (OSError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError)
#: Part of `Machine` that a plan depends on.
_MACHINE_FIELDS = tuple(field.name for field in fields(Machine))


class _TaskFields(StrictModel):
    task: TextField


class _InputFields(StrictModel):
    layer: NameField
    sha256: TextField
    file: NameField | None
    path: NameField | None


class _RunFields(StrictModel):
    """What run.json must hold."""

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
    """A run that was cut off.

    Attributes
    ----------
    folder : Path
    manifest : mapping
        What `summarise_run` has written down.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def inputs(self) -> Mapping[str, Mapping[str, Any]]:
        """What is known of each input: layer, sha256, axes, and path or file."""
        inputs: Mapping[str, Mapping[str, Any]] = self.manifest["inputs"]
        return inputs

    @property
    def machine(self) -> Machine:
        """What the computer offered when the run was planned, so that the plan comes out again."""
        return TypeAdapter(Machine).validate_python(self.manifest["machine"])

    @property
    def exact(self) -> bool:
        """Whether it can be gone on with: by the same version of this package and of torch."""
        return all(self.manifest[name] == value for name, value in get_pixel_versions().items())

    @property
    def begun(self) -> datetime:
        """When it was begun."""
        return datetime.fromisoformat(self.manifest["begun"])

    @property
    def done(self) -> int:
        """Iterations of which something is kept; those of tiles in progress alone."""
        try:
            header = read_header(self.folder / CHECKPOINT_FILE)
            fit, ended = header["fit"], header["outcomes"]
            last = 0 if fit is None else int(fit["history"][-1][0])
            return last + sum(int(item["iterations"]) for item in ended)
        except (
            OSError,
            ValueError,
            OverflowError,
            TypeError,
            KeyError,
            IndexError,
            RecursionError,
        ):
            return 0

    @property
    def tiles(self) -> int:
        """Tiles that are done."""
        text = (self.folder / f"{CHECKPOINT_FILE}.tiles").glob("*.json")
        return sum(path.stem.isdigit() for path in text)

    def describe(self) -> str:
        """Say what it is, when it was begun, and how far it came, in one sentence."""
        began = self.begun.astimezone()
        when = f"{began.day} {began:%B %Y at %H:%M}"
        far = f"{self.done:,} of at most {self.manifest['iterations']:,} iterations"
        if self.manifest["tiles"]:
            far = f"{self.tiles} of {self.manifest['tiles']} tiles"
        return make_printable(
            f"{self.manifest['label']}, begun on {when}, was cut off after {far}."
        )

    def remove(self) -> None:
        """Delete all that runs have written there; what makes it a run first."""
        with suppress(OSError):  # what was read as a run is one, by whichever version
            FolderLock(self.folder).release()
            (self.folder / RUN_MANIFEST_FILE).unlink(missing_ok=True)
        remove_run_folder(self.folder)


def get_pixel_versions() -> dict[str, str]:
    """Give the versions that pixels depend on."""
    from napari_dip.version import __version__

    return {"version": __version__, "torch": get_torch_version()}


def find_interrupted_runs(home: Path, task: str) -> tuple[InterruptedRun, ...]:
    """List the runs of a task that were cut off, latest first; takes no pixel and loads no torch.

    Parameters
    ----------
    home : Path
        Folder of the folders; need not be there.
    task : str
        Key in `TASKS`.
    """
    folders = [
        _read_run_folder(folder)
        for folder in _list_subfolders(home)
        if not is_folder_locked(folder)
    ]
    runs = [
        item for item in folders if item is not None and item.manifest["recipe"]["task"] == task
    ]
    return tuple(sorted(runs, key=lambda item: item.manifest["begun"], reverse=True))


def remove_stale_runs(home: Path) -> None:
    """Remove what a crash has left of a beginning, and the oldest runs where there are many.

    What no run has written stays.
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


def write_run_manifest(folder: Path, about: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Make a folder an unfinished run.

    Parameters
    ----------
    folder : Path
    about : mapping
        By `summarise_run`.
    inputs : mapping of str to mapping
        Of each input, what is known of it.

    Raises
    ------
    Failed
        If the disk does not take it.
    """
    facts = {"schema": RUN_MANIFEST_SCHEMA, **get_pixel_versions(), **about, "inputs": inputs}
    write_text(folder / RUN_MANIFEST_FILE, json.dumps(facts, indent=1), overwrite=True)


def summarise_run(plan: Any, label: str, machine: Machine) -> dict[str, Any]:
    """Write down what was asked for, in plain JSON types.

    Parameters
    ----------
    plan : Plan
    label : str
        How the run is called, such as "Denoise cells".
    machine : Machine
        That it was planned for.
    """
    return {
        "recipe": plan.recipe.to_dict(),
        "label": label,
        "begun": datetime.now().astimezone().isoformat(timespec="seconds"),
        "iterations": sum(unit.iterations for unit in plan.units),
        "tiles": len(plan.tiles),
        "machine": asdict(machine),
    }


def _list_subfolders(home: Path) -> list[Path]:
    try:
        return [path for path in home.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _read_run_folder(folder: Path) -> InterruptedRun | None:
    """Read a folder's run; None if it holds none that can be read."""
    try:
        strict_json = parse_strict_json(
            read_small_text(
                folder / RUN_MANIFEST_FILE, "an unfinished run", _MAX_RUN_MANIFEST_BYTES
            )
        )
        strict_json = migrate_record(strict_json) if isinstance(strict_json, dict) else strict_json
        if find_field_fault(strict_json, _RunFields) or set(strict_json["machine"]) != set(
            _MACHINE_FIELDS
        ):
            return None
        run = InterruptedRun(folder=folder, manifest=strict_json)
        run.describe(), run.machine
    except (DipError, OSError, ValueError, OverflowError):  # a date of another age
        return None
    files = [noted["file"] for noted in run.inputs.values()]
    elsewhere = any(file is not None and Path(file).name != file for file in files)
    return None if elsewhere else run


#: Seconds before anything is kept: a run that is over by then is soon made again.
AUTOSAVE_DELAY_SECONDS = 5.0
#: Bytes of pixels that are copied at most, where no file holds them: a quarter of the memory of
#: small computers. A run of larger ones is not kept.
MAX_COPIED_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AutosaveTarget:
    """Where a run is kept, and what is written down of it.

    Attributes
    ----------
    folder : Path
        Its own.
    run_summary : mapping
        By `napari_dip.pipeline.autosave.summarise_run`.
    inputs : mapping of str to mapping
        Of each input, in plain JSON types: "layer", "path" of the file behind it or None, and
        whatever else who reads it back wants to know.
    resume : bool
        Whether to go on from what lies there.
    """

    folder: Path
    run_summary: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resume: bool = False


def run_with_autosave(
    place: AutosaveTarget,
    plan: Plan,
    data: Mapping[str, Any],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    preview_seconds: float | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore as `run` does, which says what is yielded, returned and raised.

    What is kept goes when the run ends, by itself or by a person; it stays after a crash, or where
    the run failed and may go on once there is memory, or another device.
    """
    wishes: dict[str, Any] = {"control": control, "preview_seconds": preview_seconds}
    try:
        locked = _lock_run_folder(place, plan, data)
    except OSError:  # the picture is worth more than the means to go on
        return (yield from run(plan, data, **wishes))

    def keep() -> None:
        if not plan.tiles:  # those of tiles lie there by now
            _save_inputs(place, plan, data, store.identity["inputs"])

    path = place.folder / CHECKPOINT_FILE
    store = CheckpointStore(
        path, resume=place.resume, after=AUTOSAVE_DELAY_SECONDS, before=keep, lasting=False
    )
    over = False
    try:
        result = yield from run(plan, data, store=store, **wishes)
        over = True
        return result
    except Refused:
        over = not place.resume
        raise
    finally:
        locked.release()
        if over or not store.has_saved_state():
            InterruptedRun(folder=place.folder, manifest={}).remove()


def _lock_run_folder(place: AutosaveTarget, plan: Plan, data: Mapping[str, Any]) -> FolderLock:
    """Make the folder this process's own; raises OSError if nothing can be kept there."""
    if place.resume:
        return FolderLock(place.folder)
    place.folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_runs(place.folder.parent)
    if os.path.lexists(place.folder):
        raise FileExistsError(17, "a folder of that name is there")
    make_run_folder(place.folder, 0o700)
    lock = None
    try:
        lock = FolderLock(place.folder)
        if plan.tiles:  # which lie there from the start
            _save_inputs(place, plan, data)
        return lock
    except OSError:
        if lock is not None:
            lock.release()
        remove_run_folder(place.folder)
        raise


def _save_inputs(
    place: AutosaveTarget,
    plan: Plan,
    data: Mapping[str, Any],
    hashes: Mapping[str, str] | None = None,
) -> None:
    """Copy the pixels that no file holds, and write down the rest.

    Parameters
    ----------
    place, plan, data
        As for `run_with_autosave`.
    hashes : mapping of str to str, optional
        Of the inputs that the run has read.

    Raises
    ------
    OSError
        If they are too many, have changed since they were read, or the disk does not take them.
    """
    if place.resume:
        return
    noted = {
        name: _describe_saved_input(name, item, data[name]) for name, item in place.inputs.items()
    }
    for name, entry in noted.items():
        if entry["sha256"] != (hashes or {}).get(name, entry["sha256"]):
            raise OSError(f"the pixels of '{entry['layer']}' have changed since they were read")
    copied = {name: np.asarray(data[name]) for name, item in noted.items() if item["file"]}
    count = sum(array.nbytes for array in copied.values())
    if count > MAX_COPIED_BYTES:
        raise OSError(
            f"{format_bytes(count)} of pixels lie in no file, and "
            f"{format_bytes(MAX_COPIED_BYTES)} is the most"
        )
    if shutil.disk_usage(place.folder).free < 2 * (count + plan.peak_bytes):
        raise OSError("no space left beside what it would take")
    for name, array in copied.items():
        with (place.folder / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    try:
        write_run_manifest(place.folder, place.run_summary, noted)
    except DipError as error:
        raise OSError(str(error)) from error


def _describe_saved_input(name: str, item: Mapping[str, Any], array: Any) -> dict[str, Any]:
    """Say how the pixels of an input are found again: in a file that holds them, or a copy."""
    digest = compute_sha256(array)
    path = item.get("path")
    if path is not None and hash_file_pixels(path, tuple(array.shape)) != digest:
        path = None
    return {**item, "sha256": digest, "path": path, "file": None if path else f"{name}.npy"}


def read_run_inputs(run: InterruptedRun, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Find the inputs of a run again.

    Parameters
    ----------
    run : InterruptedRun
    layers : mapping of str to array
        Pixels that may be those of an input already, by its name.

    Returns
    -------
    dict of str to ndarray or None
        Pixels of each input; None where those that are there are the same.

    Raises
    ------
    Refused
        If they are gone, or others.
    """
    return {name: _find_input_pixels(run, name, layers.get(name)) for name in run.inputs}


def _find_input_pixels(run: InterruptedRun, name: str, layer: Any) -> Any:
    noted = run.inputs[name]
    if layer is not None and compute_sha256(np.asarray(layer)) == noted["sha256"]:
        return None
    where = noted["path"] or str(run.folder / noted["file"])
    try:
        if noted["path"]:
            pixels = np.asarray(open_pixels(read_spec(noted["path"]))[...])
        else:
            pixels = np.load(run.folder / noted["file"], allow_pickle=False)
    except (DipError, OSError, ValueError) as error:
        facts = {"layer": noted["layer"], "path": where}
        raise Refused(refusal("unfinished-gone", **facts)) from error
    if compute_sha256(pixels) != noted["sha256"]:
        raise Refused(refusal("unfinished-changed", layer=noted["layer"], path=where))
    return pixels
