"""Jobs without widgets: what is requested, the queue of all jobs, and the states of one job.

One job at a time is computed, however many docks and viewers are open; the others wait in a queue.
Two jobs at once would share cores and memory, and would take as long in total.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakMethod

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_dip.errors import Fault
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.lazy_inputs import load_array
from napari_dip.qt.shell.background_call import BackgroundCall, call_reporting_errors
from napari_dip.qt.shell.dock_widget import make_single_shot_timer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.qt.shell.background_call import JobProgress, RunControl

DISCARDED_MESSAGE = "Discarded, nothing was kept."
LEFT_QUEUE_MESSAGE = "Taken out of the queue before it began."
#: Longest name of an image in that of its preview, in letters. With the longest preset, both take
#: 27 of the 28 letters for which a cell of napari's grid has room in a window of 1280 x 720.
_MAX_PREVIEWED_NAME = 10
#: Most bytes of inputs that are copied for jobs that wait: 2**28 take 0.5 s on two busy cores.
_MAX_COPIED_BYTES = 2**28
#: What stopping keeps, for messages.
KEPT_LABEL = "the best image so far"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ResultTarget:
    """The layer that a result becomes.

    Attributes
    ----------
    name : str
        The name of the input layer.
    layer_attributes, input_layer_attributes : mapping
        For images of the result's size and of the input's; see `copy_layer_attributes`.
    get_source_layer : callable
        Returns the input layer, or None if it no longer exists.
    crop_name : str
        What a crop is, for the layer names: "Fast crop"; empty for a whole image.
    whole : ResultTarget or None
        That of the whole image, for a region that is merged into it; else None.
    get_merged_layer : callable
        Returns the layer that a region is merged into; None for a new layer.
    merged_provenance : mapping
        The provenance of the image that a region is merged into; empty for the input.
    plan_notes : tuple of Note
        Notes that the plan shows already, and the message on the result does not repeat.
    """

    name: str
    layer_attributes: Mapping[str, Any]
    input_layer_attributes: Mapping[str, Any] = field(default_factory=dict)
    get_source_layer: Callable[[], Any] = lambda: None
    crop_name: str = ""
    whole: ResultTarget | None = None
    get_merged_layer: Callable[[], Any] = lambda: None
    merged_provenance: Mapping[str, Any] = field(default_factory=dict)
    plan_notes: tuple[Note, ...] = ()

    @property
    def base_name(self) -> str:
        """What the layer names of this image begin with.

        That of a preview begins with the preset, and is short enough for the cells of a grid.
        """
        if not self.crop_name or self.whole is not None:
            return " ".join(filter(None, (self.name, self.crop_name)))
        half = _MAX_PREVIEWED_NAME // 2
        is_long = len(self.name) > _MAX_PREVIEWED_NAME
        name = f"{self.name[:half]}…{self.name[1 - half :]}" if is_long else self.name
        return f"{self.crop_name} of {name}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JobRequest:
    """What a job computes, fixed when Run is pressed: it does not follow changes in the viewer.

    Only pixels that are large or on disk are read when the job begins.

    Attributes
    ----------
    kind : str
        Key of a task, the name of an experiment, or "batch".
    label : str
        Name of the job in the queue, such as "Denoise cells".
    work : callable
        Takes the pixels of the inputs and the control; yields `JobProgress`, returns the outcome.
    summary : str
        Description of the plan during the job, without its time.
    inputs : mapping of str to array
        The inputs by name, lazy or not.
    plan : Plan or None
        The plan of the run; None for a batch, in which each file has a plan of its own.
    target : ResultTarget or None
        What becomes of the result; None if it becomes files.
    remark : str
        What was changed in the viewer for it, for the message at the end.
    """

    kind: str
    label: str
    work: Callable[[Mapping[str, Any], RunControl], Generator[JobProgress, None, Any]]
    summary: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    target: ResultTarget | None = None
    remark: str = ""

    @property
    def name(self) -> str:
        """Name of the input, for error messages."""
        return self.label if self.target is None else self.target.name

    def run(self, control: RunControl) -> Generator[JobProgress, None, Any]:
        """Compute the job; its lazy inputs are computed in this thread.

        A refusal names the layer of the input, as its header in the plan does.
        """
        plan = self.plan
        headers = {} if plan is None else {"image": plan.header, **plan.extra_headers}
        pixels = {
            key: load_array(headers[key].name if key in headers else key, array)
            for key, array in self.inputs.items()
        }
        if control() is Control.DISCARD:
            return None
        return (yield from self.work(pixels, control))


def run_until_abandoned(
    begin: Callable[..., Generator[Event, None, Any]],
    pixels: Mapping[str, Any],
    *,
    poll_control: RunControl,
    preview_seconds: float,
) -> Generator[Event, None, Any]:
    """Run with autosave; a run whose window is gone ends as in a crash, so it can be resumed.

    Parameters
    ----------
    begin : callable
        As `napari_dip.pipeline.autosave.run_with_autosave`, for the pixels.
    pixels, poll_control, preview_seconds
        As for `begin`.
    """

    def poll() -> Control:
        if poll_control.is_abandoned:
            raise GeneratorExit
        return poll_control()

    try:
        return (yield from begin(pixels, poll_control=poll, preview_seconds=preview_seconds))
    except GeneratorExit:
        return None


def copy_small_inputs(requests: Sequence[JobRequest]) -> list[JobRequest]:
    """Return requests with copies of their inputs in memory, smallest first, up to a limit."""
    inputs = [array for request in requests for array in request.inputs.values()]
    arrays = {id(array): array for array in inputs if type(array) is np.ndarray}
    copies, free_bytes = dict[int, Any](), _MAX_COPIED_BYTES
    for key, array in sorted(arrays.items(), key=lambda pair: int(pair[1].nbytes)):
        free_bytes -= array.nbytes
        if free_bytes >= 0:
            copies[key] = array.copy()
    return [
        replace(
            request,
            inputs={name: copies.get(id(array), array) for name, array in request.inputs.items()},
        )
        for request in requests
    ]


class QueueTicket:
    """The place of a job in the queue.

    Parameters
    ----------
    queue : JobQueue
    label : str
        The name of the job, for the jobs that wait behind it.
    notify : bound method
        Called with this ticket when the job may begin, and whenever the jobs ahead change. It is
        referenced weakly, and not called after its owner is deleted.
    """

    def __init__(self, queue: JobQueue, label: str, notify: Callable[[QueueTicket], None]) -> None:
        self._queue = queue
        self._notify = WeakMethod(notify)
        self.label = label
        self.has_begun = self.is_discarded = False
        self.jobs_ahead: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Message on the jobs that this one waits for."""
        first_label, count = self.jobs_ahead[0], len(self.jobs_ahead) - 1
        others = f", and then for {count} more" if count > 1 else ", and another" * count
        return f"Waiting for {first_label} to end{others}. Then '{self.label}' begins by itself."

    def discard(self) -> None:
        """Mark a job that was discarded and takes a moment to end, for those that wait for it."""
        self.is_discarded = True
        self._queue.advance()

    def leave(self) -> None:
        """Leave the queue; may be called from any thread, and more than once."""
        with suppress(RuntimeError):  # Qt has shut down, with all docks
            self._queue.released.emit(self)

    def on_owner_deleted(self, *_: object) -> None:
        """Leave the queue unless the job has begun: then it leaves when its computation ends."""
        if not self.has_begun:
            self.leave()

    def notify(self) -> None:
        """Call the owner, if it still exists."""
        if (callback := self._notify()) is not None:
            callback(self)


class JobQueue(QObject):
    """The queue of all jobs; the first ticket is that of the current job."""

    released: Signal = Signal(object)  # QueueTicket; emitted from the thread of the job

    def __init__(self) -> None:
        super().__init__()
        self._tickets: list[QueueTicket] = []
        self.released.connect(self._on_ticket_released)

    def enqueue(
        self, label: str, owner: QObject, notify: Callable[[QueueTicket], None]
    ) -> QueueTicket:
        """Append a ticket to the queue and call `notify` with it at once.

        Parameters
        ----------
        label : str
            Such as "Denoise cells".
        owner : QObject
            When it is deleted, a ticket whose job has not begun leaves the queue.
        notify : bound method of `owner`
            The `notify` of the ticket.
        """
        ticket = QueueTicket(self, label, notify)
        self._tickets.append(ticket)
        # a bound method: garbage collection may clear a lambda before it deletes the owner
        owner.destroyed.connect(ticket.on_owner_deleted)
        self.advance()
        return ticket

    def _on_ticket_released(self, ticket: QueueTicket) -> None:
        if ticket in self._tickets:
            self._tickets.remove(ticket)
            self.advance()

    def advance(self) -> None:
        """Begin the first job, and notify the others of the jobs ahead of them."""
        for number, ticket in enumerate(tuple(self._tickets)):
            labels_ahead = tuple(
                f"'{earlier.label}'" + ", which was discarded," * earlier.is_discarded
                for earlier in self._tickets[:number]
            )
            if ticket.has_begun or (number and ticket.jobs_ahead == labels_ahead):
                continue
            ticket.has_begun, ticket.jobs_ahead = number == 0, labels_ahead
            ticket.notify()


@cache
def get_job_queue() -> JobQueue:
    """Return the only queue of this process; for the GUI thread."""
    return JobQueue()


class JobState(Enum):
    """The state of a dock's job: from IDLE to FINISHED or DISCARDED, and back to PLANNED."""

    IDLE = "idle"  # there is no plan, so that nothing can start
    PLANNED = "planned"
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    FINISHED = "finished"
    DISCARDED = "discarded"


class JobView(Protocol):
    """What a dock does with its jobs; an error of it becomes a message."""

    def begin_job(self, request: JobRequest) -> None:
        """Prepare for a job that begins."""

    def accept_outcome(self, request: JobRequest, outcome: Any) -> str:
        """Show the outcome and return a message for the user."""

    def release_job(self) -> str:
        """Remove what only the job needed; return an error message, or ""."""

    def describe_discard(self) -> str:
        """Return the message on a discarded job."""


class JobController(QObject):
    """The states and transitions of a dock's jobs, one at a time, in the queue of all docks.

    Parameters
    ----------
    view : JobView
    parent : QObject
        When it is deleted, the job is abandoned.
    no_outcome_message : str
        Message after a job without an outcome.
    kept_label : str
        What stopping keeps, for messages.
    queue_left_message : str
        Message after a job has left the queue.

    Attributes
    ----------
    state : JobState
    request : JobRequest or None
        The job that waits or is computed.
    remaining : tuple of JobRequest
        Jobs that follow if this one reaches its outcome.
    """

    state_changed: Signal = Signal(object)  # JobState
    message_emitted: Signal = Signal(str)  # for the user
    progressed: Signal = Signal(object)  # JobProgress
    refused: Signal = Signal(object)  # Fault that ended the job, after its message
    discarded: Signal = Signal()  # after its message
    ended: Signal = Signal()  # after all others; the next job may have begun

    def __init__(
        self,
        view: JobView,
        parent: QObject,
        *,
        no_outcome_message: str,
        kept_label: str = KEPT_LABEL,
        queue_left_message: str = LEFT_QUEUE_MESSAGE,
    ) -> None:
        super().__init__(parent)
        self._view = view
        self._no_outcome_message, self._queue_left_message = no_outcome_message, queue_left_message
        self._kept_label = kept_label
        self._call: BackgroundCall | None = None
        self._ticket: QueueTicket | None = None
        self._message = ""
        self.state: JobState = JobState.IDLE
        self.request: JobRequest | None = None
        self.remaining: tuple[JobRequest, ...] = ()
        # napari collects garbage when a layer is removed: not while another one is added
        self._end_timer = make_single_shot_timer(self, self._finish)

    @property
    def is_busy(self) -> bool:
        """Whether a job is computed or waits in the queue."""
        return self.request is not None

    @property
    def is_running(self) -> bool:
        """Whether a job is computed now, so that it can be stopped and its outcome kept."""
        return self._call is not None and self.state is not JobState.FINISHED

    def set_planned(self, is_planned: bool) -> None:
        """Set whether there is a plan that can start; ignored during a job."""
        if not self.is_busy:
            self._set_state(JobState.PLANNED if is_planned else JobState.IDLE)

    def start(self, requests: Sequence[JobRequest]) -> None:
        """Add the first request to the queue; the others follow one after another.

        Those that wait keep small inputs as they are now; large ones are read when they begin.
        """
        self._enqueue(requests)
        if self.state is JobState.WAITING and self.request is not None:
            self.request, *remaining = copy_small_inputs((self.request, *self.remaining))
        else:  # the first one reads its inputs now
            remaining = copy_small_inputs(self.remaining)
        self.remaining = tuple(remaining)

    def _enqueue(self, requests: Sequence[JobRequest]) -> None:
        self.request, *remaining = requests
        self.remaining = tuple(remaining)
        self._set_state(JobState.WAITING)
        get_job_queue().enqueue(self.request.label, self, self._on_turn)

    def keep(self) -> None:
        """Stop the job and keep what there is as the outcome."""
        self._request_control(
            JobState.STOPPING, f"Stopping, {self._kept_label} is kept", Control.KEEP
        )

    def pause(self) -> None:
        """Pause the job."""
        self._request_control(JobState.PAUSED, "Paused", Control.PAUSE)

    def resume(self) -> None:
        """Resume a paused job."""
        self._request_control(JobState.RUNNING, "Going on", Control.GO)

    def discard(self) -> None:
        """Stop the job without an outcome; another one can start at once."""
        self.remaining = ()
        if self._end_timer.isActive():  # the outcome is shown already
            self._end_timer.stop()
            self._finish()
        elif self._ticket is not None:
            has_begun = self._ticket.has_begun
            if self._call is not None:
                self._call.discard()
                self._ticket.discard()
            else:  # it waits, or could not begin
                self._ticket.leave()
            message = self._view.describe_discard() if has_begun else self._queue_left_message
            self._finish(message, JobState.DISCARDED)
            if has_begun:
                self.discarded.emit()

    def _on_turn(self, ticket: QueueTicket) -> None:
        """Begin the job, or emit a message on the jobs that it waits for."""
        request, self._ticket = self.request, ticket
        if request is None:  # discarded in the meantime
            ticket.leave()
        elif not ticket.has_begun:
            self.message_emitted.emit(ticket.description)
        elif error_message := call_reporting_errors(
            lambda: self._begin(request, ticket), "The run could not be started"
        ):
            self.discard()
            self.message_emitted.emit(error_message)

    def _begin(self, request: JobRequest, ticket: QueueTicket) -> None:
        self._view.begin_job(request)
        self._call = BackgroundCall(
            request.run, self, activity="Restoring", name=request.name, on_finished=ticket.leave
        )
        self._call.reported.connect(self.progressed)
        self._call.ended.connect(self._on_end)
        self._set_state(JobState.RUNNING)
        self.message_emitted.emit("Getting ready")
        self._call.start()

    def _request_control(self, state: JobState, message: str, control: Control) -> None:
        if self._call is not None and self.is_running:
            self._set_state(state)
            self.message_emitted.emit(message)
            self._call.control.set(control)

    def _on_end(self, outcome: Any) -> None:
        request = self.request
        self._set_state(JobState.FINISHED)
        if isinstance(outcome, Fault):
            self._finish(outcome.message)
            self.refused.emit(outcome)
        elif outcome is None or request is None:
            self._finish(self._no_outcome_message)
        else:
            self._message = self._view.accept_outcome(request, outcome)
            self._end_timer.start()

    def _finish(self, message: str = "", state: JobState = JobState.FINISHED) -> None:
        """End the job, emit its message, and begin the next one unless there is a `message`."""
        self._set_state(state)
        self._call = self._ticket = None
        messages = [message or self._message, self._view.release_job()]
        self.request = None
        self._set_state(JobState.PLANNED)  # until there is another plan
        self.message_emitted.emit(" ".join(filter(None, messages)))
        if message:
            self.remaining = ()
        if self.remaining:
            self._enqueue(self.remaining)
        self.ended.emit()

    def _set_state(self, state: JobState) -> None:
        if state is not self.state:
            self.state = state
            self.state_changed.emit(state)
