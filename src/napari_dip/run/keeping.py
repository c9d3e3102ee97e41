"""Run as ever, and keep on the disk what it takes to go on after a crash; and read it back."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import DipError, Refused, refusal
from napari_dip.io.reading import read_spec
from napari_dip.io.regions import on_disk
from napari_dip.run.checkpoints import Store
from napari_dip.run.held import Held, make_run_folder, remove_run_folder
from napari_dip.run.meanwhile import file_digest
from napari_dip.run.plan import size
from napari_dip.run.receipt import sha256
from napari_dip.run.runner import Control, run
from napari_dip.run.unfinished import CHECKPOINT, Unfinished, make_room, write_told

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from napari_dip.run.events import Event, Restoration
    from napari_dip.run.plan import Plan

#: Seconds before anything is kept: a run that is over by then is soon made again.
AFTER = 5.0
#: Bytes of pixels that are copied at most, where no file holds them: a quarter of the memory of
#: small computers. A run of larger ones is not kept.
MOST_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a run is kept, and what is written down of it.

    Attributes
    ----------
    folder : Path
        Its own.
    about : mapping
        By `napari_dip.run.unfinished.told_of`.
    inputs : mapping of str to mapping
        Of each input, in plain JSON types: "layer", "path" of the file behind it or None, and
        whatever else who reads it back wants to know.
    resume : bool
        Whether to go on from what lies there.
    """

    folder: Path
    about: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resume: bool = False


def run_kept(
    place: Place,
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
        held = _hold(place, plan, data)
    except OSError:  # the picture is worth more than the means to go on
        return (yield from run(plan, data, **wishes))

    def keep() -> None:
        if not plan.tiles:  # those of tiles lie there by now
            _keep_inputs(place, plan, data, store.identity["inputs"])

    path = place.folder / CHECKPOINT
    store = Store(path, resume=place.resume, after=AFTER, before=keep, lasting=False)
    over = False
    try:
        result = yield from run(plan, data, store=store, **wishes)
        over = True
        return result
    except Refused:
        over = not place.resume
        raise
    finally:
        held.let_go()
        if over or not store.begun():
            Unfinished(place.folder, {}).remove()


def _hold(place: Place, plan: Plan, data: Mapping[str, Any]) -> Held:
    """Make the folder this process's own; raises OSError if nothing can be kept there."""
    if place.resume:
        return Held(place.folder)
    place.folder.parent.mkdir(parents=True, exist_ok=True)
    make_room(place.folder.parent)
    if os.path.lexists(place.folder):
        raise FileExistsError(17, "a folder of that name is there")
    make_run_folder(place.folder, 0o700)
    held = None
    try:
        held = Held(place.folder)
        if plan.tiles:  # which lie there from the start
            _keep_inputs(place, plan, data)
        return held
    except OSError:
        if held is not None:
            held.let_go()
        remove_run_folder(place.folder)
        raise


def _keep_inputs(
    place: Place, plan: Plan, data: Mapping[str, Any], hashes: Mapping[str, str] | None = None
) -> None:
    """Copy the pixels that no file holds, and write down the rest.

    Parameters
    ----------
    place, plan, data
        As for `run_kept`.
    hashes : mapping of str to str, optional
        Of the inputs that the run has read.

    Raises
    ------
    OSError
        If they are too many, have changed since they were read, or the disk does not take them.
    """
    if place.resume:
        return
    noted = {name: _noted(name, one, data[name]) for name, one in place.inputs.items()}
    for name, one in noted.items():
        if one["sha256"] != (hashes or {}).get(name, one["sha256"]):
            raise OSError(f"the pixels of '{one['layer']}' have changed since they were read")
    copied = {name: np.asarray(data[name]) for name, one in noted.items() if one["file"]}
    count = sum(array.nbytes for array in copied.values())
    if count > MOST_BYTES:
        raise OSError(f"{size(count)} of pixels lie in no file, and {size(MOST_BYTES)} is the most")
    if shutil.disk_usage(place.folder).free < 2 * (count + plan.peak_bytes):
        raise OSError("no space left beside what it would take")
    for name, array in copied.items():
        with (place.folder / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    try:
        write_told(place.folder, place.about, noted)
    except DipError as error:
        raise OSError(str(error)) from error


def _noted(name: str, one: Mapping[str, Any], array: Any) -> dict[str, Any]:
    """Say how the pixels of an input are found again: in a file that holds them, or a copy."""
    digest = sha256(array)
    path = one.get("path")
    if path is not None and file_digest(path, tuple(array.shape)) != digest:
        path = None
    return {**one, "sha256": digest, "path": path, "file": None if path else f"{name}.npy"}


def read_back(one: Unfinished, there: Mapping[str, Any]) -> dict[str, Any]:
    """Find the inputs of a run again.

    Parameters
    ----------
    one : Unfinished
    there : mapping of str to array
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
    return {name: _pixels(one, name, there.get(name)) for name in one.inputs}


def _pixels(one: Unfinished, name: str, there: Any) -> Any:
    noted = one.inputs[name]
    if there is not None and sha256(np.asarray(there)) == noted["sha256"]:
        return None
    where = noted["path"] or str(one.folder / noted["file"])
    try:
        if noted["path"]:
            pixels = np.asarray(on_disk(read_spec(noted["path"]))[...])
        else:
            pixels = np.load(one.folder / noted["file"], allow_pickle=False)
    except (DipError, OSError, ValueError) as error:
        facts = {"layer": noted["layer"], "path": where}
        raise Refused(refusal("unfinished-gone", **facts)) from error
    if sha256(pixels) != noted["sha256"]:
        raise Refused(refusal("unfinished-changed", layer=noted["layer"], path=where))
    return pixels
