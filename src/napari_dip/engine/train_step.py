"""What a step learns from one look: predict, compare, go down the gradient.

A look at a large picture, piece by piece: the same answer, from a fraction of the memory.

A network whose answer at a pixel depends on what lies near it alone may be shown the picture in
pieces, each with as much around it as it can see. What it makes of a piece stays in the processor's
cache: of 16 megapixels one takes 0.8 instead of 2.0 seconds of one core, of 4 one takes 0.8 instead
of 1.0 (layers of 16, 32, 64, 64).

Half precision: which devices are made for it, and how a network is run in it.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from napari_dip.engine.networks.inference_tiles import MAX_UNTILED_PIXELS, compute_tile_size
from napari_dip.engine.problem import Estimate, predict_detected

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch.optim import Optimizer

    from napari_dip.engine.prior import Draw, Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors.notes import Note

#: What a processor says of itself if it multiplies matrices of bfloat16 by instructions of its own.
BFLOAT16_FEATURES = ("amx_bf16", "avx512_bf16")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in BFLOAT16_FEATURES)
    return False


@runtime_checkable
class MixedPrecisionNetwork(Protocol):
    """A network of which a part would suffer from half precision."""

    def partly_in_half(self, code: Tensor) -> Tensor:
        """Run all but that part in half precision."""
        ...


def run_in_bfloat16(net: nn.Module, code: Tensor) -> Tensor:
    """Run a network without normalisation in bfloat16; its weights stay float32, as its answer is.

    Everything in between is bfloat16: autocast would go back to float32 at each border that is
    reflected, and spend most of its time on that. A step of 256 x 256 pixels takes 55 instead of
    114 ms on one core with AMX (layers of 16, 32, 64, 64), with autocast 73. What is learned
    differs by 0.05 dB (F16, cameraman, noise of 25).

    Parameters
    ----------
    net : nn.Module
    code : Tensor
        (B, D, *size) float32.
    """
    if isinstance(net, MixedPrecisionNetwork):
        return net.partly_in_half(code)
    weights = {name: weight.to(torch.bfloat16) for name, weight in net.named_parameters()}
    output: Tensor = functional_call(net, weights, (code.to(torch.bfloat16),))
    return output.float()


class TrainingBatch(NamedTuple):
    """What one step is shown and asked, cut to its window; tensors of all terms in their order.

    Attributes
    ----------
    code : Tensor
        (B, D, *size), packed.
    measured, targets, counted : tuple of Tensor
        The measurements, the same less what is taken from them, and 1 where the loss counts.
    direct, released : bool
        As the draw says; whether held-out pixels drive the weights, too.
    """

    code: Tensor
    measured: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    counted: tuple[Tensor, ...]
    direct: bool
    released: bool


#: What the network said, and the likelihood that judges, a scalar.
StepOutput = tuple[Estimate, Tensor]


class TrainStep(Protocol):
    """Teaches the weights what a look shows."""

    @property
    def note(self) -> Note | None:
        """What the user should know of the way it learns; None if nothing."""
        ...

    def drawing(self) -> AbstractContextManager[object]:
        """Where draws are made."""
        ...

    def drawn(self, look: TrainingBatch, draw: Draw) -> None:
        """Make ready for use what was made there."""
        ...

    def learn(self, look: TrainingBatch) -> StepOutput:
        """Take one step down the gradient."""
        ...

    def rate(self, rates: tuple[float, ...]) -> None:
        """Set the learning rates, one for each group of weights."""
        ...

    def forget(self) -> None:
        """Take note that the optimiser's tensors are others than before."""
        ...


def make_training_batch(problem: Problem, draw: Draw, *, released: bool) -> TrainingBatch:
    """Cut out what a draw is held against."""
    measured, targets, counted = [], [], []
    for term in problem.terms:
        # held-out pixels drive the weights, too, once they have judged
        measurement, weight = term.measurement, term.measured if released else term.fitted
        if draw.window is not None:
            measurement, weight = draw.window.of(measurement), draw.window.of(weight)
        measured.append(measurement)
        counted.append(weight if draw.driven is None else weight * draw.driven)
        targets.append(measurement if draw.taken is None else measurement - draw.taken)
    pictures = tuple(measured), tuple(targets), tuple(counted)
    return TrainingBatch(convert_to_channels_last(draw.code), *pictures, draw.direct, released)


class EagerTrainStep:
    """Learns operation by operation, on any device.

    Parameters
    ----------
    problem : Problem
    prior : Prior
    optimizer : Optimizer
    clip : float
        Longest gradient, in the norm of all weights together.
    half : bool
        Whether the network is run in half precision.
    """

    note: Note | None = None

    def __init__(
        self, problem: Problem, prior: Prior, optimizer: Optimizer, *, clip: float, half: bool
    ) -> None:
        self.optimizer = optimizer
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._problem = problem
        self._prior = prior
        self._clip = clip
        self._half = half

    def drawing(self) -> AbstractContextManager[object]:
        """Draw where everything else is done."""
        return nullcontext()

    def drawn(self, look: TrainingBatch, draw: Draw) -> None:
        """Nothing to wait for."""

    def rate(self, rates: tuple[float, ...]) -> None:
        """Set the learning rates; a recorded graph reads them from tensors."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def learn(self, look: TrainingBatch) -> StepOutput:
        """Predict, compare, learn."""
        net = self._prior.net
        estimate = self._prior.estimate(
            run_in_bfloat16(net, look.code) if self._half else net(look.code)
        )
        loss, judged = self._compare(look, estimate)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, self._clip, foreach=True)
        self.optimizer.step()
        return estimate, judged

    def forget(self) -> None:
        """Nothing to forget."""

    def _compare(self, look: TrainingBatch, estimate: Estimate) -> tuple[Tensor, Tensor]:
        """Loss to learn from, penalties included, and the likelihood that judges; two scalars.

        Both are means over the driven, fitted pixels of all terms.
        """
        loss, judged = estimate.mean.new_zeros(()), estimate.mean.new_zeros(())
        pictures = look.measured, look.targets, look.counted
        for term, measured, target, counted in zip(self._problem.terms, *pictures, strict=True):
            prediction = estimate if look.direct else predict_detected(term, estimate)
            fidelity = (term.released if look.released else None) or term.fidelity
            loss_of_pixel = fidelity(prediction, target) * counted  # (B, C, *size)
            count = (counted.sum() * loss_of_pixel.shape[1]).clamp(min=1)
            loss = loss + loss_of_pixel.sum() / count
            with torch.no_grad():  # the same measure as of the held-out pixels, to show beside it
                judged = judged + (term.likelihood(prediction, measured) * counted).sum() / count
        for factor, penalty in self._problem.penalties:
            loss = loss + factor * penalty(estimate.mean)
        return loss, judged


def convert_to_channels_last(code: Tensor) -> Tensor:
    """Channels last, which the CPU's and the GPU's convolutions read fastest (2-D only)."""
    return code.contiguous(memory_format=torch.channels_last) if code.ndim == 4 else code


@runtime_checkable
class LocalNetwork(Protocol):
    """A network that says how far it sees."""

    @property
    def reach(self) -> int | None:
        """Most pixels between one of the answer and one that it depends on; None: no bound."""
        ...

    @property
    def grain(self) -> int:
        """How many pixels wide one of its coarsest grid is."""
        ...


def apply_network(net: nn.Module, code: Tensor) -> Tensor:
    """Ask a network, (B, D, *grid) to (B, K, *grid): a large picture piece by piece if that can be.

    The pieces of a picture whose sides are no multiples of the grain are those of one that is
    mirrored beyond its last pixels, as the layers themselves mirror it.
    """
    small = code.ndim != 4 or prod(code.shape[2:]) <= MAX_UNTILED_PIXELS
    if small or not isinstance(net, LocalNetwork) or net.reach is None:
        return net(convert_to_channels_last(code))  # type: ignore[no-any-return]
    margin, core = compute_tile_size(net.reach, net.grain)
    height, width = code.shape[2:]
    code = F.pad(code, (0, -width % net.grain, 0, -height % net.grain), mode="reflect")
    whole: Tensor | None = None
    starts = (range(0, side, core) for side in code.shape[2:])
    for place in product(*starts):
        around = [slice(max(0, start - margin), start + core + margin) for start in place]
        said = net(convert_to_channels_last(code[:, :, *around]))
        inside = [
            slice(start - near.start, start - near.start + core)
            for start, near in zip(place, around, strict=True)
        ]
        if whole is None:
            whole = said.new_empty((*said.shape[:2], *code.shape[2:]))
        whole[:, :, *(slice(start, start + core) for start in place)] = said[:, :, *inside]
    assert whole is not None
    return whole[:, :, :height, :width]
