"""Types of a plan: plan, work unit, outcome of a unit, configuration of a fit, costs, region."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_dip.errors.templates import format_bytes, format_duration
from napari_dip.pipeline.plan.layout import ITEM_NAMES, Layout
from napari_dip.tasks.shared_settings import get_stacked_axes, multiply_sizes

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from napari_dip.errors.notes import Note, Stop
    from napari_dip.io import ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.pipeline.plan.layout import Tile
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.base import TaskPlan

#: Iterations between two validations, as in the engine's schedule.
ITERATIONS_PER_VALIDATION = 25
#: Maximum number of validations of a joint fit; each predicts all its training regions.
MAX_JOINT_VALIDATIONS = 10
#: The time of another prior is named from this multiple of the usual time on; `fast` has 3.
MIN_NAMED_TIME_RATIO = 1.5
UNUSUAL_NOISE = "unusual noise"  #: For which images the fallback prior is, for the user.


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Prior, network and iterations of one fit, read from `presets/<task>.json`.

    Attributes
    ----------
    prior_key : str
    iterations : int
        Without those of the refit.
    joint_iterations : int
        Of joint training; without those of the refit.
    restarts : int
    widths : tuple of int
        Channels of the network at each scale, finest first; 0: no layers at that scale.
    learning_rate : float
    window_side : int or None
        Side of the training window of one step, in pixels; None: the whole image.
    refit_iterations : int
        Iterations of the refit on training and validation pixels.
    other_candidates : tuple of str
        Other candidates of a model selection, each fitted over `iterations`.
    prior_reason : str
        Reason why the pixels led to this prior; "" if they did not.
    operator_iterations : int
        First iterations, in which a learned operator is fitted along with the image; later it is
        fixed.
    fixed_operator_iterations : int
        Number of iterations if the pixels lead to an operator that is fixed.
    operator_learning_rate : float
        Learning rate of that operator.
    allows_bfloat16 : bool
        Whether steps may be in half precision, however weak the noise is.
    muon_learning_rate : float
        Learning rate of independent fits, whose weights Muon updates; 0: Adam, at `learning_rate`.
    refines_sparse_groups : bool
        Whether the NL-Bayes refinement filters only as many groups of patches as cover the image.
    """

    prior_key: str
    iterations: int
    joint_iterations: int
    restarts: int
    widths: tuple[int, ...]
    learning_rate: float
    window_side: int | None
    refit_iterations: int = 0
    other_candidates: tuple[str, ...] = ()
    prior_reason: str = ""
    operator_iterations: int = 0
    fixed_operator_iterations: int = 0
    operator_learning_rate: float = 0.0
    allows_bfloat16: bool = False
    muon_learning_rate: float = 0.0
    refines_sparse_groups: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """Estimated seconds of a run, and of the steps that it consists of.

    Attributes
    ----------
    fit_seconds : float
        Loading torch, measuring the noise, iterations and validation of all fits.
    usual_inference_seconds : float
        Final inference of all fits with uncorrelated noise, the most common case.
    longest_inference_seconds : float
        Final inference of all fits with the noise correlation that takes most passes.
    postprocessing_seconds : float
        NL-Bayes refinement, residual and quality checks.
    seconds_per_iteration, validation_seconds : float
        One iteration, and one validation on one image.
    inference_seconds, refinement_seconds : float
        Usual final inference of one fit, and NL-Bayes refinement of its image.
    assessment_seconds : float
        Residual and quality checks of the whole result.
    """

    fit_seconds: float
    usual_inference_seconds: float
    longest_inference_seconds: float
    postprocessing_seconds: float
    seconds_per_iteration: float
    validation_seconds: float
    inference_seconds: float
    refinement_seconds: float
    assessment_seconds: float

    @property
    def total_seconds(self) -> float:
        """Seconds of one restoration with the final inference that takes longest."""
        return self.fit_seconds + self.longest_inference_seconds + self.postprocessing_seconds

    def estimate_fit(self, iterations: int, region_count: int = 0) -> float:
        """Estimate the seconds of one fit; a joint fit validates on all its regions."""
        validations = iterations / ITERATIONS_PER_VALIDATION
        validations = max(validations, MAX_JOINT_VALIDATIONS * region_count)
        return iterations * self.seconds_per_iteration + validations * self.validation_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class JointNetwork:
    """Description of a jointly trained network, without its weights.

    Attributes
    ----------
    path : str
    sha256 : str
        Hash of the file; "" for a network that is not fitted yet.
    task : str
    settings : mapping
        Settings of the task that it was fitted for, without those at their default.
    preset : str
    version : str
        Version of this package.
    restarts : int
        Number of restarts.
    prior_key : str
    widths : tuple of int
        Channels of the network at each scale.
    uses_half_resolution : bool
        Whether it was fitted to images at half their size.
    groups : tuple of tuple of int
        Groups of image channels; each group is one input of the network.
    files : tuple of str
        Names of the files that it was fitted to.
    outcomes : tuple of UnitOutcome
        Outcomes of the joint fit and of the fine-tuning probes.
    """

    path: str
    sha256: str = ""
    task: str = ""
    settings: Mapping[str, Any] | None = None
    preset: str = ""
    version: str = ""
    restarts: int = 0
    prior_key: str = ""
    widths: tuple[int, ...] = ()
    uses_half_resolution: bool = False
    groups: tuple[tuple[int, ...], ...] = ()
    files: tuple[str, ...] = ()
    outcomes: tuple[UnitOutcome, ...] = ()

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return Path(self.path).name

    @property
    def is_of_one_image(self) -> bool:
        """Whether it was fitted to one image; a fit of another image then begins with it."""
        return len(self.files) == 1

    @property
    def report_fields(self) -> dict[str, Any]:
        """Fields that identify the network in a report."""
        return {"network_file": self.name, "sha256": self.sha256}


class UnitRole(StrEnum):
    """What a fit is for."""

    INDEPENDENT = "independent"  # a network of its own
    JOINT = "joint"  # one network, trained on regions of all frames of a series
    FINE_TUNE_PROBE = "fine-tune-probe"  # tests whether fine-tuning that network improves a frame
    INFERENCE = "inference"  # an image by that network


INDEPENDENT, JOINT, FINE_TUNE_PROBE, INFERENCE = UnitRole


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """One fit of a plan: item or tile, group of channels, and restart.

    Attributes
    ----------
    id : str
        Name of the unit in checkpoints and reports.
    channels : tuple of int
        Indices into the channels of the image.
    restart : int
        Number of the restart, 0-based.
    seed : int
        Seed of the random numbers of this fit.
    iterations : int
    item : int
        Index of the plane, volume or frame along N of the stack (N, C, *grid).
    start_unit_id : str
        Id of the unit from whose weights the fit starts, such as the one before or a joint fit;
        "": a new network.
    previous_item, next_item : int or None
        Neighbouring items: of a movie, the same plane in the frame before and after; of a Z stack,
        the plane before and after. None: no neighbour.
    has_time_neighbours : bool
        Whether the neighbours are frames of a movie.
    segment : int
        Number of the segment of the movie or Z stack; see `napari_dip.pipeline.plan.units`.
    is_segment_start : bool
        Whether the item is in the first frame of its segment, which uses no earlier frame.
    tile : int or None
        Index of the tile; None: the whole plane or stack.
    origin : tuple of int
        First pixel of the tile in the image, per axis of the fit; () without tiles.
    role : UnitRole
        `INDEPENDENT`, `JOINT`, `FINE_TUNE_PROBE` or `INFERENCE`.
    training_regions : tuple of TrainingRegion
        Training regions of a joint fit or of a probe.
    joint_network_name : str
        `weights_name` of the joint fit that the unit is or starts from; "": no joint fit.
    fine_tune_iterations : int
        Iterations of fine-tuning of an `INFERENCE` unit, if the probes show a gain.
    first_restart_id : str
        Id of the first restart of the same item and channels, whose prior the others take; "" for
        joint training.
    """

    id: str
    channels: tuple[int, ...]
    restart: int
    seed: int
    iterations: int
    item: int = 0
    start_unit_id: str = ""
    previous_item: int | None = None
    next_item: int | None = None
    has_time_neighbours: bool = False
    segment: int = 0
    is_segment_start: bool = False
    tile: int | None = None
    origin: tuple[int, ...] = ()
    role: UnitRole = INDEPENDENT
    training_regions: tuple[TrainingRegion, ...] = ()
    joint_network_name: str = ""
    fine_tune_iterations: int = 0
    first_restart_id: str = ""

    @property
    def weights_name(self) -> str:
        """Name under which units with these channels and restart pass weights to each other."""
        return f"c{self.channels[0]}r{self.restart}"

    @property
    def has_estimate(self) -> bool:
        """Whether the unit gives an estimate of the image; others only serve joint training."""
        return self.role in (INDEPENDENT, INFERENCE)

    def uses_weights_of(self, unit_id: str) -> bool:
        """Return whether the result is of these weights: its own, or those that it only applies."""
        return unit_id == self.id or (self.role == INFERENCE and unit_id == self.start_unit_id)

    def drop_channels(self, channels: Container[int]) -> WorkUnit:
        """Return the unit without some of its channels."""
        return replace(self, channels=tuple(c for c in self.channels if c not in channels))

    @property
    def neighbours(self) -> tuple[int, ...]:
        """Neighbouring items, without those that do not exist."""
        return tuple(
            neighbour for neighbour in (self.previous_item, self.next_item) if neighbour is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOutcome:
    """Outcome of the fit of one work unit, in plain numbers.

    `is_ended_by_user` is set if the user ended the fit. `region_count` is the number of training
    regions of a joint fit. `log_likelihood_gain` is set for a fine-tuning probe: its sum and sum
    of squares at validation pixels, and the number of these pixels.
    """

    unit_id: str
    stop: Stop
    is_ended_by_user: bool
    best_iteration: int
    iterations: int
    history: tuple[tuple[int, float, float], ...]
    notes: tuple[Note, ...]
    prior_key: str = ""
    evidence: tuple[float, ...] = ()
    is_refined: bool = False
    is_blended: bool = False
    role: UnitRole = INDEPENDENT
    joint_network_name: str = ""
    region_count: int = 0
    log_likelihood_gain: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome in plain JSON types, which `parse_outcome` reads."""
        return asdict(self)

    @property
    def has_estimate(self) -> bool:
        """Whether the unit gave an estimate of the image; others only serve joint training."""
        return self.role in (INDEPENDENT, INFERENCE)

    @property
    def refit_iterations(self) -> int:
        """Iterations of the refit on training and validation pixels, without validation loss."""
        if self.is_ended_by_user or not self.history:
            return 0
        return max(0, self.iterations - self.history[-1][0])


class TrainingRegion(NamedTuple):
    """Region of one item, on which a joint fit trains.

    Attributes
    ----------
    item : int
    origin : tuple of int
        First pixel of the region in the image, per axis of the grid.
    size : tuple of int
        Size of the region; () for the whole item.
    previous_item, next_item : int or None
        Neighbouring items, as in `WorkUnit`.
    """

    item: int
    origin: tuple[int, ...]
    size: tuple[int, ...] = ()
    previous_item: int | None = None
    next_item: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """Plan of an image before its fits and tiles are planned.

    Attributes
    ----------
    recipe : Recipe
    task_plan : TaskPlan
        What the task decided from the headers.
    header : ImageHeader
        Header of the image.
    extra_headers : mapping of str to ImageHeader
        Headers of the task's extra inputs.
    layout : Layout
        Use of the axes of the image.
    """

    recipe: Recipe
    task_plan: TaskPlan
    header: ImageHeader
    extra_headers: Headers = field(default_factory=dict)
    layout: Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ImagePlan):
    """Plan of a run: that of its image, and work units, device, tiles and estimated costs.

    Attributes
    ----------
    units : tuple of WorkUnit
        In the order in which they run.
    device : str
        "cpu", "cuda" or "mps".
    threads : int
        CPU threads; the pixels of the result depend on them.
    fit_config : FitConfig
    peak_bytes : int
        Estimated peak memory beyond that of the program itself.
    costs : CostEstimate
    thread_flops : float
        As in `Machine`, for the estimate of costs.
    notes : tuple of Note
        Notes for the user.
    tiles : tuple of Tile
        Parts of the image that are fitted one after another; empty: each item is fitted whole. It
        means the same wherever tiles are passed on.
    tile_side : int
        Side in pixels that the tiles were cut for; 0 without tiles.
    has_bfloat16 : bool
        Whether the CPU has bfloat16 instructions, for the estimate of costs.
    network : JointNetwork or None
        Network that was fitted to other files and is applied to this image.
    other_costs : mapping of str to CostEstimate
        Costs of the priors that the pixels may select instead, by key: that for noise which does
        not suit the planned one, and those of `TaskPlan.other_priors`.
    """

    units: tuple[WorkUnit, ...]
    device: str
    threads: int
    fit_config: FitConfig
    peak_bytes: int
    costs: CostEstimate
    thread_flops: float
    notes: tuple[Note, ...] = ()
    tiles: tuple[Tile, ...] = ()
    tile_side: int = 0
    has_bfloat16: bool = False
    network: JointNetwork | None = None
    other_costs: Mapping[str, CostEstimate] = field(default_factory=dict)

    @property
    def factors(self) -> tuple[int, ...]:
        """Upscaling factor along each axis of the image."""
        return self.task_plan.get_factors(self.header.axes)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result, in the image's axes."""
        return multiply_sizes(self.header.shape, self.factors)

    @property
    def result_scale(self) -> tuple[float, ...] | None:
        """Pixel size of the result along each axis of the image; None if unknown."""
        if self.header.scale is None:
            return None
        return tuple(
            size / finer for size, finer in zip(self.header.scale, self.factors, strict=True)
        )

    @property
    def seconds(self) -> float:
        """Estimated time of the longest usual prior without early stop; at most the time limit."""
        usual = [costs for key, costs in self.other_costs.items() if not self._describe_case(key)]
        return max(map(self._limit_seconds, (self.costs, *usual)))

    def _limit_seconds(self, costs: CostEstimate) -> float:
        total = (1 + self.repeatability_run_count) * costs.total_seconds
        limit = self.recipe.run_settings.time_limit
        return total if limit is None else min(total, limit)

    def _describe_case(self, prior_key: str) -> str:
        """Describe the unusual images that get another prior; "" if they are usual."""
        is_fallback = prior_key == self.task_plan.fallback_prior_key
        return UNUSUAL_NOISE if is_fallback else self.task_plan.other_priors[prior_key]

    @property
    def time_summary(self) -> str:
        """Estimated time for the user, and that of the longest other prior where it is longer."""
        text, longer, case = f"up to {format_duration(self.seconds)}", 0.0, ""
        for prior_key, costs in self.other_costs.items():
            if self._limit_seconds(costs) > longer:
                longer, case = self._limit_seconds(costs), self._describe_case(prior_key)
        if longer < MIN_NAMED_TIME_RATIO * self.seconds:
            return text
        return f"{text}, or {format_duration(longer)} for {case}"

    @property
    def repeatability_run_count(self) -> int:
        """Number of further restorations: two halves, and a null control."""
        if self.network is not None:
            return 0
        run_settings = self.recipe.run_settings
        return 2 * run_settings.halves + run_settings.null_control

    @property
    def item_name(self) -> str:
        """Name of what one fit restores, for the user: tile, frame, plane or part."""
        fits = [unit for unit in self.units if unit.has_estimate]
        if self.tiles:  # one worker may restore only some of them
            return "tile" if len(fits) == len({unit.tile for unit in fits}) else "part"
        if len(fits) != self.layout.count_items(self.header):
            return "part"
        return ITEM_NAMES.get(self.layout.get_neighbour_axis(self.header), "part")

    def describe_unit(self, unit: WorkUnit) -> str:
        """Return what a fit restores, as "frame 2 of 5, channel 1 of 3"; "" for the only fit."""
        fits = [fit for fit in self.units if fit.has_estimate]
        item = ITEM_NAMES.get(self.layout.get_neighbour_axis(self.header), "image")
        numbers: dict[str, tuple[object, list[object]]] = {
            "tile": (unit.tile, [fit.tile for fit in fits]),
            item: (unit.item, [fit.item for fit in fits]),
            "channel": (unit.channels, [fit.channels for fit in fits]),
            "restart": (unit.restart, [fit.restart for fit in fits]),
        }
        phrases = []
        for name, (value, values) in numbers.items():
            distinct = list(dict.fromkeys(values))
            if len(distinct) > 1 and value in distinct:  # joint training is of all of them
                phrases.append(f"{name} {distinct.index(value) + 1} of {len(distinct)}")
        return ", ".join(phrases)

    @property
    def work_summary(self) -> str:
        """Size of the image and of a larger result, number of fits and device, for the user."""
        indices = [self.header.axes.index(axis) for axis in self.layout.grid_axes[::-1]]
        sizes = dict.fromkeys(
            " × ".join(str(shape[index]) for index in indices)
            for shape in (self.header.shape, self.result_shape)
        )
        device = {"cpu": "CPU", "cuda": "NVIDIA GPU", "mps": "Apple GPU"}[self.device]
        if self.device == "cpu" and self.threads > 1:
            device += f" ({self.threads} threads)"
        count = len(self.units)
        single_channels = {unit.channels for unit in self.units if len(unit.channels) == 1}
        unit_name = "channel" if len(single_channels) == count else self.item_name
        is_named = unit_name != "part" and all(unit.has_estimate for unit in self.units)
        fits = f", {count} {unit_name}s one after another" if is_named else f", {count} fits"
        fits *= count > 1
        kind = {"Z": " as one volume", "T": " as one movie"}.get(self.layout.grid_axes[0], "")
        kind = kind or " as a movie" * ("T" in get_stacked_axes(self.header))
        return f"{' becomes '.join(sizes)} pixels{kind}{fits} on the {device}"

    @property
    def summary(self) -> str:
        """One line for the user: size, device, memory and estimated time."""
        return (
            f"{self.work_summary}: {self.time_summary}, {format_bytes(self.peak_bytes)} of memory."
        )

    def __repr__(self) -> str:
        """Return the task and the summary in one line."""
        return f"<Plan: {self.recipe.task.spec.name}, {self.summary}>"
