"""The layer that shows a run on its way, and its result in the end."""

from __future__ import annotations

import pickle
from math import inf
from statistics import fmean
from typing import TYPE_CHECKING, Any

from napari.layers import Image

from napari_dip.qt.contrast import in_sight, range_of
from napari_dip.qt.provenance import METADATA_KEY
from napari_dip.qt.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import napari.viewer
    import numpy as np
    import numpy.typing as npt


class Preview:
    """The one layer that shows a running restoration; its result when the run is over, or gone.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    name : str
        Of the input layer.
    look : mapping
        By `look_of`.
    part : bool
        Whether a part of the layer is restored.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        name: str,
        look: Mapping[str, Any],
        *,
        part: bool = False,
    ) -> None:
        self._viewer, self._part = viewer, part
        self._name = f"{name} preview"
        self._look = dict(look) | {"metadata": {METADATA_KEY: {"preview": True}}}
        self._layer: Image | None = None
        self._dismissed = False
        self._seen = (inf, -inf)  # least and greatest value so far
        self._limits: tuple[float, ...] | None = None

    def show(self, picture: npt.NDArray[np.float32] | None) -> None:
        """Put a new picture, if there is one, into the layer, unless the user has removed it.

        Raises
        ------
        Exception
            If napari does not take it, of any kind; no more pictures are shown then.
        """
        if self._dismissed or picture is None:
            return
        if self._layer is not None and self._layer not in self._viewer.layers:
            self._dismissed, self._layer = True, None
            return
        try:
            self._put(picture)
        except Exception:
            self._dismissed = True
            raise

    def _put(self, picture: npt.NDArray[np.float32]) -> None:
        look = self._look_for(picture)
        if self._layer is None:
            self._layer = Image(picture, name=self._name, **look)
            with undisturbed(self._viewer):
                self._viewer.add_layer(self._layer)
        else:
            self._layer.data = picture
            if tuple(self._layer.contrast_limits) != self._limits:  # they are the user's own now
                return
            self._layer.contrast_limits = look.get("contrast_limits", self._limits)
        self._limits = tuple(self._layer.contrast_limits)

    def _look_for(self, picture: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Have all pictures so far in sight: limits that only widen do not flicker."""
        low, high = range_of(picture)
        self._seen = min(self._seen[0], low), max(self._seen[1], high)
        return in_sight(self._look, self._seen, part=self._part)

    @property
    def dismissed(self) -> bool:
        """Whether no more pictures are shown, as where the user has removed the layer."""
        gone = self._layer is not None and self._layer not in self._viewer.layers
        return self._dismissed or gone

    def remove(self) -> None:
        """Take the layer away; no more pictures are shown."""
        layer, self._layer, self._dismissed = self._layer, None, True
        if layer is not None and layer in self._viewer.layers:
            with undisturbed(self._viewer):
                self._viewer.layers.remove(layer)

    def become(
        self, picture: npt.NDArray[np.float32], name: str, look: Mapping[str, Any]
    ) -> Image | None:
        """Let the layer show a result from now on, under its own name, as a new one would be.

        napari takes half a second to take one layer out and put another one in, for which the
        window stands still.

        Returns
        -------
        Image or None
            None where there is no such layer on top of all others; then nothing was changed.

        Raises
        ------
        Exception
            If napari does not take it, of any kind; the layer is gone, or has the picture.
        """
        layer, layers = self._layer, self._viewer.layers
        if layer is None or not len(layers) or layers[-1] is not layer:
            return None
        if layer.data.shape != picture.shape or layer.data.dtype != picture.dtype:
            return None
        self._layer, self._dismissed = None, True
        try:
            _show(layer, picture, name, look)
        except Exception:
            if layer.data is not picture:  # else it holds the result, whatever failed after that
                layers.remove(layer)
            raise
        return layer


def _show(
    layer: Image, picture: npt.NDArray[np.float32], name: str, look: Mapping[str, Any]
) -> None:
    """Make a layer what a new one of that picture, name and look would be."""
    layer.metadata = dict(look["metadata"])  # no preview any more when others hear its name
    layer.data = picture
    had = layer.as_layer_data_tuple()[1]
    for key, value in look.items():
        if key in ("metadata", "rgb", "multiscale", "contrast_limits"):
            continue
        # each change is drawn: as bytes, what is the same may look changed, never the reverse
        if pickle.dumps(had[key]) != pickle.dumps(value):
            setattr(layer, key, value)
    if (limits := look.get("contrast_limits")) is None:
        layer.reset_contrast_limits()
    else:
        layer.contrast_limits_range = layer.contrast_limits = limits
    layer.iso_threshold = fmean(layer.contrast_limits_range)
    layer.name = name
