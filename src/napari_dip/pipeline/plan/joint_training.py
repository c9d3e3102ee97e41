"""Plan joint training of one network for frames, planes, tiles or files, and its reuse.

A network whose input is the image learns how to restore it, not its content. So one network is
fitted to crops of many frames and then applied to each frame. Fine-tuning is probed on three
frames, and their validation pixels decide whether all frames are fine-tuned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

from napari_dip.errors import RefusedError, make_refusal, raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable
from napari_dip.pipeline.plan.costs import group_channels
from napari_dip.pipeline.plan.types import (
    FINE_TUNE_PROBE,
    INFERENCE,
    JOINT,
    ImagePlan,
    TrainingRegion,
)
from napari_dip.tasks.shared_settings import can_train_jointly

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.plan.types import FitConfig, JointNetwork, UnitOutcome, WorkUnit
    from napari_dip.tasks.base import TaskPlan

#: Iterations of a fit with warm start, as a share of the preset's. With its final inference such a
#: fit takes less than a fifth of the time.
WARM_START_ITERATION_FRACTION = 0.2
#: Fewest iterations of a fit with warm start.
MIN_WARM_START_ITERATIONS = 25
#: Settings of a task that may differ from those of the network, since they concern only frames and
#: planes.
IGNORED_SETTINGS = ("neighbouring_frames", "temporal_smoothing", "series_training")
#: Number of fine-tuning probes, on evenly spread training regions.
FINE_TUNE_PROBE_COUNT = 3
#: Minimum gain of fine-tuning at validation pixels, in standard errors. A probe counts its best of
#: a few validations, which is biased by about one standard error.
MIN_GAIN_STANDARD_ERRORS = 2.0
#: Maximum side of a training region in pixels.
MAX_TRAINING_REGION_SIDE = 512
#: Maximum pixels of all training regions together.
MAX_TRAINING_PIXELS = 2**21
#: Minimum number of training regions.
MIN_TRAINING_REGIONS = 8
#: Maximum number of training regions.
MAX_TRAINING_REGIONS = 32
#: Groups of channels of a network that was fitted to grey images.
GREY_GROUPS = ((0,),)
#: Bytes per pixel and channel of a training region: image, filled-in image, noise, masks,
#: neighbouring frames and predictions.
TRAINING_PIXEL_BYTES = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneGain:
    """Gain of log-likelihood per validation pixel by fine-tuning, measured in the probes.

    Attributes
    ----------
    mean, error : float
        Mean gain and its standard error.
    probe_count : int
        Number of probes.
    """

    mean: float
    error: float
    probe_count: int

    @property
    def is_worthwhile(self) -> bool:
        """Whether the gain is significant."""
        return self.mean > MIN_GAIN_STANDARD_ERRORS * self.error


def compute_warm_start_iterations(fit_config: FitConfig) -> int:
    """Return the iterations of a fit with warm start."""
    return max(
        min(MIN_WARM_START_ITERATIONS, fit_config.iterations),
        round(WARM_START_ITERATION_FRACTION * fit_config.iterations),
    )


def compute_training_region_size(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of the training region of a frame of that size."""
    return tuple(min(side, MAX_TRAINING_REGION_SIDE) for side in grid)


def choose_training_regions(
    item_count: int, grid: tuple[int, ...], stride: int, size: tuple[int, ...] = ()
) -> tuple[TrainingRegion, ...]:
    """Choose the training regions of a joint fit: in evenly spread frames, each at another place.

    Parameters
    ----------
    item_count : int
        Number of frames.
    grid : tuple of int
        Size of a frame.
    stride : int
        Items from a frame to its neighbour; 0 if there are no neighbours.
    size : tuple of int
        Size of a region; (): `compute_training_region_size`.
    """
    size = size or compute_training_region_size(grid)
    max_count = min(
        MAX_TRAINING_REGIONS, max(MIN_TRAINING_REGIONS, MAX_TRAINING_PIXELS // prod(size))
    )
    count = min(item_count, max_count)
    training_regions = []
    for number in range(count):
        item = (2 * number + 1) * item_count // (2 * count)
        # steps of three and five spread the regions over both axes
        relative_position = ((number * 3 % count + 0.5) / count, (number * 5 % count + 0.5) / count)
        free = [side - crop_side for side, crop_side in zip(grid, size, strict=True)]
        origin = tuple(
            round(space * fraction) for space, fraction in zip(free, relative_position, strict=True)
        )
        training_regions.append(
            TrainingRegion(item, origin, size, *get_neighbour_items(item, item_count, stride))
        )
    return tuple(training_regions)


def get_neighbour_items(item: int, item_count: int, stride: int) -> tuple[int | None, int | None]:
    """Return the items before and after an item; None where there is none."""
    before = item - stride if stride and item >= stride else None
    return before, item + stride if stride and item + stride < item_count else None


def estimate_training_memory(item_count: int, grid: tuple[int, ...], channel_count: int) -> int:
    """Estimate the additional memory of a joint fit, in bytes."""
    return (
        len(choose_training_regions(item_count, grid, 0))
        * prod(compute_training_region_size(grid))
        * channel_count
        * TRAINING_PIXEL_BYTES
    )


def choose_probe_regions(
    training_regions: tuple[TrainingRegion, ...],
) -> tuple[TrainingRegion, ...]:
    """Choose the regions of the fine-tuning probes, evenly spread."""
    if not training_regions:
        return ()
    indices = [
        (2 * index + 1) * len(training_regions) // (2 * FINE_TUNE_PROBE_COUNT)
        for index in range(FINE_TUNE_PROBE_COUNT)
    ]
    return tuple(dict.fromkeys(training_regions[index] for index in indices))


def make_joint_units(
    first: WorkUnit,
    fit_config: FitConfig,
    training_regions: tuple[TrainingRegion, ...],
    probe_candidates: tuple[TrainingRegion, ...],
) -> list[WorkUnit]:
    """Return the joint fit and its fine-tuning probes, which run before the frames.

    Parameters
    ----------
    first : WorkUnit
        Unit of the first frame with an independent fit of all iterations.
    fit_config : FitConfig
    training_regions : tuple of TrainingRegion
    probe_candidates : tuple of TrainingRegion
        Members from which those of the fine-tuning probes are chosen.
    """
    name = first.weights_name
    joint_unit = replace(
        first,
        id=make_joint_unit_id(name),
        first_restart_id="",
        joint_network_name=name,
        iterations=fit_config.joint_iterations,
        item=training_regions[0].item if training_regions else 0,
        role=JOINT,
        training_regions=training_regions,
        start_unit_id="",
        previous_item=None,
        next_item=None,
        tile=None,
        origin=(),
    )
    probes = [
        replace(
            joint_unit,
            id=f"probe{number}-{name}",
            iterations=compute_warm_start_iterations(fit_config),
            item=training_region.item,
            start_unit_id=joint_unit.id,
            role=FINE_TUNE_PROBE,
            previous_item=training_region.previous_item,
            next_item=training_region.next_item,
            training_regions=(training_region,),
        )
        for number, training_region in enumerate(choose_probe_regions(probe_candidates))
    ]
    return [joint_unit, *probes]


def make_joint_unit_id(joint_network_name: str) -> str:
    """Return the id of the joint fit of a network."""
    return f"all-{joint_network_name}"


def apply_probe_outcome(unit: WorkUnit, outcomes: Iterable[UnitOutcome]) -> WorkUnit:
    """Return the unit of a frame with fine-tuning if the probes of its series show a gain."""
    if unit.role != INFERENCE:
        return unit
    probe_gain = compute_fine_tune_gain(outcomes, unit.joint_network_name)
    is_worthwhile = probe_gain is not None and probe_gain.is_worthwhile
    return replace(unit, iterations=unit.fine_tune_iterations if is_worthwhile else 0)


def compute_fine_tune_gain(
    outcomes: Iterable[UnitOutcome], joint_network_name: str
) -> FineTuneGain | None:
    """Return the mean gain of the probes of a series; None if there were none."""
    gains = [
        outcome.log_likelihood_gain
        for outcome in outcomes
        if outcome.joint_network_name == joint_network_name and outcome.log_likelihood_gain
    ]
    if not gains:
        return None
    total, squares, count = (sum(column) for column in zip(*gains, strict=True))
    if count < 2:
        return None
    mean = total / count
    return FineTuneGain(
        mean=mean,
        error=sqrt(max(0.0, squares / count - mean**2) / (count - 1)),
        probe_count=len(gains),
    )


def make_fine_tuning_note(probe_gain: FineTuneGain) -> Note:
    """Return a note on what the probes decided."""
    return make_note(
        "fine-tuning-tried",
        probes=probe_gain.probe_count,
        mean=probe_gain.mean,
        error=probe_gain.error,
        pays=probe_gain.is_worthwhile,
    )


def summarise_joint_training(outcomes: Iterable[UnitOutcome]) -> dict[str, dict[str, object]]:
    """Return joint training as fields of a report, in plain JSON types; empty if unused."""
    all_outcomes = list(outcomes)
    joint_outcome = next((outcome for outcome in all_outcomes if outcome.role == JOINT), None)
    if joint_outcome is None:
        return {}
    probe_gain = compute_fine_tune_gain(all_outcomes, joint_outcome.joint_network_name)
    facts: dict[str, object] = {
        "region_count": joint_outcome.region_count,
        "iterations": joint_outcome.iterations,
        "inference": sum(outcome.role == INFERENCE for outcome in all_outcomes),
    }
    if probe_gain is not None:
        facts |= {
            "probe_count": probe_gain.probe_count,
            "gain": probe_gain.mean,
            "error": probe_gain.error,
            "fine_tuned": probe_gain.is_worthwhile,
        }
    return {"joint_training": facts}


def make_inference_units(
    units: tuple[WorkUnit, ...], fit_config: FitConfig
) -> tuple[WorkUnit, ...]:
    """Return units that apply the network, and are fine-tuned only if its probes show a gain."""
    iterations = compute_warm_start_iterations(fit_config)
    changes = {"role": INFERENCE, "iterations": 0, "fine_tune_iterations": iterations}
    return tuple(_start_from_joint_network(unit, **changes) for unit in units)


def _start_from_joint_network(unit: WorkUnit, **changes: Any) -> WorkUnit:
    name = unit.weights_name
    start_unit_id = make_joint_unit_id(name)
    return replace(unit, start_unit_id=start_unit_id, joint_network_name=name, **changes)


def plan_network_use(
    network: JointNetwork, units: tuple[WorkUnit, ...], fit_config: FitConfig
) -> tuple[WorkUnit, ...]:
    """Return units that apply a network of several images, or begin with that of one image."""
    if not network.is_of_one_image:
        return make_inference_units(units, fit_config)
    iterations = compute_warm_start_iterations(fit_config)
    return tuple(_start_from_joint_network(unit, iterations=iterations) for unit in units)


def reuse_network(
    network: JointNetwork | None,
    units: tuple[WorkUnit, ...],
    image_plan: ImagePlan,
    fit_config: FitConfig,
    *,
    is_single: bool,
) -> tuple[JointNetwork | None, tuple[WorkUnit, ...], tuple[Note, ...]]:
    """Plan to apply a network to an image, from headers.

    Parameters
    ----------
    network : JointNetwork or None
        Only the task is checked before it is fitted. None: units stay as they are.
    units, image_plan, fit_config
        Those of the plan.
    is_single : bool
        Whether the image is one plane without tiles. Others are restored without the network.

    Returns
    -------
    network : JointNetwork or None
    units : tuple of WorkUnit
    notes : tuple of Note

    Raises
    ------
    RefusedError
        If the network cannot be applied.
    """
    if network is None:
        return None, units, ()
    can_be_joint = can_train_jointly(image_plan.task_plan, fit_config.prior_key)
    if not can_be_joint or fit_config.other_candidates or image_plan.extra_headers:
        raise RefusedError("joint-alone", name=image_plan.header.name)
    if not is_single:
        return None, units, (make_note("joint-unused"),)
    raise_if_refused(_refuse_network(network, image_plan, fit_config))
    return network, plan_network_use(network, units, fit_config), ()


def _refuse_network(
    network: JointNetwork, image_plan: ImagePlan, fit_config: FitConfig
) -> Refusal | None:
    """Refuse a network whose version, settings, restarts or channels do not match."""
    from napari_dip.version import __version__

    if not network.sha256:
        return None
    path = make_printable(network.path)
    if network.version != __version__:
        return make_refusal("joint-version", path=path, actual=network.version, here=__version__)
    recipe = image_plan.recipe
    plan_settings = {
        "task": recipe.task.spec.name,
        "preset": recipe.run_settings.preset,
        **recipe.task.to_dict(),
    }
    network_settings = {"task": network.task, "preset": network.preset, **(network.settings or {})}
    plan_settings = json.loads(json.dumps(plan_settings))
    network_settings = json.loads(json.dumps(network_settings))
    for field in dict.fromkeys((*plan_settings, *network_settings)):
        plan_value = plan_settings.get(field, "the default")
        network_value = network_settings.get(field, "the default")
        if plan_value != network_value and field not in IGNORED_SETTINGS:
            facts = {"actual": repr(network_value), "wanted": repr(plan_value)}
            return make_refusal("joint-settings", path=path, field=field, **facts)
    if fit_config.restarts > network.restarts:
        have, want = network.restarts, fit_config.restarts
        return make_refusal("joint-repeats", path=path, actual=have, wanted=want)
    return refuse_channels(image_plan.task_plan, image_plan.header, network.groups)


def refuse_channels(
    task_plan: TaskPlan, header: ImageHeader, groups: tuple[tuple[int, ...], ...]
) -> Refusal | None:
    """Refuse an image whose channel groups differ from those of a network.

    Three colours may be equal, so that a network of grey images suits them.
    """
    image_groups = tuple(group_channels(task_plan, header))
    if groups == image_groups or (groups == GREY_GROUPS and "S" in header.axes):
        return None
    actual, wanted = map(_describe_channel_groups, (image_groups, groups))
    return make_refusal("joint-channels", name=header.name, actual=actual, wanted=wanted)


def _describe_channel_groups(groups: tuple[tuple[int, ...], ...]) -> str:
    count = sum(map(len, groups))
    if count == 1:
        return "1 channel"
    how = "together" if len(groups) == 1 else "one by one"
    return f"{count} channels, fitted {how}"
