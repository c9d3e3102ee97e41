"""Decoders and other optimisers run in the same loop."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from napari_dip.engine.fit.optimizers import FixedStepLbfgs, Phase, Schedule, make_adam, make_sgd
from napari_dip.engine.fit.trainer import Trainer
from napari_dip.engine.likelihood.fidelity import make_least_squares
from napari_dip.engine.networks.hourglass import Decoder, DeepDecoder, compute_scale_grids
from napari_dip.engine.networks.layers import (
    TransposedUpsampling,
    make_linear_upsampling,
    make_nearest_upsampling,
)
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Identity, Problem, Term


def make_rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "upsampling", [make_linear_upsampling, make_nearest_upsampling, TransposedUpsampling]
)
def test_a_decoder_ends_on_any_grid(upsampling):
    grid = (19, 24)
    network = Decoder(grid, 8, 1, (4, 6, 8), rng=make_rng(), make_upsampling=upsampling)
    random_input = torch.rand(1, 8, *compute_scale_grids(grid, 3)[-1], generator=make_rng())
    assert network(random_input).shape == (1, 1, *grid)


def test_neighbours_of_a_deep_decoder_are_tied_by_its_upsampling_alone():
    network = DeepDecoder((32, 32), 1, 5, 4, rng=make_rng())
    assert sum(weight.numel() for weight in network.parameters()) == 3 * (5 * 5 + 5 + 2 * 5) + 5 + 1
    random_input = torch.rand(1, 5, 4, 4, generator=make_rng())
    with torch.no_grad():
        flat, varied = (
            network(random_input.mean((2, 3), keepdim=True).expand_as(random_input)),
            network(random_input),
        )
    assert float(flat.std()) < 0.01 * float(varied.std())  # rounding is all that is left


def test_limited_memory_takes_the_steps_of_torch_where_that_searches_no_line():
    torchs = partial(
        torch.optim.LBFGS, lr=1.0, max_iter=1, history_size=10, tolerance_grad=0, tolerance_change=0
    )
    ours, theirs = (minimise(make) for make in (FixedStepLbfgs, torchs))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert float(ours[-1].abs().max()) < 0.1 * float(ours[0].abs().max())


def minimise(make):
    """Go down a bowl whose curvatures differ by a thousand, from where the gradient is short."""
    steep = torch.logspace(0, 3, 8, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.full((8,), 1e-4, dtype=torch.float64))
    optimizer = make([{"params": [weight]}])
    optimizer.param_groups[0]["lr"] = 1.0
    losses = []
    for _ in range(18):  # then torch takes the curvature for none, by a bound without scale
        optimizer.zero_grad()
        loss = 0.5 * (steep * weight**2).sum()
        loss.backward()
        optimizer.step(lambda loss=loss: loss)
        losses.append(weight.detach().clone())
    return torch.stack(losses)


@pytest.mark.parametrize("make", [make_adam, make_sgd, FixedStepLbfgs])
def test_a_fit_continues_from_a_copy_unchanged(make):
    first, again = make_trainer(make), make_trainer(make)
    for _ in range(4):
        first.advance()
    copy = first.state_dict()
    for _ in range(3):
        first.advance()
    again.load_state_dict(copy)
    for _ in range(3):
        again.advance()
    for weight, other in zip(
        first.prior.network.parameters(), again.prior.network.parameters(), strict=True
    ):
        assert torch.equal(weight, other)
    assert first.pop_losses()[0] < 1  # and it has learned


def make_trainer(make):
    ramp = torch.linspace(-1.7, 1.7, 16).expand(16, 16)[None, None].contiguous()
    mask, error = torch.ones_like(ramp), make_least_squares(1.0)
    validation_mask = torch.zeros_like(ramp)
    term = Term(
        measurement=ramp,
        operator=Identity(),
        fidelity=error,
        deviance=error,
        training_pixel_weights=mask,
        validation_mask=validation_mask,
        refit_pixel_weights=mask,
    )
    network = Decoder((16, 16), 4, 1, (4, 4), rng=make_rng())
    prior = RandomInputPrior(
        network, torch.rand(1, 4, 8, 8, generator=make_rng(1)), 0.0, grid=(16, 16)
    )
    schedule = Schedule(
        phases=(Phase(iterations=20, learning_rate=0.05),),
        planned_iterations=20,
        last_iteration=20,
        average_decay=0.0,
        optimizer=make,
    )
    return Trainer(Problem(terms=(term,)), prior, schedule, seed=0)
