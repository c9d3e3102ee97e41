"""A step that a GPU has recorded once and replays as a whole.

A step of these narrow networks is several hundred small operations: a card waits longer for each to
be asked for than it takes to do it. What is random is drawn beside the graph, on a stream of its
own, so that a draw which the processor waits for does not wait for the step before. Never run on a
card so far: none was at hand.
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
    from napari_dip.engine.train_step import StepOutput, TrainStep
    from napari_dip.errors.notes import Note

#: Steps before one is recorded, so that libraries have chosen their algorithms; as PyTorch's notes
#: on CUDA graphs have it.
WARM_UP_STEPS = 3
#: Recordings of one fit: at the start, in the last phase, in which held-out pixels drive the fit as
#: well, and each time that it broke down and went back (fit.py). More means that sizes change.
MAX_RECORDINGS = 8
DYNAMIC_SHAPES_REASON = "what they look at changes its size"


def make_train_step(
    problem: Problem, prior: Prior, schedule: Schedule, optimizer: Optimizer, *, half: bool
) -> TrainStep:
    """Record steps on a GPU that can, with the optimiser that can; else run them."""
    eager = EagerTrainStep(problem, prior, optimizer, clip=schedule.clip, half=half)
    return CudaGraphTrainStep(eager) if is_graph_capturable(problem, schedule) else eager


def is_graph_capturable(problem: Problem, schedule: Schedule) -> bool:
    """Whether the fit runs on an NVIDIA card, with Adam: other optimisers ask for numbers."""
    return problem.terms[0].measurement.device.type == "cuda" and schedule.optimiser is None


class CudaGraphTrainStep:
    """Records what a learner does with a look, and replays it with the next one's pixels.

    Where that fails it learns operation by operation from then on, and says why.

    Parameters
    ----------
    learner : EagerTrainStep
        On a card its optimiser must be one of `adam_on_card`.
    """

    def __init__(self, learner: EagerTrainStep) -> None:
        self.note: Note | None = None
        self.eager = learner
        self._recordings = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static_batch: TrainingBatch | None = None  # the tensors that the graph reads
        self._lesson: StepOutput | None = None  # and those that it writes
        self._aside: torch.cuda.Stream | None = None

    def drawing(self) -> AbstractContextManager[object]:
        """Draw on a stream of its own, once there is a graph to be drawn for."""
        return nullcontext() if self._aside is None else torch.cuda.stream(self._aside)

    def drawn(self, look: TrainingBatch, draw: Draw) -> None:
        """Wait for what was made on that stream, and keep its memory until it is read here."""
        if self._aside is None:
            return
        now = torch.cuda.current_stream()
        now.wait_stream(self._aside)
        for tensor in (*list_batch_tensors(look), draw.trusted):
            if tensor is not None:
                tensor.record_stream(now)

    def rate(self, rates: tuple[float, ...]) -> None:
        """Set the rates where the graph reads them."""
        self.eager.rate(rates)

    def forget(self) -> None:
        """Drop the graph: the optimiser's tensors are others than those that it writes."""
        self._graph = None

    def learn(self, look: TrainingBatch) -> StepOutput:
        """Replay the step; record it first if there is none for looks of this kind."""
        if self.note is None:
            try:
                return self._replayed(look)
            except RuntimeError as error:  # a full memory, too: without the graph it takes less
                why = str(error).strip().splitlines()[0].rstrip(".") if str(error) else "no reason"
                self.note = make_note("steps-eager", why=why)
                self._graph = self._aside = self._static_batch = self._lesson = None
        return self.eager.learn(look)

    def _replayed(self, look: TrainingBatch) -> StepOutput:
        if (
            self._graph is None
            or self._static_batch is None
            or make_graph_key(look) != make_graph_key(self._static_batch)
        ):
            self._record(look)
        assert self._graph is not None
        assert self._static_batch is not None
        assert self._lesson is not None
        for kept, tensor in zip(
            list_batch_tensors(self._static_batch), list_batch_tensors(look), strict=True
        ):
            kept.copy_(tensor)
        self._graph.replay()
        return self._lesson

    def _record(self, look: TrainingBatch) -> None:
        self._recordings += 1
        if self._recordings > MAX_RECORDINGS:
            raise RuntimeError(DYNAMIC_SHAPES_REASON)
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        static_batch = clone_batch(look)
        with preserve_training_state(self.eager):
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP_STEPS):
                    self.eager.learn(static_batch)
            torch.cuda.current_stream().wait_stream(aside)
            self.eager.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self._lesson = self.eager.learn(static_batch)
        self._graph, self._static_batch, self._aside = graph, static_batch, aside


@contextmanager
def preserve_training_state(learner: EagerTrainStep) -> Iterator[None]:
    """Put weights and optimiser back afterwards, in place: a graph goes on with these tensors."""
    optimiser_state = learner.optimizer.state
    weights = [weight.detach().clone() for weight in learner.weights]
    remembered = [
        {name: value.clone() for name, value in optimiser_state.get(weight, {}).items()}
        for weight in learner.weights
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, was, had in zip(learner.weights, weights, remembered, strict=True):
                weight.copy_(was)
                for name, value in optimiser_state.get(weight, {}).items():
                    if name in had:
                        value.copy_(had[name])
                    else:  # Adam begins with zeros
                        value.zero_()


def make_graph_key(look: TrainingBatch) -> tuple[object, ...]:
    """Tell looks apart that one graph cannot serve."""
    shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in list_batch_tensors(look))
    return (*shapes, look.direct, look.released)


def list_batch_tensors(look: TrainingBatch) -> list[Tensor]:
    """All that it shows, in a fixed order."""
    return [look.code, *look.measured, *look.targets, *look.counted]


def clone_batch(look: TrainingBatch) -> TrainingBatch:
    """Make the same look in tensors of its own."""

    def each(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(item.clone() for item in part)

    return look._replace(
        code=look.code.clone(),
        measured=each(look.measured),
        targets=each(look.targets),
        counted=each(look.counted),
    )
