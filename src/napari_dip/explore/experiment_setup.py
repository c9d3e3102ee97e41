"""What is looked at: one grey picture, and the network that is to be fitted to it.

Which designs are set beside each other, and what of the one that is chosen can be kept.

What a network is fitted to in an impedance experiment, by name; loads nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.api import describe_input
from napari_dip.pipeline.calibrate.inputs import check_content
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.layout import MIN_IMAGE_SIDE, check_header
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import OLD_VALUES, make_recipe
from napari_dip.tasks.priors.deep_image_prior import (
    PRESET,
    Architecture,
    ArchitectureName,
    bound_architecture,
    list_architectures,
    set_gaussian_upsampling,
    set_learning_rate,
)
from napari_dip.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy.typing as npt

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe

    Picture = npt.NDArray[np.float32]

#: Names that a denoising knows.
_ARCHITECTURE_NAMES = get_args(get_args(ArchitectureName)[0])
#: What takes a number: its limits, and what it does. The layers of these networks begin with norms
#: of 0.45 to 1.2, drawn after He up to 2.1; a kernel of width 4 is 33 pixels wide already; rates
#: of the authors and of the presets are 0.001 and 0.01.
CONTROLS = {
    "lipschitz": (0.1, 100.0, "layers bounded to it"),
    "upsampling": (0.1, 4.0, "Gaussian upsampling of that width"),
    "rate": (1e-5, 1.0, "learning rate"),
}


def list_plan_architectures(plan: Plan) -> dict[str, Architecture]:
    """Give all designs by name, that of the preset first."""
    return list_architectures(plan.budget.widths, plan.budget.learning_rate)


def list_all_architectures() -> dict[str, Architecture]:
    """Give all designs that there are for any network, by name; only what they are called counts.

    A network has none of its own depth.
    """
    names = list(list_architectures((1, 1), 0.0))
    names.insert(names.index("depth-1") + 1, "depth-2")
    both = list_architectures((1, 1), 0.0) | list_architectures((1,), 0.0)
    return {name: both[name] for name in names}


def choose_architectures(
    subject: ExperimentSetup, only: str | Iterable[str] | None
) -> tuple[Architecture, ...]:
    """Pick designs by their names, that of the preset always among them.

    Parameters
    ----------
    subject : ExperimentSetup
    only : str, iterable of str or None
        Names, one after another or with commas between; None: all.

    Raises
    ------
    Refused
        If there is no such design.
    ValueError
        If the subject has a network of its own.
    """
    if subject.design.name != PRESET:
        raise ValueError("`architecture` is for a single one: several are named in `only`.")
    available = list_plan_architectures(subject.plan)
    if only is None:
        return tuple(available.values())
    values = only.split(",") if isinstance(only, str) else only
    names = [str(item).strip() for item in values]
    architectures = [find_architecture("only", name, available) for name in names or [""]]
    entries = {item.name: item for item in architectures}
    order = [
        *available,
        *entries,
    ]  # those with a number of their own last, as they were asked for
    wanted = {PRESET: available[PRESET], **entries}
    return tuple(wanted[name] for name in dict.fromkeys(order) if name in wanted)


def find_architecture(
    field: str, name: str, architecture: Mapping[str, Architecture]
) -> Architecture:
    """Find a design by its name: one of those there are, or changed further by a number.

    `lipschitz-1.7` bounds the layers of the preset's network, `decoder+lipschitz-1.7` those of
    `decoder`, and `+upsampling-0.3` goes behind either.

    Parameters
    ----------
    field : str
        The setting, for the refusal.
    name : str
    architecture : mapping of str to Architecture

    Raises
    ------
    Refused
        If there is none, its number is out of range, or it would change the same thing twice.
    """
    first, *further = str(name).strip().split("+")
    first = OLD_VALUES["denoise", "architecture"].get(first, first)
    if first == f"depth-{len(architecture[PRESET].widths)}":
        first = PRESET
    if first not in architecture:
        first, further = PRESET, [first, *further]
    design = architecture[first]
    for item in further:
        changed = _apply_control(design, item)
        if changed is None:
            raise _refuse_unknown_architecture(field, name, architecture)
        design = changed
    return design


def _apply_control(design: Architecture, name: str) -> Architecture | None:
    """Change a design by one control and its number, such as `lipschitz-1.7`; None: no such."""
    kind, _, text = name.partition("-")
    least, most, _ = CONTROLS.get(kind, (inf, -inf, ""))
    try:
        number = float(f"{float(text):g}")  # what its name says of it
    except ValueError:
        return None
    if not least <= number <= most:
        return None
    if kind == "lipschitz":
        return bound_architecture(design, number) if design.bound is None else None
    if kind == "rate":
        return set_learning_rate(design, number) if "rate-" not in design.name else None
    return set_gaussian_upsampling(design, number) if design.upsampling == "bilinear" else None


def _refuse_unknown_architecture(
    field: str, name: str, architecture: Mapping[str, Architecture]
) -> Refused:
    numbered = "; ".join(
        f"{kind}-NUMBER from {least:g} to {most:g} ({text})"
        for kind, (least, most, text) in CONTROLS.items()
    )
    names = ", ".join(architecture)
    why = f"there are {names}; {numbered}; and one of the former with such behind a '+'"
    several = "Give some of these names with commas between, or leave it out to compare all."
    hint = several if field == "only" else "Give one of these names, or leave it out."
    value = repr(make_printable(name))
    return Refused(refusal("setting-wrong", field=field, value=value, why=why, hint=hint))


def get_denoising_network(design: Architecture) -> str:
    """Name the network by which a denoising takes a design over; "" if none can."""
    return design.name if design.name in _ARCHITECTURE_NAMES else ""


def label_architecture(design: Architecture) -> str:
    """Name a design for people who type no names."""
    return "the preset's" if design.name == PRESET else design.label


def describe_architecture(design: Architecture) -> Mapping[str, object]:
    """Give a design in plain JSON types."""
    return {
        "name": design.name,
        "structure": design.structure,
        "widths": list(design.widths),
        "skip": design.skip,
        "upsampling": design.upsampling,
        "weights": design.weights,
        "code": design.code,
        "optimiser": design.optimiser,
        "rate": design.rate,
        "bound": design.bound,
        "sigma": design.sigma,
    }


#: Pixels along a side that are looked at unless more are asked for: a few minutes on two cores.
DEFAULT_CROP = 256
#: Iterations unless others are asked for: by then the fixed-noise code has learned an image of
#: 128 x 128, and is well into its noise (docs/explore.md).
ITERATIONS = 500


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentSetup:
    """A grey picture, the network and how long it is fitted.

    Attributes
    ----------
    name : str
    picture : ndarray (Y, X) float32
        In the image's units: its middle, if it was larger than the crop.
    plan : Plan
        Of a fit of the fixed-noise code to it: its network, rate, device and threads.
    whole : tuple of int
        Size of the image before the crop.
    design : Architecture
        The network that is fitted; where several are compared, what they are compared with.
    recipe : mapping
        In plain JSON types: what repeats the experiment.
    notes : tuple of Note
        What was done to the image, in words.
    ended_after : int or None
        Iterations after which someone ended the fits.
    """

    name: str
    picture: Picture
    plan: Plan
    whole: tuple[int, ...]
    design: Architecture
    recipe: Mapping[str, Any]
    notes: tuple[Note, ...]
    ended_after: int | None = None

    @property
    def iterations(self) -> int:
        """Of each fit."""
        return self.ended_after or self.plan.budget.iterations

    @property
    def seed(self) -> int:
        """Of the weights, the code and all that is drawn."""
        return self.plan.recipe.run_settings.seed

    @property
    def network(self) -> str:
        """The network and its rate, in words."""
        text, first = self.design.label, list_plan_architectures(self.plan)[PRESET].label
        text = first if text == first else f"{text}, else {first}"
        return f"{text}, rate {self.design.rate:g}"


def make_experiment_setup(
    image: Any,
    *,
    axes: str | None = None,
    preset: str = "fast",
    max_iterations: int | str = ITERATIONS,
    seed: int | str = 0,
    device: str = "auto",
    crop: int | str = DEFAULT_CROP,
    name: str = "image",
    architecture: str = PRESET,
    machine: Machine | None = None,
) -> ExperimentSetup:
    """Read an image and choose the network, or say no.

    Parameters
    ----------
    image : array-like or path
    axes : str, optional
    preset, seed, device : as for `napari_dip.denoise`
    max_iterations : int
        Of each fit.
    crop : int
        Pixels along a side of the middle that is looked at, where the image is larger.
    name : str
        What an image that lies in no file is called.
    architecture : str
        Design of what is fitted, by its name as in `find_architecture`.
    machine : Machine, optional
        What may be used of this computer; default: all.

    Raises
    ------
    Refused
        If the image or a setting cannot be used.
    """
    settings = {"preset": preset, "max_iterations": max_iterations, "seed": seed, "device": device}
    recipe, side = make_experiment_recipe(architecture=architecture, **settings), parse_crop(crop)
    grey, spec, notes, read = _read_grey(name, image, axes)
    picture = crop_centre(grey, side)
    if picture.shape != grey.shape:
        notes = (
            *notes,
            make_note("experiment-crop", size=_format_picture_size(picture.shape)),
        )
    if no := check_content(picture, spec.name):
        raise Refused(no)
    machine = machine or detect_machine()
    plan = plan_centre_fit(recipe, spec, side, machine)
    if isinstance(plan, Refusal):
        raise Refused(plan)
    facts = {"image": spec.name, "pixels_sha256": _hash_pixels(read), "axes": axes, "crop": side}
    design = find_architecture("architecture", architecture, list_plan_architectures(plan))
    facts |= _describe_fit(plan, design, machine.torch)
    return ExperimentSetup(
        name=spec.name,
        picture=picture,
        plan=plan,
        whole=grey.shape,
        design=design,
        recipe=facts,
        notes=(*notes, *plan.notes),
    )


def make_experiment_recipe(*, architecture: str = PRESET, **settings: Any) -> Recipe:
    """Ask for the network of a preset, as a recipe.

    Parameters
    ----------
    architecture : str
        Only checked: what a fit costs is told of the preset's.
    **settings
        `preset`, `max_iterations`, `seed`, `device`.

    Raises
    ------
    Refused
        If a setting is not allowed.
    """
    find_architecture("architecture", architecture, list_all_architectures())
    return make_recipe("denoise", prior="random-input", restarts=1, **settings)


def plan_centre_fit(recipe: Recipe, spec: ImageSpec, side: int, machine: Machine) -> Plan | Refusal:
    """Plan a fit to the middle of an image, from its header alone.

    Parameters
    ----------
    recipe : Recipe
        By `make_experiment_recipe`.
    spec : ImageSpec
        Of one plane, grey or in colours.
    side : int
        Pixels along a side that are looked at, at most.
    machine : Machine
    """
    if no := check_header(spec, stacks=False):
        return no
    height, width = (min(side, count) for count in spec.grid)
    part = replace(spec, shape=(height, width), dtype="float32", axes="YX", scale=None, units=None)
    return preflight(recipe, part, machine)


def parse_crop(crop: int | str) -> int:
    """Read how many pixels along a side are to be looked at.

    Raises
    ------
    Refused
        If it is no whole number, or too few for a network.
    """
    try:
        side = int(crop)
    except ValueError:
        side = 0
    if side < MIN_IMAGE_SIDE or isinstance(crop, bool):
        why = f"it should be a whole number of pixels, {MIN_IMAGE_SIDE} or more"
        hint = "Leave it out to look at 256 × 256 pixels."
        raise Refused(refusal("setting-wrong", field="crop", value=repr(crop), why=why, hint=hint))
    return side


def read_truth(truth: Any, subject: ExperimentSetup) -> Picture:
    """Read what the picture should have been, cropped as the picture was.

    Raises
    ------
    Refused
        If it has another size, or cannot be used.
    """
    grey, spec, _, _ = _read_grey("truth", truth, None)
    if grey.shape != subject.whole:
        facts = {"name": spec.name, "size": _format_picture_size(grey.shape), "image": subject.name}
        raise Refused(refusal("truth-size", other=_format_picture_size(subject.whole), **facts))
    return crop_centre(grey, int(subject.recipe["crop"]))


def crop_centre(picture: Picture, side: int) -> Picture:
    """Cut the middle out, where a picture is larger than `side` pixels."""
    cuts = []
    for count in picture.shape:
        begin = max(0, count - side) // 2
        cuts.append(slice(begin, begin + min(side, count)))
    return np.ascontiguousarray(picture[tuple(cuts)])


def standardise(picture: npt.NDArray[Any]) -> Picture:
    """Bring a picture to zero mean and unit variance, so that energies can be compared."""
    centred = picture.astype(np.float64) - picture.mean(dtype=np.float64)
    return np.asarray(centred / centred.std(), np.float32)


def measure_validation_block(subject: ExperimentSetup) -> tuple[int, int]:
    """Measure how wide held-out pixels must be guarded: as other fits do."""
    from napari_dip.pipeline.noise_report import measure_noise

    return measure_noise(subject.picture, "YX").hidden_block


def compute_psnr(picture: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the truth's range."""
    error = np.mean((picture.astype(np.float64) - truth) ** 2)
    peak = float(truth.max() - truth.min())
    return float(10 * np.log10(peak**2 / max(float(error), 1e-30)))


def _describe_fit(plan: Plan, design: Architecture, torch: str) -> dict[str, Any]:
    """Give the network and how it is fitted, in plain JSON types."""
    budget, common = plan.budget, plan.recipe.run_settings
    return {
        "shape": list(plan.source.shape),
        "preset": common.preset,
        "max_iterations": budget.iterations,
        "seed": common.seed,
        "device": plan.device,
        "threads": plan.threads,
        "architecture": design.name,
        "widths": list(design.widths),
        "skip": design.skip,
        "learning_rate": design.rate,
        "program": f"napari-dip {__version__}",
        "torch": torch,
    }


def _hash_pixels(pixels: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _read_grey(
    name: str, image: Any, axes: str | None
) -> tuple[Picture, ImageSpec, tuple[Note, ...], npt.NDArray[Any]]:
    """Read a picture of one plane; the colours of a photograph are averaged."""
    spec, pixels = _read_checked_header(name, image, axes)
    if "C" in spec.axes:
        count = spec.shape[spec.axes.index("C")]
        raise Refused(refusal("explore-channels", name=spec.name, count=count))
    read = np.asarray(pixels())
    order = [spec.axes.index(axis) for axis in "SYX" if axis in spec.axes]
    grey = read.transpose(order).astype(np.float32)
    if no := check_content(read, spec.name):
        raise Refused(no)
    notes = spec.notes
    if "S" in spec.axes:
        grey, notes = grey.mean(0), (*notes, make_note("experiment-grey"))
    return grey, spec, notes, read


def _read_checked_header(
    name: str, image: Any, axes: str | None
) -> tuple[ImageSpec, Callable[[], npt.NDArray[Any]]]:
    spec, pixels = describe_input(name, image, axes)
    if no := check_header(spec, stacks=False):
        raise Refused(no)
    return spec, pixels


def _format_picture_size(shape: tuple[int, ...]) -> str:
    height, width = shape
    return f"{width} × {height} pixels"


#: Standard deviation of the noise that is added to the image, in its own.
ADDED_NOISE = 0.5
#: The targets by their names in tables, and in words.
TARGETS = {
    "image": "image",
    "image_and_noise": "image + noise",
    "shuffled": "shuffled pixels",
    "noise": "noise",
}
#: Iterations whose energies are told, as far as the fit has gone, beside the last.
REPORTED_ITERATIONS = (10, 50, 100)
