"""Similar patches are filtered together, guided by an image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from skimage import data
from torch.nn import functional as F

from napari_dip.engine import patch_groups
from napari_dip.engine import refinement as module
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.likelihood.lost_detail import find_unguided_places
from napari_dip.engine.noise.correlation import compute_patch_power
from napari_dip.engine.problem import (
    Estimate,
    Problem,
    append_postprocessing,
    make_single_step,
    run_steps,
)
from napari_dip.engine.refinement import (
    filter_by_guide,
    refine_by_nl_bayes,
)

DEVIATION = 0.08


def draw_truth(height: int = 64, width: int = 72) -> torch.Tensor:
    image = data.camera()[100 : 100 + height, 180 : 180 + width] / 255
    return torch.from_numpy(image).float()[None, None]


def make_noise_variance(
    gain: float = 0.0, variance: float = DEVIATION**2, channels: int = 1
) -> NoiseVariance:
    mask = torch.ones(1, channels, 1, 1)
    return NoiseVariance(gain=gain * mask, intercept=variance * mask, floor=1e-4 * variance * mask)


def make_noisy(image: torch.Tensor, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return image + DEVIATION * torch.randn(image.shape, generator=rng)


def average_3x3(image: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)


def measure_error(image: torch.Tensor) -> float:
    return float((image - draw_truth()).square().mean())


def test_the_filtered_image_is_better_than_its_pilot_and_than_the_measurement() -> None:
    measured = make_noisy(draw_truth())
    pilot = average_3x3(measured)
    filtered = refine_by_nl_bayes(
        make_noise_variance(), measured, pilot, torch.ones_like(measured)
    ).mean
    assert measure_error(filtered) < 0.85 * measure_error(pilot)
    assert measure_error(filtered) < 0.2 * measure_error(measured)


def test_sparse_groups_take_a_quarter_of_the_filtering_and_keep_most_of_its_gain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = make_noisy(draw_truth())
    arguments = make_noise_variance(), measured, average_3x3(measured), torch.ones_like(measured)
    counts: list[int] = []
    filter_groups = module.filter_by_nl_bayes

    def count(image: torch.Tensor, pilot: torch.Tensor, blocks: Any, *others: Any) -> Any:
        counts.append(sum(block.patch_indices[..., 0].numel() for block in blocks))
        return filter_groups(image, pilot, blocks, *others)

    monkeypatch.setattr(module, "filter_by_nl_bayes", count)
    dense = refine_by_nl_bayes(*arguments).mean
    sparse = refine_by_nl_bayes(*arguments, uses_sparse_groups=True).mean
    assert counts == [8 * 9, 15 * 17, 8 * 9, 8 * 9]
    assert measure_error(dense) < measure_error(sparse) < 1.15 * measure_error(dense)


def test_photon_noise_is_filtered_without_shifting_the_mean() -> None:
    rng = torch.Generator().manual_seed(0)
    gain = 0.02
    measured = torch.poisson(draw_truth() / gain, generator=rng) * gain
    photons = make_noise_variance(gain, 1e-6)
    filtered = refine_by_nl_bayes(
        photons, measured, average_3x3(measured), torch.ones_like(measured)
    ).mean
    assert measure_error(filtered) < 0.6 * measure_error(measured)
    assert float(filtered.mean()) == pytest.approx(float(measured.mean()), rel=5e-3)


def test_unmeasured_pixels_have_no_effect() -> None:
    measured, mask = make_noisy(draw_truth()), torch.ones(1, 1, 64, 72)
    mask[..., 20:30, 30:50] = 0
    pilot = average_3x3(measured)
    absurd = torch.where(mask > 0, measured, 1e3)
    answers = [
        refine_by_nl_bayes(make_noise_variance(), measurement, pilot, mask).mean
        for measurement in (measured, absurd)
    ]
    torch.testing.assert_close(*answers)


def test_another_unit_of_intensity_gives_the_same_image() -> None:
    measured = make_noisy(draw_truth())
    pilot, mask = average_3x3(measured), torch.ones_like(measured)
    plain = refine_by_nl_bayes(make_noise_variance(0.01), measured, pilot, mask)
    other = refine_by_nl_bayes(
        make_noise_variance(10, 1e6 * DEVIATION**2), 1e3 * measured, 1e3 * pilot, mask
    )
    apart = (other.mean / 1e3 - plain.mean).abs()  # rounding chooses a patch for one like it
    assert float(apart.max()) < 0.01 * DEVIATION
    assert float((apart < 1e-4).float().mean()) > 0.95


def test_blocks_of_groups_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = make_noisy(draw_truth())
    pilot, mask = average_3x3(measured), torch.ones_like(measured)
    answers = []
    for groups in (4, 16):
        monkeypatch.setattr(patch_groups, "GROUPS_PER_BLOCK_SIDE", groups)
        answers.append(refine_by_nl_bayes(make_noise_variance(), measured, pilot, mask).mean)
    apart = (answers[0] - answers[1]).abs()  # rounding chooses a patch for one like it, seldom
    assert float(apart.max()) < 0.01 * DEVIATION
    assert float((apart < 1e-5).float().mean()) > 0.9


@pytest.mark.parametrize("size", [(8, 8), (9, 60), (16, 16), (17, 33), (40, 19)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_channels_come_back_finite(size: tuple[int, int], channels: int) -> None:
    image = draw_truth(*size).repeat(1, channels, 1, 1)
    measured = make_noisy(image)
    answer = refine_by_nl_bayes(
        make_noise_variance(channels=channels), measured, image, torch.ones(1, 1, *size)
    )
    assert answer.mean.shape == measured.shape
    assert answer.log_variance is not None
    assert bool(answer.mean.isfinite().all() & answer.log_variance.isfinite().all())


def test_channels_that_show_the_same_help_each_other() -> None:
    measured = make_noisy(draw_truth().repeat(1, 3, 1, 1))
    pilot, mask = average_3x3(measured[0][:, None])[:, 0][None], torch.ones(1, 1, 64, 72)
    together = refine_by_nl_bayes(make_noise_variance(channels=3), measured, pilot, mask).mean[
        :, :1
    ]
    alone = refine_by_nl_bayes(make_noise_variance(), measured[:, :1], pilot[:, :1], mask).mean
    assert measure_error(together) < 0.9 * measure_error(alone)


def test_a_flat_image_stays_flat() -> None:
    flat = torch.full((1, 1, 24, 24), 0.5)
    answer = refine_by_nl_bayes(make_noise_variance(), flat, flat, torch.ones_like(flat))
    torch.testing.assert_close(answer.mean, flat, atol=1e-5, rtol=0)


def test_frequencies_of_correlated_noise_share_all_of_its_power() -> None:
    correlation = ((0.6, 0.2, 0.0, 0.0, 0.0), (0.0,) * 5)
    power = compute_patch_power(correlation)
    assert float(power.mean()) == pytest.approx(1, rel=0.02)
    assert power.reshape(8, 8)[0, 0] > 5 * power.reshape(8, 8)[7, 0]
    assert bool((compute_patch_power(None) == 1).all())


def test_refining_waits_for_the_end_of_a_fit() -> None:
    """Neither judging nor previews ask for it: it is no part of `finish`."""
    problem = Problem(
        terms=(), full_postprocess=make_single_step(lambda item: Estimate(item.mean + 1))
    )
    estimate = Estimate(torch.zeros(1, 1, 4, 4))
    assert problem.postprocess(estimate) is estimate


def test_a_last_step_follows_whichever_way_a_problem_ends() -> None:
    problem = Problem(
        terms=(), full_postprocess=make_single_step(lambda item: Estimate(item.mean + 1))
    )
    estimate = Estimate(torch.zeros(1, 1, 4, 4))
    ended = append_postprocessing(
        problem, lambda said, done: Estimate(10 * done.mean - said.mean + 2)
    )
    assert float(ended.postprocess(estimate).mean.max()) == 2
    assert ended.full_postprocess is not None
    assert float(run_steps(ended.full_postprocess(estimate)).mean.max()) == 12
    assert (
        append_postprocessing(Problem(terms=()), lambda said, done: done).full_postprocess is None
    )


def test_what_the_pilot_has_smoothed_away_comes_back_where_it_returns() -> None:
    along = torch.arange(72.0)
    stripes = (0.5 + 0.12 * torch.sin(along * 2 * torch.pi / 5)).expand(1, 1, 64, 72)
    measured, flat = make_noisy(stripes), torch.full((1, 1, 64, 72), 0.5)
    filtered = refine_by_nl_bayes(make_noise_variance(), measured, flat, torch.ones_like(flat)).mean
    assert float((filtered - stripes).square().mean()) < 0.06 * float(
        (flat - stripes).square().mean()
    )


def test_noise_that_neighbours_share_does_not_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = make_noisy(draw_truth(32, 32))
    pilot, mask = average_3x3(measured), torch.ones(1, 1, 32, 32)
    answers: dict[bool, list[torch.Tensor]] = {}
    for shared in (True, False):
        correlation = ((0.3, 0.0), (0.3, 0.0)) if shared else None
        for weights in ((0.3, 0.5), (0.9, 0.9)):
            monkeypatch.setattr(module, "MIN_GUIDE_WEIGHTS", weights)
            answer = refine_by_nl_bayes(make_noise_variance(), measured, pilot, mask, correlation)
            answers.setdefault(shared, []).append(answer.mean)
    assert torch.equal(*answers[True])
    assert not torch.equal(*answers[False])


@pytest.mark.parametrize("similarity", [1.0, 0.0])
def test_a_second_frame_helps_where_it_is_alike_and_costs_little_where_it_is_not(
    similarity: float,
) -> None:
    truth = draw_truth()
    other = similarity * truth + (1 - similarity) * truth.flip(2)
    measured = torch.cat([make_noisy(truth), make_noisy(other, seed=1)], 1)
    noise_variance, mask = make_noise_variance(), torch.ones_like(truth)
    pilots = [
        refine_by_nl_bayes(noise_variance, frame, average_3x3(frame), mask).mean
        for frame in measured.split(1, 1)
    ]
    alone = refine_by_nl_bayes(noise_variance, measured[:, :1], pilots[0], mask)
    together = refine_by_nl_bayes(noise_variance.repeat(2), measured, torch.cat(pilots, 1), mask)
    change = measure_error(together.mean[:, :1]) / measure_error(alone.mean)
    assert change < (0.85 if similarity else 1.08)


def test_a_photon_in_the_dark_that_the_pilot_follows_leaves_no_hole() -> None:
    """The pilot is bright where a photon came, its group is dark: a tangent led far below zero."""
    photons = (torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)) < 0.01).float()
    noise_variance = make_noise_variance(0.26, 1e-4)
    pilot = 0.002 + 0.4 * photons
    refined = refine_by_nl_bayes(noise_variance, 0.26 * photons, pilot, torch.ones_like(pilot))
    assert float(refined.mean.min()) >= 0


@pytest.mark.parametrize("variance", [1e-6, 1e-12])
def test_noise_far_weaker_than_the_structure_does_not_end_the_refinement(variance: float) -> None:
    truth = draw_truth()
    pilot = truth + 1e-4 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(truth)
    refined = refine_by_nl_bayes(make_noise_variance(variance=variance), truth, pilot, mask)
    assert float((refined.mean - truth).abs().max()) < 0.02


def test_few_photons_leave_hardly_any_waves_of_two_pixels() -> None:
    along = torch.linspace(-1, 1, 96)
    truth = 0.8 + 3 * torch.exp(-8 * (along[:, None] ** 2 + (along - 0.3) ** 2))[None, None]
    counts = torch.poisson(truth, generator=torch.Generator().manual_seed(0))
    pilot = F.avg_pool2d(F.pad(counts, (4,) * 4, mode="replicate"), 9, 1)
    filtered = refine_by_nl_bayes(
        make_noise_variance(1.0, 0.0), counts, pilot, torch.ones_like(counts)
    ).mean
    patches = filtered[0, 0].unfold(0, 8, 4).unfold(1, 8, 4)
    basis = module.make_dct_matrix().float()
    energy = (basis @ patches @ basis.T).square().mean((0, 1))
    fastest = torch.cat([energy[7], energy[:7, 7]]).sum()
    assert float(fastest) < 0.002


def test_dark_pixels_of_the_pilot_leave_no_bright_ones() -> None:
    pits = (torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)) < 0.01).float()
    counts = torch.poisson(torch.ones(1, 1, 48, 48), generator=torch.Generator().manual_seed(1))
    unit = torch.ones(1, 1, 1, 1)
    noise_variance = NoiseVariance(gain=unit, intercept=0 * unit, floor=0.01 * unit)
    refined = refine_by_nl_bayes(noise_variance, counts, 1 - 1.2 * pits, torch.ones_like(counts))
    assert float((refined.mean - 1).square().mean()) < 0.015


def test_the_number_of_threads_changes_no_refined_pixel() -> None:
    measured = make_noisy(draw_truth(120, 130))
    pilot, mask = average_3x3(measured), torch.ones_like(measured)
    threads = torch.get_num_threads()
    images = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            images.append(refine_by_nl_bayes(make_noise_variance(), measured, pilot, mask).mean)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*images)


def test_what_a_first_filter_brings_out_guides_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, mask = make_noisy(draw_truth()), torch.ones(1, 1, 64, 72)
    errors = []
    for weights in (module.MIN_GUIDE_WEIGHTS, module.MIN_GUIDE_WEIGHTS[:1]):
        monkeypatch.setattr(module, "MIN_GUIDE_WEIGHTS", weights)
        filtered = refine_by_nl_bayes(make_noise_variance(), measured, average_3x3(measured), mask)
        errors.append(measure_error(filtered.mean))
    assert errors[0] < 0.99 * errors[1]


def test_the_guided_filter_comes_near_what_is_a_line_in_the_guide() -> None:
    truth, full = draw_truth(), torch.ones_like(draw_truth())
    measured = make_noisy(truth)
    guided = filter_by_guide(measured, 5 - 30 * truth, full, DEVIATION**2 * full)
    assert guided is not None
    assert measure_error(guided.filtered.mean) < 0.02 * measure_error(measured)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_pixel_has_no_part_in_its_own_guided_prediction(channels: int) -> None:
    rng = torch.Generator().manual_seed(1)
    truth, full = draw_truth(), torch.ones_like(draw_truth())
    guide = torch.randn(1, channels, *truth.shape[2:], generator=rng)
    measured, moved = make_noisy(truth), make_noisy(truth)
    moved[..., 20, 30] += 0.01
    before, after = (
        filter_by_guide(image, guide, full, DEVIATION**2 * full) for image in (measured, moved)
    )
    assert before is not None
    assert after is not None
    change = (after.predicted - before.predicted).abs()[0, 0]
    assert float(change[20, 30]) < 1e-6 < float(change[20, 31])


def test_holes_are_predicted_by_the_guide_around_them() -> None:
    truth = draw_truth()
    mask = torch.ones_like(truth)
    mask[..., 20:24, 30:34] = 0
    spoilt = torch.where(mask > 0, make_noisy(truth), 9.0)
    guided = filter_by_guide(spoilt, truth, mask, DEVIATION**2 * mask.clamp(min=1))
    assert guided is not None
    error = (guided.filtered.mean - truth)[..., 20:24, 30:34]
    assert float(error.abs().max()) < 0.5 * DEVIATION


def test_a_place_that_the_guide_lacks_is_found_and_noise_is_not() -> None:
    noise = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    lost = noise.clone()
    lost[..., 40:50, 60:70] += 0.7
    assert float(find_unguided_places(noise, noise).mean()) < 0.01
    places = find_unguided_places(lost, noise)
    assert float(places[..., 42:48, 62:68].min()) > 0.9
    assert float(places[..., 80:, :].mean()) < 0.01
