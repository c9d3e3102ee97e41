"""Checkpoints on disk: what an interrupted run needs to go on exactly where it was.

One safetensors file: tensors of the fit in progress and sums of the units that are done, with
a JSON header that says which run it belongs to. No pickle, so opening one runs nothing.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.run.merge import UnitOutcome

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.engine.progress import Checkpoint
    from napari_dip.run.merge import Merge
    from napari_dip.run.plan import Plan

#: Raised by one whenever a checkpoint written before could not be gone on from.
SCHEMA = 1
#: Seconds between two writings: a crash costs no more than this, the writing next to nothing.
INTERVAL = 20.0


class Store:
    """Keeps the checkpoint of one run in one file.

    Parameters
    ----------
    path : path
        Of the checkpoint.
    resume : bool
        Whether to go on from the file if it is there.

    Attributes
    ----------
    failure : Refusal or None
        Why the last writing did not succeed. It never ends the run: the picture is worth more.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool) -> None:
        self.path = Path(path)
        self.failure: Refusal | None = None
        self._resume = resume
        self._identity: dict[str, Any] = {}
        self._merge: Merge | None = None
        self._latest: tuple[Checkpoint, str, int] | None = None
        self._written = time.monotonic()

    def open(self, plan: Plan, array: npt.NDArray[Any], merge: Merge) -> Checkpoint | None:
        """Begin to keep; give back where to go on from, with `merge` filled up to there.

        Raises
        ------
        Refused
            If the file belongs to another run, or is damaged.
        """
        from napari_dip.run.receipt import sha256

        self._merge = merge
        self._identity = {
            "schema": SCHEMA,
            "recipe": plan.recipe.to_dict(),
            "input": sha256(array),
            "device": plan.device,
            "threads": plan.threads,
        }
        if not self._resume or not self.path.exists():
            return None
        return self._read(merge)

    def offer(self, checkpoint: Checkpoint, unit: str) -> None:
        """Take note of where the fit stands; write it if the last writing was long ago."""
        if self._merge is None or not checkpoint.history:
            return
        self._latest = (checkpoint, unit, len(self._merge.outcomes))
        if time.monotonic() - self._written >= INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the latest checkpoint whole or not at all; `failure` says if it did not work."""
        if self._latest is None or self._merge is None:
            return
        checkpoint, unit, finished = self._latest
        tensors, header = _pack(checkpoint, self._merge, finished)
        header |= {"unit": unit, "identity": self._identity}
        part = self.path.with_name(self.path.name + ".part")
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(tensors, part, metadata={"napari_dip": json.dumps(header)})
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(self.path)
            self.failure = None
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self.failure = refusal("disk-full", path=self.path, why=error)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the checkpoint once the result is safe."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _read(self, merge: Merge) -> Checkpoint:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["napari_dip"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if header["identity"] != self._identity:
                raise Refused(refusal("resume-other", path=self.path))
            checkpoint = _unpack(tensors, header, merge)
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise Refused(refusal("resume-broken", path=self.path, why=error)) from error
        return checkpoint


def _pack(
    checkpoint: Checkpoint, merge: Merge, finished: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flatten to named tensors and a JSON header."""
    import torch

    tensors = {
        f"{part}/{name}": value.contiguous()
        for part in ("step", "rollback", "best")
        for name, value in getattr(checkpoint, part).items()
    }
    tensors["merge/sums"] = torch.from_numpy(merge.sums)
    tensors["merge/count"] = torch.from_numpy(merge.count)
    header = {
        "best_iteration": checkpoint.best_iteration,
        "rollbacks": checkpoint.rollbacks,
        "history": [
            [one.iteration, repr(one.fitted), repr(one.held_out)] for one in checkpoint.history
        ],
        "outcomes": [asdict(outcome) for outcome in merge.outcomes[:finished]],
    }
    return tensors, header


def _unpack(tensors: dict[str, Any], header: dict[str, Any], merge: Merge) -> Checkpoint:
    """Undo `_pack`, filling `merge`."""
    from napari_dip.engine.progress import Checkpoint
    from napari_dip.engine.stopping import Judgement

    merge.sums[...] = tensors["merge/sums"].numpy()
    merge.count[...] = tensors["merge/count"].numpy()
    for raw in header["outcomes"]:
        history = tuple((int(i), float(fitted), float(held)) for i, fitted, held in raw["history"])
        merge.outcomes.append(
            UnitOutcome(**{**raw, "history": history, "notes": tuple(raw["notes"])})
        )
    parts: dict[str, dict[str, Any]] = {"step": {}, "rollback": {}, "best": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part in parts:
            parts[part][rest] = value
    judged = tuple(Judgement(int(i), float(a), float(b)) for i, a, b in header["history"])
    return Checkpoint(
        **parts,
        best_iteration=int(header["best_iteration"]),
        history=judged,
        rollbacks=int(header["rollbacks"]),
    )
