"""Prepare an experiment: read one grey image, and choose the architectures that are fitted to it.

The module also names the targets of the impedance experiment.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.noise import crop_centre
from napari_dip.errors import Refusal, RefusedError, raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_plane_size, make_printable, render_text
from napari_dip.pipeline.lazy_inputs import open_input
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.layout import MIN_IMAGE_SIDE, refuse_header
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import OLD_VALUES, make_recipe
from napari_dip.tasks.base import DEFAULT_PRIOR
from napari_dip.tasks.priors.random_input import (
    ARCHITECTURE_LABELS,
    DEFAULT_ARCHITECTURE,
    Architecture,
    bound_architecture,
    list_architectures,
    set_gaussian_upsampling,
    set_learning_rate,
)
from napari_dip.tasks.shared_settings import refuse_content
from napari_dip.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, Float32Array, ImageHeader
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe

    ImageArray = Float32Array

#: Modifiers of an architecture by a number: minimum, maximum and effect. Initial spectral norms are
#: 0.45 to 2.1; the learning rates of the authors and of the presets are 0.001 and 0.01.
ARCHITECTURE_MODIFIERS = {
    "lipschitz": (0.1, 100.0, "layers bounded to it"),
    "upsampling": (0.1, 4.0, "Gaussian upsampling of that width"),
    "rate": (1e-5, 1.0, "learning rate"),
}
#: Default crop in pixels: a fit takes a few minutes on two cores.
DEFAULT_CROP = 256
#: Default number of iterations. By then, the network with random input has learned an image of
#: 128 x 128, and much of its noise (docs/explore.md).
DEFAULT_ITERATIONS = 500
#: Name of each target in tables -> its label.
TARGET_LABELS = {
    "image": "image",
    "image_and_noise": "image + noise",
    "shuffled": "shuffled pixels",
    "noise": "noise",
}


def list_plan_architectures(plan: Plan) -> dict[str, Architecture]:
    """Return the architectures for the network of a plan by name, that of the preset first."""
    return list_architectures(plan.fit_config.widths, plan.fit_config.learning_rate)


def list_all_architectures() -> dict[str, Architecture]:
    """Return all architectures by name, for any depth of the preset's network; only names count.

    `list_architectures` omits the depth of the preset itself, so two depths are combined.
    """
    names = list(list_architectures((1, 1), 0.0))
    names.insert(names.index("depth-1") + 1, "depth-2")
    both = list_architectures((1, 1), 0.0) | list_architectures((1,), 0.0)
    return {name: both[name] for name in names}


def choose_architectures(
    setup: ExperimentSetup, only: str | Iterable[str] | None
) -> tuple[Architecture, ...]:
    """Return the architectures with these names, always with that of the preset.

    Parameters
    ----------
    setup : ExperimentSetup
    only : str, iterable of str or None
        Names, as an iterable or separated by commas; None: all.

    Raises
    ------
    RefusedError
        If there is no architecture of a name.
    ValueError
        If the setup is for another architecture than the preset's.
    """
    if setup.architecture.name != DEFAULT_ARCHITECTURE:
        raise ValueError("`architecture` is for a single one: several are named in `only`.")
    available = list_plan_architectures(setup.plan)
    if only is None:
        return tuple(available.values())
    values = only.split(",") if isinstance(only, str) else only
    names = [str(item).strip() for item in values]
    architectures = [find_architecture("only", name, available) for name in names or [""]]
    entries = {item.name: item for item in architectures}
    order = [*available, *entries]  # modified architectures last, in the order of `only`
    selected = {DEFAULT_ARCHITECTURE: available[DEFAULT_ARCHITECTURE], **entries}
    return tuple(selected[name] for name in dict.fromkeys(order) if name in selected)


def find_architecture(field: str, name: str, available: Mapping[str, Architecture]) -> Architecture:
    """Return an architecture by its name, which may have numeric modifiers.

    `lipschitz-1.7` bounds the layers of the preset's network, `decoder+lipschitz-1.7` those of
    `decoder`. Both can be followed by `+upsampling-0.3`.

    Parameters
    ----------
    field : str
        Name of the setting, for the refusal.
    name : str
    available : mapping of str to Architecture
        The architectures without modifiers.

    Raises
    ------
    RefusedError
        If the name is unknown, its number is out of range, or two modifiers change the same thing.
    """
    base_name, *modifiers = str(name).strip().split("+")
    base_name = OLD_VALUES["denoise", "architecture"].get(base_name, base_name)
    if base_name == f"depth-{len(available[DEFAULT_ARCHITECTURE].widths)}":
        base_name = DEFAULT_ARCHITECTURE
    if base_name not in available:
        base_name, modifiers = DEFAULT_ARCHITECTURE, [base_name, *modifiers]
    architecture = available[base_name]
    for modifier in modifiers:
        modified = _apply_modifier(architecture, modifier)
        if modified is None:
            raise _make_architecture_error(field, name, available)
        architecture = modified
    return architecture


def _apply_modifier(architecture: Architecture, modifier: str) -> Architecture | None:
    """Apply a modifier such as `lipschitz-1.7` to an architecture; None if it is invalid."""
    kind, _, number_text = modifier.partition("-")
    minimum, maximum, _ = ARCHITECTURE_MODIFIERS.get(kind, (inf, -inf, ""))
    try:
        number = float(f"{float(number_text):g}")  # with the digits that the name will have
    except ValueError:
        return None
    if not minimum <= number <= maximum:
        return None
    modify, is_free = {
        "lipschitz": (bound_architecture, architecture.lipschitz_bound is None),
        "upsampling": (set_gaussian_upsampling, architecture.upsampling == "bilinear"),
        "rate": (set_learning_rate, "rate-" not in architecture.name),
    }[kind]
    return modify(architecture, number) if is_free else None


def _make_architecture_error(
    field: str, name: str, available: Mapping[str, Architecture]
) -> RefusedError:
    modifier_ranges = "; ".join(
        f"{kind}-NUMBER from {minimum:g} to {maximum:g} ({effect})"
        for kind, (minimum, maximum, effect) in ARCHITECTURE_MODIFIERS.items()
    )
    names = ", ".join(available)
    why = f"there are {names}; {modifier_ranges}; and one of the former with such behind a '+'"
    several_hint = "Give some of these names with commas between, or leave it out to compare all."
    hint = several_hint if field == "only" else "Give one of these names, or leave it out."
    value = repr(make_printable(name))
    return RefusedError("setting-wrong", field=field, value=value, why=why, hint=hint)


def get_denoising_architecture(architecture: Architecture) -> str:
    """Return the architecture setting of `denoise` for this architecture, "" if there is none."""
    return architecture.name if architecture.name in ARCHITECTURE_LABELS else ""


def label_architecture(architecture: Architecture) -> str:
    """Return the label of an architecture in the interfaces."""
    is_preset = architecture.name == DEFAULT_ARCHITECTURE
    return ARCHITECTURE_LABELS[DEFAULT_ARCHITECTURE] if is_preset else architecture.label


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentSetup:
    """A grey image, the network that is fitted to it, and the iterations of the fit.

    Attributes
    ----------
    name : str
    image : ndarray (Y, X) float32
        In the image's units; cropped to the centre of a larger image.
    plan : Plan
        Plan of a fit with random input: network, rate, device and threads.
    full_size : tuple of int
        Size of the image before the crop.
    architecture : Architecture
        Architecture of the network; in a comparison, the reference.
    recipe : mapping
        Settings that repeat the experiment, in plain JSON types.
    notes : tuple of Note
        Notes about the preparation of the image.
    stop_iteration : int or None
        Iterations after which the user ended the fits.
    """

    name: str
    image: ImageArray
    plan: Plan
    full_size: tuple[int, ...]
    architecture: Architecture
    recipe: Mapping[str, Any]
    notes: tuple[Note, ...]
    stop_iteration: int | None = None

    @property
    def iterations(self) -> int:
        """Number of iterations of each fit."""
        return self.stop_iteration or self.plan.fit_config.iterations

    @property
    def seed(self) -> int:
        """Seed of the weights, the random input and all random targets."""
        return self.plan.recipe.run_settings.seed

    @property
    def network_description(self) -> str:
        """Description of the network and its learning rate."""
        label = self.architecture.label
        preset_label = list_plan_architectures(self.plan)[DEFAULT_ARCHITECTURE].label
        label = preset_label if label == preset_label else f"{label}, else {preset_label}"
        return f"{label}, rate {self.architecture.learning_rate:g}"

    def describe_fit(self, template_key: str = "experiment-fit") -> str:
        """Fill a template of `TEXTS` with the facts of image, network and fit."""
        size = format_plane_size(self.image.shape)
        return render_text(
            template_key,
            plane=render_text("experiment-plane", size=size, name=self.name),
            network=self.network_description,
            iterations=self.iterations,
            seed=self.seed,
        )

    def to_image_units(self, image: ImageArray) -> ImageArray:
        """Convert a standardised image to the units of the file."""
        scale, offset = float(self.image.std()), float(self.image.mean())
        return np.asarray(image * scale + offset, np.float32)


def make_experiment_setup(
    image: Any,
    *,
    axes: str | None = None,
    preset: str = "fast",
    max_iterations: int | str = DEFAULT_ITERATIONS,
    seed: int | str = 0,
    device: str = "auto",
    crop: int | str = DEFAULT_CROP,
    name: str = "image",
    architecture: str = DEFAULT_ARCHITECTURE,
    machine: Machine | None = None,
) -> ExperimentSetup:
    """Read an image and prepare the experiment.

    Parameters
    ----------
    image : array-like or path
    axes : str, optional
    preset, seed, device : as for `napari_dip.denoise`
    max_iterations : int
        Iterations of each fit.
    crop : int
        Side in pixels; a larger image is cropped to its centre.
    name : str
        Name of an image that is no file.
    architecture : str
        Name of the architecture, as in `find_architecture`.
    machine : Machine, optional
        Machine to plan for; default: this computer.

    Raises
    ------
    RefusedError
        If the image or a setting cannot be used.
    """
    settings = {"preset": preset, "max_iterations": max_iterations, "seed": seed, "device": device}
    recipe = make_experiment_recipe(architecture=architecture, **settings)
    side = parse_crop(crop, DEFAULT_CROP)
    grey, header, notes, stored_pixels = _read_grey(name, image, axes)
    cropped = np.ascontiguousarray(crop_centre(grey, side))
    if cropped.shape != grey.shape:
        notes += (make_note("experiment-crop", size=format_plane_size(cropped.shape)),)
    raise_if_refused(refuse_content(cropped, header.name))
    machine = machine or detect_machine()
    plan = raise_if_refused(plan_centre_fit(recipe, header, side, machine))
    experiment_recipe = {
        "image": header.name,
        "pixels_sha256": hashlib.sha256(stored_pixels.tobytes()).hexdigest(),
        "axes": axes,
        "crop": side,
    }
    fitted_architecture = find_architecture(
        "architecture", architecture, list_plan_architectures(plan)
    )
    experiment_recipe |= _serialise_fit(plan, fitted_architecture, machine.torch_version)
    return ExperimentSetup(
        name=header.name,
        image=cropped,
        plan=plan,
        full_size=grey.shape,
        architecture=fitted_architecture,
        recipe=experiment_recipe,
        notes=(*notes, *plan.notes),
    )


def make_experiment_recipe(*, architecture: str = DEFAULT_ARCHITECTURE, **settings: Any) -> Recipe:
    """Return the denoising recipe whose network an experiment fits.

    Parameters
    ----------
    architecture : str
        Name of the architecture, which is only validated: the recipe is that of the preset.
    **settings
        `preset`, `max_iterations`, `seed`, `device`.

    Raises
    ------
    RefusedError
        If a setting is invalid.
    """
    find_architecture("architecture", architecture, list_all_architectures())
    return make_recipe("denoise", prior=DEFAULT_PRIOR, restarts=1, **settings)


def plan_centre_fit(
    recipe: Recipe, header: ImageHeader, side: int, machine: Machine
) -> Plan | Refusal:
    """Plan a fit to the centre of an image, from its header alone.

    Parameters
    ----------
    recipe : Recipe
        From `make_experiment_recipe`.
    header : ImageHeader
        Header of one plane, grey or colour.
    side : int
        Maximum side of the crop, in pixels.
    machine : Machine
    """
    if refusal := refuse_header(header, accepts_stacks=False):
        return refusal
    height, width = (min(side, length) for length in header.grid)
    crop_header = replace(
        header, shape=(height, width), dtype="float32", axes="YX", scale=None, units=None
    )
    return preflight(recipe, crop_header, machine)


def parse_crop(crop: int | str, default: int) -> int:
    """Parse the side of the crop; `default` is named in the refusal.

    Raises
    ------
    RefusedError
        If it is no integer, or too small for a network.
    """
    try:
        side = int(crop)
    except ValueError:
        side = 0
    if side < MIN_IMAGE_SIDE or isinstance(crop, bool):
        why = f"it should be a whole number of pixels, {MIN_IMAGE_SIDE} or more"
        hint = f"Leave it out to look at {default} × {default} pixels."
        raise RefusedError("setting-wrong", field="crop", value=repr(crop), why=why, hint=hint)
    return side


def read_truth(truth: Any, setup: ExperimentSetup) -> ImageArray | None:
    """Read the image without noise, cropped as the noisy one; None if there is none.

    Raises
    ------
    RefusedError
        If it has another size, or cannot be read.
    """
    if truth is None:
        return None
    grey, header, _, _ = _read_grey("truth", truth, None)
    if grey.shape != setup.full_size:
        facts = {"name": header.name, "size": format_plane_size(grey.shape), "image": setup.name}
        raise RefusedError("truth-size", other=format_plane_size(setup.full_size), **facts)
    return np.ascontiguousarray(crop_centre(grey, int(setup.recipe["crop"])))


def standardise(image: AnyArray) -> ImageArray:
    """Scale an image to zero mean and unit variance, so that losses can be compared."""
    centred = image.astype(np.float64) - image.mean(dtype=np.float64)
    return np.asarray(centred / centred.std(), np.float32)


def measure_blind_spot_size(setup: ExperimentSetup) -> tuple[int, int]:
    """Measure the size of the guard band around each validation pixel, as for a restoration."""
    from napari_dip.pipeline.measure.noise_report import measure_noise

    return measure_noise(setup.image, "YX").blind_spot_size


def compute_psnr(image: ImageArray, truth: ImageArray) -> float:
    """Return the peak signal-to-noise ratio in dB; the peak is the truth's range."""
    error = np.mean((image.astype(np.float64) - truth) ** 2)
    peak = float(truth.max() - truth.min())
    return float(10 * np.log10(peak**2 / max(float(error), 1e-30)))


def _serialise_fit(plan: Plan, architecture: Architecture, torch: str) -> dict[str, Any]:
    """Return the settings of the network and its fit in plain JSON types."""
    fit_config, run_settings = plan.fit_config, plan.recipe.run_settings
    return {
        "shape": list(plan.header.shape),
        "preset": run_settings.preset,
        "max_iterations": fit_config.iterations,
        "seed": run_settings.seed,
        "device": plan.device,
        "threads": plan.threads,
        "architecture": architecture.name,
        "widths": list(architecture.widths),
        "skip": architecture.skip_channels,
        "learning_rate": architecture.learning_rate,
        "program": f"napari-dip {__version__}",
        "torch": torch,
    }


def _read_grey(
    name: str, image: Any, axes: str | None
) -> tuple[ImageArray, ImageHeader, tuple[Note, ...], AnyArray]:
    """Read one plane; average the colours of a photograph."""
    header, pixels = open_input(name, image, axes)
    raise_if_refused(refuse_header(header, accepts_stacks=False))
    if "C" in header.axes:
        (count,) = header.get_sizes("C")
        raise RefusedError("explore-channels", name=header.name, count=count)
    stored_pixels = np.asarray(pixels())
    order = [header.axes.index(axis) for axis in "SYX" if axis in header.axes]
    grey = stored_pixels.transpose(order).astype(np.float32)
    raise_if_refused(refuse_content(stored_pixels, header.name))
    notes = header.notes
    if "S" in header.axes:
        grey, notes = grey.mean(0), (*notes, make_note("experiment-grey"))
    return grey, header, notes, stored_pixels
