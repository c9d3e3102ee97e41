"""Going on when the memory runs out within a fit: let go of everything, take smaller bites.

Other programs may have taken what a plan counted on, so a fit that met a full memory begins again
where its last judgement was, a stated number of times, and is then ended with what it has. A fit
whose GPU is lost is ended so at once, on the processor.

A GPU that stops answering: what was copied off it in time is what is left.

A card that was pulled, reset, or put to sleep fails every call from then on, also those that only
read. So a checkpoint is copied to the main memory now and then, and the fit that was on the card
is ended from that copy on the processor, as if a person had pressed Stop and keep.
"""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, refusal
from napari_dip.errors.notes import StopReason, make_note, make_stop
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.machine import is_memory_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from torch import Tensor

    from napari_dip.engine.control import Control
    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.engine.fit.trainer import TensorState
    from napari_dip.errors.notes import Note, Stop
    from napari_dip.pipeline.plan.types import Budget, Plan, UnitOutcome

    Attempt = Callable[[Checkpoint | None], Generator[Event, None, Control]]

#: What torch says when a card or its driver no longer answers, or never did, in small letters.
_DEVICE_ERROR_TEXTS = (
    "cuda error",
    "cuda driver",
    "no cuda gpus",
    "nvidia driver",
    "cudnn error",
    "cudnn_status",
    "cublas_status",
    "cufft error",
    "hip error",
    "mps device",
    "command buffer",
)


def is_device_error(error: BaseException) -> bool:
    """Tell a card that no longer answers from other errors, by what torch raises.

    By name and text, as `is_memory_error`, which goes first: a card's full memory is no lost card.
    """
    if is_memory_error(error) or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return type(error).__name__ == "AcceleratorError" or any(
        item in text for item in _DEVICE_ERROR_TEXTS
    )


def make_machine_refusal(error: BaseException, name: str) -> Refusal | None:
    """Put a full memory or a lost card into a sentence; None for other errors.

    Parameters
    ----------
    error : Exception
    name : str
        Of what was being restored.
    """
    if is_memory_error(error):
        return refusal("memory-out", name=name)
    if is_device_error(error):
        first = str(error).strip().splitlines()[0].rstrip(".")
        return refusal("device-lost", name=name, why=first)
    return None


def copy_checkpoint_to_cpu(point: Checkpoint) -> Checkpoint:
    """Copy a checkpoint off its device."""
    return replace(
        point,
        step=copy_state_to_cpu(point.step),
        rollback=copy_state_to_cpu(point.rollback),
        best=copy_state_to_cpu(point.best),
    )


def is_on_accelerator(point: Checkpoint) -> bool:
    """Whether a checkpoint lies elsewhere than in the main memory."""
    return any(value.device.type != "cpu" for value in point.step.values())


def reset_random_state(point: Checkpoint) -> Checkpoint:
    """Give a checkpoint the processor's own random numbers, to which a card's mean nothing.

    It then serves to end a fit, which draws nothing more.
    """
    import torch

    fresh = torch.Generator().get_state()

    def drawn(state: TensorState) -> TensorState:
        return {**state, "rng": fresh} if "rng" in state else state

    return replace(point, step=drawn(point.step), rollback=drawn(point.rollback))


def copy_state_to_cpu(state: Mapping[str, Tensor]) -> TensorState:
    """Copy weights and what goes with them off their device."""
    return {name: value.cpu() for name, value in state.items()}


#: How often a fit goes on after its memory ran out, before it is ended with what it has.
MAX_TRIES = 4
#: Pixels along each side that a step looks at, at least: four times what the network's deepest
#: scale sees as one pixel is no picture any more.
MIN_RETRY_WINDOW = 64
#: Seconds between two copies off a card, at least: what a lost card costs. Copying takes
#: milliseconds (some 40 MB at 10 GB/s or so), a share of them that nobody notices.
COPY_INTERVAL = 1.0


@dataclass(slots=True, eq=False)
class RecoveryState:
    """How large a run's steps are, and how often its memory ran out in the fit in progress.

    Attributes
    ----------
    window : int or None
        Most pixels along each side that a step looks at; None: as planned.
    tries : int
        How often the fit in progress went on after its memory ran out.
    latest_checkpoint : Checkpoint or None
        Where the fit in progress last stood.
    last_event : Event
        What was last told.
    notes : list of Note
        One for each time.
    is_device_lost : bool
        Whether the GPU no longer answers.
    prior : str
        Whose fit is to be ended, where several raced when the card was lost; else "".
    """

    window: int | None = None
    tries: int = 0
    latest_checkpoint: Checkpoint | None = None
    last_event: Event = field(default_factory=lambda: Event(message="Restoring"))
    notes: list[Note] = field(default_factory=list)
    is_device_lost: bool = False
    prior: str = ""
    _candidate_checkpoint: tuple[str, Checkpoint] | None = None
    _last_copy_time: float = -COPY_INTERVAL

    @property
    def is_exhausted(self) -> bool:
        """Whether the fit is only to be ended with what it has."""
        return self.is_device_lost or self.tries > MAX_TRIES

    @property
    def stop(self) -> Stop | None:
        """Why the fit was ended, if it was ended here."""
        if self.is_device_lost:
            return make_stop(StopReason.DEVICE)
        return make_stop(StopReason.MEMORY) if self.is_exhausted else None

    def record_checkpoint(self, point: Checkpoint, rival: str = "") -> Checkpoint | None:
        """Take note of where a fit stands; from a card, a copy of it now and then.

        Parameters
        ----------
        point : Checkpoint
        rival : str
            The prior, while several race: such a fit is only gone on with if the card is lost.

        Returns
        -------
        Checkpoint or None
            What may be kept on the disk; None if nothing is new, or in a race.
        """
        if not point.history:
            self.latest_checkpoint = None
            return None
        if is_on_accelerator(point):
            if time.monotonic() - self._last_copy_time < COPY_INTERVAL:
                return None
            point, self._last_copy_time = copy_checkpoint_to_cpu(point), time.monotonic()
        if not rival:
            self.latest_checkpoint = point
            return point
        before = self._candidate_checkpoint
        if before is None or point.history[-1].iteration >= before[1].history[-1].iteration:
            self._candidate_checkpoint = rival, point
        return None

    def place_plan(self, plan: Plan) -> Plan:
        """Leave a card that no longer answers."""
        return replace(plan, device="cpu") if self.is_device_lost else plan

    def abandon_device(self) -> Note:
        """Go on without the card; the note about it."""
        self.is_device_lost = True
        if self.latest_checkpoint is None and self._candidate_checkpoint is not None:
            self.prior, self.latest_checkpoint = self._candidate_checkpoint
        iteration = None
        if self.latest_checkpoint is not None:
            iteration = self.latest_checkpoint.history[-1].iteration
            self.latest_checkpoint = reset_random_state(self.latest_checkpoint)
        note = make_note("device-kept", iteration=iteration)
        self.notes.append(note)
        return note

    def has_retry(self, *, lost: bool) -> bool:
        """Whether there is a picture to keep, or a try left to make one."""
        if lost:
            return self.latest_checkpoint is not None or self._candidate_checkpoint is not None
        return self.latest_checkpoint is not None or self.tries < MAX_TRIES

    def reset(self) -> None:
        """Begin the next fit with all tries."""
        self.tries, self._candidate_checkpoint, self._last_copy_time = 0, None, -COPY_INTERVAL
        self.notes.clear()

    def limit_budget(self, budget: Budget) -> Budget:
        """Keep a budget's windows within what the memory takes."""
        if self.window is None or budget.window is None:
            return budget
        return replace(budget, window=min(self.window, budget.window))

    def shrink_window(self, planned: int | None, side: int) -> Note:
        """Count a try and halve the window; the note about it."""
        self.tries += 1
        iteration = self.latest_checkpoint.history[-1].iteration if self.latest_checkpoint else None
        before = min(planned or side, self.window or side, side)
        if self.is_exhausted:
            note = make_note("memory-kept", iteration=iteration)
        elif planned is None or before <= MIN_RETRY_WINDOW:
            note = make_note("memory-freed", iteration=iteration, window=None)
        else:
            self.window = max(MIN_RETRY_WINDOW, before // 2)
            note = make_note("memory-freed", iteration=iteration, window=self.window)
        self.notes.append(note)
        return note


def retry_fit(
    attempt: Attempt,
    resume: Checkpoint | None,
    bites: RecoveryState,
    planned: int | None,
    side: int,
    outcomes: list[UnitOutcome],
) -> Generator[Event, None, Control]:
    """Make attempts at a fit until one is not ended by a full memory or a lost card.

    Parameters
    ----------
    attempt : callable
        Begins the fit from a checkpoint.
    resume : Checkpoint or None
    bites : RecoveryState
        Shared by all fits of the run; `bites.latest` is kept up to date by the attempt.
    planned : int or None
        The budget's window.
    side : int
        Of the picture, in pixels.
    outcomes : list of UnitOutcome
        Of the fits that are done: once this one is among them, it is not made again. If it came to
        nothing, what there is to say goes to the last of them.

    Raises
    ------
    Exception
        The memory's or the card's own, if not even a picture could be kept.
    """
    done = len(outcomes)
    bites.latest_checkpoint = resume
    while True:
        try:
            ended = yield from attempt(bites.latest_checkpoint)
            if bites.notes and outcomes and len(outcomes) == done:
                last = outcomes[-1]
                outcomes[-1] = replace(last, notes=(*last.notes, *bites.notes))
            bites.reset()
            return ended
        except Exception as error:
            lost = is_device_error(error)
            foreseen = lost or is_memory_error(error)
            if not foreseen or len(outcomes) > done or bites.is_exhausted:
                raise
            if not outcomes and not bites.has_retry(lost=lost):
                raise
        # outside of the handler, where the error no longer holds on to the fit's arrays
        free_memory()
        note = bites.abandon_device() if lost else bites.shrink_window(planned, side)
        yield replace(bites.last_event, message=str(note), preview=None)


def free_memory() -> None:
    """Let go of what nothing refers to, here and on the GPU."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        with suppress(RuntimeError):  # of a card that no longer answers
            torch.cuda.empty_cache()
