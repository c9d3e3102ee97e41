"""Make the plan of a run once its pixels are known: prior, layout, tiles, units, network file.

Everything that pixels change about a plan is decided in `make_run_plan`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import floor
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.noise import NoiseCaution, UnreliableReason
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_bytes
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.calibrate.image_calibration import (
    MIN_HALVED_SIDE,
    calibrate_pixels,
    get_task_plan,
    is_colour_image,
)
from napari_dip.pipeline.calibrate.inputs import arrange_inputs
from napari_dip.pipeline.calibrate.types import CalibratedImage, RunPlan
from napari_dip.pipeline.machine import read_free_gpu_memory, read_free_memory
from napari_dip.pipeline.plan.costs import FIT_CONFIG_NOTES, choose_fit_config
from napari_dip.pipeline.plan.joint_training import GREY_GROUPS, plan_network_use
from napari_dip.pipeline.plan.tiling import (
    TILE_NOTES,
    cut_half_resolution_tiles,
    estimate_run,
    list_tile_notes,
)
from napari_dip.pipeline.plan.types import TrainingRegion
from napari_dip.pipeline.plan.units import make_tile_units, make_units
from napari_dip.tasks.base import NoiseSettings
from napari_dip.tasks.noise_models.camera_correction import build_level_correction
from napari_dip.tasks.noise_models.impulses import CORRELATED_NOISE_REASON
from napari_dip.tasks.noise_models.jpeg_traces import list_jpeg_hints, read_jpeg_traces
from napari_dip.tasks.noise_models.registry import AUTO, JPEG, NOISE_MODELS
from napari_dip.tasks.priors.image_input import (
    FEW_PHOTONS_REASON,
    UNRELIABLE_NOISE_REASON,
    WEAK_NOISE_REASON,
)
from napari_dip.tasks.priors.masked_input import MAX_SMOOTH_PIXELS
from napari_dip.tasks.priors.registry import PRIOR_SPECS, get_denoising_prior

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, Float32Array
    from napari_dip.pipeline.calibrate.types import Calibration, RunInputs
    from napari_dip.pipeline.plan.layout import Layout, Tile
    from napari_dip.pipeline.plan.types import FitConfig, JointNetwork, Plan
    from napari_dip.tasks.base import Inspection, TaskPlan

#: Noise counts as weak if its standard deviation is below this fraction of the intensity scale. R2R
#: would copy the image, so the blind spot is used. Photographs of cc15 have 0.002 to 0.004,
#: micrographs 0.04 to 0.18 (docs/constants.md).
WEAK_NOISE_FRACTION = 0.02
#: Mean number of counted photons per pixel below which the blind spot is used. Its gain over
#: R2R is 2 to 3.3 dB at 0.02 to 0.5 photons, -0.2 to 0.4 dB at 0.6 to 26 (docs/constants.md).
FEW_PHOTONS_PER_PIXEL = 0.6
#: Maximum share of missing pixels that are filled before a camera's noise is measured. With 0.2 the
#: finest frequencies are too weak for it in a crop of cc15.
MAX_SMOOTH_HOLE_FRACTION = 0.1
#: Reason in the report why the prior is that of images without holes.
FILLED_REASON = "the noise is a colour camera's, so the holes were filled smoothly before the fit"
#: Maximum correlation of the noise of successive frames that are inputs of each other: at most 0.11
#: in 16 stacks and movies with noise, 0.4 in one without; 0.37 and more after a running mean of 3.
MAX_FRAME_CORRELATION = 0.3
#: Maximum number of frames whose noise is compared; their noise is of one detector.
MAX_COMPARED_FRAMES = 16
#: Maximum ratio of the noise of two frames at one brightness: at most 1.5 in 27 stacks and movies,
#: 1.9 with flicker, 3.2 after Kalman averaging, 5.1 after a correction of bleaching.
MAX_FRAME_SPREAD = 1.6
#: Maximum bytes of a stack that is divided by the level of its noise; two maps take as much each.
MAX_LEVELLED_BYTES = 2**28
#: Reasons of noise that cannot be told from structure.
STRUCTURE_REASONS = (
    UnreliableReason.TEXTURE,
    UnreliableReason.AMBIGUOUS_CORRELATION,
    UnreliableReason.SMOOTHED,
)
#: Reasons and cautions of noise that may differ from place to place.
PLACE_REASONS = (
    *STRUCTURE_REASONS,
    UnreliableReason.OFF_VARIANCE_MODEL,
    UnreliableReason.HEAVY_TAILS,
)
PLACE_CAUTIONS = (
    NoiseCaution.OFF_VARIANCE_MODEL,
    NoiseCaution.EVERY_SECOND_PIXEL,
    NoiseCaution.MOSTLY_TEXTURED,
)
#: Maximum of `compare_noise_spectra` for noise that differs from place to place: 0.4 to 1.2 in 27
#: edited micrographs, 1.6 to 5.2 in ten of eleven photographs with white noise.
MAX_COARSENESS_RATIO = 1.3
#: Maximum correlation of neighbours for white noise off its line: at most 0.13 in noise, 0.78 in a
#: zebra without noise.
MAX_WHITE_CORRELATION = 0.2
#: Cautions with which the noise of an image that was divided by its level is not taken.
LEVELLED_DOUBTS = (
    NoiseCaution.MOSTLY_CLIPPED,
    NoiseCaution.MOSTLY_TEXTURED,
    NoiseCaution.EVERY_SECOND_PIXEL,
)
#: Memory that a GPU needs, relative to the estimate for the CPU: 1.0 to 2.0 in eight runs
#: (docs/benchmarks/gpu.md), and a quarter more for gaps between tensors.
GPU_MEMORY_FACTOR = 2.5


def calibrate_image(
    plan: Plan,
    inputs: Mapping[str, AnyArray],
    network: JointNetwork | None = None,
    run_inputs: RunInputs | None = None,
) -> CalibratedImage:
    """Calibrate an image that is not split into tiles.

    Parameters
    ----------
    plan : Plan
    inputs : mapping of str to ndarray
        "image" in the axes and shape of `plan.header`, and the extra inputs of the task.
    network : JointNetwork, optional
        The fitted network that the plan applies.
    run_inputs : RunInputs, optional
        The same pixels if they are arranged already.

    Raises
    ------
    RefusedError
        If the pixels cannot be used.
    """
    run_inputs = run_inputs or arrange_inputs(plan, inputs)
    calibration, stack = _calibrate_filled(plan, run_inputs) or calibrate_pixels(plan, run_inputs)
    calibration = find_hidden_compression(plan, calibration, stack)
    calibration, stack = _calibrate_levelled(plan, run_inputs, calibration) or (calibration, stack)
    inspection, layout = run_inputs.inspection, run_inputs.layout
    if _shares_frame_noise(get_task_plan(plan, layout), calibration, stack):
        notes = (*calibration.notes, make_note("frames-share-noise"))
        calibration = replace(calibration, shares_frame_noise=True, notes=notes)
    return CalibratedImage(
        run_plan=make_run_plan(plan, inspection, calibration, layout=layout, network=network),
        calibration=calibration,
        header=plan.header,
        layout=layout,
        inputs=inputs,
        stack=stack,
        inspection=inspection,
    )


def _calibrate_filled(plan: Plan, inputs: RunInputs) -> tuple[Calibration, Float32Array] | None:
    """Calibrate an image whose holes are filled smoothly; None if its noise is not a camera's.

    Noise of a colour camera is measured, and filtered, in images without holes.
    """
    task_plan, mask = get_task_plan(plan, inputs.layout), inputs.measured_mask
    if mask is None or not task_plan.fallback_prior_key:
        return None
    plain_inputs = replace(inputs, measured_mask=None)
    if not is_colour_image(task_plan, plain_inputs, inputs.stack, (), is_tiled=False):
        return None
    import torch

    from napari_dip.engine.noise.camera_noise import identify_camera_noise
    from napari_dip.tasks.priors.masked_input import fill_smoothly

    hidden = ~mask.all(1, keepdims=True)
    prior_key = inputs.inspection.prior_key
    is_wide = bool(prior_key) and PRIOR_SPECS[prior_key].suitable_holes == "wide"
    if is_wide or hidden.mean() > MAX_SMOOTH_HOLE_FRACTION or hidden.sum() > MAX_SMOOTH_PIXELS:
        return None
    filled = fill_smoothly(torch.from_numpy(inputs.stack), torch.from_numpy(hidden))
    if identify_camera_noise(filled, 0.0, inputs.grey_level_step) is None:
        return None
    calibration, stack = calibrate_pixels(plan, replace(plain_inputs, stack=filled.numpy()))
    if calibration.camera_noise is None or calibration.half_resolution is None:
        return None
    return replace(calibration, measured_mask=mask), stack


def _shares_frame_noise(task_plan: TaskPlan, calibration: Calibration, stack: Float32Array) -> bool:
    """Return whether frames or planes of (N, C, Y, X) would tell a network each other's noise."""
    is_series = stack.ndim == 4 and len(stack) > 1 and calibration.measured_mask is None
    is_series &= not calibration.empty_items
    if not (is_series and task_plan.uses_neighbouring_frames and calibration.varied_channels):
        return False
    import torch

    from napari_dip.engine.noise.repeated_exposure import measure_shared_noise

    planes = torch.from_numpy(stack[:MAX_COMPARED_FRAMES])
    shares = [measure_shared_noise(planes[:, c]) for c in calibration.varied_channels]
    return max(shares) > MAX_FRAME_CORRELATION


def _calibrate_levelled(
    plan: Plan, inputs: RunInputs, calibration: Calibration
) -> tuple[Calibration, Float32Array] | None:
    """Calibrate an image that is divided by the level of its noise, if that noise can be measured.

    Noise that differs from place to place at the same brightness, as after a background was
    subtracted, looks like texture, or like noise that is no line in brightness. That of a movie
    whose bleaching was corrected grows from frame to frame.
    """
    task_plan, stack = get_task_plan(plan, inputs.layout), inputs.stack
    is_automatic = task_plan.noise_settings == NoiseSettings() and not plan.tiles
    is_automatic &= plan.recipe.task.spec.offers_noise_models and not task_plan.joint_channels
    others = (inputs.repeated_exposure, inputs.measured_mask, inputs.camera_correction)
    is_plain = all(each is None for each in (*others, calibration.half_resolution))
    # padding, which is filled in, would no longer be of one value
    is_plain &= calibration.noise_model != JPEG.key and not calibration.filled_count
    is_plain &= stack.ndim == 4 and min(stack.shape[-2:]) >= MIN_HALVED_SIDE
    if not (is_automatic and is_plain) or stack.nbytes > MAX_LEVELLED_BYTES:
        return None
    channels, noise = calibration.varied_channels, calibration.noise
    by_frame = [c for c in channels if _differs_by_frame(stack[:, c], noise[c])]
    doubted = [c for c in channels if c in by_frame or _may_differ_by_place(noise[c])]
    if not doubted:
        return None
    correction = build_level_correction(stack, doubted)
    middle = len(stack) // 2
    if correction is None or any(
        _is_structured(
            stack[middle, c], correction.factor[middle, c], noise[c], differs_by_frame=c in by_frame
        )
        for c in doubted
    ):
        return None
    levelled = replace(
        inputs,
        stack=correction.correct(stack),
        grey_level_step=0.0,
        camera_correction=correction,
    )
    again, levelled_stack = calibrate_pixels(plan, levelled)
    is_series = len(stack) > 1
    if any(_is_doubtful(again.noise[c], noise[c], is_series=is_series) for c in doubted):
        return None
    return replace(again, notes=(*again.notes, make_note("noise-levelled"))), levelled_stack


def _differs_by_frame(frames: Float32Array, noise: NoiseEstimate) -> bool:
    """Return whether the noise of frames (N, Y, X) differs at one brightness."""
    import torch

    from napari_dip.engine.noise.repeated_exposure import measure_frame_spread

    compared = torch.from_numpy(frames[:: -(-len(frames) // MAX_COMPARED_FRAMES)])
    return measure_frame_spread(compared, noise.compute_variance) > MAX_FRAME_SPREAD


def _may_differ_by_place(noise: NoiseEstimate) -> bool:
    """Return whether noise may differ from place to place, so that it was not measured rightly."""
    return noise.unreliable_reason in PLACE_REASONS or noise.caution in PLACE_CAUTIONS


def _is_structured(
    plane: Float32Array, factor: Float32Array, noise: NoiseEstimate, *, differs_by_frame: bool
) -> bool:
    """Return whether what is stronger at places of (Y, X) than noise off its line is structure.

    `factor` is the reciprocal of the noise's level. Noise that follows brightness does not differ
    by place. Noise that looks like texture is otherwise judged by its measurement after division.
    """
    import torch

    from napari_dip.engine.noise.consistency_checks import compare_noise_spectra
    from napari_dip.engine.noise.flat_blocks import compute_level_spectra
    from napari_dip.engine.noise.variance_model import follows_brightness

    level_variance = torch.from_numpy(np.reciprocal(factor) ** 2)
    spectra = compute_level_spectra(torch.from_numpy(plane), level_variance)
    if not differs_by_frame and follows_brightness(spectra, noise.compute_variance):
        return True
    if noise.unreliable_reason in STRUCTURE_REASONS:
        return False
    return compare_noise_spectra(spectra, noise.compute_variance) > MAX_COARSENESS_RATIO


def _is_doubtful(noise: NoiseEstimate, before: NoiseEstimate, *, is_series: bool) -> bool:
    """Return whether noise of an image that was divided by its level is not known well.

    White noise with heavy tails is known, and white noise off its line is better than what looked
    like texture: the fit measures both again. In a series, cautions of before may stay.
    """
    accepted: list[UnreliableReason | None] = [None]
    if max(noise.along_y[0], noise.along_x[0]) < MAX_WHITE_CORRELATION:
        accepted.append(UnreliableReason.HEAVY_TAILS)
        if before.unreliable_reason in STRUCTURE_REASONS:
            accepted.append(UnreliableReason.OFF_VARIANCE_MODEL)
    may_stay = is_series and noise.caution is before.caution
    return noise.unreliable_reason not in accepted or (
        noise.caution in LEVELLED_DOUBTS and not may_stay
    )


def find_hidden_compression(
    plan: Plan, calibration: Calibration, stack: Float32Array
) -> Calibration:
    """Look for JPEG compression where no noise can be measured, and choose its noise model.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
    stack : ndarray
        (N, C, *grid), in the image's units.

    Returns
    -------
    Calibration
        With what undoes the compression of a single plane. With a hint, if there are more planes or
        the user chose the prior. The same without compression, or if the noise is known.
    """
    task_plan, settings = plan.task_plan, plan.task_plan.noise_settings
    reasons = [calibration.noise[c].unreliable_reason for c in calibration.varied_channels]
    is_automatic = settings.model == AUTO.key and plan.recipe.task.spec.offers_noise_models
    is_automatic &= not settings.has_entered_noise
    hints: tuple[Note, ...] = ()
    if is_automatic and any(reasons):
        hints = list_jpeg_hints(stack[0], plan.header, plan.extra_headers)
    is_plane = len(stack) == 1 and (stack.shape[1] == 1 or bool(task_plan.joint_channels))
    has_choice = bool(task_plan.fallback_prior_key)
    others = (calibration.measured_mask, calibration.half_resolution, calibration.camera_noise)
    is_plain = all(each is None for each in (*others, calibration.camera_correction))
    if not (hints and is_plane and has_choice and is_plain) or plan.tiles:
        return replace(calibration, notes=(*calibration.notes, *hints))
    from napari_dip.engine.noise.flat_blocks import NO_CLIPPING  # which loads torch

    extra_inputs, notes = read_jpeg_traces(stack[0])
    doubts = {f"noise-unreliable-{reason}" for reason in reasons}  # which do not matter any more
    kept_notes = (note for note in calibration.notes if note.code not in doubts)
    return replace(
        calibration,
        noise=tuple(replace(noise, clipping_limits=NO_CLIPPING) for noise in calibration.noise),
        noise_model=JPEG.key,
        extra_inputs=extra_inputs,
        notes=(*kept_notes, *notes, make_note("jpeg-noise")),
    )


def make_run_plan(
    plan: Plan,
    inspection: Inspection,
    calibration: Calibration,
    *,
    layout: Layout | None = None,
    network: JointNetwork | None = None,
    regions: tuple[Tile, ...] = (),
    reference_tile: Tile | None = None,
    noise_reason: str = "",
) -> RunPlan:
    """Return the plan of a run whose pixels are known.

    Parameters
    ----------
    plan : Plan
        From headers alone.
    inspection : Inspection
        What the task decided from the pixels; it may choose another prior.
    calibration : Calibration
        Unreliable or weak noise, or too few photons, lead to the task's fallback prior; beside
        missing pixels, correlated noise does. With a half-resolution input, tiles are larger.
    layout : Layout, optional
        Layout in which every item has measured pixels; that of the plan by default.
    network : JointNetwork, optional
        The fitted network that the plan applies.
    regions : tuple of Tile
        Sample regions of an image in tiles.
    reference_tile : Tile, optional
        Tile of the plan that is restored first; the first by default.
    noise_reason : str
        Reason for the fallback prior, if an earlier calibration of the image gave one.
    """
    layout, notes = layout or plan.layout, plan.notes
    task_plan = get_task_plan(plan, layout)
    if calibration.shares_frame_noise:
        task_plan = replace(task_plan, uses_neighbouring_frames=False)
    if layout != plan.layout:
        notes = (*notes, make_note("planes-together", axis=layout.grid_axes[0]))
    prior_key, prior_reason = _choose_prior(
        plan, task_plan, inspection, calibration, noise_reason or find_fallback_reason(calibration)
    )
    fit_config, fit_config_notes = choose_fit_config(
        plan.recipe,
        task_plan,
        plan.header,
        prior_key,
        is_volume=layout.is_volume,
        noise_traits=calibration.noise_traits,
    )
    if prior_reason or prior_key != plan.fit_config.prior_key or layout != plan.layout:
        kept_notes = (note for note in notes if note.code not in FIT_CONFIG_NOTES)
        notes = tuple(dict.fromkeys((*kept_notes, *fit_config_notes)))
    fit_config = replace(fit_config, prior_reason=prior_reason)
    image_plan = replace(plan, task_plan=task_plan, layout=layout)
    tiles = plan.tiles
    if tiles:
        if calibration.half_resolution is not None:
            tiles, notes = _cut_larger_tiles(plan, task_plan, notes)
        units = make_tile_units(
            image_plan,
            fit_config,
            _move_reference_tile_first(tiles, reference_tile or tiles[0]),
            tuple(TrainingRegion(index, region.start) for index, region in enumerate(regions)),
        )
    else:
        units = make_units(image_plan, fit_config, empty_items=calibration.empty_items)
    if network is not None:
        if mismatch := _explain_network_mismatch(network, fit_config, calibration):
            notes, network = (*notes, make_note("joint-unfit", why=mismatch)), None
        else:
            units = plan_network_use(network, units, fit_config)
    estimate = partial(
        estimate_run, image_plan, fit_config, units, plan.tiles, threads=plan.threads, cpu=plan
    )
    peak_bytes, costs = estimate(plan.device)
    device, device_notes = _choose_run_device(plan, peak_bytes)
    if device != plan.device:
        peak_bytes, costs = estimate(device)
    return RunPlan.refine(
        plan,
        task_plan=task_plan,
        layout=layout,
        device=device,
        units=units,
        tiles=tiles,
        regions=regions,
        fit_config=fit_config,
        network=network,
        peak_bytes=peak_bytes,
        costs=costs,
        other_costs={},
        notes=(*notes, *device_notes),
    )


def _explain_network_mismatch(
    network: JointNetwork, fit_config: FitConfig, calibration: Calibration
) -> str:
    """Return why the network does not suit the calibrated image; "" if it does."""
    constant = set(calibration.constant_channels)
    if fit_config.prior_key != network.prior_key:
        return f"its noise asks for '{fit_config.prior_key}', and that is of '{network.prior_key}'"
    if (calibration.half_resolution is not None) != network.uses_half_resolution:
        return "it is oversampled in another way than those files"
    if fit_config.widths != network.widths:
        return "its size asks for a network of another depth"
    if network.groups == GREY_GROUPS and len(calibration.noise) > 1:
        return "it has colours, and those files are grey"
    if any(constant & set(group) and not constant >= set(group) for group in network.groups):
        return "some of its channels hold one value only"
    return ""


def _choose_run_device(plan: Plan, peak_bytes: int) -> tuple[str, tuple[Note, ...]]:
    """Return the device of the run; the CPU, with a note, if an automatic GPU lacks the memory."""
    if plan.device != "cuda" or plan.recipe.run_settings.device != "auto":
        return plan.device, ()
    needed, free = int(GPU_MEMORY_FACTOR * peak_bytes), read_free_gpu_memory()
    if free >= needed or peak_bytes >= read_free_memory():
        return plan.device, ()
    need, have = format_bytes(needed), format_bytes(free, floor)
    return "cpu", (make_note("gpu-memory-small", need=need, have=have),)


def _choose_prior(
    plan: Plan,
    task_plan: TaskPlan,
    inspection: Inspection,
    calibration: Calibration,
    noise_reason: str,
) -> tuple[str, str]:
    """Return the key of the prior that suits pixels and noise, and why; "" if it was planned."""
    noise_model = NOISE_MODELS[calibration.noise_model]
    is_model_planned = noise_model.key == task_plan.noise_settings.model
    if noise_model.prior_key and not is_model_planned:  # the pixels have selected it
        return noise_model.prior_key, noise_model.prior_reason
    if calibration.measured_mask is not None and calibration.half_resolution is not None:
        return get_denoising_prior(knows_noise=True).key, FILLED_REASON
    prior_key = inspection.prior_key or plan.fit_config.prior_key
    is_planned = prior_key == task_plan.prior_key
    # the planned prior has another row for holes with a shape
    is_planned |= PRIOR_SPECS[prior_key].suitable_holes == "narrow"
    if task_plan.fallback_prior_key and is_planned and noise_reason:
        return task_plan.fallback_prior_key, noise_reason
    return prior_key, inspection.prior_reason


def find_fallback_reason(calibration: Calibration) -> str:
    """Return the reason for the fallback prior, given by the noise; "" if there is none."""
    varied_channels = calibration.varied_channels
    if calibration.measured_mask is not None:
        is_correlated = max(calibration.blind_spot_size[-2:]) > 1
        return CORRELATED_NOISE_REASON if is_correlated else ""
    channel_means = calibration.intensity_offset  # network units: (value - mean) / scale
    if any(calibration.noise[c].unreliable_reason for c in varied_channels):
        return UNRELIABLE_NOISE_REASON
    if any(
        calibration.noise[c].counts_photons
        and channel_means[c] < FEW_PHOTONS_PER_PIXEL * calibration.noise[c].gain
        for c in varied_channels
    ):
        return FEW_PHOTONS_REASON
    is_weak = any(
        compute_noise_variance(calibration.noise[c], channel_means[c]) ** 0.5
        < WEAK_NOISE_FRACTION * abs(calibration.intensity_scale[c])
        for c in varied_channels
    )
    return WEAK_NOISE_REASON if is_weak else ""


def _cut_larger_tiles(
    plan: Plan, task_plan: TaskPlan, notes: tuple[Note, ...]
) -> tuple[tuple[Tile, ...], tuple[Note, ...]]:
    """Return tiles and notes for a half-resolution fit, which doubles the halo."""
    assert task_plan.halo is not None  # otherwise the plan has no tiles
    tiles = cut_half_resolution_tiles(task_plan.halo, plan.header, plan.tiles)
    updated_notes: list[Note] = []
    for note in notes:
        is_tile_note = note.code in TILE_NOTES
        updated_notes += list_tile_notes(plan.tile_side, tiles) if is_tile_note else (note,)
    return tiles, tuple(updated_notes)


def _move_reference_tile_first(tiles: tuple[Tile, ...], reference: Tile) -> tuple[Tile, ...]:
    """Return the tiles with the one that contains the centre of the reference tile first."""
    centre = [(span.core_start + span.core_stop) // 2 for span in reference.spans]
    first = next(
        tile
        for tile in tiles
        if all(
            coordinate in range(span.core_start, span.core_stop)
            for coordinate, span in zip(centre, tile.spans, strict=True)
        )
    )
    return (first, *(tile for tile in tiles if tile is not first))
