"""Temporal smoothing averages a pixel with the previous frame where nothing has changed."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.likelihood.fidelity import (
    NoiseVariance,
    make_gaussian_deviance,
    make_weighted_residual,
)
from napari_dip.engine.likelihood.penalties import (
    PreviousFrame,
    make_temporal_term,
    smooth_temporally,
)
from napari_dip.engine.problem import (
    Estimate,
    Identity,
    Problem,
    Term,
    compute_validation_loss,
)

#: Standard deviation of the errors of both images.
DOUBT = 0.1


def make_estimate_image(truth: torch.Tensor, seed: int) -> torch.Tensor:
    """Return an image with errors of its own."""
    rng = torch.Generator().manual_seed(seed)
    return truth + DOUBT * torch.randn(truth.shape, generator=rng)


def make_previous_frame(truth: torch.Tensor, validity: float = 1.0) -> PreviousFrame:
    image = make_estimate_image(truth, 1)
    weights = torch.full_like(image[:, :1], validity)
    return PreviousFrame(image=image, variance=torch.full_like(image, DOUBT**2), valid_mask=weights)


def make_estimate(truth: torch.Tensor) -> Estimate:
    image = make_estimate_image(truth, 2)
    return Estimate(image, torch.full_like(image, DOUBT**2).log())


def identity(estimate: Estimate) -> Estimate:
    return estimate


def measure_error(estimate: Estimate, truth: torch.Tensor) -> float:
    return float((estimate.mean - truth).square().mean().sqrt())


@pytest.mark.parametrize("grid", [(40, 40), (6, 24, 24)])
def test_where_nothing_has_changed_the_error_falls(grid: tuple[int, ...]) -> None:
    truth = torch.zeros(1, 2, *grid)
    assert (
        measure_error(
            smooth_temporally(make_estimate(truth), make_previous_frame(truth), 1.0), truth
        )
        < 0.8 * DOUBT
    )


def test_a_spot_that_has_moved_leaves_no_ghost_and_does_not_fade() -> None:
    old, new = torch.zeros(1, 1, 40, 40), torch.zeros(1, 1, 40, 40)
    old[..., 8:12, 8:12], new[..., 8:12, 16:20] = 1.0, 1.0
    answer = smooth_temporally(make_estimate(new), make_previous_frame(old), 1.0).mean
    assert float(answer[..., 8:12, 16:20].mean()) > 0.94
    assert float(answer[..., 8:12, 8:12].mean()) < 0.06


def test_what_the_frame_before_did_not_show_stays_as_it_is() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    torch.testing.assert_close(
        smooth_temporally(make_estimate(truth), make_previous_frame(truth, validity=0.0), 1.0),
        make_estimate(truth),
    )


def test_without_weight_nothing_changes_and_with_much_the_frame_before_comes_back() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    torch.testing.assert_close(
        smooth_temporally(make_estimate(truth), make_previous_frame(truth), 0.0),
        make_estimate(truth),
    )
    drawn = smooth_temporally(make_estimate(truth), make_previous_frame(truth), 1e6).mean
    torch.testing.assert_close(drawn, make_previous_frame(truth).image, atol=1e-3, rtol=0)


def test_two_images_of_one_network_are_not_claimed_to_be_surer_than_one() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    answer = smooth_temporally(make_estimate(truth), make_previous_frame(truth), 1.0)
    assert answer.log_variance is not None
    assert float(answer.log_variance.exp().sqrt().min()) >= 0.999 * DOUBT


def test_an_image_that_does_not_know_its_doubt_is_left_to_the_penalty() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    plain = Estimate(make_estimate_image(truth, 2))
    assert smooth_temporally(plain, make_previous_frame(truth), 1.0) is plain


def test_the_penalty_lets_go_of_large_steps() -> None:
    truth = torch.zeros(1, 1, 1, 2)
    image = torch.tensor([[[[0.5, 50.0]]]], requires_grad=True)
    still = PreviousFrame(image=truth, variance=truth + 1, valid_mask=truth + 1)
    term = make_temporal_term(still, 1.0, 2.0, identity)
    term.fidelity(Estimate(image), term.measurement).sum().backward()
    assert image.grad is not None
    small, large = image.grad.flatten().tolist()
    assert small == pytest.approx(2 * 2 * 0.5 / (1 + 0.5**2) ** 2)
    assert abs(large) < 1e-3


def test_the_previous_frame_enters_the_loss_but_not_the_validation() -> None:
    mask, ones = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 8, 8)
    noise = NoiseVariance(gain=0 * mask, intercept=mask, floor=mask)
    measured = Term(
        measurement=0 * ones,
        operator=Identity(),
        fidelity=make_weighted_residual(noise),
        deviance=make_gaussian_deviance(noise),
        training_pixel_weights=ones,
        validation_mask=ones,
        refit_pixel_weights=ones,
    )
    still = make_temporal_term(
        PreviousFrame(image=5 * ones, variance=ones, valid_mask=ones), 1.0, 3.0, identity
    )
    estimate = Estimate(0.3 * ones)
    alone, smoothed = (
        compute_validation_loss(Problem(terms=terms), estimate)
        for terms in ((measured,), (measured, still))
    )
    torch.testing.assert_close(alone, smoothed)


def test_what_is_compared_is_the_image_as_it_is_handed_over() -> None:
    def inner(estimate: Estimate) -> Estimate:
        return Estimate(estimate.mean[..., 2:-2, 2:-2])

    ones = torch.ones(1, 1, 4, 4)
    term = make_temporal_term(
        PreviousFrame(image=ones, variance=ones, valid_mask=ones), 1.0, 1.0, inner
    )
    image = torch.full((1, 1, 8, 8), 9.0)
    image[..., 2:-2, 2:-2] = 1.0
    loss = term.fidelity(term.operator.predict(Estimate(image)), term.measurement)
    assert loss.shape == (1, 1, 4, 4)
    assert float(loss.max()) == 0


@pytest.mark.parametrize("unit", [0.0, -1.0, float("nan")])
def test_the_penalty_wants_a_unit_above_zero(unit: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        make_temporal_term(make_previous_frame(torch.zeros(1, 1, 4, 4)), unit, 1.0, identity)
