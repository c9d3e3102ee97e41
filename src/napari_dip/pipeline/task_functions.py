"""One Python function for each task.

The Python function of the task that takes a network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.pipeline.api import restore
from napari_dip.pipeline.recipe import OLD_INPUTS, make_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.pipeline.events import Event, Restoration


def denoise(
    image: Any,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    repeated_exposure: Any = None,
    offset_map: Any = None,
    gain_map: Any = None,
    noise_map: Any = None,
    network_file: Any = None,
    **settings: Any,
) -> Restoration:
    """Remove the noise of one image, with nothing learned from any other unless you ask for it.

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
    repeated_exposure : array-like or path, optional
        Another shot of the same object, of the same shape; its exposure may differ.
    offset_map, gain_map, noise_map : array-like or path, optional
        Of an sCMOS camera, one plane each of the image's size: what a pixel reads without light,
        its grey values for a photo-electron, and the standard deviation of its read noise in grey
        values. Offset and gain are corrected first, and noisy pixels count for less.
    network_file : path, optional
        A network that was fitted to files of the same series (``batch(..., joint_training=True)``),
        which is then applied to this image.
    **settings
        Any other setting of a recipe, such as ``prior="random-input"`` or ``max_iterations=200``.

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
    old = {name: settings.pop(name) for name in OLD_INPUTS if name in settings}
    recipe = make_recipe("denoise", preset=preset, seed=seed, device=device, **settings)
    maps = {"offset_map": offset_map, "gain_map": gain_map, "noise_map": noise_map}
    further = {"repeated_exposure": repeated_exposure, "network_file": network_file, **maps}
    others = {**{name: item for name, item in further.items() if item is not None}, **old}
    return restore(image, recipe, progress=progress, axes=axes, **others)


def inpaint(
    image: Any,
    mask: Any = None,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Fill in missing pixels from all the others, with nothing learned from any other image.

    Parameters
    ----------
    image : array-like or path
        Pixels that are not a number (NaN) are filled in, too.
    mask : array-like or path, optional
        Above 0 where pixels are to be filled in: of the image's shape, with or without channels,
        or (Y, X) for all planes. May be left out if there are NaN.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``invert_mask=True``, ``label=2``, ``grow=3`` or
        ``unmasked="denoise"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input. Pixels that were measured keep
        their values, unless ``unmasked="denoise"``.

    Raises
    ------
    Refused, Failed
        As for `denoise`.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.
    """
    recipe = make_recipe("inpaint", preset=preset, seed=seed, device=device, **settings)
    return restore(image, recipe, progress=progress, axes=axes, mask=mask)


def guide(
    image: Any,
    guide: Any,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Restore a noisy picture with the help of a clean one of the same place.

    Parameters
    ----------
    image : array-like or path
        The noisy picture.
    guide : array-like or path
        Same height and width: a brighter channel, or the photograph with flash. It may have
        several channels: a file's own axes say so, or ``planes_are_channels=True``.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``align=True`` or ``prior="random-input"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input; ``report["prior"]`` says whether
        the guide was of use.

    Raises
    ------
    Refused
        If a picture or a setting cannot be used; nothing was computed.
    Failed
        If the work began and could not end well.
    """
    recipe = make_recipe("guide", preset=preset, seed=seed, device=device, **settings)
    return restore(image, recipe, progress=progress, axes=axes, guide=guide)


def super_resolve(
    image: Any,
    factor: int | str | tuple[int, ...] = 2,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Give a finer picture that explains a coarse one.

    Parameters
    ----------
    image : array-like or path
    factor : int or tuple of int
        2, 3, 4 or 8, or one of 1, 2, 3, 4, 8 for each axis as (Y, X), or as (Z, Y, X) for a
        stack; one or two numbers leave the distance of its planes as it is.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``model="binning"`` or ``psf_sigma=1.5``.

    Returns
    -------
    Restoration
        Its ``image`` has the shape of the input times the factor, in the input's intensity units.

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
    chosen = {"preset": preset, "seed": seed, "device": device, **settings}
    recipe = make_recipe("super-resolve", factor=factor, **chosen)
    return restore(image, recipe, progress=progress, axes=axes)


def deblur(
    image: Any,
    psf: Any = None,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Undo a blur whose point spread function (PSF) is known.

    Parameters
    ----------
    image : array-like or path
    psf : array-like or path, optional
        Picture of the PSF, of any sum; of three axes for a volume. Instead of it:
        ``gaussian_sigma`` and ``gaussian_sigma_z`` in pixels, or ``model`` ("widefield" or
        "confocal") with ``na``, ``wavelength``, ``pixel_size`` and ``z_step`` in nm.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``border="circular"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input.

    Raises
    ------
    Refused
        If the image, the PSF or a setting cannot be used; nothing was computed.
    Failed
        If the work began and could not end well.
    """
    recipe = make_recipe("deblur", preset=preset, seed=seed, device=device, **settings)
    return restore(image, recipe, progress=progress, axes=axes, psf=psf)


def blind_deblur(
    image: Any,
    psf_size: int = 31,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Undo a blur that nobody has measured, and find out what it was.

    Parameters
    ----------
    image : array-like or path
    psf_size : int
        Width of the PSF in pixels: rather too wide than too narrow.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``blur="motion"`` ("gaussian", "defocus", "free").

    Returns
    -------
    Restoration
        Its ``learned["psf"]`` is the PSF that was found: (Y, X), or one for each channel that was
        restored by itself, non-negative and of sum one. The figures of a known kind of blur lie
        beside it: "sigmas", "length" and "angle", or "radius".

    Raises
    ------
    Refused
        If the image or a setting cannot be used; nothing was computed.
    Failed
        If the work began and could not end well.

    References
    ----------
    Ren et al., Neural blind deconvolution using deep priors, CVPR 2020,
    doi:10.1109/CVPR42600.2020.00340.
    """
    settings |= {"psf_size": psf_size, "preset": preset, "seed": seed, "device": device}
    recipe = make_recipe("blind-deblur", **settings)
    return restore(image, recipe, progress=progress, axes=axes)


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
