"""Recompression prior: its network learns to undo a second JPEG compression of the image.

The result is projected to an image that compresses to the measurement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.tasks.priors.image_input import build_image_network

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.priors.recompression import JpegCompression
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.tasks.base import FitInput
    from napari_dip.tasks.priors.prior_spec import PriorOptions

#: Fraction of the blocks that are validation blocks. Whole blocks are needed because the
#: compression error of a pixel depends on its whole block.
VALIDATION_BLOCK_FRACTION = 0.1
#: Minimum variance, as a share of the squared compression error: it keeps the loss finite where the
#: network predicts almost no variance.
COMPRESSION_VARIANCE_FLOOR = 0.1


def build_recompression_prior(
    fit_input: FitInput, rng: torch.Generator, options: PriorOptions
) -> Prior:
    """Build the network and its input: the image, compressed again on shifted block grids."""
    from napari_dip.engine.priors.masked_input import FillingResidualNetwork
    from napari_dip.engine.priors.recompression import RecompressionPrior

    channels = fit_input.measurement.shape[1]
    input_channels = 2 * channels
    network = build_image_network(
        fit_input, rng, input_channels, channels, preserves_variance=False
    )
    return RecompressionPrior(
        FillingResidualNetwork(network, input_channels, channels, 2, rng),
        fit_input.measurement,
        _make_compression(fit_input),
        lambda image: _to_grey_levels(fit_input, image),
        lambda levels: _to_network_units(fit_input, levels),
        window=None if fit_input.window_side is None else (fit_input.window_side,) * 2,
    )


def build_recompression_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the problem: the network restores the image from its recompressed version.

    `add_jpeg_projection` appends the last step of postprocessing.
    """
    import torch

    from napari_dip.engine.likelihood.fidelity import (
        NoiseVariance,
        make_beta_nll,
        make_gaussian_deviance,
    )
    from napari_dip.engine.priors.recompression import (
        RECOMPRESSION_SHIFTS,
        number_blocks,
        recompress,
    )
    from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE, Identity, Problem, Term

    compression, measured = _make_compression(fit_input), fit_input.measurement
    image = _to_grey_levels(fit_input, measured)
    compressed_again = recompress(image, compression, RECOMPRESSION_SHIFTS[0])
    error = (_to_network_units(fit_input, compressed_again) - measured).square().mean()
    compression_error = max(float(error), MIN_PREDICTION_VARIANCE)
    min_variance = COMPRESSION_VARIANCE_FLOOR * compression_error
    zero = torch.zeros_like(fit_input.noise.noise_variance.gain)
    variance_floor = NoiseVariance(gain=zero, intercept=zero, floor=zero + min_variance)
    block_numbers = number_blocks(image, compression)
    draws = torch.rand(int(block_numbers.max()) + 1, generator=torch.Generator().manual_seed(0))
    is_chosen = draws.to(block_numbers.device)[block_numbers] < VALIDATION_BLOCK_FRACTION
    block_mask = is_chosen.to(measured)[None, None]
    term = Term(
        measurement=measured,
        operator=Identity(),
        fidelity=make_beta_nll(variance_floor, compression_error),
        deviance=make_gaussian_deviance(variance_floor),
        training_pixel_weights=1 - block_mask,
        validation_mask=block_mask,
        refit_pixel_weights=torch.ones_like(block_mask),
    )

    def postprocess(estimate: Estimate) -> Estimate:
        log_variance = estimate.log_variance
        assert log_variance is not None  # this prior predicts a variance
        return estimate._replace(log_variance=(log_variance.exp() + min_variance).log())

    return Problem(terms=(term,), penalties=options.penalties, postprocess=postprocess)


def add_jpeg_projection(fit_input: FitInput, problem: Problem) -> Problem:
    """Append the projection to images that compress to the measurement."""
    from napari_dip.engine.problem import append_postprocessing

    return append_postprocessing(problem, lambda _, final: project_to_jpeg(fit_input, final))


def project_to_jpeg(fit_input: FitInput, estimate: Estimate) -> Estimate:
    """Convert an estimate to grey levels, project it as JPEG demands, and convert it back."""
    from napari_dip.engine.priors.recompression import project_onto_quantisation_set

    measured = _to_grey_levels(fit_input, fit_input.measurement)
    nearest = project_onto_quantisation_set(
        _to_grey_levels(fit_input, estimate.mean), measured, _make_compression(fit_input)
    )
    return estimate._replace(mean=_to_network_units(fit_input, nearest))


def _make_compression(fit_input: FitInput) -> JpegCompression:
    from napari_dip.engine.priors.recompression import JpegCompression

    down, right = (int(value) for value in fit_input.extra_inputs["jpeg_start"])
    half_height, half_width = (bool(value) for value in fit_input.extra_inputs["jpeg_halved"])
    return JpegCompression(
        block_offset=(down, right),
        quantisation_tables=fit_input.extra_inputs["jpeg_steps"],
        has_half_chroma=(half_height, half_width),
    )


def _to_grey_levels(fit_input: FitInput, image: Tensor) -> Tensor:
    """Convert network units to 8-bit grey levels."""
    return fit_input.to_image_units(image) * fit_input.extra_inputs["jpeg_levels"]


def _to_network_units(fit_input: FitInput, levels: Tensor) -> Tensor:
    """Convert 8-bit grey levels to network units."""
    return fit_input.to_network_units(levels / fit_input.extra_inputs["jpeg_levels"])
