"""Compute one training step, eagerly or as a CUDA graph, and inference in bfloat16 and in tiles.

A step of these narrow networks is several hundred small operations, each of which takes longer to
launch than to compute. A CUDA graph records and replays them as a whole, which is eleven times as
fast (docs/benchmarks/gpu.md). Samples are drawn outside the graph on a stream of their own, beside
the previous step.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from napari_dip.engine.constants import MAX_UNTILED_PIXELS, compute_tile_size
from napari_dip.engine.fit.optimizers import Muon
from napari_dip.engine.networks.layers import SpectralNorm
from napari_dip.engine.problem import Estimate
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch.optim import Optimizer

    from napari_dip.engine.fit.optimizers import Schedule
    from napari_dip.engine.prior import Prior, StepInput
    from napari_dip.engine.problem import Problem
    from napari_dip.errors.notes import Note

#: Names in `torch.cpu.get_capabilities()` of instructions for matrix products in bfloat16.
BFLOAT16_FEATURES = ("amx_bf16", "avx512_bf16")
#: Steps before the recording, in which libraries choose their algorithms; from PyTorch's notes on
#: CUDA graphs.
WARM_UP_STEPS = 3
#: Maximal number of recordings in one fit. One each is due at the start, in the refit and after
#: each rollback; more of them mean that tensor sizes change.
MAX_RECORDINGS = 8
DYNAMIC_SHAPES_REASON = "the sizes of their tensors change"


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32 on a device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # torch 2.4 lacks it
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name, False) for name in BFLOAT16_FEATURES)
    return False


@runtime_checkable
class MixedPrecisionNetwork(Protocol):
    """A network with a part that must stay in single precision."""

    def run_mixed_precision(self, network_input: Tensor) -> Tensor:
        """Compute the output with all other parts in half precision."""
        ...


def run_in_bfloat16(network: nn.Module, network_input: Tensor) -> Tensor:
    """Return the output of a network, computed in bfloat16, as float32.

    The stored weights stay float32. Autocast is not used: it converts to float32 at each
    reflecting border, which takes most of its time. A training step of 256 x 256 pixels takes
    55 ms instead of 114 ms on one core with AMX (layers of 16, 32, 64, 64); with autocast, 73 ms.
    The PSNR of the result differs by 0.05 dB (F16, cameraman, noise of 25).

    Parameters
    ----------
    network : nn.Module
        Without normalisation layers, or a `MixedPrecisionNetwork`.
    network_input : Tensor
        Network input, (B, D, *size) float32.
    """
    if isinstance(network, MixedPrecisionNetwork):
        return network.run_mixed_precision(network_input)
    weights = {name: weight.to(torch.bfloat16) for name, weight in network.named_parameters()}
    output: Tensor = functional_call(network, weights, (network_input.to(torch.bfloat16),))
    return output.float()


class TrainingBatch(NamedTuple):
    """Tensors of one training step, cropped to its window; one of each kind for each term.

    Attributes
    ----------
    network_input : Tensor
        (B, D, *size); in 2-D with channels last in memory.
    measurements : tuple of Tensor
    targets : tuple of Tensor
        The measurements minus the sample's `target_noise`.
    pixel_weights : tuple of Tensor
        Loss weight of each pixel, (B, 1, *size).
    bypasses_operator : bool
        As in `StepInput`.
    uses_validation_pixels : bool
        Whether the loss includes validation pixels, as in the refit.
    """

    network_input: Tensor
    measurements: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    pixel_weights: tuple[Tensor, ...]
    bypasses_operator: bool
    uses_validation_pixels: bool


#: The network's estimate, and the mean deviance (twice the negative log-likelihood), a scalar.
StepOutput = tuple[Estimate, Tensor]


def make_training_batch(
    problem: Problem, sample: StepInput, *, uses_validation_pixels: bool
) -> TrainingBatch:
    """Return network input, measurements, targets and loss weights of a sample.

    Parameters
    ----------
    problem : Problem
    sample : StepInput
    uses_validation_pixels : bool
        Whether the loss includes validation pixels.
    """
    measurements, targets, pixel_weights = [], [], []
    for term in problem.terms:
        measurement = term.measurement
        weight = term.refit_pixel_weights if uses_validation_pixels else term.training_pixel_weights
        if sample.window is not None:
            measurement, weight = map(sample.window.crop, (measurement, weight))
        measurements.append(measurement)
        pixel_weights.append(weight if sample.loss_mask is None else weight * sample.loss_mask)
        targets.append(
            measurement if sample.target_noise is None else measurement - sample.target_noise
        )
    return TrainingBatch(
        convert_to_channels_last(sample.network_input),
        tuple(measurements),
        tuple(targets),
        tuple(pixel_weights),
        sample.bypasses_operator,
        uses_validation_pixels,
    )


@dataclass(eq=False)
class EagerTrainStep:
    """Training step that is computed operation by operation, on any device.

    Attributes
    ----------
    problem : Problem
    prior : Prior
    optimizer : Optimizer
    max_gradient_norm : float
        Largest norm of the gradient of all weights together.
    uses_bfloat16 : bool
        Whether the network runs in bfloat16.
    """

    problem: Problem
    prior: Prior
    optimizer: Optimizer
    max_gradient_norm: float
    uses_bfloat16: bool
    note: Note | None = None

    @property
    def weights(self) -> list[Tensor]:
        """All weights that the optimizer changes."""
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    def make_sampling_context(self) -> AbstractContextManager[object]:
        """Return an empty context."""
        return nullcontext()

    def wait_for_sample(self, batch: TrainingBatch, sample: StepInput) -> None:
        """Do nothing: samples are computed in order with everything else."""

    def set_rates(self, rates: tuple[float, ...]) -> None:
        """Set the learning rates, in place where they are tensors that a CUDA graph reads."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def run(self, batch: TrainingBatch) -> StepOutput:
        """Predict, compute the loss, and update the weights once."""
        network = self.prior.network
        estimate = self.prior.estimate(
            run_in_bfloat16(network, batch.network_input)
            if self.uses_bfloat16
            else network(batch.network_input)
        )
        loss, deviance = self._compute_losses(batch, estimate)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, self.max_gradient_norm)
        self.optimizer.step()
        return estimate, deviance

    def invalidate(self) -> None:
        """Do nothing: no tensors are kept."""

    def _compute_losses(self, batch: TrainingBatch, estimate: Estimate) -> tuple[Tensor, Tensor]:
        """Return the loss to minimise, with penalties, and the mean deviance; two scalars.

        Both are sums over the terms of the mean over the pixels with a loss weight.
        """
        loss, deviance = estimate.mean.new_zeros(()), estimate.mean.new_zeros(())
        tensors = batch.measurements, batch.targets, batch.pixel_weights
        for term, measured, target, weight in zip(self.problem.terms, *tensors, strict=True):
            prediction = estimate if batch.bypasses_operator else term.operator.predict(estimate)
            pixel_loss = term.fidelity(prediction, target) * weight  # (B, C, *size)
            count = (weight.sum() * pixel_loss.shape[1]).clamp(min=1)
            loss = loss + pixel_loss.sum() / count
            with torch.no_grad():  # comparable with the validation loss
                deviance = deviance + (term.deviance(prediction, measured) * weight).sum() / count
        for factor, penalty in self.problem.penalties:
            loss = loss + factor * penalty(estimate.mean)
        return loss, deviance


def convert_to_channels_last(network_input: Tensor) -> Tensor:
    """Return a 2-D network input with channels last in memory, which speeds up convolutions."""
    if network_input.ndim == 4:
        return network_input.contiguous(memory_format=torch.channels_last)
    return network_input


@runtime_checkable
class LocalNetwork(Protocol):
    """A network with a known receptive field."""

    @property
    def receptive_field_radius(self) -> int | None:
        """Largest distance in pixels of an input that an output depends on; None: unbounded."""
        ...

    @property
    def coarsest_stride(self) -> int:
        """Size of a pixel of the coarsest scale, in pixels of the input."""
        ...


def apply_network(network: nn.Module, network_input: Tensor) -> Tensor:
    """Return a network's output (B, K, *grid) for (B, D, *grid), in tiles if the image is large.

    Each tile has a halo as wide as the receptive field, so the output is the same. Sides that are
    no multiples of the coarsest stride are padded by reflection, as in the layers themselves. Tiles
    fit into the processor's cache: on one core, 16 megapixels take 0.8 s instead of 2.0 s and
    4 megapixels 0.8 s instead of 1.0 s (layers of 16, 32, 64, 64).
    """
    is_small = network_input.ndim != 4 or prod(network_input.shape[2:]) <= MAX_UNTILED_PIXELS
    if is_small or not isinstance(network, LocalNetwork) or network.receptive_field_radius is None:
        return network(convert_to_channels_last(network_input))  # type: ignore[no-any-return]
    halo, tile = compute_tile_size(network.receptive_field_radius, network.coarsest_stride)
    height, width = network_input.shape[2:]
    network_input = F.pad(
        network_input,
        (0, -width % network.coarsest_stride, 0, -height % network.coarsest_stride),
        mode="reflect",
    )
    output: Tensor | None = None
    starts = (range(0, side, tile) for side in network_input.shape[2:])
    for corner in product(*starts):
        outer = [slice(max(0, start - halo), start + tile + halo) for start in corner]
        tile_output = network(convert_to_channels_last(network_input[:, :, *outer]))
        inside = [
            slice(start - outer_slice.start, start - outer_slice.start + tile)
            for start, outer_slice in zip(corner, outer, strict=True)
        ]
        if output is None:
            output = tile_output.new_empty((*tile_output.shape[:2], *network_input.shape[2:]))
        output[:, :, *(slice(start, start + tile) for start in corner)] = tile_output[:, :, *inside]
    assert output is not None
    return output[:, :, :height, :width]


def make_train_step(
    problem: Problem, prior: Prior, schedule: Schedule, optimizer: Optimizer, *, uses_bfloat16: bool
) -> EagerTrainStep | CudaGraphTrainStep:
    """Return a step that is recorded as a CUDA graph where possible, else an eager one."""
    eager = EagerTrainStep(
        problem,
        prior,
        optimizer,
        max_gradient_norm=schedule.max_gradient_norm,
        uses_bfloat16=uses_bfloat16,
    )
    return CudaGraphTrainStep(eager) if is_graph_capturable(problem, prior, schedule) else eager


def is_graph_capturable(problem: Problem, prior: Prior, schedule: Schedule) -> bool:
    """Return whether the fit runs on an NVIDIA GPU, and no part of a step reads values back.

    Adam and Muon read none. Eigenvalues, for networks of bounded spectral norms, are read back.
    """
    is_cuda = problem.main_term.measurement.device.type == "cuda"
    has_bounds = any(isinstance(module, SpectralNorm) for module in prior.network.modules())
    return is_cuda and schedule.optimizer in (None, Muon) and not has_bounds


class _Recording(NamedTuple):
    """Graph of a step, the tensors that it reads, and those that it writes."""

    graph: torch.cuda.CUDAGraph
    batch: TrainingBatch
    output: StepOutput


class CudaGraphTrainStep:
    """Training step that is recorded once and replayed with the tensors of each batch.

    If that fails, all further steps are eager, and `note` says why.

    Parameters
    ----------
    train_step : EagerTrainStep
        Its optimiser must be one of `make_capturable_adam`.
    """

    def __init__(self, train_step: EagerTrainStep) -> None:
        self.note: Note | None = None
        self.eager = train_step
        self._recording_count = 0
        self._recording: _Recording | None = None
        self._sampling_stream: torch.cuda.Stream | None = None

    def make_sampling_context(self) -> AbstractContextManager[object]:
        """Return the context of the stream for samples, once there is a graph."""
        stream = self._sampling_stream
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def wait_for_sample(self, batch: TrainingBatch, sample: StepInput) -> None:
        """Wait for the tensors of that stream, and keep their memory until they are used."""
        if self._sampling_stream is None:
            return
        now = torch.cuda.current_stream()
        now.wait_stream(self._sampling_stream)
        for tensor in (*list_batch_tensors(batch), sample.output_mask):
            if tensor is not None:
                tensor.record_stream(now)

    def set_rates(self, rates: tuple[float, ...]) -> None:
        """Set the learning rates in the tensors that the graph reads."""
        self.eager.set_rates(rates)

    def invalidate(self) -> None:
        """Drop the graph, since it writes to tensors that the optimiser no longer uses."""
        self._recording = None

    def run(self, batch: TrainingBatch) -> StepOutput:
        """Replay the step; record it first if there is no graph for batches of this kind."""
        if self.note is None:
            try:
                return self._replay(batch)
            except RuntimeError as error:  # includes a lack of memory: eager steps need less
                why = str(error).strip().splitlines()[0].rstrip(".") if str(error) else "no reason"
                self.note = make_note("steps-eager", why=why)
                self._recording = self._sampling_stream = None
        return self.eager.run(batch)

    def _replay(self, batch: TrainingBatch) -> StepOutput:
        recording = self._recording
        if recording is None or make_graph_key(batch) != make_graph_key(recording.batch):
            recording = self._recording = self._record(batch)
        static_tensors, tensors = map(list_batch_tensors, (recording.batch, batch))
        for static, tensor in zip(static_tensors, tensors, strict=True):
            static.copy_(tensor)
        recording.graph.replay()
        return recording.output

    def _record(self, batch: TrainingBatch) -> _Recording:
        self._recording_count += 1
        if self._recording_count > MAX_RECORDINGS:
            raise RuntimeError(DYNAMIC_SHAPES_REASON)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        static_batch = clone_batch(batch)
        with preserve_training_state(self.eager):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    self.eager.run(static_batch)
            torch.cuda.current_stream().wait_stream(stream)
            self.eager.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                output = self.eager.run(static_batch)
        self._sampling_stream = stream
        return _Recording(graph, static_batch, output)


@contextmanager
def preserve_training_state(train_step: EagerTrainStep) -> Iterator[None]:
    """Restore weights and optimiser in place afterwards, since a graph uses the same tensors."""
    optimizer_state = train_step.optimizer.state
    saved_weights = [weight.detach().clone() for weight in train_step.weights]
    saved_states = [
        {name: value.clone() for name, value in optimizer_state.get(weight, {}).items()}
        for weight in train_step.weights
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, saved_weight, saved_state in zip(
                train_step.weights, saved_weights, saved_states, strict=True
            ):
                weight.copy_(saved_weight)
                for name, value in optimizer_state.get(weight, {}).items():
                    if name in saved_state:
                        value.copy_(saved_state[name])
                    else:  # Adam's state is initially zero
                        value.zero_()


def make_graph_key(batch: TrainingBatch) -> tuple[object, ...]:
    """Return shapes, types and flags of a batch; a graph is valid for one such key."""
    shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in list_batch_tensors(batch))
    return (*shapes, batch.bypasses_operator, batch.uses_validation_pixels)


def list_batch_tensors(batch: TrainingBatch) -> list[Tensor]:
    """Return all tensors of a batch in a fixed order."""
    return [batch.network_input, *batch.measurements, *batch.targets, *batch.pixel_weights]


def clone_batch(batch: TrainingBatch) -> TrainingBatch:
    """Return a copy of a batch in new tensors."""

    def clone_all(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in tensors)

    return batch._replace(
        network_input=batch.network_input.clone(),
        measurements=clone_all(batch.measurements),
        targets=clone_all(batch.targets),
        pixel_weights=clone_all(batch.pixel_weights),
    )
