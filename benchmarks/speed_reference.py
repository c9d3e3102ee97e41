"""Network and schedule of Deep Image Prior as published, with PSNR over its iterations.

Fixed uniform noise of 32 channels, disturbed anew at each step, Adam, outputs averaged
exponentially; rates, iterations and disturbances as the published code has them for each task
(Ulyanov et al. 2018: its examples for denoising, super-resolution and restoration). The truth
chooses the best iterate: what no user could do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.fit.train_step import has_fast_bfloat16
from reference_network import NOISE_CHANNELS, Reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from speed_cases import Problem

#: Weights of one output channel, as the paper's supplement and the published code count them.
WEIGHTS = 2_217_573
#: Steps between two looks, and between two copies from which a fit that was cut off goes on.
LOOK, COPY = 10, 50
#: Steps without a better image after which the peak is taken to lie behind.
PATIENCE = 200
CODE, AVERAGE, SEED = 0.1, 0.99, 0


@dataclass(frozen=True)
class ReferenceSchedule:
    """How the published example goes about a task, and how far it is followed here.

    Attributes
    ----------
    published : int
        Iterations of the published example.
    most : int
        Iterations after which a curve ends here at the latest.
    rate, disturbed : float
        Learning rate of Adam; standard deviation of what is added to the code at each step.
    """

    published: int
    most: int
    rate: float = 0.01
    disturbed: float = 1 / 30


#: denoising.ipynb, restoration.ipynb (half of the pixels missing) and super-resolution.ipynb.
COURSES = {
    "micrograph": ReferenceSchedule(3000, 1200),
    "photograph": ReferenceSchedule(3000, 1600),
    "inpaint": ReferenceSchedule(11_000, 600, rate=0.001, disturbed=0.03),
    "super-resolve": ReferenceSchedule(2000, 400, disturbed=0.03),
}


def make_lanczos(factor: int) -> Tensor:
    """Two-lobed window of the published downsampler, half a pixel off: (4 f, 4 f), sum 1."""
    place = (torch.arange(4 * factor, dtype=torch.float64) + 0.5) / factor - 2
    line = torch.sinc(place) * torch.sinc(place / 2)
    window = line[:, None] * line
    return (window / window.sum()).float()


def make_downsampler(factor: int, channels: int) -> Callable[[Tensor], Tensor]:
    """Model the coarse image as published: edges repeated, a window at each f-th pixel."""
    window = make_lanczos(factor).expand(channels, 1, -1, -1).contiguous()
    pad = (4 * factor - factor) // 2

    def down(image: Tensor) -> Tensor:
        sides = F.pad(image, (pad,) * 4, mode="replicate")
        return F.conv2d(sides, window, stride=factor, groups=channels)

    return down


class Fit:
    """The fit, step by step.

    Parameters
    ----------
    problem : Problem
    half : bool
        Convolutions in bfloat16, to get a curve sooner; never for what is timed.
    """

    def __init__(self, problem: Problem, *, half: bool) -> None:
        torch.manual_seed(SEED)
        self.course = COURSES[problem.kind]
        self.measured = _planes(problem.noisy) / 255
        self.channels = self.measured.shape[1]
        self.net = Reference(self.channels)
        self.half = half
        self.code = CODE * torch.rand(1, NOISE_CHANNELS, *problem.truth.shape[:2])
        if half:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.code = self.code.contiguous(memory_format=torch.channels_last)
        self.mask = None if problem.mask is None else _planes(problem.mask)
        self.model = make_downsampler(problem.factor, self.channels) if problem.factor > 1 else None
        self.adam = torch.optim.Adam(self.net.parameters(), lr=self.course.rate)
        self.average = torch.zeros(1, self.channels, *problem.truth.shape[:2])
        self.step = 0
        self.history: list[dict[str, float]] = []

    def advance(self) -> Tensor:
        """Take one step; the image before it."""
        self.step += 1
        self.adam.zero_grad()
        code = self.code + self.course.disturbed * torch.randn_like(self.code)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            output = self.net(code)
        output = output.float()
        off = (output if self.model is None else self.model(output)) - self.measured
        off = off if self.mask is None else off * self.mask
        (off**2).mean().backward()
        self.adam.step()
        keep = AVERAGE if self.step > 1 else 0.0
        self.average = keep * self.average + (1 - keep) * output.detach()
        return output.detach()

    def copy(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "net": self.net.state_dict(),
            "adam": self.adam.state_dict(),
            "rng": torch.get_rng_state(),
            "rest": (self.step, self.average, self.history),
        }

    def load(self, copy: dict[str, Any]) -> None:
        """Go on from a copy."""
        self.net.load_state_dict(copy["net"])
        self.adam.load_state_dict(copy["adam"])
        torch.set_rng_state(copy["rng"])
        self.step, self.average, self.history = copy["rest"]


def measure_curve(problem: Problem, kept: Path, most: int | None = None) -> dict[str, Any]:
    """Fit until the peak lies behind; what output and average came to on the way.

    Parameters
    ----------
    problem : Problem
    kept : Path
        Of the copies that a fit which was cut off goes on from.
    most : int, optional
        Last iteration, if not the course's.
    """
    fit = Fit(problem, half=has_fast_bfloat16(torch.device("cpu")))
    if kept.exists():
        fit.load(torch.load(kept, weights_only=False))
    most, passed = most or fit.course.most, False
    while fit.step < most and not passed:
        output = fit.advance()
        if fit.step % LOOK == 0:
            fit.history.append(
                {
                    "step": fit.step,
                    "output": problem.judge(_image(output)),
                    "average": problem.judge(_image(fit.average)),
                }
            )
            best = max(fit.history, key=_best)
            passed = fit.step - best["step"] >= PATIENCE
        if fit.step % COPY == 0:
            torch.save(fit.copy(), kept)
    kept.unlink(missing_ok=True)
    best = max(fit.history, key=_best)
    return {
        "history": fit.history,
        "best dB": _best(best),
        "best step": best["step"],
        "passed its peak": passed,
        "half": fit.half,
    }


def time_steps(problem: Problem, steps: int = 20) -> dict[str, float]:
    """CPU seconds of a step in float32, as published: median, the first left out."""
    fit = Fit(replace(problem), half=False)
    took = []
    for _ in range(steps + 1):
        began = time.process_time()
        fit.advance()
        took.append(time.process_time() - began)
    return {
        "weights": sum(weight.numel() for weight in fit.net.parameters()),
        "seconds per step": float(np.median(took[1:])),
        "least": min(took),
        "most": max(took[1:]),
    }


def _best(entry: dict[str, float]) -> float:
    return max(entry["output"], entry["average"])


def _planes(image: Any) -> Tensor:
    """(Y, X) or (Y, X, C) -> (1, C, Y, X)."""
    planes = np.asarray(image, np.float32)
    planes = planes[None] if planes.ndim == 2 else np.moveaxis(planes, -1, 0)
    return torch.from_numpy(np.ascontiguousarray(planes))[None]


def _image(image: Tensor) -> Any:
    """(1, C, Y, X) of 0 to 1 -> (Y, X) or (Y, X, C) of 0 to 255."""
    planes = 255 * image[0].double().numpy()
    return planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, -1)
