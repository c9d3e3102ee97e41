"""One Python function for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.run.api import restore
from napari_dip.run.recipe import make_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.run.events import Event, Restoration


def denoise(
    image: Any,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Remove the noise of one image, with nothing learned from any other.

    Parameters
    ----------
    image : array-like or path
        Numbers of any type: NumPy or dask array, nested lists, or the path of an image file.
    preset : {"fast", "balanced", "best"}
    seed : int
        The same seed gives the same pixels on the same kind of machine.
    device : {"auto", "cpu", "cuda", "mps"}
    progress : callable, optional
        Called with each `Event`, in this thread.
    axes : str, optional
        One letter for each axis out of T, C, Z, Y, X and S (S = red, green, blue), such as
        "YXS" for a colour image. Default: "YX" for two axes, "ZYX" for three; a file's own.
    **settings
        Any other setting of a recipe, such as ``prior="noise"`` or ``max_iterations=200``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input.

    Raises
    ------
    Refused
        If the image or a setting cannot be used; nothing was computed.
    Failed
        If the work began and could not end well.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.
    """
    recipe = make_recipe("denoise", preset=preset, seed=seed, device=device, **settings)
    return restore(image, recipe, progress=progress, axes=axes)
