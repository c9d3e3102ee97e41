"""What a batch is made of: jobs, places of results, the plan, outcomes and events."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal
from napari_dip.io.paths import shorten_name
from napari_dip.pipeline.plan.joint_training import choose_probe_members, make_joint_units
from napari_dip.pipeline.plan.units import compute_warm_start_iterations, make_units
from napari_dip.pipeline.store.shared_network import SHARED_NETWORK_INPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import CostEstimate, Member, Plan, SharedNetwork, WorkUnit
    from napari_dip.pipeline.recipe import Recipe

#: What can become of a file; "kept" is a result of an earlier call that is still whole, and
#: "waiting" was not finished before the batch was ended.
FileState = Literal["restored", "kept", "refused", "failed", "waiting"]
#: Answers that end a batch.
ENDING_CONTROLS = (Control.KEEP, Control.DISCARD)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOutcome:
    """What became of one file.

    Attributes
    ----------
    source : Path
    state : str
        "restored", "kept" (from an earlier call), "refused", "failed" or "waiting".
    result : Path or None
    picture : Path or None
        Drawing of input, result and held-out loss, as PNG.
    refusal : Refusal or None
        Why there is no result.
    record : mapping
        In plain JSON types; empty where there is none.
    """

    source: Path
    state: FileState
    result: Path | None = None
    picture: Path | None = None
    refusal: Refusal | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


class ControlRecorder:
    """Passes the answers of a control on, and remembers whether one was to end."""

    def __init__(self, control: Callable[[], Control]) -> None:
        self.is_ended = False
        self._control = control

    def __call__(self) -> Control:
        """Ask."""
        answer = self._control()
        self.is_ended = self.is_ended or answer in ENDING_CONTROLS
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTrainingPlan:
    """What one network will be fitted to.

    Attributes
    ----------
    plans : tuple of Plan
        Of the files that it sees, each by itself.
    members : tuple of Member
        What it sees of each, in the same order: `part` counts them.
    cores : int
        That the fit counts on.
    costs : CostEstimate
    """

    plans: tuple[Plan, ...]
    members: tuple[Member, ...]
    cores: int
    costs: CostEstimate

    @property
    def seconds(self) -> float:
        """Most that it is expected to take."""
        return self.costs.fit + self.costs.longest_inference


def make_training_units(plan: Plan, members: tuple[Member, ...]) -> tuple[WorkUnit, ...]:
    """List the fits to all, and the trials of each."""
    alone = make_units(plan.recipe, plan.source, plan.budget, plan.layout)
    own = compute_warm_start_iterations(plan.budget)
    return tuple(
        fit
        for item in alone
        for fit in make_joint_units(item, members, choose_probe_members(members), own)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEvent:
    """One report of a running batch.

    Attributes
    ----------
    number, count : int
        Which file this is about, 1-based, and how many there are; 0 is the network for all.
    source : Path
    event : Event or None
        Of the run in progress.
    outcome : FileOutcome or None
        Where the file has come to its end.
    worker : str
        Address of who works on it; "" for this process.
    """

    number: int
    count: int
    source: Path
    event: Event | None = None
    outcome: FileOutcome | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file of a batch, and what its header led to.

    Attributes
    ----------
    source : Path
        As it was named, or as its folder or pattern gave it.
    plan : Plan or Refusal
    paths : ResultPaths
        Where the result and what belongs to it go.
    """

    source: Path
    plan: Plan | Refusal
    paths: ResultPaths

    @property
    def inputs(self) -> dict[str, Path]:
        """Files that the result comes from, by the names that the task has for them."""
        if isinstance(self.plan, Refusal):
            return {"image": self.source}
        others = {name: Path(str(item.path)) for name, item in self.plan.extra_inputs.items()}
        if self.plan.network is not None:
            others[SHARED_NETWORK_INPUT] = Path(self.plan.network.path)
        return {"image": self.source, **others}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """All files of a batch in their order, and where the results go.

    Attributes
    ----------
    recipe : Recipe
    folder : Path
        Where the results go; made when the work begins.
    jobs : tuple of Job
    resume : bool
    files : mapping of str to str
        Names of the results that come from this batch, those of earlier calls included, and the
        addresses of their inputs.
    machine : Machine
        What all files were planned with.
    axes : str or None
        Names of the axes of each file, if not those that it says.
    notes : tuple of Note
        One sentence each about what was left out.
    network : SharedNetwork or None
        That files are shown; of one that `joint_training` is still to fit, only its place is known.
    joint_training : JointTrainingPlan or None
        What a network is to be fitted to before the files.
    """

    recipe: Recipe
    folder: Path
    jobs: tuple[Job, ...]
    resume: bool
    files: Mapping[str, str]
    machine: Machine
    axes: str | None = None
    notes: tuple[Note, ...] = ()
    network: SharedNetwork | None = None
    joint_training: JointTrainingPlan | None = None

    @property
    def list_refused(self) -> tuple[tuple[Path, Refusal], ...]:
        """Files that no work will be done for, and why."""
        return tuple((job.source, job.plan) for job in self.jobs if isinstance(job.plan, Refusal))


#: Bytes that may follow a result's name in the names of what belongs to it: all that a run keeps.
_MAX_SUFFIX_BYTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPaths:
    """Where what belongs to one result lies.

    Attributes
    ----------
    result, record : Path
    picture : Path
        Drawing of input, result and held-out loss.
    checkpoint : Path
        Checkpoint, while the file is being restored.
    crash_counter : Path
        How often a worker has begun with the file, while one does.
    """

    result: Path
    record: Path
    picture: Path
    checkpoint: Path
    crash_counter: Path

    def __iter__(self) -> Iterator[Path]:
        """Give all of them."""
        return iter((self.result, self.record, self.picture, self.checkpoint, self.crash_counter))

    def get_learned_path(self, name: str) -> Path:
        """Where something else that was found goes, such as a PSF."""
        return self.record.with_name(
            f"{shorten_name(self.result.name, _MAX_SUFFIX_BYTES)}.{name}.tif"
        )
