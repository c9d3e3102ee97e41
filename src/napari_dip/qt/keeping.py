"""A snapshot as a layer of its own: another stop than the one that the run took by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

import napari_dip
from napari_dip.qt.contrast import in_sight, range_of
from napari_dip.qt.provenance import METADATA_KEY, provenance
from napari_dip.qt.undisturbed import undisturbed

if TYPE_CHECKING:
    import napari.layers
    import napari.viewer

    from napari_dip.qt.asked import Asked
    from napari_dip.qt.snapshots import Snapshot
    from napari_dip.run.events import Restoration

#: What a run's report says of its own picture, and not of another one.
_OF_ITS_PICTURE = ("verdict", "residual", "output_sha256", "best_iteration", "stop_reason")


class KeptSnapshots:
    """Makes layers of one run's snapshots; what only the end of the run tells is added then.

    Parameters
    ----------
    asked : Asked
        What the run was asked for.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._result: Restoration | None = None
        self._kept: list[tuple[ref[napari.layers.Image], Snapshot]] = []

    def __bool__(self) -> bool:
        """Whether any was kept."""
        return bool(self._kept)

    def add(self, viewer: napari.viewer.Viewer, snapshot: Snapshot) -> str:
        """Add a snapshot as a new layer; returns the layer's name."""
        asked = self._asked
        name = f"{asked.name} {asked.plan.recipe.task.done}, {place_of(snapshot)}"
        metadata = {**asked.look["metadata"], METADATA_KEY: self._told(snapshot)}
        with undisturbed(viewer):
            look = in_sight(asked.look, range_of(snapshot.picture), part=bool(asked.trial))
            layer = viewer.add_image(
                snapshot.picture.copy(), name=name, **{**look, "metadata": metadata}
            )
        self._kept.append((ref(layer), snapshot))
        return str(layer.name)

    def end(self, result: Restoration) -> None:
        """Write what the run found out into the layers that were kept while it was on."""
        self._result = result
        for one, snapshot in self._kept:
            if (layer := one()) is not None:
                layer.metadata[METADATA_KEY] = self._told(snapshot)

    def _told(self, snapshot: Snapshot) -> dict[str, Any]:
        """How a snapshot came about, in plain JSON types."""
        plan, result = self._asked.plan, self._result
        place = place_of(snapshot)
        told: dict[str, Any] = {
            "version": napari_dip.__version__,
            "recipe": plan.recipe.to_dict(),
            "seed": plan.recipe.common.seed,
            "device": plan.device,
            "input": {"name": self._asked.name, "sha256": None},
            "seconds": round(snapshot.seconds, 2),
        }
        if result is not None:
            report = {key: one for key, one in result.report.items() if key not in _OF_ITS_PICTURE}
            told |= {**provenance(self._asked.name, result), "report": report}
            told["automatic"] = {
                "best_iteration": result.best_iteration,
                "stop_reason": result.stop_reason,
            }
        return {
            **told,
            "inputs": self._asked.look["metadata"][METADATA_KEY]["inputs"],
            "iterations": snapshot.iteration,
            "best_iteration": snapshot.iteration,
            "unit": [snapshot.unit, snapshot.units],
            "stop_reason": f"you kept the picture of {place} from the history of the run",
            "shows": "snapshot",
        }


def place_of(snapshot: Snapshot) -> str:
    """Say where in the run a snapshot was taken."""
    words = f"iteration {snapshot.iteration}"
    return words if snapshot.units == 1 else f"part {snapshot.unit}, {words}"
