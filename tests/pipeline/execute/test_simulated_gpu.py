"""On a GPU, simulated here, all tasks and priors run, and steps do not wait for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from golden.interfaces import run
from golden.recipes import RECIPES
from napari_dip.engine.fit.state import FitState
from napari_dip.engine.fit.trainer import Trainer
from napari_dip.engine.priors import r2r
from simulated_gpu import GPU, SimulatedGpu, simulate_gpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from golden.recipes import Recipe

PYTHON_RECIPES = [recipe for recipe in RECIPES if {"python", "command"} & set(recipe.interfaces)]


class CallCounter:
    """Counts waits for the GPU in each call of a method."""

    def __init__(self, gpu: SimulatedGpu, method: Callable[..., object]) -> None:
        self.waits: list[int] = []
        self._gpu, self._method = gpu, method

    def wrap(self) -> Callable[..., object]:
        """Return the method, counted."""

        def counted(*args: object) -> object:
            before = self._gpu.waits
            result = self._method(*args)
            self.waits.append(self._gpu.waits - before)
            return result

        return counted


@pytest.mark.sampled(3)
@pytest.mark.parametrize("recipe", PYTHON_RECIPES, ids=lambda recipe: recipe.name)
def test_no_step_waits_for_the_gpu_and_a_validation_once(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimulatedGpu()
    steps, validations = CallCounter(gpu, Trainer.advance), CallCounter(gpu, FitState.validate)
    poisson_draws = CallCounter(gpu, r2r.draw_poisson)
    monkeypatch.setattr(Trainer, "advance", steps.wrap())
    monkeypatch.setattr(FitState, "validate", validations.wrap())
    monkeypatch.setattr(r2r, "draw_poisson", poisson_draws.wrap())
    with simulate_gpu(gpu):
        results = run(replace(recipe, settings={**recipe.settings, "device": "mps"}), "python")
    assert steps.waits
    assert sum(steps.waits) == sum(poisson_draws.waits)  # Apple GPUs cannot draw such numbers
    assert set(validations.waits) == {1}
    assert all(np.isfinite(values).any() for values in results.values())


def test_the_simulated_gpu_refuses_what_a_gpu_refuses() -> None:
    with simulate_gpu(SimulatedGpu()):
        on_gpu, on_cpu = torch.ones(3, device=GPU), torch.ones(3)
        assert (on_gpu + 1).device == GPU
        assert (on_gpu * torch.tensor(2.0)).device == GPU
        with pytest.raises(RuntimeError, match="on the GPU"):
            on_gpu + on_cpu
        with pytest.raises(TypeError, match="float64"):
            on_gpu.double()
        with pytest.raises(TypeError, match="numpy"):
            on_gpu.numpy()
        with pytest.raises(NotImplementedError):
            torch.poisson(on_gpu)


def test_the_simulated_gpu_counts_what_is_read() -> None:
    gpu = SimulatedGpu()
    with simulate_gpu(gpu):
        values = torch.ones(3, device=GPU)
        _ = values.sum() + values.shape[0]
        assert gpu.waits == 0
        assert float(values.sum()) == 3.0
        assert values.cpu().device.type == "cpu"
        assert bool(values.any())
        assert gpu.waits == 3
