"""Hold the state of one run in a folder: a lock, a manifest, entries and crash counters.

The manifest has the identity of the run: everything that its result depends on. Entries are written
atomically and belong to that run alone. The marker file proves that a run created the folder, and
its lock ends with the process. Only files that runs write are ever removed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import RefusedError
from napari_dip.io.atomic import write_atomically
from napari_dip.io.outputs import format_lock_owner, lock_file
from napari_dip.io.paths import (
    convert_save_errors,
    parse_strict_json,
    read_small_text,
    resolve_target,
)
from napari_dip.pipeline.assess.report_fields import (
    CountField,
    StrictModel,
    TextField,
    read_record,
    rename_fields,
)
from napari_dip.pipeline.machine import get_torch_version
from napari_dip.pipeline.store.tensor_file import DAMAGE_ERRORS, DamagedFileError, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.public_types import FilePath

#: Schema of run folders; increased when older ones can no longer be read.
RUN_FOLDER_SCHEMA = 1
RUN_MANIFEST_FILE = "run.json"
ENTRY_SUFFIX = ".safetensors"
COUNTER_SUFFIX = ".starts"
#: Maximum size of a manifest in bytes; a usual one has a few thousand.
_MAX_MANIFEST_BYTES = 50_000_000
#: Name of the marker file in a run folder.
MARKER_FILE = "held"
#: First bytes of the marker file; a file without them is of other origin.
_MARKER_PREFIX = b"napari-dip: a run keeps its state here"
#: Maximum number of bytes of a marker file that are read.
_MAX_MARKER_BYTES = 4096
#: Names of files that runs write into their folders. Files with other names are never removed.
_RUN_FILE_PATTERN = re.compile(
    r"held|run\.json|[\w-]+\.(safetensors|npy)|(picture|deviation|residual)\.raw"
    r"|\.napari-dip-[\w.-]+\.part"
)
#: Permissions of a folder, unless its content is private.
_FOLDER_MODE = 0o777


class _CountFields(StrictModel):
    session: TextField
    begun: CountField


class RunFolder:
    """The folder of one run.

    Parameters
    ----------
    path : path
        If a file or folder of other origin has this name, a number is appended.
    resume : bool
        Whether to continue from the entries of an earlier run. Otherwise, they are removed before
        the first one is written.

    Attributes
    ----------
    path : Path
    resume : bool
    identity : dict
        Identity of the run, in plain JSON types; empty until `open` is called.
    summary : dict
        Further fields of the manifest.
    """

    def __init__(self, path: FilePath, *, resume: bool) -> None:
        self._requested_path = Path(path)
        self.path: Path = _find_run_path(self._requested_path, resume=resume)
        self.resume: bool = resume
        self.identity: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self._parent = resolve_target(self.path.parent)
        self._is_cleared = resume
        self._has_manifest = False
        self._lock_handle = -1

    def open(self, identity: Mapping[str, Any]) -> None:
        """Set the identity of the run.

        Raises
        ------
        RefusedError
            If the run is to be resumed, and the folder is of another run or is damaged.
        """
        self.identity = json.loads(json.dumps(dict(identity)))
        if not self.resume or not os.path.lexists(self.path):
            return
        why, is_same_run = "it is damaged or cut off", True
        try:
            if not is_run_folder(self.path):
                why = "no run of this version wrote it"
                raise DamagedFileError(why)
            has_entries = self.has_entries()  # before the manifest, which is older than any of them
            if has_entries or (self.path / RUN_MANIFEST_FILE).exists():
                self.summary = read_manifest(self.path)
                identity = rename_fields("identity", self.summary.get("identity") or {})
                is_unused = not identity and not has_entries
                is_same_run = is_unused or (
                    (self.summary["schema"], identity) == (RUN_FOLDER_SCHEMA, self.identity)
                )
        except (RefusedError, *DAMAGE_ERRORS) as error:
            raise RefusedError("resume-broken", path=self.path, why=why) from error
        if not is_same_run:
            raise RefusedError("resume-other", path=self.path)

    def restart(self) -> None:
        """Replace what is stored instead of resuming it."""
        self.path = _find_run_path(self._requested_path, resume=False)
        self.resume = self._is_cleared = False
        self.summary = {}

    def create(self, mode: int = _FOLDER_MODE) -> None:
        """Create the folder with its marker, unless it exists.

        Raises
        ------
        OSError
            If it cannot be created, or something of other origin has its name.
        """
        self._check_parent()
        make_run_folder(self.path, mode)

    def lock(self) -> bool:
        """Lock the folder until `release` or the end of the process; return False if it was locked.

        Raises
        ------
        BlockingIOError, PermissionError
            If another process has locked the folder.
        OSError
            If the disk is not writable or has no locks.
        """
        if self._lock_handle >= 0:
            return False
        self._lock_handle = _lock_marker(self.path)
        return True

    def release(self) -> None:
        """Release the lock; further calls have no effect."""
        handle, self._lock_handle = self._lock_handle, -1
        if handle >= 0:
            os.close(handle)

    def clear(self) -> None:
        """Remove the entries of an earlier run, once, unless it is resumed."""
        if not self._is_cleared:
            empty_run_folder(self.path)
            self._is_cleared = True

    def initialise(self) -> None:
        """Create the folder, empty it and write its manifest, once; raise OSError if that fails."""
        if not self._has_manifest:
            self.create()
            self.clear()
            self.write_manifest()
            self._has_manifest = True

    def write_manifest(self) -> None:
        """Write summary and identity; raise OSError if they cannot be written."""
        identity = {"identity": self.identity} if self.identity else {}
        content = {**self.summary, "schema": RUN_FOLDER_SCHEMA, **get_pixel_versions(), **identity}
        with write_atomically(self.path / RUN_MANIFEST_FILE, overwrite=True) as temporary_path:
            temporary_path.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def save(
        self,
        name: str,
        tensors: Mapping[str, Any],
        metadata: Mapping[str, Any],
        fallback_folder: Path | None = None,
    ) -> None:
        """Write an entry, or its copy in another folder; raise OSError if that fails.

        A link that lies at its path is replaced, not followed.
        """
        path = self.get_path(name, fallback_folder)
        if path.parent == self.path:
            self.initialise()
            self._check_parent()
        if path.is_symlink():
            path.unlink()
        write_tensors(path, tensors, metadata)

    def get_path(self, name: str, fallback_folder: Path | None = None) -> Path:
        """Return the path of an entry, whether it exists or not."""
        return (fallback_folder or self.path) / f"{name}{ENTRY_SUFFIX}"

    def has_entries(self) -> bool:
        """Return whether there is an entry of an earlier run or of this one."""
        return is_run_folder(self.path) and any(self.path.glob(f"*{ENTRY_SUFFIX}"))

    def count_starts(self, session: str, name: str = "*") -> int:
        """Return how often a job was started in a session without reaching its end.

        Parameters
        ----------
        session : str
        name : str
            Name of the job; "*" stands for the one that was started most often.
        """
        counters = map(_read_counter, self.path.glob(f"{name}{COUNTER_SUFFIX}"))
        counts = (c["begun"] for c in counters if c is not None and c["session"] == session)
        return max(counts, default=0)

    def add_start(self, session: str, name: str) -> None:
        """Count one start of a job before its work begins; raise `FailedError` if that fails."""
        path = self.path / f"{name}{COUNTER_SUFFIX}"
        if os.path.lexists(path) and _read_counter(path) is None:  # not a file of ours
            return
        content = {"session": session, "begun": self.count_starts(session, name) + 1}
        with convert_save_errors(self.path):
            self.create()
            with write_atomically(path, overwrite=True) as temporary_path:
                temporary_path.write_text(json.dumps(content), encoding="utf-8")

    def remove_starts(self, name: str) -> None:
        """Remove the crash counter of a job that has ended."""
        path = self.path / f"{name}{COUNTER_SUFFIX}"
        if _read_counter(path) is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def remove_entry(self, name: str) -> None:
        """Delete an entry, if possible."""
        with suppress(OSError):
            self._check_parent()
            if is_run_folder(self.path):
                self.get_path(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder, if possible; files of other origin stay in it."""
        with suppress(OSError):
            self._check_parent()
            remove_run_folder(self.path)

    def _check_parent(self) -> None:
        """Raise OSError if the parent folder was replaced by another one or by a link."""
        if resolve_target(self.path.parent) != self._parent:
            raise OSError(errno.ENOENT, "its folder leads elsewhere by now")


def make_run_identity(plan: Plan, axes: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return the identity of a run in plain JSON types: everything its result depends on.

    Parameters
    ----------
    plan : Plan
    axes : str
        Axes of the fitted pixels.
    hashes : mapping of str to str
        SHA-256 of the pixels of each input.
    """
    return {
        **get_pixel_versions(),
        "recipe": plan.recipe.to_dict(),
        "fit_config": asdict(plan.fit_config),
        "inputs": dict(hashes),
        "axes": axes,
        "device": plan.device,
        "threads": plan.threads,
        "tiles": [[*tile.start, *tile.size] for tile in plan.tiles],
        **({} if plan.network is None else {"network": plan.network.sha256}),
    }


def get_pixel_versions() -> dict[str, str]:
    """Return the versions of this package and of torch, which determine the pixels."""
    from napari_dip.version import __version__

    return {"version": __version__, "torch": get_torch_version()}


def read_manifest(folder: Path) -> Any:
    """Read the manifest of a run folder, without judging its fields.

    Raises
    ------
    RefusedError, OSError, ValueError
        If it cannot be read, or is no JSON.
    """
    path = folder / RUN_MANIFEST_FILE
    return parse_strict_json(read_small_text(path, "an unfinished run", _MAX_MANIFEST_BYTES))


def _find_run_path(path: Path, *, resume: bool) -> Path:
    """Return the first path that is free or the folder of a run: `path`, or it with a number.

    If a run is to be resumed and there is none, but something of other origin at `path`, that path
    is returned. Opening it then reports the error.
    """
    candidate, number = path, 2
    while os.path.lexists(candidate) and not is_run_folder(candidate):
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return path if resume and not os.path.lexists(candidate) else candidate


def is_run_folder(folder: Path) -> bool:
    """Return whether a run created a folder, judged by its marker; links are not followed."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return False
        marker = folder / MARKER_FILE
        if not stat.S_ISREG(marker.lstat().st_mode):
            return False
        with marker.open("rb") as file:
            return file.read(_MAX_MARKER_BYTES).startswith(_MARKER_PREFIX)
    except OSError:
        return False


def is_folder_locked(folder: Path) -> bool:
    """Return whether a running process, possibly this one, has locked a folder."""
    try:
        os.close(_lock_marker(folder))
    except OSError as error:
        return isinstance(error, BlockingIOError | PermissionError)
    return False


def make_run_folder(folder: Path, mode: int = _FOLDER_MODE) -> None:
    """Create a folder with its marker atomically, unless it is a run folder already.

    Raises
    ------
    OSError
        If the folder cannot be created, or the path exists and is not a run folder.
    """
    if not os.path.lexists(folder):
        with (
            suppress(FileExistsError),  # another shard of the same run was faster
            write_atomically(folder, overwrite=False) as temporary_folder,
        ):
            temporary_folder.mkdir(mode=mode)
            (temporary_folder / MARKER_FILE).write_bytes(
                b"\n".join((_MARKER_PREFIX, format_lock_owner().encode(), b""))
            )
    if not is_run_folder(folder):
        why = "something of that name is there that is not of this program"
        raise FileExistsError(errno.EEXIST, why)


def empty_run_folder(folder: Path) -> None:
    """Remove the files of runs from a run folder; marker, crash counters and other files stay."""
    if not is_run_folder(folder):
        return
    with suppress(OSError):
        for entry in sorted(folder.iterdir(), key=_get_removal_order):
            is_ours = entry.name != MARKER_FILE and _RUN_FILE_PATTERN.fullmatch(entry.name)
            with suppress(OSError):
                mode = entry.lstat().st_mode
                if is_ours and stat.S_ISREG(mode):
                    entry.unlink()
                elif is_ours and stat.S_ISDIR(mode) and entry.name.endswith(".part"):
                    shutil.rmtree(entry, ignore_errors=True)


def _get_removal_order(path: Path) -> tuple[bool, bool]:
    """Sort entries first, since none may outlive the manifest, and inputs last."""
    return path.suffix != ENTRY_SUFFIX, path.name != RUN_MANIFEST_FILE


def remove_run_folder(folder: Path) -> None:
    """Remove a run folder; if it contains other files, keep it with them."""
    if not is_run_folder(folder):
        return
    empty_run_folder(folder)
    with suppress(OSError):
        for counter in folder.glob(f"*{COUNTER_SUFFIX}"):
            counter.unlink()
        if {entry.name for entry in folder.iterdir()} == {MARKER_FILE}:
            (folder / MARKER_FILE).unlink()
            folder.rmdir()


def _read_counter(path: Path) -> dict[str, Any] | None:
    """Read a crash counter; None if there is no valid file."""
    with suppress(RefusedError, OSError, ValueError):
        record = read_record(path, "crash counter", _CountFields)
        if len(record) == len(_CountFields.model_fields) and not path.is_symlink():
            return record
    return None


def _lock_marker(folder: Path) -> int:
    """Lock the marker file of a folder, and return its open handle."""
    handle = os.open(folder / MARKER_FILE, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        lock_file(handle)
    except OSError:
        os.close(handle)
        raise
    return handle
