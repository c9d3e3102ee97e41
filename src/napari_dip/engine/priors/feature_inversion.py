"""Define feature inversion: the problem of given activations of a layer, and free pixels."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_dip.engine.likelihood.fidelity import make_least_squares
from napari_dip.engine.problem import Estimate, Operator, Problem, Term

if TYPE_CHECKING:
    from napari_dip.engine.problem import Penalty


class PixelParameters(nn.Module):
    """Pixels as independent weights, without a network; the input is ignored.

    Parameters
    ----------
    channels : int
    grid : tuple of int
    std : float
        Standard deviation of the initial pixels, around 0.
    rng : torch.Generator
    """

    def __init__(
        self, channels: int, grid: tuple[int, ...], std: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        initial_pixels = torch.empty(1, channels, *grid).normal_(0, std, generator=rng)
        self.pixels = nn.Parameter(initial_pixels)

    def forward(self, network_input: Tensor) -> Tensor:
        """Return the pixels."""
        return self.pixels


class UnmeasuredIdentity(Operator):
    """Identity operator of a term without measured pixels: only activations are fitted.

    Parameters
    ----------
    image_mean : Tensor
        (1, C, 1, 1), mean of the image.
    """

    def __init__(self, image_mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("image_mean", image_mean)

    def forward(self, image: Tensor) -> Tensor:
        """Return the image unchanged."""
        return image

    def detect(self, image: Tensor) -> Tensor:
        """Return the estimated image, shifted to the mean of the measured one.

        Results are corrected by the difference of these means. It is 0 here, so that no pixel of
        the image enters the result.
        """
        return image + self.get_buffer("image_mean") - image.mean((2, 3), keepdim=True)


def make_feature_inversion_problem(
    image: Tensor, operator: Operator, penalties: tuple[tuple[float, Penalty], ...]
) -> Problem | None:
    """Return the problem of finding an image with the same activations as the given one.

    Squared residuals are divided by the mean square of the activations. The loss is then 1 for an
    image without activations, so that a penalty's weight means the same for all layers.

    Parameters
    ----------
    image : Tensor
        (1, C, Y, X), in network units.
    operator : Operator
        (1, C, Y, X) -> (1, K, h, w), the layer's activations.
    penalties : tuple of (weight, Penalty)

    Returns
    -------
    Problem or None
        None if all activations are zero, or any is not finite.

    References
    ----------
    Mahendran, Vedaldi, Understanding deep image representations by inverting them, CVPR 2015,
    doi:10.1109/CVPR.2015.7299155.
    """
    with torch.no_grad():
        activations = operator(image)
    mean_square = float(activations.square().mean())
    if not (isfinite(mean_square) and mean_square > 0):
        return None
    no_pixels, all_activations = torch.zeros_like(image[:, :1]), torch.ones_like(activations[:, :1])
    # the first term defines the grid of the image for the loop, previews and report
    pixels = Term(
        measurement=torch.zeros_like(image),
        operator=UnmeasuredIdentity(image.mean((2, 3), keepdim=True)),
        fidelity=make_least_squares(1.0),
        deviance=make_least_squares(1.0),
        training_pixel_weights=no_pixels,
        validation_mask=no_pixels,
        refit_pixel_weights=no_pixels,
    )
    features = Term(
        measurement=activations,
        operator=operator,
        fidelity=make_least_squares(mean_square),
        deviance=make_least_squares(mean_square),
        training_pixel_weights=all_activations,
        validation_mask=torch.zeros_like(all_activations),
        refit_pixel_weights=all_activations,
    )
    # the variance of the outputs is omitted, since there are no validation pixels to scale it by
    return Problem(
        terms=(pixels, features),
        penalties=penalties,
        postprocess_on_grid=lambda item: Estimate(item.mean),
    )
