"""Compute data fidelity under the noise model, and posterior means.

Variances are in squared network units. The noise variance is `gain * signal + intercept`, as for a
camera with photon noise and read noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise import predict_variance
from napari_dip.engine.noise.clipped_noise import interpolate
from napari_dip.engine.operators.imaging import find_fft_length
from napari_dip.engine.problem import Estimate, Fidelity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Share of the pixels of an image that are assumed to be flat, so that their spread is noise alone.
FLAT_QUANTILE = 0.2
#: Number of brightness classes in which flat pixels are selected; an image of 256 x 256 has 5,000
#: pixels in each.
BRIGHTNESS_CLASSES = 12
#: Upper bound of the noise variance of flat pixels, in units of the measured one.
MAX_NOISE_RATIO = 1.5
#: Lower bound of a prediction's variance, in units of the noise variance: even in a flat region, a
#: prediction is the mean of about fifty noisy neighbours.
MIN_PREDICTION_VARIANCE_RATIO = 0.02
#: Number of equally wide classes of brightness in which residuals measure noise.
RESIDUAL_CLASSES = 8
#: Least pixels of a class of brightness: half of them give a variance within 16 % (one standard
#: error).
MIN_CLASS_PIXELS = 150
#: Share of the pixels at either end of the brightness that do not widen the classes.
CLASS_TAIL = 0.005
#: Side, in pixels, of the area whose mean squared gradient tells calm pixels; the calmer half of
#: each class is measured.
GRADIENT_SIDE = 5
#: Maximum variance of residuals in units of the measured noise, median of the classes: at most 2.2
#: in noise that is no line in brightness, at least 15 in two images without it (docs/constants.md).
MAX_CALM_RATIO = 2.5
#: Maximum correlation of neighbouring residuals: 0.47 and more where hidden pixels were seen
#: through their neighbours, at most 0.28 elsewhere (docs/constants.md).
MAX_CALM_CORRELATION = 0.35
#: Decrease of the squared logarithmic error by which a line through fewer classes must be better.
MIN_LINE_GAIN = 0.05
#: Floor of a line through all classes, in units of the least variance.
LINE_FLOOR_FRACTION = 0.25
#: Coefficients c of tanh(c0 d + c1 d²), the variance of clipped normal noise whose mean is d
#: standard deviations from the limit: off by at most 2 % for d above 0.2.
CLIPPED_VARIANCE_COEFFICIENTS = (0.85, 0.0555)
#: Range of distances from a limit: the mean of a signal there is 0.4 deviations from it, and at 10
#: nothing is clipped. With 0.1 noise was left in colours that touch both limits.
CLIPPED_DISTANCE_RANGE = (0.4, 10.0)
#: Limit of noise that is not clipped, in network units, where images span about 1. Gradients of an
#: infinite one would be undefined.
UNLIMITED = 1e6
#: Least noise variance, in squared network units.
MIN_VARIANCE = 1e-10
#: Size, in voxels, of the window whose residuals correct the variance of a volume's voxel. Larger
#: ones miss thin structure, smaller ones take in noise (docs/constants.md).
RESIDUAL_WINDOW = (3, 9, 9)


class ClippingLimit(NamedTuple):
    """A limit at which noise is clipped, (B, C, 1, ...) in network units.

    Attributes
    ----------
    value : Tensor
        The limit; `UNLIMITED` where nothing is clipped.
    std : Tensor
        > 0, standard deviation there before clipping.
    """

    value: Tensor
    std: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NoiseVariance:
    """Variance of the noise at a given brightness.

    Attributes
    ----------
    gain, intercept : Tensor
        (B, C, 1, ...) each, one value for each channel of each measurement, in network units.
    floor : Tensor
        (B, C, 1, ...), > 0, lower bound of the variance.
    square : Tensor or None
        (B, C, 1, ...), coefficient of the squared signal for multiplicative noise; None: 0.
    limits : tuple of ClippingLimit
        Where noise is clipped: black and white, or nothing. A signal is then the mean of clipped
        measurements.
    """

    gain: Tensor
    intercept: Tensor
    floor: Tensor
    square: Tensor | None = None
    limits: tuple[ClippingLimit, ...] = ()

    def scale(self, factor: float) -> NoiseVariance:
        """Return the variance times a factor."""
        return replace(self._map(lambda coefficient: factor * coefficient), limits=self.limits)

    def select(self, index: int) -> NoiseVariance:
        """Return the variance of one measurement, by its index."""
        return self._map(lambda coefficient: coefficient[index : index + 1])

    def drop_depth(self) -> NoiseVariance:
        """Return the variance for single planes of a volume."""
        return self._map(lambda coefficient: coefficient[:, :, 0])

    def repeat(self, count: int) -> NoiseVariance:
        """Return the variance of that many frames, each with the same channels."""
        return self._map(lambda coefficient: torch.cat([coefficient] * count, 1))

    def mean(self) -> NoiseVariance:
        """Return the mean over the measurements."""
        return self._map(lambda coefficient: coefficient.mean(0, keepdim=True))

    def _map(self, convert: Callable[[Tensor], Tensor]) -> NoiseVariance:
        """Return the variance with each tensor changed."""
        return NoiseVariance(
            gain=convert(self.gain),
            intercept=convert(self.intercept),
            floor=convert(self.floor),
            square=None if self.square is None else convert(self.square),
            limits=tuple(ClippingLimit(*map(convert, limit)) for limit in self.limits),
        )

    @classmethod
    def concatenate(cls, variances: Sequence[NoiseVariance]) -> NoiseVariance:
        """Concatenate the variances of several measurements to (B, C, 1, ...)."""
        gain, intercept, floor = (
            torch.cat([getattr(variance, name) for variance in variances])
            for name in ("gain", "intercept", "floor")
        )
        squares = [
            torch.zeros_like(variance.gain) if variance.square is None else variance.square
            for variance in variances
        ]
        has_square = any(variance.square is not None for variance in variances)
        nowhere = (ClippingLimit(torch.full_like(gain[:1], UNLIMITED), torch.ones_like(gain[:1])),)
        ends = zip(*(variance.limits or 2 * nowhere for variance in variances), strict=True)
        is_clipped = any(variance.limits for variance in variances)
        return cls(
            gain=gain,
            intercept=intercept,
            floor=floor,
            square=torch.cat(squares) if has_square else None,
            limits=tuple(ClippingLimit(*map(torch.cat, zip(*end, strict=True))) for end in ends)
            if is_clipped
            else (),
        )

    def compute_variance(self, signal: Tensor) -> Tensor:
        """Return the variance at each pixel of `signal` (B, C, *grid)."""
        variance = predict_variance(signal, self.gain, self.intercept)
        if self.square is not None:
            variance = variance + self.square * signal**2
        variance = variance.maximum(self.floor)
        for limit in self.limits:
            distance = (signal - limit.value).abs() / limit.std
            variance = variance * _compute_clipped_variance(distance)
        return variance


def _compute_clipped_variance(distance: Tensor) -> Tensor:
    """Return the variance of clipped normal noise, in units of that before clipping.

    Parameters
    ----------
    distance : Tensor
        Of the mean after clipping from the limit, in standard deviations there before clipping.
    """
    distance = distance.clamp(*CLIPPED_DISTANCE_RANGE)
    first, second = CLIPPED_VARIANCE_COEFFICIENTS
    return torch.tanh(distance * (first + second * distance))


def make_gaussian_deviance(
    noise_variance: NoiseVariance, *, uses_predicted_variance: bool = True
) -> Fidelity:
    """Return the Gaussian deviance of each pixel, twice its negative log-likelihood.

    Returns
    -------
    Fidelity
        (estimate, measurement), each (B, C, *grid) -> loss of the same shape, which may be
        negative. The variance at a mean m is `noise_variance.compute_variance(m)` plus the
        estimate's variance, if it has one and `uses_predicted_variance` is true.

    References
    ----------
    Foi et al., Practical Poissonian-Gaussian noise modeling and fitting for single-image
    raw-data, IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399.
    """

    def compute_loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        variance = noise_variance.compute_variance(estimate.mean)
        if uses_predicted_variance and estimate.log_variance is not None:
            variance = variance + estimate.log_variance.exp()
        return (measurement - estimate.mean) ** 2 / variance + variance.log()

    return compute_loss


def make_weighted_residual(noise_variance: NoiseVariance) -> Fidelity:
    """Return the squared residual in units of the noise variance, which is detached.

    With the variance detached and without its logarithm, a darker prediction does not lower the
    loss, as it does otherwise at low photon counts.
    """

    def compute_loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        return (measurement - estimate.mean) ** 2 / noise_variance.compute_variance(
            estimate.mean.detach()
        )

    return compute_loss


def make_least_squares(reference_variance: float) -> Fidelity:
    """Return the squared residual with the same weight for all pixels.

    Parameters
    ----------
    reference_variance : float, > 0
        Divisor that makes the loss of order one, a variance in squared network units.
    """

    def compute_loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        return (measurement - estimate.mean) ** 2 / reference_variance

    return compute_loss


def make_beta_nll(noise_variance: NoiseVariance, reference_variance: float) -> Fidelity:
    """Return the beta-NLL loss of mean and variance, with beta = 1.

    The plain likelihood divides each residual by its variance, so a network with a large variance
    at bright structures stops learning them. Multiplication by the detached variance gives the
    mean the gradient of least squares. On three 256 x 256 crops of FMD, beta = 1 gained 0.4 to
    0.9 dB over beta = 0.

    Parameters
    ----------
    noise_variance : NoiseVariance
    reference_variance : float, > 0
        Divisor that makes the loss of order one, a variance in squared network units.

    References
    ----------
    Seitzer et al., On the pitfalls of heteroscedastic uncertainty estimation with
    probabilistic neural networks, ICLR 2022, arXiv:2203.09168.
    """

    def compute_loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        variance = noise_variance.compute_variance(estimate.mean.detach())
        if estimate.log_variance is not None:
            variance = variance + estimate.log_variance.exp()
        nll = (measurement - estimate.mean) ** 2 / variance + variance.log()
        return nll * variance.detach() / reference_variance

    return compute_loss


def compute_posterior(
    noise_variance: NoiseVariance,
    measurement: Tensor,
    estimate: Estimate,
    *,
    assumed_noise: NoiseVariance | None = None,
    assumed_noise_fraction: float,
    validation_mask: Tensor,
    uses_measured_pixel: bool = True,
    pixel_weights: Tensor | None = None,
    residual_mask: Tensor | None = None,
) -> Estimate:
    """Return the posterior mean and variance of each pixel, given the blind-spot prediction.

    The prediction has mean u and variance v, the measured pixel y has noise variance s. The
    posterior is a Gaussian of mean u + v / (v + s) (y - u) and variance v s / (v + s).

    Two corrections come first. The total variance v + s is raised until it explains the
    validation pixels, since a fit that ended early underestimates its error. In a volume, which no
    filter refines, it is raised around each voxel before. Then s is corrected at each brightness,
    where the measured noise variance may be wrong by up to a half. In flat regions the total
    variance is all noise, so its low quantile replaces s within bounds.

    Parameters
    ----------
    noise_variance : NoiseVariance
        Measured noise.
    measurement : Tensor
        (B, C, *grid).
    estimate : Estimate
        Blind-spot prediction, independent of the pixel's own noise. It is returned unchanged if
        it has no variance.
    assumed_noise : NoiseVariance or None
        Noise of the fit's loss, if it was measured again since; None: `noise_variance`.
    assumed_noise_fraction : float, 0 to 1
        Share of that noise variance that the loss assumed. The estimate's variance is what
        exceeds it.
    validation_mask : Tensor
        (B, 1, *grid), 1 at validation pixels.
    uses_measured_pixel : bool
        Whether to return the posterior. False: return the predicted mean with its variance v.
    pixel_weights : Tensor or None
        (1, 1, *grid), noise variance of a typical pixel divided by that of each pixel; None: 1.
    residual_mask : Tensor or None
        (1, 1, *grid), 1 at measured pixels of usual noise; None: all are.

    References
    ----------
    Laine et al., High-quality self-supervised deep image denoising, NeurIPS 2019,
    arXiv:1901.10277.
    """
    if estimate.log_variance is None:
        return estimate
    mean = estimate.mean
    measured = noise_variance.compute_variance(mean)
    assumed = measured if assumed_noise is None else assumed_noise.compute_variance(mean)
    total = estimate.log_variance.exp() + assumed_noise_fraction * assumed
    squared_residuals = (measurement - mean) ** 2
    if mean.ndim > 4:
        total = _raise_to_local_residuals(total, squared_residuals, residual_mask)
    validated = (squared_residuals * validation_mask).sum()
    total = total * (validated / (total * validation_mask).sum().clamp(min=1e-30)).clamp(min=1)
    pixel_variance = measured * _estimate_flat_ratio(mean, total / measured).clamp(
        assumed_noise_fraction, MAX_NOISE_RATIO
    )
    prediction_variance = (total - pixel_variance).maximum(
        MIN_PREDICTION_VARIANCE_RATIO * pixel_variance
    )
    if not uses_measured_pixel:
        return Estimate(mean, prediction_variance.log())
    if pixel_weights is not None:
        pixel_variance = pixel_variance / pixel_weights
    fraction = prediction_variance / (prediction_variance + pixel_variance)
    return Estimate(mean + fraction * (measurement - mean), (fraction * pixel_variance).log())


def _raise_to_local_residuals(
    total: Tensor, squared_residuals: Tensor, residual_mask: Tensor | None
) -> Tensor:
    """Return the variance of a volume, raised to the mean square of the residuals around a voxel.

    The mean is unbiased, since a voxel's own noise has no part in its prediction.
    """
    mask = torch.ones_like(total[:1, :1]) if residual_mask is None else residual_mask
    padding = tuple(side // 2 for side in RESIDUAL_WINDOW)
    local_residuals, local_total = (
        F.avg_pool3d(values * mask, RESIDUAL_WINDOW, 1, padding)
        for values in (squared_residuals, total)
    )
    return total * (local_residuals / local_total.clamp(min=1e-30)).clamp(min=1)


def _estimate_flat_ratio(mean: Tensor, ratio: Tensor) -> Tensor:
    """Return the low quantile of `ratio` at each pixel's brightness, in the shape of `mean`.

    The quantile is computed for each channel in classes of equally many pixels, and interpolated
    linearly between them.
    """
    flat_ratio = torch.empty_like(mean)
    for image, values, target in zip(
        mean.flatten(0, 1), ratio.flatten(0, 1), flat_ratio.flatten(0, 1), strict=True
    ):
        brightness, order = image.flatten().sort(stable=True)
        classes = values.flatten()[order].tensor_split(BRIGHTNESS_CLASSES)
        ranks = [1 + int(FLAT_QUANTILE * (len(samples) - 1)) for samples in classes]
        quantiles = torch.stack(
            [samples.kthvalue(k)[0] for samples, k in zip(classes, ranks, strict=True)]
        )
        centres = brightness[
            [len(brightness) * (2 * k + 1) // (2 * len(classes)) for k in range(len(classes))]
        ]
        target.copy_(interpolate(image.flatten(), centres, quantiles).reshape(target.shape))
    return flat_ratio


def measure_noise_again(
    noise_variance: NoiseVariance,
    measurement: Tensor,
    mean: Tensor,
    measured_mask: Tensor,
    channels: Sequence[int],
) -> NoiseVariance:
    """Return the variance of residuals at hidden pixels, over brightness.

    The prediction of a hidden pixel does not depend on its noise, so calm pixels show how strong
    the noise is at each brightness, whatever was measured before. A channel keeps its measured
    noise if most of its residuals are much stronger, as texture is, or if neighbours share them.

    Parameters
    ----------
    noise_variance : NoiseVariance
        Measured noise, of one measurement. It is returned itself if no channel changes.
    measurement, mean : Tensor
        (1, C, *grid): measurement, and blind-spot prediction.
    measured_mask : Tensor
        (1, 1, *grid), 1 at measured pixels.
    channels : sequence of int
        Channels that are measured again.
    """
    gain, intercept, floor = (
        getattr(noise_variance, name).clone() for name in ("gain", "intercept", "floor")
    )
    limits = tuple(limit._replace(value=limit.value.clone()) for limit in noise_variance.limits)
    claimed, is_changed = noise_variance.compute_variance(mean), False
    for c in channels:
        planes = (measurement[0, c] - mean[0, c], mean[0, c], claimed[0, c])
        classes = _measure_calm_classes(*planes, measured_mask[0, 0] > 0)
        if classes is None:
            continue
        gain[0, c], intercept[0, c], floor[0, c] = fit_noise_line(*classes)
        for limit in limits:  # it was measured after clipping
            limit.value[0, c] = UNLIMITED
        is_changed = True
    if not is_changed:
        return noise_variance
    return replace(noise_variance, gain=gain, intercept=intercept, floor=floor, limits=limits)


def _measure_calm_classes(
    residual: Tensor, mean: Tensor, claimed: Tensor, measured_mask: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return brightness and variance of calm residuals, by class; None if they are no noise."""
    slope = sum(torch.gradient(mean, dim=axis)[0] ** 2 for axis in (-2, -1))
    assert isinstance(slope, Tensor)
    slope = F.avg_pool2d(
        slope.reshape(-1, 1, *mean.shape[-2:]),
        GRADIENT_SIDE,
        stride=1,
        padding=GRADIENT_SIDE // 2,
        count_include_pad=False,
    ).reshape(mean.shape)
    brightness = mean[measured_mask].sort()[0]
    if len(brightness) < MIN_CLASS_PIXELS:
        return None
    tail = int(CLASS_TAIL * (len(brightness) - 1))
    low, high = float(brightness[tail]), float(brightness[-1 - tail])
    edges = torch.linspace(low, high, RESIDUAL_CLASSES + 1).to(mean)[1:-1]
    index = torch.where(measured_mask, torch.bucketize(mean.contiguous(), edges), -1)
    rows, is_calm, first = [], torch.zeros_like(measured_mask), 0
    for last in range(RESIDUAL_CLASSES):
        selected = (index >= first) & (index <= last)
        if int(selected.sum()) < MIN_CLASS_PIXELS:
            continue
        first = last + 1
        selected &= slope <= slope[selected].median()
        is_calm |= selected
        variance = residual[selected].var()
        rows.append((mean[selected].mean(), variance, variance / claimed[selected].mean()))
    means, variances, ratios = (
        torch.stack(column).cpu().double()  # Apple GPUs have no double precision
        for column in zip(*rows, strict=True)
    )
    is_noise = float(ratios.median()) <= MAX_CALM_RATIO
    if not is_noise or _correlate_neighbours(residual, is_calm) > MAX_CALM_CORRELATION:
        return None
    # residuals also hold what the prediction missed, and flat blocks less than the noise: their
    # geometric mean, and further away from it as far as in the class of the median
    return means, variances / ratios.clamp(1, max(1.0, float(ratios.median()))).sqrt()


def _correlate_neighbours(residual: Tensor, mask: Tensor) -> float:
    """Return the correlation of neighbours along Y or X, the larger one, inside a mask."""
    correlations = []
    for axis in (-2, -1):
        length = residual.shape[axis] - 1
        values, valid = residual.movedim(axis, -1), mask.movedim(axis, -1)
        first, second = values[..., :length], values[..., 1:]
        pairs = valid[..., :length] & valid[..., 1:]
        power = (first[pairs] ** 2 + second[pairs] ** 2).sum() / 2
        correlations.append(float((first[pairs] * second[pairs]).sum() / power.clamp(min=1e-30)))
    return max(correlations)


def fit_noise_line(means: Tensor, variances: Tensor) -> tuple[float, float, float]:
    """Return gain, intercept and floor of the variance over brightness.

    A line through the brighter classes, and the mean of the darker ones as its floor. The number of
    darker classes is the one whose variances it explains best.
    """
    best, best_error = (0.0, float(variances[0]), float(variances[0])), float("inf")
    for start in range(max(1, len(means) - 1)):
        x, weights = means[start:], 1 / variances[start:].clamp(min=1e-30)
        columns = torch.stack((x, torch.ones_like(x)), 1) * weights[:, None]
        gain, intercept = map(float, torch.linalg.lstsq(columns, torch.ones_like(x))[0])
        if len(x) < 2 or gain <= 0:
            gain, intercept = 0.0, float(1 / weights.mean())
        least = LINE_FLOOR_FRACTION * variances.min() if not start else variances[:start].mean()
        floor = max(float(least), MIN_VARIANCE)
        model = predict_variance(means, gain, intercept).clamp(min=floor)
        error = float(((model / variances.clamp(min=1e-30)).log() ** 2).sum())
        if error < best_error - MIN_LINE_GAIN:
            best, best_error = (gain, intercept, floor), error
    return best


def make_backprojection_fidelity(
    noise_variance: NoiseVariance,
    kernel: Tensor,
    valid_mask: Tensor,
    floor: float,
    *,
    is_circular: bool,
) -> Fidelity:
    """Return the squared residual in units of the noise, after a regularised inverse of the blur.

    A plain residual contains little of an error at frequencies that the blur attenuates, so a
    network learns them last. The filter has the gain sqrt((1 + floor) / (P + floor)) at a power
    P of the blur, so that all frequencies above the floor are learned at once.

    Parameters
    ----------
    noise_variance : NoiseVariance
    kernel : Tensor
        (*sizes) of the blur, of sum one.
    valid_mask : Tensor
        (1, 1, *measured), 1 at pixels of the loss. Others, such as validation pixels, are masked
        before the filter, since it spreads residuals.
    floor : float, > 0
        Power of the blur below which frequencies are not amplified further, since they are noise.
    is_circular : bool
        Whether the boundary is periodic.

    References
    ----------
    Zukerman, Tirer, Giryes, BP-DIP: a backprojection based deep image prior, EUSIPCO 2020,
    arXiv:2003.05417.
    """
    axes = tuple(range(-kernel.ndim, 0))
    grid = tuple(valid_mask.shape[2:])
    sizes = tuple(
        count if is_circular else find_fft_length(count + size - 1)
        for count, size in zip(grid, kernel.shape, strict=True)
    )
    power = torch.fft.rfftn(kernel, s=sizes, dim=axes).abs() ** 2
    gain = ((1 + floor) / (power + floor)).sqrt()  # 1 for a constant

    def compute_loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        mean = estimate.mean
        residual = (
            (measurement - mean)
            * valid_mask
            / noise_variance.compute_variance(mean.detach()).sqrt()
        )
        filtered: Tensor = torch.fft.irfftn(
            torch.fft.rfftn(residual, s=sizes, dim=axes) * gain, s=sizes, dim=axes
        )
        return filtered[:, :, *map(slice, grid)].square()

    return compute_loss
