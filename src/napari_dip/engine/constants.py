"""Constants of statistics, optics and JPEG, and sizes of inference tiles; free of torch.

The memory of a run is estimated from these sizes before the start.
"""

from __future__ import annotations

from math import ceil, sqrt

#: Ratio of the standard deviation of normal values to their median absolute value.
MAD_TO_STD = 1.4826
#: Standard deviations from which on Tukey's bisquare gives a value no weight: 95 % efficient on
#: normal errors (docs/constants.md).
TUKEY_SIGMAS = 4.685
#: Full width at half maximum (FWHM) of a Gaussian in standard deviations, 2 sqrt(2 ln 2).
FWHM_PER_SIGMA = 2.3548
#: Threshold on the spectrum of similar patches, in standard deviations of the noise; 2.7 in BM3D.
#: 2.6 gains 0.01 to 0.02 dB on photographs and even noise, and costs none on FMD.
HARD_THRESHOLD_SIGMAS = 2.6
#: Half width of a Gaussian in standard deviations; beyond it is less than 1e-4 of the light.
GAUSSIAN_RADIUS_SIGMAS = 4
#: Airy radius in units of wavelength / NA: the first zero of J1 over 2 pi.
AIRY_RADIUS_FACTOR = 0.6098
#: Least share of a PSF's light that remains along each axis after cropping.
MIN_RETAINED_LIGHT = 0.999
#: Side of a JPEG block in pixels.
JPEG_BLOCK_SIDE = 8
#: Matrix from RGB to luminance and two colour differences (JFIF, ITU-R BT.601).
YCBCR_WEIGHTS = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
#: Pixels up to which a plane is not tiled, since tiles are not faster there.
MAX_UNTILED_PIXELS = 2**20
#: Minimum side of a tile without its halo, in pixels: the fastest per pixel for a halo of 56
#: (docs/constants.md).
MIN_CORE_SIDE = 256
#: Minimum side of a tile without its halo, in halos.
MIN_CORE_MARGINS = 4


def compute_hourglass_receptive_field(scale_count: int, *, sums_branches: bool) -> int:
    """Return the radius of the receptive field of an hourglass, in pixels.

    The encoder has two layers at the finest scale and one at each other. Then come one layer in the
    middle, one at each scale of the decoder and a last one. Each upsampling uses the adjacent
    coarse pixel.

    Parameters
    ----------
    scale_count : int
    sums_branches : bool
        Whether layers of the decoder convolve the coarser features before upsampling them.
    """
    sides: list[int] = [2**scale for scale in range(scale_count)]  # of a pixel of each scale
    encoder_radius = 1 + sum(sides) + sides[-1]
    layer_radius = sum(sides[1:]) if sums_branches else sum(sides[:-1])
    decoder_radius = layer_radius + sum(sides[1:]) + 1
    return (
        encoder_radius + decoder_radius + sides[-1] - 1
    )  # pooled pixels begin on multiples of the coarsest


def compute_tile_size(receptive_field_radius: int, coarsest_stride: int) -> tuple[int, int]:
    """Return halo and side of a tile in pixels, both multiples of the coarsest stride."""
    halo = ceil(receptive_field_radius / coarsest_stride) * coarsest_stride
    return halo, max(
        ceil(MIN_CORE_SIDE / coarsest_stride) * coarsest_stride, MIN_CORE_MARGINS * halo
    )


def count_max_tile_pixels(pixel_count: int, scale_count: int, *, sums_branches: bool) -> int:
    """Return the largest number of pixels in one pass of an hourglass, halo included.

    Parameters
    ----------
    pixel_count : int
        Of the plane.
    scale_count : int
    sums_branches : bool
        As in `compute_hourglass_receptive_field`.
    """
    if pixel_count <= MAX_UNTILED_PIXELS:
        return pixel_count
    radius = compute_hourglass_receptive_field(scale_count, sums_branches=sums_branches)
    halo, side = compute_tile_size(radius, 2 ** (scale_count - 1))
    return min(pixel_count, (side + 2 * halo) ** 2)


#: Radial polynomials and multiples of the angle of the Zernike modes 4 to 11 in Noll's order, of
#: mean square one over the pupil; negative multiples: sine (Noll, J. Opt. Soc. Am. 66, 1976,
#: doi:10.1364/JOSA.66.000207).
ZERNIKE_MODES: dict[str, tuple[tuple[tuple[float, int], ...], int]] = {
    "defocus": (((2 * sqrt(3), 2), (-sqrt(3), 0)), 0),
    "oblique astigmatism": (((sqrt(6), 2),), -2),
    "astigmatism": (((sqrt(6), 2),), 2),
    "vertical coma": (((3 * sqrt(8), 3), (-2 * sqrt(8), 1)), -1),
    "horizontal coma": (((3 * sqrt(8), 3), (-2 * sqrt(8), 1)), 1),
    "vertical trefoil": (((sqrt(8), 3),), -3),
    "oblique trefoil": (((sqrt(8), 3),), 3),
    "spherical aberration": (((6 * sqrt(5), 4), (-6 * sqrt(5), 2), (sqrt(5), 0)), 0),
}
