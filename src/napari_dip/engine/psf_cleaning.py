"""What a PSF from a file or a layer must be before it can be used: finite, centred, of sum one."""

from __future__ import annotations

from math import floor, pi

import torch
from torch import Tensor

#: Negative values up to this share of the peak are rounding of whoever computed the PSF.
_ROUNDING = 1e-6
#: Share of the light that is kept along each axis.
_KEPT = 0.999
#: Nearer than that to half a pixel between two, the centre of mass does not say which it is.
_UNDECIDED = 0.25


def cleaned_psf(array: Tensor) -> tuple[Tensor, tuple[str, ...]] | str:
    """Centre a PSF, cut off its empty border and scale it to sum one; or say why not.

    Parameters
    ----------
    array : Tensor
        (Y, X) or (Z, Y, X) real numbers of any type.

    Returns
    -------
    tuple of Tensor and tuple of str, or str
        The kernel, (*sizes) float32 with odd sizes and its centre of mass at the middle, and what
        was done to it, a sentence each; or why it cannot be used, as a key of the fault table:
        "input-not-finite", "psf-zero" or "psf-negative". Along an axis of odd size whoever made it
        has laid its middle on a pixel, so it is centred by whole pixels only. An even size has no
        middle pixel, so the PSF is moved by the part of a pixel that is missing: an object of
        lines one voxel wide would else come back beside its place (bars of DeconvolutionLab2, off
        by half a voxel: Richardson-Lucy 28.9 dB, moved 34.0 dB).
    """
    psf = array.detach().to(torch.float64)
    if not bool(psf.isfinite().all()):
        return "input-not-finite"
    if not bool(psf.any()):
        return "psf-zero"
    if float(psf.min()) < -_ROUNDING * max(float(psf.max()), 0.0):
        return "psf-negative"
    psf = psf.clamp(min=0)
    psf = psf / psf.max()  # or the sum of tiny or huge values would not be a number
    psf = psf / psf.sum()
    notes: list[str] = []
    lacking: dict[int, float] = {}
    for axis, name in enumerate("ZYX"[-psf.ndim :]):
        size = psf.shape[axis]
        psf, shift, missing = _centred(psf, axis)
        if size % 2 == 0:
            lacking[axis] = missing
            notes.append(
                f"The PSF is {size} pixels wide along {name}, an even number, so it was padded to "
                f"an odd one, and its middle was moved by {abs(missing):.2f} pixels onto a pixel."
            )
        if abs(shift) >= 1:
            notes.append(
                f"The PSF lay {abs(shift):g} pixels off its middle along {name} and was centred."
            )
    psf = _cropped(psf)
    # the edge at which haze is cut off would ring, were there zeros beside it
    for axis, missing in lacking.items():
        psf = _moved(psf, axis, missing)
    return (psf / psf.sum()).float(), tuple(notes)


def _marginal(psf: Tensor, axis: int) -> Tensor:
    return psf.sum([other for other in range(psf.ndim) if other != axis])


def _centred(psf: Tensor, axis: int) -> tuple[Tensor, float, float]:
    """Add zeros on one side until the pixel nearest to the centre of mass is the middle one.

    Returns
    -------
    tuple of Tensor and two floats
        The PSF, how far that pixel lay off the middle, and how far the PSF has to be moved for its
        centre to lie on it, at most half a pixel where it is sure.
    """
    size = psf.shape[axis]
    places = torch.arange(size, dtype=psf.dtype, device=psf.device)
    middle = float((_marginal(psf, axis) * places).sum())
    centre = round(middle)
    if abs(middle % 1 - 0.5) < _UNDECIDED:
        # an even array of a widefield stack has as much light in its first plane as in any other,
        # and no partner for it: squares hardly see that haze
        squares = _marginal(psf**2, axis)
        brightest = float((squares * places).sum() / squares.sum())
        centre = floor(middle) + (0 if brightest < middle else 1)
        middle = min(max(brightest, floor(middle)), floor(middle) + 1)
    half = max(centre, size - 1 - centre)
    before, after = half - centre, half - (size - 1 - centre)
    zeros = [
        psf.new_zeros(*psf.shape[:axis], count, *psf.shape[axis + 1 :]) for count in (before, after)
    ]
    return torch.cat([zeros[0], psf, zeros[1]], axis), centre - (size - 1) / 2, centre - middle


def _moved(psf: Tensor, axis: int, pixels: float) -> Tensor:
    """Move by part of a pixel, by the phase of the spectrum; what swings below 0 is cut off.

    Cubics and Lanczos windows blur a PSF of few pixels, and explain the image less well.
    """
    size = psf.shape[axis]
    frequencies = torch.fft.rfftfreq(size, dtype=psf.dtype, device=psf.device)
    turn = torch.polar(torch.ones_like(frequencies), -2 * pi * pixels * frequencies)
    spectrum = torch.fft.rfft(psf, dim=axis) * turn.reshape(-1, *(1,) * (psf.ndim - 1 - axis))
    moved: Tensor = torch.fft.irfft(spectrum, n=size, dim=axis)
    return moved.clamp(min=0)


def _cropped(psf: Tensor) -> Tensor:
    """Keep the least symmetric box that holds the wanted share of the light along each axis."""
    for axis, line in enumerate([_marginal(psf, axis) for axis in range(psf.ndim)]):
        middle = len(line) // 2
        half = 0
        while half < middle and float(line[middle - half : middle + half + 1].sum()) < _KEPT:
            half += 1
        psf = psf.narrow(axis, middle - half, 2 * half + 1)
    return psf
