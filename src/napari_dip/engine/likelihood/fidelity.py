"""Data fidelity: how badly an estimate explains the measurement, pixel by pixel.

Each function returns a `Fidelity`: a map from (estimate, measurement) to a loss per pixel.
All variances are in squared network units; the noise has the variance
`gain * signal + intercept`, which is a camera's: photon noise grows with the signal, read
noise does not.

The outermost rows and columns, which a network cannot see apart from what they mirror.

Many pictures end in a line of their own: what a scanner, a decoder or a cut-out has left. The
network's convolutions reflect at the border, so a pixel of the last row looks like any other to it,
and such a line is smoothed away. What is left of it in the residual is put back here, along each
line as smoothly as its noise asks for.

A fidelity for blurred images: the residual is brought back to where the blur took it from.

How much of the noise an estimate has taken over, where judging pixels cannot see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise.flat_blocks import choose_block_side, cut_blocks, select_flat_blocks
from napari_dip.engine.operators.convolution import find_fft_length
from napari_dip.engine.problem import Estimate, Fidelity

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Share of the pixels of an image that are flat enough for their spread to be all noise.
FLAT_QUANTILE = 0.2
#: Classes of brightness that the flat pixels are looked for in: an image of 256 x 256 has 5,000
#: pixels in each.
BRIGHTNESS_CLASSES = 12
#: How much more noise than measured the flat pixels may show.
MAX_NOISE_RATIO = 1.5
#: Least variance of a prediction, as a share of the noise: even in a flat region it is a mean of
#: some fifty noisy neighbours.
MIN_DOUBT_RATIO = 0.02


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NoiseVariance:
    """Variance of the noise at a given brightness.

    Attributes
    ----------
    gain, intercept : Tensor
        (B, C, 1, ...) each, one value for each channel of each measurement, in network units.
    floor : Tensor
        (B, C, 1, ...), > 0: least variance, where the line falls below what was seen.
    square : Tensor or None
        (B, C, 1, ...): what the variance has of the squared signal, as noise that multiplies it.
    """

    gain: Tensor
    intercept: Tensor
    floor: Tensor
    square: Tensor | None = None

    def times(self, factor: float) -> NoiseVariance:
        """Make it as much stronger everywhere."""
        square = None if self.square is None else factor * self.square
        return NoiseVariance(
            gain=factor * self.gain,
            intercept=factor * self.intercept,
            floor=factor * self.floor,
            square=square,
        )

    def of(self, number: int) -> NoiseVariance:
        """Give that of one measurement."""
        item = slice(number, number + 1)
        square = None if self.square is None else self.square[item]
        return NoiseVariance(
            gain=self.gain[item],
            intercept=self.intercept[item],
            floor=self.floor[item],
            square=square,
        )

    @classmethod
    def stack_with(cls, each: Sequence[NoiseVariance]) -> NoiseVariance:
        """Lay those of several measurements side by side: (B, C, 1, ...)."""
        gain, intercept, floor = (
            torch.cat([getattr(item, name) for item in each])
            for name in ("gain", "intercept", "floor")
        )
        if all(item.square is None for item in each):
            return cls(gain=gain, intercept=intercept, floor=floor)
        squares = [torch.zeros_like(o.gain) if o.square is None else o.square for o in each]
        return cls(gain=gain, intercept=intercept, floor=floor, square=torch.cat(squares))

    def mean(self) -> NoiseVariance:
        """Average over the measurements."""
        square = None if self.square is None else self.square.mean(0, keepdim=True)
        gain, rest = self.gain.mean(0, keepdim=True), self.intercept.mean(0, keepdim=True)
        return NoiseVariance(
            gain=gain, intercept=rest, floor=self.floor.mean(0, keepdim=True), square=square
        )

    def at(self, signal: Tensor) -> Tensor:
        """Variance for each pixel of `signal` (B, C, *grid)."""
        variance = self.gain * signal + self.intercept
        if self.square is not None:
            variance = variance + self.square * signal**2
        return variance.maximum(self.floor)


def gaussian_likelihood(noise: NoiseVariance) -> Fidelity:
    """Negative log-likelihood of a pixel under noise and the network's own doubt, no constant.

    Returns
    -------
    Fidelity
        (estimate, measurement), each (B, C, *grid) -> loss of the same shape. A pixel of
        expected value m has the variance `noise.at(m)`, plus the network's variance where it
        gives one. May be negative.

    References
    ----------
    Foi et al., Practical Poissonian-Gaussian noise modeling and fitting for single-image
    raw-data, IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399.
    """

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        variance = _compute_total_variance(noise, estimate)
        return (measurement - estimate.mean) ** 2 / variance + variance.log()

    return loss


def weighted_residual(noise: NoiseVariance) -> Fidelity:
    """Squared residual in units of the noise, its weight held fixed while the weights move.

    Without the logarithm, and with the variance detached, a network cannot lower the loss
    by darkening the picture, which pays under low counts.
    """

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        return (measurement - estimate.mean) ** 2 / noise.at(estimate.mean.detach())

    return loss


def least_squares(unit: float) -> Fidelity:
    """Squared residual, all pixels alike.

    Parameters
    ----------
    unit : float, > 0
        Variance that makes the loss of order one, in squared network units.
    """

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        return (measurement - estimate.mean) ** 2 / unit

    return loss


def beta_nll(noise: NoiseVariance, unit: float) -> Fidelity:
    """Likelihood of mean and variance together, with bright pixels at their full weight.

    The plain likelihood divides each residual by its variance, so a network that is unsure of
    the bright structures stops learning them. Multiplying by the detached variance gives the
    mean the gradient of least squares and leaves the variance its own (beta = 1 of the
    reference; on three named 256 x 256 crops of FMD it gained 0.4 to 0.9 dB over beta = 0).

    Parameters
    ----------
    noise : NoiseVariance
    unit : float, > 0
        Variance that makes the loss of order one, in squared network units.

    References
    ----------
    Seitzer et al., On the pitfalls of heteroscedastic uncertainty estimation with
    probabilistic neural networks, ICLR 2022, arXiv:2203.09168.
    """

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        noise_variance = noise.at(estimate.mean.detach())
        variance = (
            noise_variance
            if estimate.log_variance is None
            else noise_variance + estimate.log_variance.exp()
        )
        nll = (measurement - estimate.mean) ** 2 / variance + variance.log()
        return nll * variance.detach() / unit

    return loss


def compute_posterior(
    noise: NoiseVariance,
    measurement: Tensor,
    estimate: Estimate,
    *,
    granted: float,
    judges: Tensor,
    own_word: bool = True,
    trust: Tensor | None = None,
) -> Estimate:
    """Add what a hidden pixel itself tells to what its surroundings tell of it.

    The surroundings say mean u and variance v, the pixel says y with noise variance s:
    their product is a Gaussian of mean u + v / (v + s) (y - u) and variance v s / (v + s).

    Two corrections come first. The predicted spread is raised until it explains the pixels that
    judge: a fit that was ended early is further off than it knows, and must leave the word to
    the pixels. And how a spread divides into v and s is read from the picture: where it is flat,
    all of the spread is noise, so at each brightness the low quantile of the spread corrects the
    measured noise, which is up to half off at single brightnesses.

    Parameters
    ----------
    noise : NoiseVariance
        As it was measured.
    measurement : Tensor
        (B, C, *grid).
    estimate : Estimate
        Must be blind to the pixel that it predicts; unchanged if it gives no variance.
    granted : float, 0 to 1
        Share of the measured noise that the fit took for certain; the estimate's variance is
        what it saw beyond that.
    judges : Tensor
        (B, 1, *grid), 1 at held-out pixels.
    own_word : bool
        False: leave the mean as it is, and only divide its spread.
    trust : Tensor or None
        (1, 1, *grid): variance of a usual pixel's noise, as a share of that of each; None: 1.

    References
    ----------
    Laine et al., High-quality self-supervised deep image denoising, NeurIPS 2019,
    arXiv:1901.10277.
    """
    if estimate.log_variance is None:
        return estimate
    mean = estimate.mean
    measured = noise.at(mean)
    total = estimate.log_variance.exp() + granted * measured
    squared_error = ((measurement - mean) ** 2 * judges).sum()
    total = total * (squared_error / (total * judges).sum().clamp(min=1e-30)).clamp(min=1)
    noise_variance = measured * _estimate_flat_ratio(mean, total / measured).clamp(
        granted, MAX_NOISE_RATIO
    )
    doubt = (total - noise_variance).maximum(MIN_DOUBT_RATIO * noise_variance)
    if not own_word:
        return Estimate(mean, doubt.log())
    if trust is not None:
        noise_variance = noise_variance / trust
    share = doubt / (doubt + noise_variance)
    return Estimate(mean + share * (measurement - mean), (share * noise_variance).log())


def _estimate_flat_ratio(mean: Tensor, ratio: Tensor) -> Tensor:
    """Low quantile of `ratio` among pixels of like brightness; the shape of `mean`.

    Classes of equally many pixels, each channel by itself, joined by straight lines.
    """
    answer = torch.empty_like(mean)
    for picture, values, out in zip(
        mean.flatten(0, 1), ratio.flatten(0, 1), answer.flatten(0, 1), strict=True
    ):
        brightness, order = picture.flatten().sort(stable=True)
        classes = values.flatten()[order].tensor_split(BRIGHTNESS_CLASSES)
        ranks = [1 + int(FLAT_QUANTILE * (len(item) - 1)) for item in classes]
        low = torch.stack([item.kthvalue(k)[0] for item, k in zip(classes, ranks, strict=True)])
        middle = brightness[
            [len(brightness) * (2 * k + 1) // (2 * len(classes)) for k in range(len(classes))]
        ]
        right = torch.searchsorted(middle, picture.flatten().contiguous()).clamp(1, len(middle) - 1)
        left = right - 1
        span = (middle[right] - middle[left]).clamp(min=1e-12)
        along = ((picture.flatten() - middle[left]) / span).clamp(0, 1)
        out.copy_((low[left] + along * (low[right] - low[left])).reshape(out.shape))
    return answer


def _compute_total_variance(noise: NoiseVariance, estimate: Estimate) -> Tensor:
    variance = noise.at(estimate.mean)
    return variance if estimate.log_variance is None else variance + estimate.log_variance.exp()


#: Lines that are looked at on each side, and pixels along a line that are averaged. On F16 of the
#: Deep Image Prior page, lines up to 3 pixels from the border held 57 % of the squared error.
BORDER_WIDTH, BORDER_AVERAGE_LENGTH = 3, 9
#: How many times more than the noise's own power a line must hold, so that chance is left alone.
MIN_BORDER_POWER_RATIO = 2.0


def restore_border_detail(noise: NoiseVariance, measurement: Tensor, picture: Tensor) -> Tensor:
    """Add to a picture's outermost lines what the measurement holds there beyond the noise.

    Parameters
    ----------
    noise : NoiseVariance
        White.
    measurement, picture : Tensor
        (1, C, Y, X), at least `4 * ALONG` pixels a side; smaller ones come back as they are.

    Returns
    -------
    Tensor
        As `picture`.
    """
    if min(picture.shape[2:]) < 4 * BORDER_AVERAGE_LENGTH:
        return picture
    deviation = noise.at(picture).sqrt()
    residual = (measurement - picture) / deviation
    answer = picture.clone()
    for axis in (2, 3):
        for place in (*range(BORDER_WIDTH), *range(-BORDER_WIDTH, 0)):
            line = residual.select(axis, place)  # (1, C, L)
            smoothed_line = _average_along_line(line)
            power = smoothed_line.square().mean(2, keepdim=True)
            chance = 1 / BORDER_AVERAGE_LENGTH
            share = torch.where(power > MIN_BORDER_POWER_RATIO * chance, 1 - chance / power, 0)
            target = answer.select(axis, place)
            target += share * smoothed_line * deviation.select(axis, place)
    return answer


def _average_along_line(line: Tensor) -> Tensor:
    """Mean along a line, of as many pixels as there are at its ends."""
    return F.avg_pool1d(
        line, BORDER_AVERAGE_LENGTH, 1, BORDER_AVERAGE_LENGTH // 2, count_include_pad=False
    )


def make_backprojection_fidelity(
    noise: NoiseVariance, kernel: Tensor, valid: Tensor, floor: float, *, circular: bool
) -> Fidelity:
    """Squared residual in units of the noise, with what the blur weakened made strong again.

    A plain residual hardly shows an error in detail that the blur takes to a hundredth, so a
    network learns such detail last. Here the residual passes a filter whose gain is one over the
    blur's, down to a floor: all frequencies that the image still holds are learned at once.

    Parameters
    ----------
    noise : NoiseVariance
    kernel : Tensor
        (*sizes) of the blur, of sum one.
    valid : Tensor
        (1, 1, *measured), 1 where a pixel may be seen. The filter spreads residuals, so what is
        held out has to be left out before it.
    floor : float, > 0
        Power of the blur below which nothing is made stronger: much more would only be noise.
    circular : bool
        Whether the image goes on with its other side.

    References
    ----------
    Zukerman, Tirer, Giryes, BP-DIP: a backprojection based deep image prior, EUSIPCO 2020,
    arXiv:2003.05417.
    """
    axes = tuple(range(-kernel.ndim, 0))
    grid = tuple(valid.shape[2:])
    sizes = tuple(
        count if circular else find_fft_length(count + size - 1)
        for count, size in zip(grid, kernel.shape, strict=True)
    )
    power = torch.fft.rfftn(kernel, s=sizes, dim=axes).abs() ** 2
    gain = ((1 + floor) / (power + floor)).sqrt()  # 1 for a constant

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        mean = estimate.mean
        residual = (measurement - mean) * valid / noise.at(mean.detach()).sqrt()
        filtered: Tensor = torch.fft.irfftn(
            torch.fft.rfftn(residual, s=sizes, dim=axes) * gain, s=sizes, dim=axes
        )
        for axis, count in enumerate(grid, start=2):
            filtered = filtered.narrow(axis, 0, count)
        return filtered.square()

    return loss


class SureTerm:
    """Twice the share of the noise that an estimate repeats, read from the flattest blocks.

    A judging pixel inside a wide guard band shows how well structure is known. Of noise that is
    learned beside it, it shows nothing: correlated noise does not reach it, so its loss may go on
    falling while the rest of the picture fills with noise. In a flat block all that is left of
    the measurement beside a slow surface is noise, so the part of it that the estimate repeats
    is their covariance: the term that Stein's estimate of the risk adds to the residual.

    On four 256 x 256 crops of FMD widefield the stop lost 4.5, 2.6, 0.4 and 0.1 dB of PSNR without
    it and 1.1, 0.0, 0.1 and 0.1 dB with it; on white noise the pixels alone judge better.

    Parameters
    ----------
    measurement : Tensor
        (1, C, ..., Y, X), in network units; a volume is looked at plane by plane.

    References
    ----------
    Stein, Estimation of the mean of a multivariate normal distribution, Annals of Statistics
    9(6), 1981, doi:10.1214/aos/1176345632.
    """

    def __init__(self, measurement: Tensor) -> None:
        self._side = choose_block_side(tuple(measurement.shape[-2:]))
        means, residuals = cut_blocks(_split_planes(measurement), self._side)
        self._flat = select_flat_blocks(means, residuals)
        self._noise = residuals[self._flat]
        self._power = self._noise.square().mean((1, 2)).clamp(min=1e-30)

    def __call__(self, estimate: Estimate) -> Tensor:
        """Mean over the flat blocks; a scalar without unit, 0 for a clean picture, 2 for a copy."""
        repeated = cut_blocks(_split_planes(estimate.mean), self._side)[1][self._flat]
        share = (repeated * self._noise).mean((1, 2)) / self._power
        return 2 * share.mean()


def _split_planes(picture: Tensor) -> Tensor:
    return picture[0].reshape(-1, *picture.shape[-2:])
