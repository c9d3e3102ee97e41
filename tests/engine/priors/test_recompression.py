"""JPEG compression is computed as in files, and a result stays consistent with the file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.engine.prior import GuidedPrior
from napari_dip.engine.priors.masked_input import FillingResidualNetwork
from napari_dip.engine.priors.recompression import (
    JpegCompression,
    RecompressionPrior,
    mask_whole_blocks,
    number_blocks,
    project_onto_quantisation_set,
    reapply_shifted_jpeg,
    recompress,
)

SIDE = 48


def load_grey() -> np.ndarray:
    return data.camera()[120 : 120 + SIDE, 200 : 200 + SIDE]


def load_colours() -> np.ndarray:
    return data.astronaut()[60 : 60 + SIDE, 180 : 180 + SIDE]


def save_as_jpeg(
    image: np.ndarray, quality: int, **options: int
) -> tuple[torch.Tensor, JpegCompression]:
    """Save with Pillow; the image as opened again, and what the file says of itself."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, **options)
    opened = Image.open(file)
    tables = [
        np.array(opened.quantization[min(k, 1)]) for k in range(np.atleast_3d(opened).shape[2])
    ]
    steps = torch.tensor(np.array(tables), dtype=torch.float32).reshape(-1, 8, 8)
    halved = bool(options.get("subsampling")) and image.ndim == 3
    return split_channels(np.asarray(opened)), JpegCompression(
        block_offset=(0, 0), quantisation_tables=steps, has_half_chroma=(halved, halved)
    )


def split_channels(image: np.ndarray) -> torch.Tensor:
    moved = np.moveaxis(np.atleast_3d(image), -1, 0).astype(np.float32)
    return torch.from_numpy(moved.copy())[None]


def measure_error(image: torch.Tensor, other: torch.Tensor) -> float:
    return float((image - other).square().mean())


@pytest.mark.parametrize("quality", [10, 40, 80])
def test_greys_come_out_as_pillow_saves_them(quality: int) -> None:
    opened, compression = save_as_jpeg(load_grey(), quality)
    ours = recompress(split_channels(load_grey()), compression).clamp(0, 255)
    # rounded to whole levels, and now and then a coefficient between two steps to the other one
    assert measure_error(ours, opened) < 1 / 12 + 0.05 * measure_error(
        split_channels(load_grey()), opened
    )


@pytest.mark.parametrize("subsampling", [0, 2])
def test_colours_come_out_nearly_as_pillow_saves_them(subsampling: int) -> None:
    opened, compression = save_as_jpeg(load_colours(), 40, subsampling=subsampling)
    ours = recompress(split_channels(load_colours()), compression).clamp(0, 255)
    assert measure_error(ours, opened) < 0.1 * measure_error(split_channels(load_colours()), opened)


def test_the_mean_over_grids_is_nearer_to_the_truth() -> None:
    opened, compression = save_as_jpeg(load_grey(), 10)
    assert measure_error(
        reapply_shifted_jpeg(opened, compression), split_channels(load_grey())
    ) < 0.95 * measure_error(opened, split_channels(load_grey()))


def test_the_truth_is_consistent_with_its_own_file_and_a_flat_image_is_not() -> None:
    opened, compression = save_as_jpeg(load_grey(), 20)
    kept = project_onto_quantisation_set(split_channels(load_grey()), opened, compression)
    assert measure_error(kept, split_channels(load_grey())) < 0.5  # rounding of pixels only
    flat = torch.full_like(opened, 100.0)
    assert measure_error(
        project_onto_quantisation_set(flat, opened, compression), opened
    ) < measure_error(flat, opened)


def test_what_is_consistent_compresses_to_the_same_file() -> None:
    opened, compression = save_as_jpeg(load_grey(), 20)
    kept = project_onto_quantisation_set(
        reapply_shifted_jpeg(opened, compression), opened, compression
    )
    assert measure_error(recompress(kept, compression), recompress(opened, compression)) < 1


def test_blocks_that_the_border_cuts_are_left_alone() -> None:
    _, compression = save_as_jpeg(load_grey(), 20)
    cut = JpegCompression(block_offset=(5, 3), quantisation_tables=compression.quantisation_tables)
    image = split_channels(load_grey())
    inside = mask_whole_blocks(image, cut)
    assert float(inside[..., :5, :].sum()) == float(inside[..., :3].sum()) == 0
    assert float(inside.sum()) == 40 * 40
    changed = project_onto_quantisation_set(image, image.roll(1, 2), cut) != image
    assert not bool((changed & (inside == 0)).any())


def test_pixels_of_a_block_share_its_number() -> None:
    _, compression = save_as_jpeg(load_grey(), 20)
    numbers = number_blocks(
        split_channels(load_grey()),
        JpegCompression(block_offset=(4, 0), quantisation_tables=compression.quantisation_tables),
    )
    assert len(numbers.unique()) == 7 * 6
    assert len(numbers[4:12, 8:16].unique()) == 1
    assert numbers[3, 0] != numbers[4, 0]


def make_prior(rng: torch.Generator) -> tuple[RecompressionPrior, torch.Tensor]:
    opened, compression = save_as_jpeg(load_grey(), 10)
    hourglass = Hourglass(2, 2, 1, (4, 8), skip_channels=None, is_normalised=False, rng=rng)
    net = FillingResidualNetwork(hourglass, 2, 1, 2, rng)
    shift = (lambda image: 200 * image, lambda levels: levels / 200)
    return RecompressionPrior(net, opened / 200, compression, *shift, window=(32, 32)), opened


def test_a_guide_comes_along_with_the_input_of_the_validation() -> None:
    prior, opened = make_prior(torch.Generator().manual_seed(0))
    own = prior.make_validation_sample()
    guided = GuidedPrior(prior, opened / 200).make_validation_sample()
    assert guided is not None and guided.bypasses_operator
    torch.testing.assert_close(guided.network_input[:, :2], own.network_input)
    torch.testing.assert_close(guided.network_input[:, 2:], opened / 200)


def test_steps_get_the_recompressed_image_and_the_final_inference_the_image() -> None:
    rng = torch.Generator().manual_seed(0)
    prior, opened = make_prior(rng)
    sample = prior.draw_step_input(rng)
    assert sample.network_input.shape == (1, 2, 32, 32)
    assert sample.loss_mask is sample.output_mask is None
    (last,) = prior.make_inference_samples()
    torch.testing.assert_close(last.network_input[:, 1:] * 200, opened)
    torch.testing.assert_close(prior.make_prediction_sample().network_input, last.network_input)
    assert measure_error(prior.make_validation_sample().network_input, last.network_input) > 0
    untrained = prior.estimate(prior.network(last.network_input))
    torch.testing.assert_close(untrained.mean, last.network_input[:, :1])  # an image from the start
