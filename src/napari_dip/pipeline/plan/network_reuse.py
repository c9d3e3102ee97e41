"""Check whether a network that was fitted to other files may be applied to an image."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.errors import make_refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.types import INFERENCE, JOINT_PREFIX
from napari_dip.pipeline.plan.units import compute_warm_start_iterations, group_channels
from napari_dip.tasks.shared_settings import has_reusable_network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.plan.types import FitConfig, JointNetwork, WorkUnit
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.base import TaskPlan

#: Settings of a task that may differ from those of the network, since they concern only frames and
#: planes.
IGNORED_SETTINGS = ("neighbouring_frames", "temporal_smoothing", "series_training")


def make_inference_units(
    units: tuple[WorkUnit, ...], fit_config: FitConfig
) -> tuple[WorkUnit, ...]:
    """Return units that apply the network, and are fine-tuned only if its probes show a gain."""
    fine_tune_iterations = compute_warm_start_iterations(fit_config)
    return tuple(
        replace(
            unit,
            iterations=0,
            starts_from=f"{JOINT_PREFIX}{unit.network_name}",
            role=INFERENCE,
            fine_tune_iterations=fine_tune_iterations,
        )
        for unit in units
    )


def explain_misfit(
    network: JointNetwork,
    fit_config: FitConfig,
    constant_channels: tuple[int, ...],
    *,
    uses_half_resolution: bool,
) -> str:
    """Return why a network cannot be applied to an image with known pixels; "" if it can.

    Parameters
    ----------
    network : JointNetwork
    fit_config : FitConfig
        With the prior that was chosen from the pixels.
    constant_channels : tuple of int
        Channels that hold one value only.
    uses_half_resolution : bool
        Whether the image is fitted at half its size.
    """
    constant = set(constant_channels)
    if fit_config.prior != network.prior:
        return f"its noise asks for '{fit_config.prior}', and that is of '{network.prior}'"
    if uses_half_resolution != network.uses_half_resolution:
        return "it is oversampled in another way than those files"
    if fit_config.widths != network.widths:
        return "its size asks for a network of another depth"
    if any(constant & set(group) and not constant >= set(group) for group in network.groups):
        return "some of its channels hold one value only"
    return ""


def reuse_network(
    network: JointNetwork | None,
    units: tuple[WorkUnit, ...],
    recipe: Recipe,
    task_plan: TaskPlan,
    source: ImageSpec,
    extra_headers: Mapping[str, ImageSpec],
    fit_config: FitConfig,
    *,
    is_single: bool,
) -> tuple[JointNetwork | None, tuple[WorkUnit, ...], tuple[Note, ...]] | Refusal:
    """Plan to apply a network to an image, from headers.

    Parameters
    ----------
    network : JointNetwork or None
        Only the task is checked before it is fitted. None: units stay as they are.
    units, recipe, task_plan, source, extra_headers, fit_config
        Those of the plan.
    is_single : bool
        Whether the image is one plane without tiles. Others are restored without the network.

    Returns
    -------
    network : JointNetwork or None
    units : tuple of WorkUnit
    notes : tuple of Note
    """
    if network is None:
        return None, units, ()
    is_reusable = (
        has_reusable_network(task_plan, fit_config.prior) and not fit_config.other_candidates
    )
    if not is_reusable or extra_headers:
        return make_refusal("series-alone", name=source.name)
    if not is_single:
        return None, units, (make_note("series-unused"),)
    if refusal := _check_network(network, recipe, task_plan, source, fit_config):
        return refusal
    return network, make_inference_units(units, fit_config), ()


def _check_network(
    network: JointNetwork,
    recipe: Recipe,
    task_plan: TaskPlan,
    source: ImageSpec,
    fit_config: FitConfig,
) -> Refusal | None:
    """Return a refusal if version, settings, restarts or channels of a network do not match."""
    from napari_dip.version import __version__

    if not network.sha256:
        return None
    path = make_printable(network.path)
    if network.version != __version__:
        return make_refusal("series-version", path=path, found=network.version, here=__version__)
    plan_settings = {
        "task": recipe.task.spec.name,
        "preset": recipe.run_settings.preset,
        **recipe.task.to_dict(),
    }
    network_settings = {"task": network.task, "preset": network.preset, **(network.settings or {})}
    plan_settings, network_settings = (
        json.loads(json.dumps(plan_settings)),
        json.loads(json.dumps(network_settings)),
    )
    for field in dict.fromkeys((*plan_settings, *network_settings)):
        plan_value, network_value = (
            plan_settings.get(field, "the default"),
            network_settings.get(field, "the default"),
        )
        if plan_value != network_value and field not in IGNORED_SETTINGS:
            facts = {
                "path": path,
                "field": field,
                "found": repr(network_value),
                "wanted": repr(plan_value),
            }
            return make_refusal("series-settings", **facts)
    if fit_config.restarts > network.repeats:
        facts = {"found": network.repeats, "wanted": fit_config.restarts}
        return make_refusal("series-repeats", path=path, **facts)
    return check_channels(task_plan, source, network.groups)


def check_channels(
    task_plan: TaskPlan, source: ImageSpec, groups: tuple[tuple[int, ...], ...]
) -> Refusal | None:
    """Return a refusal if the channel groups of an image differ from those of a network."""
    image_groups = tuple(group_channels(task_plan, source))
    if image_groups == groups:
        return None
    facts = {
        "found": _describe_channel_groups(image_groups),
        "wanted": _describe_channel_groups(groups),
    }
    return make_refusal("series-channels", name=source.name, **facts)


def _describe_channel_groups(groups: tuple[tuple[int, ...], ...]) -> str:
    count = sum(map(len, groups))
    if count == 1:
        return "1 channel"
    how = "together" if len(groups) == 1 else "one by one"
    return f"{count} channels, fitted {how}"
