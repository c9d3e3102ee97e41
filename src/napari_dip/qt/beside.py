"""What can come as layers beside a result: how sure it is, and what was taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils import Colormap

from napari_dip.qt.provenance import with_provenance
from napari_dip.qt.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import napari.layers
    import napari.viewer
    import numpy.typing as npt

    from napari_dip.run.events import Restoration

#: Keys, as attributes of a `Restoration`, and how users know them.
EXTRAS = {
    "uncertainty": (
        "Uncertainty",
        "Standard deviation of each pixel, in the picture's units: dark where it is sure. "
        "The layer comes hidden; its eye in the layer list shows it.",
    ),
    "residual": (
        "Residual",
        "What was taken out of the picture, grey where that is nothing. It should look like noise: "
        "lines and spots in it are structure that was lost. "
        "The layer comes hidden; its eye in the layer list shows it.",
    ),
}
#: Percentile of the absolute values that the contrast limits take in, so that one odd pixel does
#: not make everything else grey.
_MOST = 99.5
#: Blue below zero, orange above, as the curve's colours; of one lightness, so that neither stands
#: out.
_DIVERGING = Colormap(
    [[0.0, 0.45, 0.85], [0.5, 0.5, 0.5], [0.9, 0.55, 0.0]], name="blue, grey at zero, orange"
)


def add_beside(
    viewer: napari.viewer.Viewer,
    kind: str,
    name: str,
    look: Mapping[str, Any],
    result: Restoration,
    trial: str = "",
) -> napari.layers.Image | None:
    """Add one of `EXTRAS` above the result, hidden at first; None if the result has none.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    kind : str
        Key of `EXTRAS`.
    name : str
        Of the input layer.
    look : mapping
        Place and metadata: of the result for the uncertainty, of the input for the residual.
    result : Restoration
    trial : str
        What was tried, if the result is not of the whole; goes into the layer's name.
    """
    pixels = getattr(result, kind)
    if pixels is None:
        return None
    pixels = _one_colour(pixels) if look.get("rgb") else pixels
    high = float(np.percentile(np.abs(pixels), _MOST)) or float(np.abs(pixels).max()) or 1.0
    low, colours = (0.0, "magma") if kind == "uncertainty" else (-high, _DIVERGING)
    with undisturbed(viewer):
        return viewer.add_image(
            pixels,
            name=" ".join(filter(None, [name, trial, kind])),
            **{key: look[key] for key in _PLACE if key in look},
            colormap=colours,
            contrast_limits=(low, high),
            blending="translucent_no_depth",
            visible=False,  # it would cover the result
            metadata=with_provenance(look, name, result, kind),
        )


_PLACE = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


def _one_colour(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bring red, green and blue to one figure, with its sign: napari shows no negative colours."""
    mean = pixels.mean(-1)
    return np.asarray(
        np.sqrt((pixels.astype(np.float64) ** 2).mean(-1)) * np.sign(mean), np.float32
    )
