"""Define the values of a batch: jobs, paths of results, the plan, outcomes and events."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import Fault, Refusal
from napari_dip.pipeline.plan.costs import estimate_costs
from napari_dip.pipeline.plan.joint_training import make_joint_units
from napari_dip.pipeline.plan.units import make_units
from napari_dip.pipeline.progress import NO_PROGRESS, Progress
from napari_dip.pipeline.store.network_files import NETWORK_FILE_INPUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import (
        CostEstimate,
        JointNetwork,
        Plan,
        TrainingRegion,
        WorkUnit,
    )
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.base import Task

#: State of a file. "already-done": an intact result of an earlier call. "not-named": a result of an
#: earlier call, not verified, whose file is not among the inputs. "waiting": not finished when the
#: batch ended.
FileState = Literal["restored", "already-done", "not-named", "refused", "failed", "waiting"]
#: Controls that end a batch.
ENDING_CONTROLS = (Control.KEEP, Control.DISCARD)
#: Maximum bytes of the suffixes after a result's name in the names of the files that belong to it.
MAX_SUFFIX_BYTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOutcome:
    """The outcome of one file.

    Attributes
    ----------
    source : Path
    state : str
        "restored", "already-done" or "not-named" (both from an earlier call), "refused", "failed"
        or "waiting".
    result : Path or None
    overview : Path or None
        Drawing of input, result and validation loss, as PNG.
    fault : Fault or None
        Why there is no result.
    record : mapping
        Content of the record, in plain JSON types; empty if there is none.
    """

    source: Path
    state: FileState
    result: Path | None = None
    overview: Path | None = None
    fault: Fault | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refusal(self) -> Fault | None:
        """Former name of `fault`."""
        return self.fault


class ControlRecorder:
    """Poll the user's control, and remember whether it ended the run."""

    def __init__(self, poll_control: PollControl) -> None:
        self.is_ended: bool = False
        self._poll_control = poll_control

    def poll_control(self) -> Control:
        """Return the current control."""
        control = self._poll_control()
        self.is_ended = self.is_ended or control in ENDING_CONTROLS
        return control


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTrainingPlan:
    """The files, and the region of each, that one network is fitted to.

    Attributes
    ----------
    plans : tuple of Plan
        Plans of the training files, each on its own.
    training_regions : tuple of TrainingRegion
        Crop of each file, in the same order; `item` is its index.
    threads : int
        CPU threads of the fit.
    costs : CostEstimate
    """

    plans: tuple[Plan, ...]
    training_regions: tuple[TrainingRegion, ...]
    threads: int
    costs: CostEstimate

    @property
    def seconds(self) -> float:
        """Upper estimate of the duration in seconds."""
        return self.costs.fit_seconds + self.costs.longest_inference_seconds


def list_training_units(
    plan: Plan, training_regions: tuple[TrainingRegion, ...]
) -> tuple[WorkUnit, ...]:
    """List the joint fits of a series and its fine-tuning probes."""
    fit_config = plan.fit_config
    units = make_units(plan, fit_config)
    joint_units = (
        make_joint_units(unit, fit_config, training_regions, training_regions) for unit in units
    )
    return tuple(chain.from_iterable(joint_units))


def estimate_training_costs(
    plan: Plan, size: tuple[int, ...], units: tuple[WorkUnit, ...], threads: int
) -> CostEstimate:
    """Estimate the costs of the joint fits of a series to regions of this size."""
    return estimate_costs(
        size, units, plan.device, threads, plan.fit_config, plan.task_plan, cpu=plan
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEvent:
    """One progress report of a running batch.

    Attributes
    ----------
    number, count : int
        1-based number of the file, and the number of files; 0 stands for the joint network.
    source : Path
    event : Event or None
        Progress of the current run.
    outcome : FileOutcome or None
        Set once the file is finished.
    worker : str
        Address of the worker; "" for this process.
    progress : Progress
        Progress of the whole batch; its children are the files in progress.
    """

    number: int
    count: int
    source: Path
    event: Event | None = None
    outcome: FileOutcome | None = None
    worker: str = ""
    progress: Progress = NO_PROGRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file of a batch with its plan.

    Attributes
    ----------
    source : Path
        As the user named it, or as its folder or pattern expanded to it.
    plan : Plan or Refusal
    paths : ResultPaths
        Paths of the result and of the files that belong to it.
    """

    source: Path
    plan: Plan | Refusal
    paths: ResultPaths

    @property
    def inputs(self) -> dict[str, Path]:
        """Files that the result depends on, by their names in the task."""
        if isinstance(self.plan, Refusal):
            return {"image": self.source}
        extra_paths = {
            name: Path(str(header.path)) for name, header in self.plan.extra_headers.items()
        }
        if self.plan.network is not None:
            extra_paths[NETWORK_FILE_INPUT] = Path(self.plan.network.path)
        return {"image": self.source, **extra_paths}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """All files of a batch in their order, and where the results go.

    Attributes
    ----------
    recipe : Recipe
    folder : Path
        Folder of the results; created when the run starts.
    jobs : tuple of Job
    resume : bool
    files : mapping of str to str
        Result name -> input path, for all results of this batch, including earlier calls.
    machine : Machine
        Machine that all files were planned for.
    axes : str or None
        Axes that override those in each file.
    notes : tuple of Note
        Notes on skipped files.
    network : JointNetwork or None
        Network applied to the files. Before joint training, only its path is set.
    joint_training : JointTrainingPlan or None
        Plan of the joint training that comes first.
    """

    recipe: Recipe
    folder: Path
    jobs: tuple[Job, ...]
    resume: bool
    files: Mapping[str, str]
    machine: Machine
    axes: str | None = None
    notes: tuple[Note, ...] = ()
    network: JointNetwork | None = None
    joint_training: JointTrainingPlan | None = None

    @property
    def refused_files(self) -> tuple[tuple[Path, Refusal], ...]:
        """Files that will not be restored, with the reason."""
        return tuple((job.source, job.plan) for job in self.jobs if isinstance(job.plan, Refusal))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPaths:
    """Paths of the files that belong to one result.

    Attributes
    ----------
    result, record : Path
    overview : Path
        Drawing of input, result and validation loss.
    run_folder : Path
        Folder of the unfinished run of the file, while it is being restored.
    """

    result: Path
    record: Path
    overview: Path
    run_folder: Path

    def __iter__(self) -> Iterator[Path]:
        """Iterate over all paths."""
        return iter((self.result, self.record, self.overview, self.run_folder))

    def list_outputs(self, task: Task) -> tuple[Path, ...]:
        """Return the paths of the result and of the extra outputs of a task."""
        return (self.result, *map(self.get_learned_path, task.spec.extra_outputs))

    def get_learned_path(self, name: str) -> Path:
        """Return the path of an extra output, such as a PSF."""
        return self.record.with_suffix(f".{name}.tif")
