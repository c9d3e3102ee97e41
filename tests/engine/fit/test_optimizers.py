"""Optimisers equal torch's own bit by bit, without torch's compiler."""

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


def test_no_optimiser_loads_torchs_compiler_or_leaves_anything_of_it(tmp_path) -> None:
    """Which takes more than a second and makes a folder that others on the machine can foresee."""
    script = (
        "import os, sys, tempfile, torch\n"
        "before = dict(os.environ)\n"
        "import numpy as np, napari_dip as dip\n"
        "from napari_dip.engine.fit import optimizers as optimisers\n"
        "makers = optimisers.make_adam, optimisers.make_sgd, optimisers.make_lbfgs\n"
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
        "mine = {name for name in os.environ if 'INDUCTOR' in name} - before.keys()\n"
        "print('torch._dynamo' in sys.modules, mine, os.listdir(tempfile.gettempdir()))\n"
    )
    folder = {name: str(tmp_path) for name in ("TMPDIR", "TEMP", "TMP")}
    environment = {**os.environ, **folder}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "False set() []"
