"""Inpainting fills masked pixels and NaN, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

import napari_dip as dip
from fit_inputs import (
    inspect_stack,
    make_fit_input_from,
    make_task_plan,
    make_task_prior,
    make_task_problem,
)
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.priors.masked_input import (
    INFERENCE_COPIES,
    MaskedInputPrior,
    fill_by_pull_push,
)
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Estimate, Identity
from napari_dip.errors import RefusedError
from napari_dip.errors.notes import StopReason
from napari_dip.io import ImageHeader
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.tasks import Inpaint
from napari_dip.tasks.base import GridLocation, InspectedPixels, Inspection, TaskPlan
from napari_dip.tasks.inpaint import (
    average_border_holes,
    blend_with_smooth_filling,
    dilate_holes,
    find_border_holes,
    is_scattered,
    measure_hole_depth,
    parse_mask,
)
from napari_dip.tasks.priors.image_input import compute_variance_factor
from napari_dip.tasks.priors.masked_input import (
    BORDER_NETWORK_WEIGHT,
    _fill_by_local_means,
    fill_harmonically,
)

if TYPE_CHECKING:
    from napari_dip.tasks.base import FitInput

SIDE = 32
SPEC = ImageHeader(name="cells", shape=(SIDE, SIDE), dtype="uint16", axes="YX")


def make_image(side: int = SIDE) -> np.ndarray:
    return data.camera()[100 : 100 + side, 200 : 200 + side].astype(np.uint16) * 10


def make_random_mask(side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).random((side, side)) < 0.5


def make_square_hole(size: int, side: int = 64) -> np.ndarray:
    holes = np.zeros((side, side), bool)
    start = (side - size) // 2
    holes[start : start + size, start : start + size] = True
    return holes


def make_fit_input(prior: str, holes: np.ndarray) -> FitInput:
    rng = torch.Generator().manual_seed(0)
    mask = torch.from_numpy(~holes).float()[None, None]
    measurement = torch.rand(1, 2, *holes.shape, generator=rng) * mask
    validation_mask = torch.zeros_like(mask)
    validation_mask[..., ::6, ::6] = mask[..., ::6, ::6]
    ones = torch.ones(1, 2, 1, 1)
    noise = NoiseVariance(gain=0 * ones, intercept=1e-4 * ones, floor=1e-4 * ones)
    return make_fit_input_from(
        measurement=measurement,
        noise_variance=noise,
        noise_level=0.01,
        measured_mask=mask,
        validation_mask=validation_mask,
        assumed_noise_fraction=0.6,
        prior=prior,
    )


def inpaint_briefly(image: Any, mask: Any = None, **settings: Any) -> dip.Restoration:
    return dip.inpaint(image, mask, preset="fast", device="cpu", max_iterations=3, **settings)


def test_values_above_zero_are_filled_in() -> None:
    mask = np.array([[0, 1], [2, -1]])
    assert parse_mask(mask, None, is_inverted=False).tolist() == [[False, True], [True, False]]
    assert parse_mask(mask, None, is_inverted=True).tolist() == [[True, False], [False, True]]
    assert parse_mask(mask, 2, is_inverted=False).tolist() == [[False, False], [True, False]]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("value", [1e-50, 5e-324, 1e39, 1e300])
def test_a_mask_marks_by_any_value_above_0(value: float) -> None:
    image, mask = make_image(), make_random_mask()
    first = inpaint_briefly(image, mask).image
    assert np.array_equal(inpaint_briefly(image, mask * np.float64(value)).image, first)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mask_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(RefusedError) as caught:
        inpaint_briefly(make_image(), np.where(make_random_mask(), value, 0.0))
    assert caught.value.reason.code == "input-not-finite"


def test_axes_of_one_element_do_not_make_a_mask_a_stack() -> None:
    header = ImageHeader(name="mask", shape=(1, SIDE, SIDE), dtype="uint8", axes="ZYX")
    assert make_task_plan(Inpaint(), SPEC, {"mask": header})


def test_growing_widens_by_that_many_pixels_and_rounds_corners() -> None:
    wide = dilate_holes(make_square_hole(1, 15), 3)
    assert wide[7].sum() == wide[:, 7].sum() == 7
    assert not wide[4, 4]
    assert (dilate_holes(make_square_hole(1, 15), 0) == make_square_hole(1, 15)).all()


def test_nan_pixels_are_holes_with_and_without_a_mask() -> None:
    image = np.zeros((1, 2, 8, 8), np.float32)
    image[0, 1, 2, 3] = np.nan
    holes = ~inspect_stack(Inpaint(), image).measured_mask
    assert holes.sum() == 1 and holes[0, 1, 2, 3]
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[..., 5, 5] = 1
    both = ~inspect_stack(Inpaint(grow=1), image, mask=mask).measured_mask
    assert both[0, 0].sum() == 5 and both[0, 1].sum() == 10


@pytest.mark.parametrize(
    ("holes", "prior", "word"),
    [
        (make_random_mask(64), "masked-input", "scattered"),
        (make_square_hole(9), "masked-input-shapes", "about 10 pixels"),
        (make_square_hole(40), "random-input-no-skips", "more than 24"),
    ],
)
def test_the_holes_choose_the_prior(holes: np.ndarray, prior: str, word: str) -> None:
    inspection = inspect_stack(Inpaint(), np.where(holes, np.nan, 1.0)[None, None])
    assert inspection.prior_key == prior
    assert word in inspection.prior_reason


def test_the_image_as_the_users_choice_minds_the_shape_of_the_holes() -> None:
    task = Inpaint(prior="masked-input")
    for holes, prior in (
        (make_square_hole(40), "masked-input-shapes"),
        (make_random_mask(), "masked-input"),
    ):
        assert inspect_stack(task, np.where(holes, np.nan, 1.0)[None, None]).prior_key == prior


def test_the_users_prior_is_never_replaced() -> None:
    task = Inpaint(prior="random-input")
    inspection = inspect_stack(task, np.where(make_square_hole(40), np.nan, 1.0)[None, None])
    assert inspection.prior_key == "random-input"


def test_scattered_holes_are_distinguished_from_shapes_at_any_share() -> None:
    rng = np.random.default_rng(0)
    assert all(is_scattered(rng.random((64, 64)) < share) for share in (0.01, 0.5, 0.9))
    assert not is_scattered(make_square_hole(9))
    lines = np.zeros((64, 64), bool)
    lines[::5] = True
    assert not is_scattered(lines)


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 1), (2, 1), (3, 2), (9, 5), (60, 30)])
def test_depth_counts_from_the_rim_inwards(size: int, expected: int) -> None:
    assert measure_hole_depth(make_square_hole(size)) == expected


def test_beyond_the_border_nothing_is_known() -> None:
    holes = np.zeros((64, 64), bool)
    holes[:, :5] = True
    assert measure_hole_depth(holes) == 5


def test_holes_are_neither_in_the_loss_nor_in_the_input() -> None:
    for prior in ("masked-input", "random-input", "random-input-no-skips"):
        fit_input = make_fit_input(prior, make_random_mask())
        assert (
            float(
                (
                    make_task_problem(Inpaint(), fit_input).main_term.training_pixel_weights
                    * (1 - fit_input.masks.measured)
                ).sum()
            )
            == 0
        )
    fit_input = make_fit_input("masked-input", make_random_mask())
    changed = make_fit_input("masked-input", make_random_mask())
    changed.measurement[:] = torch.where(changed.masks.measured > 0, changed.measurement, 1e3)
    codes = [
        make_task_prior(Inpaint(), this)
        .draw_step_input(torch.Generator().manual_seed(1))
        .network_input
        for this in (fit_input, changed)
    ]
    assert torch.equal(*codes)


def test_a_step_does_not_see_the_pixels_that_it_predicts() -> None:
    fit_input = make_fit_input("masked-input", make_random_mask())
    draws = []
    for _ in range(2):
        prior = make_task_prior(Inpaint(), fit_input)
        draw = prior.draw_step_input(torch.Generator().manual_seed(1))
        assert draw.loss_mask is not None and draw.window is not None
        draws.append(draw)
        shift = draw.window.place_on(
            draw.loss_mask, fit_input.grid
        )  # changes exactly what is foretold
        fit_input = replace(fit_input, measurement=fit_input.measurement + shift)
    assert float(draws[0].loss_mask.sum()) > 0
    assert torch.equal(draws[0].network_input, draws[1].network_input)


def test_validation_pixels_stay_hidden_until_the_final_inference() -> None:
    fit_input = make_fit_input("masked-input", make_random_mask())
    prior = make_task_prior(Inpaint(), fit_input)
    assert isinstance(prior, MaskedInputPrior)
    fed = prior.make_prediction_sample().network_input[:, -1:]
    assert torch.equal(fed, fit_input.masks.measured - fit_input.masks.validation - 0.5)
    draw = prior.draw_step_input(torch.Generator().manual_seed(1))
    assert draw.loss_mask is not None and draw.window is not None
    validation_mask = draw.window.crop(fit_input.masks.validation)
    assert bool(
        (draw.loss_mask[validation_mask > 0] == 1).all()
    )  # `fitted` keeps them out of the loss
    assert bool((draw.network_input[:, -1:][validation_mask > 0] == -0.5).all())


@pytest.mark.parametrize("holes", ["keep", "denoise"])
def test_the_final_inference_uses_each_pixel_once_and_predicts_validation_pixels(
    holes: str,
) -> None:
    fit_input = make_fit_input("masked-input", make_random_mask())
    prior = make_task_prior(Inpaint(unmasked=holes), fit_input)
    total = torch.zeros_like(fit_input.masks.measured)
    for draw in prior.make_inference_samples():
        assert draw.output_mask is not None
        hidden = draw.network_input[:, -1:] < 0
        judging = (
            fit_input.masks.validation
            if draw.window is None
            else draw.window.crop(fit_input.masks.validation)
        )
        assert bool(hidden[(judging > 0) & (draw.output_mask > 0)].all())
        total += (
            draw.output_mask
            if draw.window is None
            else draw.window.place_on(draw.output_mask, prior.grid)
        )
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_final_inference_predicts_copies_of_shaped_holes_while_they_are_hidden() -> None:
    fit_input = make_fit_input("masked-input-shapes", make_square_hole(7))
    prior = make_task_prior(Inpaint(), fit_input)
    copies = prior.list_hole_copies()
    assert len(copies) == INFERENCE_COPIES
    total = torch.zeros_like(fit_input.masks.measured)
    predicted = torch.zeros_like(total)
    for draw in prior.make_inference_samples():
        assert draw.output_mask is not None
        mask = draw.output_mask
        total += mask if draw.window is None else draw.window.place_on(mask, prior.grid)
        if draw.window is None:
            assert bool((draw.network_input[:, -1:][mask > 0] < 0).all())
            predicted = torch.maximum(predicted, mask)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert bool((predicted >= torch.cat(copies).amax(0, keepdim=True)).all())


@pytest.mark.parametrize("unmasked", ["keep", "denoise"])
def test_the_final_inference_hides_some_measured_pixels_beside_single_missing_ones(
    unmasked: Literal["keep", "denoise"],
) -> None:
    prior = make_task_prior(
        Inpaint(unmasked=unmasked), make_fit_input("masked-input", make_random_mask())
    )
    (hidden,) = prior.list_hole_copies()
    predicting = [draw for draw in prior.make_inference_samples() if draw.window is None]
    assert predicting[0].output_mask is not None
    assert torch.equal(predicting[0].output_mask, hidden)
    assert bool((predicting[0].network_input[:, -1:][hidden > 0] < 0).all())


@pytest.mark.parametrize(("network_error", "weight"), [(0.0, 0.0), (0.5, 1.0)])
def test_hole_copies_weigh_the_smooth_filling_against_that_of_the_network(
    network_error: float, weight: float
) -> None:
    fit_input = make_fit_input("masked-input-shapes", make_square_hole(7))
    rng = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, fit_input.grid[0])[:, None].expand(1, 2, *fit_input.grid)
    rough = 0.1 * torch.randn(ramp.shape, generator=rng)
    # a rough image that the network knows, or a smooth one that it does not
    truth = ramp + rough if weight == 0 else ramp
    error = network_error * torch.randn(ramp.shape, generator=rng)
    holes = 1 - fit_input.masks.measured
    fit_input = replace(fit_input, measurement=truth * fit_input.masks.measured)
    copies = make_task_prior(Inpaint(), fit_input).list_hole_copies()
    predicted = Estimate(truth + error, torch.zeros_like(error))
    blended = blend_with_smooth_filling(fit_input, copies, predicted)
    off = ((blended.mean - truth) * holes).abs().max()
    assert float(off) < 0.02
    assert torch.equal(blended.mean * (1 - holes), (truth + error) * (1 - holes))


def test_holes_in_noise_are_filled_with_local_means_and_their_error_is_stated() -> None:
    fit_input = make_fit_input("masked-input-shapes", make_square_hole(7))
    rng = torch.Generator().manual_seed(0)
    truth = torch.full((1, 2, *fit_input.grid), 0.5)
    noise_std = fit_input.noise.noise_variance.compute_variance(truth).sqrt()
    measurement = truth + noise_std * torch.randn(truth.shape, generator=rng)
    fit_input = replace(fit_input, measurement=measurement * fit_input.masks.measured)
    copies = make_task_prior(Inpaint(), fit_input).list_hole_copies()
    is_hole = (fit_input.masks.measured == 0).expand_as(truth)
    # a network that copies the noise of neighbours, and says that of a measured pixel
    rough = truth + noise_std * torch.randn(truth.shape, generator=rng)
    predicted = Estimate(rough, 2 * noise_std.log())
    blended = blend_with_smooth_filling(fit_input, copies, predicted)
    assert blended.log_variance is not None
    error = float((blended.mean - truth)[is_hole].square().mean().sqrt())
    factor = compute_variance_factor(fit_input, Identity(), predicted)
    stated = float((factor * blended.log_variance.exp())[is_hole].mean().sqrt())
    assert error < stated < 0.6 * float(noise_std.mean())  # the network says 1.0
    assert torch.equal(blended.log_variance[~is_hole], 2 * noise_std.log()[~is_hole])


def test_deep_in_a_hole_a_local_mean_is_that_of_all_visible_pixels() -> None:
    hidden = torch.zeros(1, 1, 96, 96, dtype=torch.bool)
    hidden[:, :, 12:84, 12:84] = True
    filled = _fill_by_local_means(torch.full((1, 1, 96, 96), 0.5), hidden, 1.8)
    torch.testing.assert_close(filled, torch.full_like(filled, 0.5))


def make_border_holes() -> np.ndarray:
    """Return a square of 16 pixels in the corner, and one inside."""
    holes = make_square_hole(16)
    holes[:16, :16] = True
    return holes


def test_only_borders_of_the_image_are_borders_of_a_tile() -> None:
    holes = make_border_holes()
    corner = np.zeros_like(holes)
    corner[:16, :16] = True
    assert np.array_equal(find_border_holes(holes), corner)
    tile = GridLocation(start=(32, 0), image_size=(128, 64))
    assert np.array_equal(find_border_holes(holes, tile), corner)
    assert not find_border_holes(holes, replace(tile, start=(32, 8))).any()
    assert not find_border_holes(make_square_hole(16)).any()


def test_the_harmonic_filling_continues_a_ramp_inside_and_its_last_value_at_the_border() -> None:
    ramp = np.broadcast_to(np.arange(32.0), (1, 24, 32))
    holes = np.zeros((24, 32), bool)
    holes[:, 8:12] = holes[:, 28:] = True
    expected = ramp.clip(max=27)
    np.testing.assert_allclose(fill_harmonically(ramp * ~holes, holes), expected, atol=1e-9)


def test_holes_at_the_border_are_averaged_with_a_harmonic_filling_and_no_others() -> None:
    holes = make_border_holes()
    corner = find_border_holes(holes)
    is_kept = torch.from_numpy(~corner)
    fit_input = make_fit_input("random-input-no-skips", holes)
    fit_input = replace(fit_input, measurement=0.5 * fit_input.masks.measured.expand(1, 2, 64, 64))
    mean = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    averaged = average_border_holes(fit_input, corner, Estimate(mean, torch.zeros_like(mean)))
    assert averaged.log_variance is not None
    assert torch.equal(averaged.mean[:, :, is_kept], mean[:, :, is_kept])
    assert not averaged.log_variance[:, :, is_kept].any()
    expected = 0.5 + BORDER_NETWORK_WEIGHT * (mean - 0.5)
    torch.testing.assert_close(averaged.mean[:, :, ~is_kept], expected[:, :, ~is_kept])


def test_the_uncertainty_in_holes_at_the_border_is_the_error_in_mirrored_copies() -> None:
    holes = np.zeros((64, 64), bool)
    holes[:, 48:] = True
    fit_input = make_fit_input("random-input-no-skips", holes)
    ramp = torch.arange(64.0).expand(1, 2, 64, 64) / 64
    fit_input = replace(
        fit_input,
        measurement=ramp * fit_input.masks.measured,
        masks=replace(fit_input.masks, validation=0 * fit_input.masks.measured),
    )
    harmonic = ramp.clip(max=47 / 64)
    certain = Estimate(harmonic, torch.full_like(ramp, -20.0))
    log_variance = average_border_holes(fit_input, holes, certain).log_variance
    assert log_variance is not None
    errors = (torch.arange(1, 17) / 64) ** 2  # a straight slope is not continued
    variance = log_variance.exp()[0, 0, :, 48:] / (1 - BORDER_NETWORK_WEIGHT)
    torch.testing.assert_close(variance, errors.expand(64, 16), rtol=1e-3, atol=2e-4)


def test_wide_holes_are_finished_otherwise_only_if_one_is_at_the_border() -> None:
    for holes, is_finished in ((make_square_hole(40), False), (make_border_holes(), True)):
        fit_input = make_fit_input("random-input-no-skips", holes)
        problem = make_task_problem(Inpaint(), fit_input)
        assert (problem.full_postprocess is not None) is is_finished
        assert problem.blends_filling is is_finished


def test_shaped_holes_are_learned_from_copies_of_their_shape() -> None:
    fit_input = make_fit_input("masked-input-shapes", make_square_hole(7))
    prior = make_task_prior(Inpaint(), fit_input)
    assert isinstance(prior, MaskedInputPrior) and prior.uses_hole_shapes
    rng = torch.Generator().manual_seed(3)
    draws = [prior.draw_step_input(rng) for _ in range(8)]
    blocks = [
        -torch.nn.functional.max_pool2d(-draw.loss_mask, 5, 1)  # type: ignore[operator]
        for draw in draws
    ]
    assert any(float(block.max()) == 1 for block in blocks)  # 5 x 5 hidden pixels side by side


@pytest.mark.parametrize(
    ("prior", "holes", "ways"),
    [("masked-input", make_random_mask(), 4), ("masked-input-shapes", make_square_hole(7), 1)],
)
def test_steps_see_scattered_pixels_in_every_mirror_and_shapes_as_they_are(
    prior: str, holes: np.ndarray, ways: int
) -> None:
    inpainting_prior = make_task_prior(Inpaint(), make_fit_input(prior, holes))
    rng = torch.Generator().manual_seed(1)
    fractions = {
        draw.window.flipped_dims
        for draw in (inpainting_prior.draw_step_input(rng) for _ in range(24))
        if draw.window
    }
    assert len(fractions) == ways


def test_a_smooth_filling_keeps_what_is_seen_and_follows_a_ramp() -> None:
    ramp = torch.linspace(0, 1, 33).expand(1, 1, 33, 33)
    visible = torch.from_numpy(~make_random_mask(33)).float()[None, None]
    filled = fill_by_pull_push(ramp * visible, visible)
    assert torch.equal(filled * visible, ramp * visible)
    assert float((filled - ramp).abs().max()) < 0.1


@pytest.mark.parametrize("prior", ["masked-input", "random-input", "random-input-no-skips"])
def test_measured_pixels_come_back_exactly_and_restored_ones_do_not(prior: str) -> None:
    image, mask = make_image(), make_random_mask()
    kept = inpaint_briefly(image, mask, prior=prior)
    assert (kept.image[~mask] == image[~mask]).all()
    assert np.isfinite(kept.image).all() and (kept.uncertainty > 0).all()
    assert kept.report["residual"] == {"lag_1_correlation": 0.0, "mean": 0.0}
    restored = inpaint_briefly(image, mask, prior=prior, unmasked="denoise")
    assert not (restored.image[~mask] == image[~mask]).all()


def test_a_hole_in_one_channel_leaves_the_others_alone() -> None:
    image = np.stack([make_image(), make_image() // 2, make_image() // 3], -1).astype(np.float32)
    image[4:9, :, 1] = np.nan
    result = inpaint_briefly(image, axes="YXS")
    measured = np.isfinite(image)
    assert (result.image[measured] == image[measured]).all()
    assert np.isfinite(result.image).all()


def test_the_report_names_the_prior_that_suits_the_holes() -> None:
    report = inpaint_briefly(make_image(64), make_square_hole(40), seed=1).report
    assert report["prior"]["key"] == "random-input-no-skips"
    assert "wide" in report["prior"]["reason"]
    assert report["iterations"] <= 3


def test_finishing_keeps_what_was_measured() -> None:
    fit_input = make_fit_input("masked-input", make_random_mask())
    wrong = Estimate(
        torch.full_like(fit_input.measurement, 9.0), torch.zeros_like(fit_input.measurement)
    )
    finished = make_task_problem(Inpaint(), fit_input).postprocess(wrong)
    measured = fit_input.masks.measured.expand_as(fit_input.measurement) > 0
    assert torch.equal(finished.mean[measured], fit_input.measurement[measured])
    assert bool((finished.mean[~measured] == 9).all())
    assert finished.log_variance is not None
    assert bool((finished.log_variance[measured] < -9).all())


@pytest.mark.parametrize(
    "prior", ["random-input", "random-input-no-skips", "masked-input", "masked-input-shapes"]
)
def test_the_own_variance_of_the_output_does_not_count_in_validation(prior: str) -> None:
    fit_input = make_fit_input(prior, make_random_mask())
    term = make_task_problem(Inpaint(), fit_input).main_term
    off = fit_input.measurement + 0.1
    sure, unsure = (torch.full_like(off, value) for value in (-20.0, 0.0))
    losses = [
        term.deviance(Estimate(off, doubt), fit_input.measurement) for doubt in (sure, unsure)
    ]
    assert torch.equal(*losses)


def test_the_deep_network_has_no_shortcuts() -> None:
    prior = make_task_prior(
        Inpaint(prior="random-input-no-skips"),
        make_fit_input("random-input-no-skips", make_square_hole(40)),
    )
    assert isinstance(prior, RandomInputPrior)
    assert prior.jitter == 0
    assert prior.network.has_skips is False


@pytest.mark.parametrize(
    ("mask", "settings", "code"),
    [
        (None, {}, "holes-none"),
        (None, {"label": 2}, "mask-missing"),
        (None, {"invert_mask": True}, "mask-missing"),
        (np.zeros((SIDE, SIDE)), {}, "mask-empty"),
        (np.ones((SIDE, SIDE)), {}, "mask-full"),
        (make_square_hole(20, SIDE), {"grow": 30}, "mask-full"),
        (make_square_hole(20, SIDE), {"label": 2}, "mask-label"),
        (np.ones((SIDE, SIDE - 1)), {}, "mask-shape"),
        (np.ones((2, SIDE, SIDE)), {}, "mask-planes"),
        (np.ones((SIDE, SIDE, 3)), {}, "mask-planes"),
        (np.ones(SIDE), {}, "mask-planes"),
        (np.where(make_square_hole(4, SIDE), np.nan, 0), {}, "input-not-finite"),
        (np.full((SIDE, SIDE), "a"), {}, "image-text"),
    ],
)
def test_bad_masks_are_refused_with_a_message(
    mask: Any, settings: dict[str, Any], code: str
) -> None:
    with pytest.raises(dip.RefusedError) as caught:
        dip.inpaint(make_image(), mask, **settings)
    assert caught.value.reason.code == code


def test_an_image_whose_holes_are_all_there_is_is_refused() -> None:
    with pytest.raises(dip.RefusedError) as caught:
        dip.inpaint(np.full((SIDE, SIDE), np.nan, np.float32))
    assert caught.value.reason.code == "nothing-measured"


def test_a_float_image_without_holes_is_refused_after_reading() -> None:
    with pytest.raises(dip.RefusedError) as caught:
        dip.inpaint(make_image().astype(np.float32))
    assert caught.value.reason.code == "holes-none"


def inspect_mask(marked: np.ndarray, image: np.ndarray | None = None, **settings: int) -> list[str]:
    """The codes of the notes on a mask."""
    if image is None:
        image = np.random.default_rng(0).random(marked.shape, np.float32)
    axes = "CYX"[-image.ndim :]
    header = ImageHeader(name="cells", shape=image.shape, dtype="float32", axes=axes)
    extra_inputs = {"mask": marked.astype(np.float32)}
    stack = image.reshape(1, -1, *marked.shape)
    pixels = InspectedPixels(header=header, image=image, stack=stack, extra_inputs=extra_inputs)
    inspection = Inpaint(**settings).inspect(pixels, TaskPlan(prior_key="masked-input"))
    assert isinstance(inspection, Inspection)
    return [note.code for note in inspection.notes]


@pytest.mark.parametrize("grow", [0, 3])
def test_a_mask_of_saturated_places_is_told_from_letters_in_white(grow: int) -> None:
    scene = data.camera()[100:196, 150:246].astype(np.float32)
    limit = np.quantile(scene, 0.9)
    cut_off = np.minimum(scene, limit)
    assert inspect_mask(cut_off == limit, cut_off, grow=grow) == ["mask-saturated"]
    letters = np.zeros(scene.shape, bool)
    assert 0 < (cut_off == limit).mean() < 0.2
    letters[40:44, 10:80] = True
    assert inspect_mask(letters, np.where(letters, 255, scene), grow=grow) == []
    beside_nan = np.where(ndimage.binary_dilation(letters, iterations=2) & ~letters, np.nan, scene)
    beside_nan[letters] = 255
    assert inspect_mask(letters, beside_nan, grow=grow) == []


def test_a_mask_of_places_saturated_in_a_single_colour_is_told() -> None:
    scene = np.stack([data.camera()[100:196, 150:246].astype(np.float32)] * 2)
    scene[0] = np.minimum(scene[0], limit := np.quantile(scene[0], 0.9))
    scene[1] = 300 - scene[1]
    assert inspect_mask(scene[0] == limit, scene) == ["mask-saturated"]


def test_a_mask_that_marks_the_measured_pixels_is_suspected() -> None:
    hole = make_square_hole(20)
    assert inspect_mask(~hole) == ["mask-mostly"]
    assert inspect_mask(hole) == []


def test_pixels_that_are_missing_singly_are_no_reversed_mask() -> None:
    assert inspect_mask(np.random.default_rng(0).random((64, 64)) < 0.9) == []


def test_a_blended_filling_is_no_refinement_of_the_pixels_that_were_measured() -> None:
    result = dip.inpaint(make_image(64), make_square_hole(7), preset="fast", max_iterations=8)
    fit = result.report["fit"]
    assert (fit["blended"], fit["refined"]) == (True, False)
    assert not fit["min_spot_snr"]
    assert not fit["min_line_snr"]


def test_methods_name_the_filling_that_holes_at_the_border_are_averaged_with() -> None:
    methods = [
        write_methods_section(inpaint_briefly(make_image(64), holes).report)
        for holes in (make_border_holes(), make_square_hole(40), make_square_hole(7))
    ]
    assert [" harmonic " in text for text in methods] == [True, False, False]
    assert ["biharmonic" in text for text in methods] == [False, False, True]


def test_one_bright_pixel_on_black_does_not_end_the_fit() -> None:
    image = np.zeros((24, 16), np.float32)
    image[5, 5] = 1000
    mask = np.zeros(image.shape, bool)
    mask[14:, 3] = True
    result = dip.inpaint(image, mask=mask, preset="fast")
    assert result.stop.reason is StopReason.ITERATIONS
    assert np.abs(result.image[mask]).max() < 20


@pytest.mark.parametrize("prior", ["auto", "masked-input", "random-input"])
@pytest.mark.parametrize("holes", [make_random_mask(64), make_square_hole(6), make_square_hole(40)])
@pytest.mark.parametrize("planes", [1, 4])
def test_the_plan_knows_every_prior_that_holes_may_select(
    prior: str, holes: np.ndarray, planes: int
) -> None:
    task, grid = Inpaint(prior=prior), (planes, 64, 64)[planes == 1 :]
    header = ImageHeader(name="cells", shape=grid, dtype="float32", axes="ZYX"[planes == 1 :])
    plan = make_task_plan(task, header, axes=header.axes)
    inspection = inspect_stack(task, np.where(np.broadcast_to(holes, grid), np.nan, 1)[None, None])
    assert isinstance(inspection, Inspection)
    assert inspection.prior_key in {plan.prior_key, *plan.other_priors}
