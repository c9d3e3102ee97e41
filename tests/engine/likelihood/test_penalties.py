"""Penalties count edges, and operators propagate the variance of an estimate."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.likelihood.fidelity import (
    NoiseVariance,
    make_gaussian_deviance,
    make_weighted_residual,
)
from napari_dip.engine.likelihood.penalties import (
    make_anisotropic_total_variation,
    make_lower_bound_penalty,
    make_quadratic_proximity,
    make_total_variation,
)
from napari_dip.engine.operators.imaging import LanczosDownsample
from napari_dip.engine.problem import (
    Estimate,
    Identity,
    Problem,
    Term,
    compute_validation_loss,
)


def test_only_what_lies_below_the_level_of_its_channel_costs() -> None:
    level = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    image = torch.tensor([[[[-2.0, 3.0]], [[0.0, 1.0]]]])
    assert float(make_lower_bound_penalty(level, 0.5)(image)) == pytest.approx((16 + 0 + 4 + 0) / 4)


def test_above_the_level_there_is_no_pull() -> None:
    image = torch.full((1, 1, 4, 4), 0.3, requires_grad=True)
    make_lower_bound_penalty(torch.zeros(1, 1, 1, 1), 1.0)(image).backward()
    assert image.grad is not None
    assert float(image.grad.abs().max()) == 0


@pytest.mark.parametrize("unit", [0.0, -1.0, float("nan")])
def test_a_penalty_wants_a_unit_above_zero(unit) -> None:
    with pytest.raises(ValueError, match="scale"):
        make_lower_bound_penalty(torch.zeros(1, 1, 1, 1), unit)
    with pytest.raises(ValueError, match="scale"):
        make_total_variation(unit)
    with pytest.raises(ValueError, match="scale"):
        make_anisotropic_total_variation(unit)


def draw_edge(slope: float, side: int = 40) -> torch.Tensor:
    """Return a soft step of one along a line of that slope, as long as the image is wide."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    across = (y - side / 2 - slope * (x - side / 2)) / (1 + slope**2) ** 0.5
    return torch.sigmoid(across)[None, None]


def test_an_edge_along_the_rows_costs_the_same_in_both_kinds() -> None:
    both = [
        float(kind(0.5)(draw_edge(0)))
        for kind in (make_total_variation, make_anisotropic_total_variation)
    ]
    assert both == pytest.approx([2 / 40, 2 / 40], rel=0.1)


def test_only_the_anisotropic_kind_makes_slanting_edges_dear() -> None:
    dear = [
        float(kind(1.0)(draw_edge(1)) / kind(1.0)(draw_edge(0)))
        for kind in (make_total_variation, make_anisotropic_total_variation)
    ]
    assert dear[0] == pytest.approx(2**0.5, rel=0.1)
    assert dear[1] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("kind", [make_total_variation, make_anisotropic_total_variation])
def test_steps_along_depth_count_like_all_others(kind) -> None:
    stack = torch.zeros(1, 1, 4, 6, 6)
    stack[:, :, 2:] = 1
    assert float(kind(1.0)(stack)) == pytest.approx(1 / 4, rel=0.02)


def make_coarse_term(operator: torch.nn.Module, side: int) -> Term:
    mask = torch.ones(1, 1, 1, 1)
    noise, all_pixels = (
        NoiseVariance(gain=0 * mask, intercept=mask, floor=1e-9 * mask),
        torch.ones(1, 1, side, side),
    )
    measurement = torch.zeros(1, 1, side, side)
    likelihood = make_gaussian_deviance(noise)
    return Term(
        measurement=measurement,
        operator=operator,
        fidelity=make_weighted_residual(noise),
        deviance=likelihood,
        training_pixel_weights=all_pixels,
        validation_mask=all_pixels,
        refit_pixel_weights=all_pixels,
    )


def test_a_finer_uncertain_estimate_is_validated_on_the_measured_grid() -> None:
    term = make_coarse_term(LanczosDownsample((2, 2)), 8)
    doubt = torch.full((1, 1, 16, 16), 3.0).log()
    estimate = Estimate(torch.full((1, 1, 16, 16), 2.0), doubt)
    predicted = term.operator.predict(estimate)
    assert predicted.log_variance is not None
    assert predicted.mean.shape == predicted.log_variance.shape == (1, 1, 8, 8)
    torch.testing.assert_close(predicted.log_variance.exp(), torch.full((1, 1, 8, 8), 3.0))
    loss = float(compute_validation_loss(Problem(terms=(term,)), estimate))
    assert loss == pytest.approx(4 / 4 + torch.tensor(4.0).log().item(), rel=1e-4)


def test_without_an_operator_the_doubt_stays_as_it_is() -> None:
    estimate = Estimate(torch.zeros(1, 1, 8, 8), torch.randn(1, 1, 8, 8))
    assert (
        make_coarse_term(Identity(), 8).operator.predict(estimate).log_variance
        is estimate.log_variance
    )


def test_being_near_costs_the_square_of_the_distance_in_units() -> None:
    image = torch.full((1, 1, 4, 4), 2.0)
    assert float(make_quadratic_proximity(image, 0.5)(image + 1)) == pytest.approx(4)
    with pytest.raises(ValueError, match="scale"):
        make_quadratic_proximity(image, 0.0)
