"""The Python function of the task that takes a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.run.api import restore
from napari_dip.run.recipe import make_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.run.events import Event, Restoration


def invert_features(
    image: Any,
    network: str = "",
    layer: str = "list",
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Restore an image from what a layer of a network answers to it: see what the layer keeps.

    Parameters
    ----------
    image : array-like or path
        One plane, grey, in colours or in as many channels as the network takes.
    network : str
        Path of a program of torch.export (.pt2), or name of an architecture of torchvision.
    layer : str
        Path of the module whose result is inverted; "list" is refused with the names of all.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``prior="total-variation"`` or "none",
        ``weights="vgg16.safetensors"``, or ``mean="0.5"`` and ``deviation="0.25"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input. No pixel of the input was
        fitted, only the activations of the layer.

    Raises
    ------
    Refused
        If the image, the network or a setting cannot be used; nothing was computed.
    Failed
        If the work began and could not end well.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4.
    """
    chosen = {"preset": preset, "seed": seed, "device": device, **settings}
    recipe = make_recipe("invert-features", network=str(network), layer=layer, **chosen)
    return restore(image, recipe, progress=progress, axes=axes)
