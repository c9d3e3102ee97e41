"""What a task is: a frozen value whose typed fields become the form, the command and the recipe.

What a task asks for: settings, pictures, and what the user knows of the noise.

The scene of a fit: one unit's pixels, calibrated, as tasks see them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.likelihood.penalties import PreviousFrame
    from napari_dip.engine.noise.colour_camera import CameraNoise
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec


@dataclass(frozen=True, slots=True)
class Setting:
    """How a field of a task is shown to people; goes into `typing.Annotated`.

    Attributes
    ----------
    label : str
        Its name in the dock.
    help : str
        Tooltip and command-line help, in the user's words, with units.
    choices : mapping of value to words
        Names of the values of a `Literal` field, as the dock shows them.
    least, most, step : float or None
        Limits and step of a number, in its unit.
    advanced : bool
        Folded away at first.
    files : str
        Of a text that names a file: which files to show, such as "Networks (*.pt2)".
    offered : bool
        Whether `Task.offers` lists what may stand in a text.
    written : str
        How the methods text writes a number, with its unit and meaning, "{:g}" in its place;
        empty: the label, a colon and the value say it.
    """

    label: str
    help: str
    choices: Mapping[str, str] | None = None
    least: float | None = None
    most: float | None = None
    step: float | None = None
    advanced: bool = True
    files: str = ""
    offered: bool = False
    written: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A picture that a task takes.

    Attributes
    ----------
    name : str
        Key of its pixels, and its option on the command line.
    label, help : str
        As the dock and the command line show it.
    layers : tuple of str
        Kinds of napari layers that it may come from: "image", "labels", "shapes".
    optional : bool
    measures : bool
        Whether it is another measurement of what the image shows, and so is laid out, calibrated
        and explained as the image is.
    overlays : bool
        Whether it lies on the image pixel by pixel, in all of its axes or in some, and so is laid
        out as the image is: (parts, C, *grid), one channel where it has none.
    calibrates : bool
        Whether it is a map of the detector, which corrects and weighs what was measured.
    """

    name: str
    label: str
    help: str
    layers: tuple[str, ...] = ("image",)
    optional: bool = False
    measures: bool = False
    overlays: bool = False
    calibrates: bool = False


#: What every task restores.
IMAGE = Input(
    name="image",
    label="Image",
    help="The image to restore. It follows the layer that is selected in napari.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRequest:
    """What the user knows of the noise, in the image's units; None and "auto": to be measured.

    Where it is `white`, all that neighbouring pixels share is taken for picture.
    """

    model: str = "auto"
    read_noise: float | None = None
    gain: float | None = None
    white: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitInput:
    """What a task builds its problem and its prior from: one unit's pixels, calibrated.

    Attributes
    ----------
    measurement : Tensor
        (B, C, *grid), in network units; 0 where nothing was measured. B counts the measurements
        of one picture, in the first one's intensities: 1, or 2 with a second shot.
    noise : NoiseVariance
        In network units; one of each measurement where there are two.
    noise_level : float
        Mean standard deviation of the noise, in network units.
    measured_mask : Tensor
        (1, 1, *grid): 1 where there is a measurement.
    held_out, guarded : Tensor
        (1, 1, *grid): 1 at pixels that judge, and at those with their guard band.
    block : tuple of int
        Size of hidden blocks, per axis of the grid.
    granted : float
        Share of the measured noise that the fit takes for certain; less where the network itself
        says how far a pixel may lie off.
    prior : str
        Such as "random-input" or "blind-spot".
    widths : tuple of int
        Channels of the network at each scale.
    window : int or None
        Side of what a step looks at; None: the whole grid.
    others : mapping of str to Tensor
        The task's further inputs by name, float32, as they came.
    zero, unit : Tensor or None
        (1, C, 1, ...): where the image's units have their zero, and how long one of them is.
    neighbours : Tensor or None
        (1, 2 C, *grid): the frames or planes before and after, laid onto this one.
    before : PreviousFrame or None
        The picture of the frame before, laid onto this one.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X, in pixels of the grid; None
        where it is taken to be white.
    enlarged : tuple of int or None
        Size that the picture is to have, where the grid holds an oversampled image at half its
        size; None: that of the grid.
    camera : CameraNoise or None
        The noise of red, green and blue together, where it is a colour camera's.
    full_size : Tensor or None
        (1, 3, *enlarged): the measurement, where the noise is a colour camera's.
    noises : NoiseVariance or None
        Of each of B pictures that a network is fitted to together, where they do not share one:
        `noise` then is their mean.
    trust : Tensor or None
        (1, 1, *grid), up to 1: how much a pixel counts beside those of usual read noise; None: all
        count alike.
    worked_out : mapping of str to object
        What `Task.seen` has worked out from all this, for both prior and problem.
    """

    measurement: Tensor
    noise: NoiseVariance
    noise_level: float
    measured_mask: Tensor
    held_out: Tensor
    guarded: Tensor
    block: tuple[int, ...]
    granted: float
    prior: str
    widths: tuple[int, ...]
    window: int | None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    zero: Tensor | None = None
    unit: Tensor | None = None
    neighbours: Tensor | None = None
    before: PreviousFrame | None = None
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    enlarged: tuple[int, ...] | None = None
    camera: CameraNoise | None = None
    full_size: Tensor | None = None
    noises: NoiseVariance | None = None
    trust: Tensor | None = None
    worked_out: Mapping[str, object] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, ...]:
        """Size of the measurement, per axis."""
        return tuple(self.measurement.shape[2:])

    @property
    def weight(self) -> Tensor:
        """Weight of each pixel: 0 where nothing was measured, less than 1 where it is noisy."""
        return self.measured_mask if self.trust is None else self.measured_mask * self.trust

    @property
    def quiet(self) -> Tensor:
        """Measured pixels, 1, but for those that are much noisier than others."""
        if self.trust is None:
            return self.measured_mask
        return self.measured_mask * (self.trust >= MIN_PIXEL_WEIGHT)


__all__ = [
    "IMAGE",
    "RECEPTIVE_FIELD_RADIUS",
    "FitInput",
    "Input",
    "NoiseRequest",
    "Setting",
    "Task",
]
#: Pixels around a place that most of what a network says of it comes from; patches that look alike
#: are looked for over 16.
RECEPTIVE_FIELD_RADIUS = 32


class Task(ABC):
    """One thing a user wants. Subclasses are frozen pydantic dataclasses.

    The methods here answer for the simplest task: one image in, one of the same size out, every
    pixel measured. A subclass says what differs, and always `problem` and `prior_for`.

    Attributes
    ----------
    name : str
        Of the command, the recipe and the docs page.
    title : str
        In menus.
    inputs : tuple of Input
        The image first.
    stacks : bool
        Whether stacks and movies are taken, too.
    least_depth : int
        Fewest planes that are fitted together.
    done : str
        Goes behind the input's name to name the result.
    same_pixels : bool
        Whether the result has the pixels of the image, each where it was measured.
    gives : dict of str to str
        What is found beside the picture: its key in `Restoration.learned`, and what it is.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE,)
    done: ClassVar[str]
    gives: ClassVar[dict[str, str]] = {}
    same_pixels: ClassVar[bool] = True
    stacks: ClassVar[bool] = False
    least_depth: ClassVar[int] = 4  # the network halves the depth at least once

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Say no to pictures that this task cannot take, from their headers alone."""
        return None

    def admit(
        self, source: ImageSpec, others: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Say no to further inputs for what their pixels hold."""
        return None

    def remarks(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> tuple[Note, ...]:
        """Say what the user should know of these headers; goes to the notes of the plan."""
        return ()

    def admit_image(self, source: ImageSpec, parts: npt.NDArray[np.float32]) -> Refusal | None:
        """Say no to an image (parts, C, *grid) for what its pixels hold."""
        return None

    def missing(
        self, parts: npt.NDArray[Any], others: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.bool_] | None:
        """Pixels of the image, (parts, C, *grid), that hold no measurement; None if all do."""
        return None

    def check_known(
        self, source: ImageSpec, measured_mask: npt.NDArray[np.bool_] | None
    ) -> Refusal | None:
        """Say no for where there is a measurement, (parts, C, *grid); None: everywhere."""
        return None

    def judging(self, measured_mask: Tensor) -> tuple[tuple[int, ...], Tensor] | None:
        """Size of patches that judge as one, and where they may lie; None: pixels, anywhere.

        Parameters
        ----------
        measured_mask : Tensor
            (1, 1, *grid), 1 where there is a measurement; what is given back fits it.
        """
        return None

    def describe_missing_pixels(self, measured_mask: npt.NDArray[np.bool_]) -> tuple[Note, ...]:
        """Say what the user should know of where there is a measurement, (parts, C, *grid)."""
        return ()

    def keeps_measured(self) -> bool:
        """Whether pixels that were measured come back as they were, not as they were fitted."""
        return False

    def fits_pixels(self) -> bool:
        """Whether the image's own pixels are explained, so that what is left of them is noise."""
        return True

    def together(self, source: ImageSpec) -> bool:
        """Whether one fit takes all channels at once: colours share edges, channels need not."""
        return "S" in source.axes

    def stacked(
        self, source: ImageSpec, others: Mapping[str, ImageSpec]
    ) -> Literal["auto", "planes", "volume"]:
        """How a stack is restored where the user leaves that open; "auto": the plan chooses."""
        return "auto"

    def check_axes(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> Refusal | None:
        """Say no to the axes that one fit is to have: "YX", "ZYX" or "TYX"."""
        return None

    def factors(self, axes: str) -> tuple[int, ...]:
        """How many times finer than the image the result is, along each of these axes."""
        return (1,) * len(axes)

    def network_grid(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> tuple[int, ...]:
        """Size, along each of the axes of a fit, of what the network speaks of."""
        return source.along(axes)

    def reach(self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str) -> int | None:
        """How far beyond itself part of a plane has to see, in pixels, to be restored by itself.

        None where parts cannot be: the whole then has to fit into the memory.
        """
        return None

    def first_choice(self, source: ImageSpec, *, volume: bool) -> str:
        """Prior to plan with: the user's, or what suits most images; a row of the presets.

        Parameters
        ----------
        source : ImageSpec
        volume : bool
            Whether planes are fitted together.
        """
        return "random-input"

    def widths(self, prior: str, preset: tuple[int, ...]) -> tuple[int, ...]:
        """Give the network's channels at each grid, finest first, from those of the preset."""
        return preset

    def choose_prior_by_mask(
        self, prior: str, measured_mask: npt.NDArray[np.bool_] | None
    ) -> tuple[str, str]:
        """Choose the prior anew by where there is a measurement, (parts, C, *grid); and say why.

        Without words, what `why` says holds.
        """
        return prior, ""

    def choose_prior_by_noise(self, prior: str, *, doubted: bool, weak: bool) -> tuple[str, str]:
        """Choose the prior anew by whether the noise is in doubt, or weak; and say why."""
        return prior, ""

    def contenders(self) -> tuple[str, ...]:
        """Priors that are all fitted and then chosen from, the first at a draw; none: no race."""
        return ()

    def arranged(
        self,
        image: npt.NDArray[np.float32],
        others: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Bring further inputs into the form that the fits want, once for all of them.

        Parameters
        ----------
        image : ndarray
            (C, Y, X), in its own units.
        others, headers : mapping
            Further inputs as they came, by name.

        Returns
        -------
        others, notes
            What `Scene.others` will hold, and what the user should know of it.
        """
        return others, ()

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say why that prior runs, and how."""
        return "it is the one that this task uses"

    def describe_learned(self, learned: Mapping[str, npt.NDArray[np.float32]]) -> tuple[Note, ...]:
        """Say in words what else was fitted to one unit, for the report."""
        return ()

    def looks_beside(self, prior: str) -> bool:
        """Whether the frames or planes beside the one that is restored are of use to a prior."""
        return False

    def looks_back(self) -> bool:
        """Whether the picture of the frame before is of use, too."""
        return False

    def offers(self, name: str) -> tuple[str, ...] | Refusal:
        """List what may stand in a setting whose values come from elsewhere; may take a second."""
        return ()

    def shares(
        self, prior: str, count: int, *, tiles: bool = False
    ) -> Literal["joint", "warm-start", "independent"]:
        """How so many planes or frames, or `tiles`, share what is learned."""
        return "warm-start"

    def serves(self, prior: str) -> bool:
        """Whether a network of that prior is shown the image, and so may serve other images."""
        return False

    def noise_wish(self) -> NoiseRequest:
        """Say what the user knows about the noise."""
        return NoiseRequest()

    def doubts_noise(self) -> bool:
        """Whether the notes are to say where an image cannot tell its noise."""
        return False

    def unclips(self) -> bool:
        """Whether what is cut off of the noise, at black or white, is reckoned back."""
        return False

    def halves(self) -> bool:
        """Whether an oversampled image may be fitted at half its size."""
        return False

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Size of hidden blocks, along Y and X, where the noise's correlation asks for that one."""
        return measured

    def prepare_fit_input(self, scene: FitInput) -> FitInput:
        """Change what a fit is made of, once it is laid out."""
        return scene

    @abstractmethod
    def problem(self, scene: FitInput) -> Problem:
        """Say what has to be explained."""

    @abstractmethod
    def prior_for(self, scene: FitInput, rng: torch.Generator) -> Prior:
        """Make the untrained network and its code."""

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """Names of the settings, in the order of the form."""
        assert is_dataclass(cls)
        return tuple(field.name for field in fields(cls))

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that differ from their defaults, in plain JSON types."""
        assert is_dataclass(self)
        return {
            key: value for key, value in asdict(self).items() if value != getattr(type(self), key)
        }


#: Share of the usual weight below which a pixel neither judges nor is shown to a network: the
#: prediction from its neighbours is then surer than the pixel.
MIN_PIXEL_WEIGHT = 0.5
