"""Adam and gradient descent equal torch's own bit by bit; Muon makes updates orthogonal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from napari_dip.engine.fit import optimizers


def take_steps(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter]) -> torch.Tensor:
    """Take a few steps up and down a bent slope, with a rate that changes."""
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1)
        optimizer.zero_grad(set_to_none=True)
        sum((weight.sin() * weight.exp()).sum() for weight in weights).backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in weights])


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_unwrapped_optimisers_move_weights_as_torchs_own_do(name: str) -> None:
    ours, own = {
        "Adam": (
            optimizers.make_adam,
            lambda groups: torch.optim.Adam(groups, lr=0.0, foreach=True),
        ),
        "SGD": (
            optimizers.make_sgd,
            lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=0.9, foreach=True),
        ),
    }[name]
    ends = []
    for make in (ours, own):
        rng = torch.Generator().manual_seed(0)
        start = (torch.randn(7, 5, generator=rng), torch.randn(3, generator=rng))
        weights = [torch.nn.Parameter(values) for values in start]
        ends.append(take_steps(make([{"params": [weight]} for weight in weights]), weights))
    assert torch.equal(*ends)


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (32, 32)])
def test_singular_values_of_a_muon_update_are_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    sizes = torch.linspace(0.02, 1.0, min(shape))  # weak directions beside strong ones
    values = torch.linalg.svdvals(optimizers.orthogonalise(left * sizes @ right))
    assert 0.5 < float(values.min())
    assert float(values.max()) < 1.3


def test_matrices_of_one_shape_become_orthogonal_together_as_they_do_alone() -> None:
    matrices = torch.randn(3, 16, 144, generator=torch.Generator().manual_seed(0))
    alone = torch.stack([optimizers.orthogonalise(matrix) for matrix in matrices])
    torch.testing.assert_close(optimizers.orthogonalise(matrices), alone, rtol=1e-4, atol=1e-5)


def test_muon_keeps_the_directions_of_a_gradient() -> None:
    matrix = torch.randn(8, 72, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    product = left.T @ optimizers.orthogonalise(matrix) @ right.T
    off_diagonal = product - torch.diag(product.diagonal())
    assert float(off_diagonal.abs().max()) < 1e-4


def test_muon_updates_first_and_last_layers_like_adam() -> None:
    """Beside the decay of its squares, which is shorter since fits are."""
    rng = torch.Generator().manual_seed(0)
    ours, own = (torch.nn.Parameter(torch.ones(16, 1, 3, 3)) for _ in range(2))
    muon = optimizers.Muon([{"params": [ours]}])
    adam = torch.optim.Adam([own], lr=0.01, betas=(0.9, 0.99))
    muon.param_groups[0]["lr"].fill_(0.01)
    for _ in range(4):
        ours.grad = torch.randn(ours.shape, generator=rng)
        own.grad = ours.grad.clone()
        muon.step()
        adam.step()
    torch.testing.assert_close(ours, own)


def test_a_layer_with_three_dimensional_kernels_learns_by_muon() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8, 3, 3, 3))
    muon = optimizers.Muon([{"params": [weight]}])
    muon.param_groups[0]["lr"].fill_(0.01)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    muon.step()
    expected = 0.01 * optimizers.MUON_UPDATE_RMS
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(expected, rel=0.3)


@pytest.mark.long
def test_no_optimiser_loads_torchs_compiler_or_leaves_anything_of_it(tmp_path) -> None:
    """Which takes more than a second and makes a folder that others on the machine can foresee."""
    script = (
        "import os, sys, tempfile, torch\n"
        "before = dict(os.environ)\n"
        "import numpy as np, napari_dip as dip\n"
        "from napari_dip.engine.fit import optimizers as optimisers\n"
        "makers = optimisers.make_adam, optimisers.Muon, optimisers.make_sgd\n"
        "makers = (*makers, optimisers.FixedStepLbfgs)\n"
        "for make in makers:\n"
        "    weight = torch.nn.Parameter(torch.ones(3))\n"
        "    optimiser = make([{'params': [weight]}])\n"
        "    optimiser.zero_grad()\n"
        "    weight.square().sum().backward()\n"
        "    optimiser.step()\n"
        "few = {'preset': 'fast', 'max_iterations': 3, 'device': 'cpu'}\n"
        "image = np.random.default_rng(0).poisson(90, (32, 32))\n"
        "dip.denoise(image, **few)\n"
        "dip.blind_deblur(image, **few)\n"
        "dip.blind_deblur(np.stack([image] * 8), axes='ZYX', **few)\n"
        "mine = {name for name in os.environ if 'INDUCTOR' in name} - before.keys()\n"
        "print('torch._dynamo' in sys.modules, mine, os.listdir(tempfile.gettempdir()))\n"
    )
    folder = {name: str(tmp_path) for name in ("TMPDIR", "TEMP", "TMP")}
    environment = {**os.environ, **folder}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "False set() []"


def test_muon_computes_on_one_thread_and_leaves_their_number_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = []

    def record(matrix: torch.Tensor) -> torch.Tensor:
        used.append(torch.get_num_threads())
        return matrix

    monkeypatch.setattr(optimizers, "orthogonalise", record)
    weight = torch.nn.Parameter(torch.randn(8, 8, 3, 3))
    weight.grad = torch.ones_like(weight)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        optimizers.Muon([{"params": [weight]}]).step()
        assert (used, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(threads)
