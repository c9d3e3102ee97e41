"""Half precision is used only where the device supports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import napari_dip as dip
from napari_dip.engine.fit.train_step import has_fast_bfloat16, run_in_bfloat16
from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.engine.priors.masked_input import FillingResidualNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def measure_precision_errors(
    monkeypatch: pytest.MonkeyPatch,
    restore: Callable[..., Any],
    truth: np.ndarray,
    measurement: np.ndarray,
    seeds: range = range(1),
    **settings: Any,
) -> list[float]:
    """Mean squared errors of 60 iterations in each precision, over the seeds."""
    errors = []
    for half in (False, True):
        monkeypatch.setattr(
            "napari_dip.engine.fit.trainer.has_fast_bfloat16", lambda _, half=half: half
        )
        quick = {"preset": "fast", "max_iterations": 60, "device": "cpu"}
        images = [restore(measurement, seed=seed, **quick, **settings).image for seed in seeds]
        errors.append(float(np.mean([(image - truth) ** 2 for image in images])))
    return errors


def test_only_processors_with_instructions_for_it_compute_in_half_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False})
    assert not has_fast_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert has_fast_bfloat16(CPU)


def test_weights_gradients_and_answers_stay_in_single_precision() -> None:
    network = torch.nn.Conv2d(1, 4, 3)
    network_input = torch.rand(1, 1, 8, 8)
    output = run_in_bfloat16(network, network_input)
    output.square().mean().backward()
    assert output.dtype == network.weight.dtype == torch.float32
    assert network.weight.grad is not None
    assert network.weight.grad.dtype == torch.float32
    difference = (output - network(network_input)).detach().abs().max()
    assert 0 < float(difference) < 0.02  # it was computed with 8 bits of mantissa


@pytest.mark.long
@pytest.mark.parametrize("prior", ["r2r", "blind-spot"])
def test_half_precision_learns_the_same_image(prior: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:64, :64]
    truth = 100 + 60 * np.sin(x / 7) * np.cos(y / 9)
    measurement = (truth + np.random.default_rng(0).normal(0, 20, truth.shape)).astype(np.float32)
    errors = measure_precision_errors(monkeypatch, dip.denoise, truth, measurement, prior=prior)
    assert errors[0] != errors[1]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_a_filling_is_not_rounded_but_what_changes_it_is() -> None:
    rng = torch.Generator().manual_seed(0)
    network = Hourglass(2, 3, 1, (8, 8), skip_channels=None, is_normalised=False, rng=rng)
    filled = FillingResidualNetwork(network, 3, 1, 2, rng)
    network_input = 1000 + torch.rand(1, 3, 16, 16, generator=rng)
    assert torch.equal(
        run_in_bfloat16(filled, network_input)[:, :1], network_input[:, :1]
    )  # a first change is zero
    torch.nn.init.normal_(network.head.weight, generator=rng)
    change, exact = (
        said[:, :1] - network_input[:, :1]
        for said in (run_in_bfloat16(filled, network_input), filled(network_input))
    )
    apart = (change - exact).abs().max() / exact.abs().max()
    assert 0 < float(apart.detach()) < 0.05


@pytest.mark.long
@pytest.mark.timeout(600)  # half precision is emulated on most processors
def test_half_precision_fills_in_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:48, :48]
    truth = (100 + 60 * np.sin(x / 3) * np.cos(y / 4)).astype(np.float32)
    mask = (np.random.default_rng(0).random(truth.shape) < 0.5).astype(np.uint8)
    measurement = np.where(mask > 0, 0, truth).astype(np.float32)
    # The ratio of one seed lies between 0.8 and 1.3: rounding sends the fit another way.
    errors = measure_precision_errors(
        monkeypatch, dip.inpaint, truth, measurement, seeds=range(6), mask=mask
    )
    assert errors[0] != errors[1]
    assert errors[1] == pytest.approx(errors[0], rel=0.15)
