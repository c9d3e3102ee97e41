"""What a checkpoint holds, as named tensors and plain JSON: a fit in progress, and units done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from napari_dip.run.machine import torch_version
from napari_dip.run.units import UnitOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.engine.progress import Checkpoint
    from napari_dip.run.plan import Plan

_PARTS = ("step", "rollback", "best")


def identity_of(plan: Plan, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Say which run something belongs to, in plain JSON types: all that its pixels depend on.

    Parameters
    ----------
    plan : Plan
    hashes : mapping of str to str
        Of the pixels of each input.
    """
    from napari_dip import __version__

    return {
        "version": __version__,
        "torch": torch_version(),
        "recipe": plan.recipe.to_dict(),
        "budget": json.loads(json.dumps(asdict(plan.budget))),
        "inputs": dict(hashes),
        "axes": plan.source.axes,
        "device": plan.device,
        "threads": plan.threads,
        **({} if plan.network is None else {"network": plan.network.sha256}),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """The units that are done: copies, so that later units do not creep in."""

    sums: npt.NDArray[Any]
    predictions: npt.NDArray[Any]
    count: npt.NDArray[Any]
    learned: Mapping[str, npt.NDArray[Any]]
    outcomes: tuple[UnitOutcome, ...]
    weights: Mapping[str, Any]


def pack(
    latest: tuple[Checkpoint, str] | None, done: Done | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flatten to named tensors and a JSON header."""
    import torch

    tensors: dict[str, Any] = {}
    header: dict[str, Any] = {"fit": None, "outcomes": []}
    if done is not None:
        tensors["done/sums"] = torch.from_numpy(done.sums)
        tensors["done/predictions"] = torch.from_numpy(done.predictions)
        for name, array in done.learned.items():
            tensors[f"learned/{name}"] = torch.from_numpy(array)
        for name, value in done.weights.items():
            tensors[f"weights/{name}"] = value.contiguous()
        tensors["done/count"] = torch.from_numpy(done.count)
        header["outcomes"] = [asdict(outcome) for outcome in done.outcomes]
    if latest is not None:
        point, unit = latest
        for part in _PARTS:
            for name, value in getattr(point, part).items():
                tensors[f"{part}/{name}"] = value.contiguous()
        header["fit"] = {
            "unit": unit,
            "best_iteration": point.best_iteration,
            "rollbacks": point.rollbacks,
            "notes": list(point.notes),
            "history": [[one.iteration, one.fitted, one.held_out] for one in point.history],
        }
    return tensors, header


def unpack(
    tensors: dict[str, Any], header: dict[str, Any]
) -> tuple[tuple[Checkpoint, str] | None, Done | None]:
    """Undo `pack`."""
    from napari_dip.engine.progress import Checkpoint
    from napari_dip.engine.stopping import Judgement

    done = None
    if "done/sums" in tensors:
        outcomes = [read_outcome(raw) for raw in header["outcomes"]]
        sums, predictions, count = (
            tensors[f"done/{name}"].numpy() for name in ("sums", "predictions", "count")
        )
        learned = {
            name.removeprefix("learned/"): value.numpy()
            for name, value in tensors.items()
            if name.startswith("learned/")
        }
        weights = {
            name.removeprefix("weights/"): value
            for name, value in tensors.items()
            if name.startswith("weights/")
        }
        done = Done(sums, predictions, count, learned, tuple(outcomes), weights)
    fit = header["fit"]
    if fit is None:
        return None, done
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part in parts:
            parts[part][rest] = value
    point = Checkpoint(
        **parts,
        best_iteration=int(fit["best_iteration"]),
        history=tuple(Judgement(int(i), float(a), float(b)) for i, a, b in fit["history"]),
        rollbacks=int(fit["rollbacks"]),
        notes=tuple(fit["notes"]),
    )
    return (point, str(fit["unit"])), done


def read_outcome(raw: Mapping[str, Any]) -> UnitOutcome:
    """Undo `asdict` of an outcome that was kept as JSON."""
    history = tuple((int(i), float(a), float(b)) for i, a, b in raw["history"])
    lists = {name: tuple(raw[name]) for name in ("notes", "evidence", "gain")}
    return UnitOutcome(**{**raw, "history": history, **lists})
