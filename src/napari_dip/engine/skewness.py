"""How skewed the noise is, beside counted photons: what variance and correlation do not tell.

Counts are skewed the more, the fewer they are, and multipliers of single photons (EM-CCD, PMT)
skew them further. A network that is shown more noise must be shown noise as skewed as the
measured, or it learns to tell the two apart and lets through what was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dip.engine.fidelity import NoiseVariance

#: What is made of the 3 x 3 pixels about one.
Weights = tuple[tuple[float, ...], ...]
#: A pixel without the mean of its neighbours, and its second difference along both axes. The
#: first is surer where nothing is to be seen, the second blind to more of a picture.
WITHOUT_NEIGHBOURS: Weights = (
    (-1 / 8, -1 / 8, -1 / 8),
    (-1 / 8, 1.0, -1 / 8),
    (-1 / 8, -1 / 8, -1 / 8),
)
SECOND_DIFFERENCE: Weights = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
#: Share of the pixels that are looked at, those that lie flattest.
FLATTEST = {WITHOUT_NEIGHBOURS: 0.25, SECOND_DIFFERENCE: 0.5}
#: Side of the mean from which the slope and the variance of a pixel's surroundings are told.
AROUND = 9
#: Correlation that counts as none.
NONE = 0.05
#: Most that is believed: multiplied single photons have 1.5, and what is more is texture.
MOST = 2.0


def skewness_of_counts(
    measurement: Tensor,
    known: Tensor,
    noise: NoiseVariance,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Tensor:
    """Tell how many times as skewed the noise is as counted photons of its variance would be.

    Of photons, the third moment is the gain times the variance. Where nothing can be told it is 0.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *grid), of two dimensions or three; along depth no neighbours are compared.
    known : Tensor
        (1 or B, 1, *grid): 1 where there is a measurement.
    noise : NoiseVariance
        Of the measurement.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white. Pixels are
        compared at a distance where they share no noise.

    Returns
    -------
    Tensor
        (B, C, 1, ...) of `noise.gain`, from 0 to 2. On W2S and FMD, against what the mean of 50
        to 400 shots tells: 1.2 to 1.4 of 1.3 to 1.5 (EM-CCD), 1.1 to 2.0 of 1.1 to 1.9.
    """
    apart = tuple(_reach(along) for along in correlation or ((), ()))
    ratios = torch.stack(
        [_ratio(measurement, known, noise, weights, apart) for weights in FLATTEST]
    )
    return ratios.amin(0).clamp(0.0, MOST)


def _ratio(
    measurement: Tensor,
    known: Tensor,
    noise: NoiseVariance,
    weights: Weights,
    apart: tuple[int, ...],
) -> Tensor:
    """Third moment of what `weights` leave of the flattest pixels, over gain times variance."""
    batch, channels, *_ = measurement.shape
    taken = torch.tensor(weights).to(measurement)[None, None]
    around = plane_mean(measurement * known, AROUND) / plane_mean(known, AROUND).clamp(min=1e-6)
    variance = noise.at(around)
    valid = _filtered(known, (taken != 0).to(taken), apart) >= int((taken != 0).sum()) - 0.5
    valid = valid.expand_as(measurement)
    steep = _slope(around) / variance
    moments = (_filtered(measurement, taken, apart) ** 3).reshape(batch, channels, -1)
    said = (noise.gain * variance).reshape(batch, channels, -1) * float((taken**3).sum())
    answer = torch.zeros_like(noise.gain)
    for one in range(batch):
        for channel in range(channels):
            inside = valid[one, channel].flatten()
            slope = steep[one, channel].flatten()
            if not bool(inside.any()) or float(noise.gain[one, channel].max()) <= 0:
                continue
            limit = torch.kthvalue(
                slope[inside], max(1, int(FLATTEST[weights] * int(inside.sum())))
            ).values
            flat = inside & (slope <= limit)
            ratio = moments[one, channel][flat].sum() / said[one, channel][flat].sum()
            answer[one, channel] = ratio.nan_to_num(0.0, 0.0, 0.0)
    return answer


def _slope(around: Tensor) -> Tensor:
    """Squared slope in a plane, of the mean of each pixel's surroundings."""
    flat = around.reshape(-1, 1, *around.shape[-2:])
    framed = F.pad(flat, (1,) * 4, mode="replicate")
    down = framed[..., 2:, 1:-1] - framed[..., :-2, 1:-1]
    right = framed[..., 1:-1, 2:] - framed[..., 1:-1, :-2]
    return (down**2 + right**2).reshape(around.shape)


def plane_mean(image: Tensor, side: int) -> Tensor:
    """Mean of each pixel's surroundings in its plane, as many pixels wide; an odd number."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    framed = F.pad(flat, (side // 2,) * 4, mode="replicate")
    return F.avg_pool2d(framed, side, 1).reshape(image.shape)


def _reach(along: tuple[float, ...]) -> int:
    """Distance, in pixels, at which noise is not shared any more."""
    return max((lag for lag, one in enumerate(along, 1) if one > NONE), default=0) + 1


def _filtered(image: Tensor, weights: Tensor, apart: tuple[int, ...]) -> Tensor:
    """Weigh each pixel's neighbours so far apart in its plane; beyond the rim there is nothing."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    return F.conv2d(flat, weights, padding=apart, dilation=apart).reshape(image.shape)
