"""Record a training step as a CUDA graph, and replay it as a whole.

A step of these narrow networks is several hundred small operations, each of which takes longer to
launch than to compute. Draws are computed outside the graph on a stream of their own, so that the
CPU can wait for a draw without waiting for the previous step. Not yet run on a GPU.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from napari_dip.engine.train_step import EagerTrainStep, TrainingBatch
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor
    from torch.optim import Optimizer

    from napari_dip.engine.fit.schedule import Schedule
    from napari_dip.engine.prior import Draw, Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.engine.train_step import StepOutput
    from napari_dip.errors.notes import Note

#: Steps before the recording, in which libraries choose their algorithms; from PyTorch's notes on
#: CUDA graphs.
WARM_UP_STEPS = 3
#: Maximal number of recordings in one fit. One each is due at the start, in the refit and after
#: each rollback; more of them mean that tensor sizes change.
MAX_RECORDINGS = 8
DYNAMIC_SHAPES_REASON = "what they look at changes its size"


def make_train_step(
    problem: Problem,
    prior: Prior,
    schedule: Schedule,
    optimizer: Optimizer,
    *,
    uses_bfloat16: bool,
) -> EagerTrainStep | CudaGraphTrainStep:
    """Return a step that is recorded as a CUDA graph where possible, else an eager one."""
    eager = EagerTrainStep(
        problem,
        prior,
        optimizer,
        max_gradient_norm=schedule.max_gradient_norm,
        uses_bfloat16=uses_bfloat16,
    )
    return CudaGraphTrainStep(eager) if is_graph_capturable(problem, schedule) else eager


def is_graph_capturable(problem: Problem, schedule: Schedule) -> bool:
    """Return whether the fit runs on an NVIDIA GPU with Adam; other optimisers read values back."""
    return problem.terms[0].measurement.device.type == "cuda" and schedule.optimizer is None


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
        self._recordings = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static_batch: TrainingBatch | None = None  # the tensors that the graph reads
        self._static_output: StepOutput | None = None  # and those that it writes
        self._draw_stream: torch.cuda.Stream | None = None

    def draw_context(self) -> AbstractContextManager[object]:
        """Return the context of the draws' own stream, once there is a graph."""
        return nullcontext() if self._draw_stream is None else torch.cuda.stream(self._draw_stream)

    def wait_for_draw(self, batch: TrainingBatch, draw: Draw) -> None:
        """Wait for the tensors of that stream, and keep their memory until they are used."""
        if self._draw_stream is None:
            return
        now = torch.cuda.current_stream()
        now.wait_stream(self._draw_stream)
        for tensor in (*list_batch_tensors(batch), draw.output_mask):
            if tensor is not None:
                tensor.record_stream(now)

    def set_rates(self, rates: tuple[float, ...]) -> None:
        """Set the learning rates in the tensors that the graph reads."""
        self.eager.set_rates(rates)

    def invalidate(self) -> None:
        """Drop the graph, since it writes to tensors that the optimiser no longer uses."""
        self._graph = None

    def learn(self, batch: TrainingBatch) -> StepOutput:
        """Replay the step; record it first if there is no graph for batches of this kind."""
        if self.note is None:
            try:
                return self._replay(batch)
            except RuntimeError as error:  # includes a lack of memory: eager steps need less
                why = str(error).strip().splitlines()[0].rstrip(".") if str(error) else "no reason"
                self.note = make_note("steps-eager", why=why)
                self._graph = self._draw_stream = self._static_batch = self._static_output = None
        return self.eager.learn(batch)

    def _replay(self, batch: TrainingBatch) -> StepOutput:
        if (
            self._graph is None
            or self._static_batch is None
            or make_graph_key(batch) != make_graph_key(self._static_batch)
        ):
            self._record(batch)
        assert self._graph is not None
        assert self._static_batch is not None
        assert self._static_output is not None
        for static, tensor in zip(
            list_batch_tensors(self._static_batch), list_batch_tensors(batch), strict=True
        ):
            static.copy_(tensor)
        self._graph.replay()
        return self._static_output

    def _record(self, batch: TrainingBatch) -> None:
        self._recordings += 1
        if self._recordings > MAX_RECORDINGS:
            raise RuntimeError(DYNAMIC_SHAPES_REASON)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        static_batch = clone_batch(batch)
        with preserve_training_state(self.eager):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    self.eager.learn(static_batch)
            torch.cuda.current_stream().wait_stream(stream)
            self.eager.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self._static_output = self.eager.learn(static_batch)
        self._graph, self._static_batch, self._draw_stream = graph, static_batch, stream


@contextmanager
def preserve_training_state(train_step: EagerTrainStep) -> Iterator[None]:
    """Restore weights and optimiser in place afterwards, since a graph uses the same tensors."""
    optimiser_state = train_step.optimizer.state
    saved_weights = [weight.detach().clone() for weight in train_step.weights]
    saved_states = [
        {name: value.clone() for name, value in optimiser_state.get(weight, {}).items()}
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
                for name, value in optimiser_state.get(weight, {}).items():
                    if name in saved_state:
                        value.copy_(saved_state[name])
                    else:  # Adam's state is initially zero
                        value.zero_()


def make_graph_key(batch: TrainingBatch) -> tuple[object, ...]:
    """Return shapes, types and flags of a batch; a graph is valid for one such key."""
    shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in list_batch_tensors(batch))
    return (*shapes, batch.is_direct, batch.uses_validation_pixels)


def list_batch_tensors(batch: TrainingBatch) -> list[Tensor]:
    """Return all tensors of a batch in a fixed order."""
    return [batch.network_input, *batch.measurements, *batch.targets, *batch.weights]


def clone_batch(batch: TrainingBatch) -> TrainingBatch:
    """Return a copy of a batch in new tensors."""

    def each(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in part)

    return batch._replace(
        network_input=batch.network_input.clone(),
        measurements=each(batch.measurements),
        targets=each(batch.targets),
        weights=each(batch.weights),
    )
