"""PSNR over the iterations of the Deep Image Prior reference network on one noisy image.

Fixed uniform noise of 32 channels, disturbed anew at each step, Adam, outputs averaged
exponentially (Ulyanov et al. 2018). The truth chooses the best iterate: what no user could do.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from quality_method import Method, Output
from shared_data import psnr

if TYPE_CHECKING:
    from quality_sets import Case, Picture

#: As the published denoising example has them.
SETTINGS: dict[str, Any] = {
    "steps": 3000,
    "rate": 0.01,
    "code": 0.1,  # of uniform noise
    "disturbed": 1 / 30,
    "average": 0.99,
    "seed": 0,
}
#: Steps between two looks.
LOOK = 25


def fit(noisy: Picture, truth: Picture, steps: int) -> tuple[Picture, list[dict[str, float]]]:
    """Fit; the last average, and what the output and the average came to on the way.

    Parameters
    ----------
    noisy, truth : ndarray
        (Y, X), on a scale of 0 to 255.
    steps : int
    """
    from reference_network import NOISE_CHANNELS, Reference

    torch.manual_seed(SETTINGS["seed"])
    net = Reference()
    aim = torch.from_numpy(noisy.astype(np.float32))[None, None] / 255
    code = SETTINGS["code"] * torch.rand(1, NOISE_CHANNELS, *noisy.shape)
    adam = torch.optim.Adam(net.parameters(), lr=SETTINGS["rate"])
    average, history = torch.zeros_like(aim), []
    started, spent = time.monotonic(), time.process_time()
    for step in range(1, steps + 1):
        adam.zero_grad()
        output = net(code + SETTINGS["disturbed"] * torch.randn_like(code))
        ((output - aim) ** 2).mean().backward()
        adam.step()
        keep = SETTINGS["average"] if step > 1 else 0.0
        average = keep * average + (1 - keep) * output.detach()
        if step % LOOK == 0 or step == steps:
            history.append(
                {
                    "step": step,
                    "seconds": time.monotonic() - started,
                    "cpu_seconds": time.process_time() - spent,
                    "output": psnr(_image(output), truth),
                    "average": psnr(_image(average), truth),
                }
            )
            print(f"  {history[-1]}", file=sys.stderr, flush=True)
    return _image(average), history


def run(case: Case, noisy: Picture, truth: Picture) -> Output:
    """Fit to the end; its best iterates are in the notes."""
    last, history = fit(noisy, truth, SETTINGS["steps"])
    best = {key: max(history, key=lambda entry: entry[key]) for key in ("output", "average")}
    return Output(last, {"best": best, "history": history})


def _image(image: torch.Tensor) -> Picture:
    return image.detach()[0, 0].double().numpy() * 255


REFERENCE = Method(
    "reference-size DIP, last average",
    run,
    lambda case: case.group == "fmd256",
    lambda case, noisy: SETTINGS,
)
