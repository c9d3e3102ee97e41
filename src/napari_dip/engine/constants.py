"""Constants of statistics, optics and JPEG that several parts use; free of torch."""

#: Ratio of the standard deviation of normal values to their median absolute value.
MAD_TO_STD = 1.4826
#: Standard deviations from which on Tukey's bisquare gives a value no weight: 95 % efficient on
#: normal errors (docs/constants.md).
TUKEY_SIGMAS = 4.685
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
