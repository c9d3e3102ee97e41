"""Python functions of the tasks: each builds a recipe and restores an image by it."""

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
    """Remove the noise of one image; without `network_file` nothing is learned from other images.

    Parameters
    ----------
    image : array-like or path
        NumPy or dask array, nested lists of numbers, or the path of an image file.
    preset : {"fast", "balanced", "best"}
    seed : int
        The same seed gives the same pixels on the same kind of computer.
    device : {"auto", "cpu", "cuda", "mps"}
    progress : callable, optional
        Called with each `Event`, in the calling thread.
    axes : str, optional
        One letter of T, C, Z, Y, X and S (S: red, green, blue) for each axis, such as "YXS" for
        a colour image. Default: the axes that a file names; for arrays "YX" or "ZYX".
    repeated_exposure : array-like or path, optional
        Another measurement of the same, unmoved object, of the same shape; its exposure time may
        differ.
    offset_map, gain_map, noise_map : array-like or path, optional
        Maps of an sCMOS camera, each one plane of the image's size. They hold what a pixel reads
        without light, its grey values per photo-electron, and its read noise in grey values.
        Offset and gain are corrected first, and noisy pixels get less weight.
    network_file : path, optional
        A network that was fitted to files of the same series by
        ``batch(..., joint_training=True)``; it is applied to this image.
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
        If the run failed after work had begun.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.
    """
    renamed_inputs = {name: settings.pop(name) for name in OLD_INPUTS if name in settings}
    recipe = make_recipe("denoise", preset=preset, seed=seed, device=device, **settings)
    maps = {"offset_map": offset_map, "gain_map": gain_map, "noise_map": noise_map}
    named_inputs = {"repeated_exposure": repeated_exposure, "network_file": network_file, **maps}
    extra_inputs = {
        **{name: value for name, value in named_inputs.items() if value is not None},
        **renamed_inputs,
    }
    return restore(image, recipe, progress=progress, axes=axes, **extra_inputs)


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
    """Fill in missing pixels from the rest of the image, without learning from other images.

    Parameters
    ----------
    image : array-like or path
        Pixels of value NaN are filled in, too.
    mask : array-like or path, optional
        Above 0 where pixels are to be filled in. Its shape is that of the image, with or without
        channels, or (Y, X) for all planes. It may be omitted if the image has NaN.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``invert_mask=True``, ``label=2``, ``grow=3`` or
        ``unmasked="denoise"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input. Unmasked pixels keep their
        values, unless ``unmasked="denoise"``.

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
    """Restore a noisy image with the help of a clean image of the same place.

    Parameters
    ----------
    image : array-like or path
        The noisy image.
    guide : array-like or path
        A clean image of the same height and width: a brighter channel, or a photograph with
        flash. It may have several channels, by the axes of its file or with
        ``planes_are_channels=True``.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``align=True`` or ``prior="random-input"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input; ``report["prior"]`` tells whether
        the guide was used.

    Raises
    ------
    Refused
        If an image or a setting cannot be used; nothing was computed.
    Failed
        If the run failed after work had begun.
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
    """Estimate an image with finer pixels that explains a coarse one.

    Parameters
    ----------
    image : array-like or path
    factor : int or tuple of int
        Upscaling factor: 2, 3, 4 or 8, or one of 1, 2, 3, 4, 8 for each axis as (Y, X), or as
        (Z, Y, X) for a stack. One or two numbers do not change the distance of its planes. A
        text such as that of the command line is accepted, too.
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
        If the run failed after work had begun.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.
    """
    other_settings = {"preset": preset, "seed": seed, "device": device, **settings}
    recipe = make_recipe("super-resolve", factor=factor, **other_settings)
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
        Image of the PSF, of any sum; with three axes for a volume. The PSF can also be given by
        ``gaussian_sigma`` and ``gaussian_sigma_z`` in pixels, or by ``model`` ("widefield" or
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
        If the run failed after work had begun.
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
    """Undo a blur whose point spread function (PSF) is unknown, and estimate the PSF.

    Parameters
    ----------
    image : array-like or path
    psf_size : int
        Width of the estimated PSF in pixels; choose it rather too wide than too narrow.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``blur="motion"`` ("gaussian", "defocus", "free").

    Returns
    -------
    Restoration
        Its ``learned["psf"]`` is the estimated PSF, non-negative and of sum one: (Y, X), or one
        for each channel that was restored independently. For a parametric blur ``learned`` also
        has "sigmas", "length" and "angle", or "radius".

    Raises
    ------
    Refused
        If the image or a setting cannot be used; nothing was computed.
    Failed
        If the run failed after work had begun.

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
    """Restore an image from the activations of one layer of a network, to see what it preserves.

    Parameters
    ----------
    image : array-like or path
        One plane: grey, in colour, or with as many channels as the network takes.
    network : str
        Path of a torch.export program (.pt2), or name of a torchvision architecture.
    layer : str
        Path of the module whose output is inverted; "list" raises `Refused` with all names.
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
        If the run failed after work had begun.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4.
    """
    other_settings = {"preset": preset, "seed": seed, "device": device, **settings}
    recipe = make_recipe("invert-features", network=str(network), layer=layer, **other_settings)
    return restore(image, recipe, progress=progress, axes=axes)
