"""Continue a fit after memory ran out, and end it after the GPU failed.

After an out-of-memory error, the fit continues from its last checkpoint with a smaller training
window. After a limited number of such errors, it ends with its best result so far.

A GPU that was removed, reset or put to sleep fails every later call, including reads. Checkpoints
are therefore copied to main memory at intervals. The fit ends on the CPU with the last copy.
"""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Fault
from napari_dip.errors.notes import StopReason, make_note, make_stop
from napari_dip.pipeline.machine import is_memory_error
from napari_dip.pipeline.progress import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from torch import Tensor

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.engine.fit.stopping import Control
    from napari_dip.engine.fit.trainer import StateDict
    from napari_dip.errors.notes import Note, Stop
    from napari_dip.pipeline.plan.types import FitConfig, UnitOutcome

    Attempt = Callable[[Checkpoint | None], Generator[Event, None, Control]]

#: Phrases of torch's error messages when a GPU or its driver does not respond, in lower case.
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
#: A fit continues after this many out-of-memory errors, and ends at the next one.
MAX_OUT_OF_MEMORY_ERRORS = 4
#: Minimum side of the training window in pixels; the network's coarsest scale still has four.
MIN_RETRY_WINDOW = 64
#: Seconds from one copy of a checkpoint from the GPU to the next: if the GPU fails, about as much
#: work is lost. A copy takes milliseconds (about 40 MB at about 10 GB/s).
COPY_INTERVAL = 1.0


def is_device_error(error: BaseException) -> bool:
    """Return whether an error means that the GPU no longer responds.

    The type and the message of the error decide, as in `is_memory_error`. Full GPU memory does not
    count as a failed GPU.
    """
    if is_memory_error(error) or not isinstance(error, RuntimeError):
        return False
    message = str(error).lower()
    return type(error).__name__ == "AcceleratorError" or any(
        text in message for text in _DEVICE_ERROR_TEXTS
    )


def make_machine_fault(error: BaseException, name: str) -> Fault | None:
    """Return the fault of an out-of-memory error or a failed GPU; None for other errors.

    Parameters
    ----------
    error : BaseException
    name : str
        Name of the image.
    """
    if is_memory_error(error):
        return Fault.make("memory-out", name=name)
    if is_device_error(error):
        first_line = str(error).strip().splitlines()[0].rstrip(".")
        return Fault.make("device-lost", name=name, why=first_line)
    return None


def copy_checkpoint_to_cpu(checkpoint: Checkpoint) -> Checkpoint:
    """Return a copy of a checkpoint in main memory."""
    return replace(
        checkpoint,
        trainer_state=copy_state_to_cpu(checkpoint.trainer_state),
        rollback_state=copy_state_to_cpu(checkpoint.rollback_state),
        best_average=copy_state_to_cpu(checkpoint.best_average),
        lowest_losses=copy_state_to_cpu(checkpoint.lowest_losses),
    )


def is_on_accelerator(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is on a GPU."""
    return any(value.device.type != "cpu" for value in checkpoint.trainer_state.values())


def copy_state_to_cpu(state: Mapping[str, Tensor]) -> StateDict:
    """Return a copy of network weights or optimiser state in main memory."""
    return {name: value.cpu() for name, value in state.items()}


@dataclass(slots=True, eq=False)
class RecoveryState:
    """Track errors of memory and GPU over the fits of a run.

    Attributes
    ----------
    window_side : int or None
        Maximum side of the training window, in pixels; None: as planned.
    out_of_memory_count : int
        Number of out-of-memory errors in the current fit.
    latest_checkpoint : Checkpoint or None
        Last recorded checkpoint of the current fit.
    last_event : Event
        Last event of the run.
    notes : list of Note
        One for each error in the current fit.
    is_device_lost : bool
        Whether the GPU has failed.
    prior_key : str
        If the GPU failed while priors were compared: the prior whose fit is ended. Otherwise "".
    """

    window_side: int | None = None
    out_of_memory_count: int = 0
    latest_checkpoint: Checkpoint | None = None
    last_event: Event = field(default_factory=lambda: Event(message="Restoring"))
    notes: list[Note] = field(default_factory=list)
    is_device_lost: bool = False
    prior_key: str = ""
    _candidate_checkpoint: tuple[str, Checkpoint] | None = None
    _last_copy_time: float = -COPY_INTERVAL

    @property
    def is_exhausted(self) -> bool:
        """Whether the fit has to end with its best result so far."""
        return self.is_device_lost or self.out_of_memory_count > MAX_OUT_OF_MEMORY_ERRORS

    @property
    def stop(self) -> Stop | None:
        """Stop reason if memory or GPU ended the fit; otherwise None."""
        if self.is_device_lost:
            return make_stop(StopReason.DEVICE)
        return make_stop(StopReason.MEMORY) if self.is_exhausted else None

    def record_checkpoint(
        self, checkpoint: Checkpoint, candidate_prior_key: str = ""
    ) -> Checkpoint | None:
        """Record a checkpoint in main memory; those on a GPU are copied at intervals.

        Parameters
        ----------
        checkpoint : Checkpoint
        candidate_prior_key : str
            The prior of the fit, while several are compared; otherwise "". A checkpoint of such a
            fit is only used if the GPU fails.

        Returns
        -------
        Checkpoint or None
            The recorded checkpoint, which may be written to disk. None if none was recorded, or
            while priors are compared.
        """
        if not checkpoint.history:
            self.latest_checkpoint = None
            return None
        if is_on_accelerator(checkpoint):
            if time.monotonic() - self._last_copy_time < COPY_INTERVAL:
                return None
            checkpoint, self._last_copy_time = copy_checkpoint_to_cpu(checkpoint), time.monotonic()
        if not candidate_prior_key:
            self.latest_checkpoint = checkpoint
            return checkpoint
        previous = self._candidate_checkpoint
        if (
            previous is None
            or checkpoint.history[-1].iteration >= previous[1].history[-1].iteration
        ):
            self._candidate_checkpoint = candidate_prior_key, checkpoint
        return None

    @property
    def _latest_iteration(self) -> int | None:
        """Iteration of the last recorded checkpoint; None without one."""
        return self.latest_checkpoint.history[-1].iteration if self.latest_checkpoint else None

    def choose_device(self, planned: str) -> str:
        """Return the device for the next fit: the planned one, or the CPU if the GPU has failed."""
        return "cpu" if self.is_device_lost else planned

    def switch_to_cpu(self) -> Note:
        """Switch to the CPU after the GPU failed, and return a note about it."""
        self.is_device_lost = True
        if self.latest_checkpoint is None and self._candidate_checkpoint is not None:
            self.prior_key, self.latest_checkpoint = self._candidate_checkpoint
        note = make_note("device-kept", iteration=self._latest_iteration)
        self.notes.append(note)
        return note

    def can_retry(self, *, is_device_lost: bool) -> bool:
        """Return whether a checkpoint or another attempt can still give a result.

        Parameters
        ----------
        is_device_lost : bool
            Whether the GPU has failed, which rules out another attempt.
        """
        if is_device_lost:
            return self.latest_checkpoint is not None or self._candidate_checkpoint is not None
        return (
            self.latest_checkpoint is not None
            or self.out_of_memory_count < MAX_OUT_OF_MEMORY_ERRORS
        )

    def reset(self) -> None:
        """Forget the errors and checkpoints of the finished fit."""
        self.out_of_memory_count, self._candidate_checkpoint = 0, None
        self._last_copy_time = -COPY_INTERVAL
        self.notes.clear()

    def limit_fit_config(self, fit_config: FitConfig) -> FitConfig:
        """Return the fit configuration, its training window limited to what fits in memory."""
        if self.window_side is None or fit_config.window_side is None:
            return fit_config
        return replace(fit_config, window_side=min(self.window_side, fit_config.window_side))

    def shrink_window(self, planned_window_side: int | None, side: int) -> Note:
        """Count an out-of-memory error, halve the training window if possible, and return a note.

        It is not halved after too many errors, at its minimum, or if the fit has no window.

        Parameters
        ----------
        planned_window_side : int or None
            Planned training window; None if the fit trains on the whole grid.
        side : int
            Longest side of the image, in pixels.
        """
        self.out_of_memory_count += 1
        iteration = self._latest_iteration
        current_window = min(planned_window_side or side, self.window_side or side, side)
        if self.is_exhausted:
            note = make_note("memory-kept", iteration=iteration)
        elif planned_window_side is None or current_window <= MIN_RETRY_WINDOW:
            note = make_note("memory-freed", iteration=iteration, window=None)
        else:
            self.window_side = max(MIN_RETRY_WINDOW, current_window // 2)
            note = make_note("memory-freed", iteration=iteration, window=self.window_side)
        self.notes.append(note)
        return note


def retry_fit(
    attempt: Attempt,
    checkpoint: Checkpoint | None,
    recovery: RecoveryState,
    planned_window_side: int | None,
    side: int,
    outcomes: list[UnitOutcome],
) -> Generator[Event, None, Control]:
    """Run a fit, and repeat it from its last checkpoint after errors of memory or GPU.

    Parameters
    ----------
    attempt : callable
        Runs the fit from a checkpoint.
    checkpoint : Checkpoint or None
        Checkpoint for the first attempt.
    recovery : RecoveryState
        Shared by all fits of the run. The attempt updates its `latest_checkpoint`.
    planned_window_side : int or None
        Planned training window; None if the fit trains on the whole grid.
    side : int
        Longest side of the image, in pixels.
    outcomes : list of UnitOutcome
        Outcomes of the finished fits. Once that of this fit is among them, the fit is not
        repeated. If the fit adds none, its notes go to the last outcome.

    Yields
    ------
    Event

    Returns
    -------
    Control
        As the attempt returns it.

    Raises
    ------
    Exception
        The error of memory or GPU, if there is no result to keep.
    """
    finished_count = len(outcomes)
    recovery.latest_checkpoint = checkpoint
    while True:
        try:
            control = yield from attempt(recovery.latest_checkpoint)
            if recovery.notes and outcomes and len(outcomes) == finished_count:
                last_outcome = outcomes[-1]
                outcomes[-1] = replace(last_outcome, notes=(*last_outcome.notes, *recovery.notes))
            recovery.reset()
            return control
        except Exception as error:
            is_lost = is_device_error(error)
            is_recoverable = is_lost or is_memory_error(error)
            if not is_recoverable or len(outcomes) > finished_count or recovery.is_exhausted:
                raise
            has_estimate = any(outcome.has_estimate for outcome in outcomes)
            if not has_estimate and not recovery.can_retry(is_device_lost=is_lost):
                raise
        # within the handler, the traceback would still refer to the arrays of the fit
        free_memory()
        note = (
            recovery.switch_to_cpu()
            if is_lost
            else recovery.shrink_window(planned_window_side, side)
        )
        yield replace(recovery.last_event, message=str(note), preview=None)


def free_memory() -> None:
    """Release unused memory of the process and of the GPU."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        with suppress(RuntimeError):  # raised if the GPU has failed
            torch.cuda.empty_cache()
