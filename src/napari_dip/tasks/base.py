"""Base types of tasks: settings, inputs, the calibrated input of a fit, and the class `Task`.

The typed fields of a task become its form, its command-line options and its recipe.
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

#: Pixels around a position that determine most of a network's prediction there. The search for
#: similar patches in BM3D reaches 16 pixels.
RECEPTIVE_FIELD_RADIUS = 32
#: Weight below which a pixel is neither a validation pixel nor part of the network input: the
#: prediction from its neighbours is then more certain than the pixel.
MIN_PIXEL_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Setting:
    """Describe how a field of a task appears in the dock and on the command line.

    An instance is attached to the field's type with `typing.Annotated`.

    Attributes
    ----------
    label : str
        Name in the dock.
    help : str
        Tooltip and command-line help, with units.
    choices : mapping of str to str, or None
        Label of each value of a `Literal` field.
    minimum, maximum, step : float or None
        Limits and increment of a number, in its unit.
    advanced : bool
        Whether the dock hides the setting among the advanced ones.
    file_filter : str
        Filter of the file dialog for a text field that holds a path, such as "Networks (*.pt2)".
    has_suggestions : bool
        Whether `Task.list_suggestions` lists values for a text field.
    report_template : str
        How the methods text states a number, with its unit and "{:g}" for the value. If empty, the
        methods text states label, colon and value.
    """

    label: str
    help: str
    choices: Mapping[str, str] | None = None
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    advanced: bool = True
    file_filter: str = ""
    has_suggestions: bool = False
    report_template: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Describe an image, mask or map that a task takes as input.

    Attributes
    ----------
    name : str
        Key of its pixels, and name of its command-line option.
    label, help : str
        Texts in the dock and on the command line.
    layers : tuple of str
        Types of napari layers that it accepts: "image", "labels", "shapes".
    optional : bool
    is_repeated_exposure : bool
        Whether it is another measurement of the same object. It is then laid out, calibrated and
        explained like the image.
    is_overlay : bool
        Whether it covers the image pixel by pixel, in some or all of its axes. It is then laid out
        like the image, (N, C, *grid), with C = 1 if it has no channels.
    is_detector_map : bool
        Whether it is a map of the detector's pixels, which corrects and weights the measurement.
    """

    name: str
    label: str
    help: str
    layers: tuple[str, ...] = ("image",)
    optional: bool = False
    is_repeated_exposure: bool = False
    is_overlay: bool = False
    is_detector_map: bool = False


#: The image, which is the first input of every task.
IMAGE = Input(
    name="image",
    label="Image",
    help="The image to restore. It follows the layer that is selected in napari.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRequest:
    """Hold the user's settings of the noise, in units of the image.

    None and "auto" mean that the value is measured. With `white`, the noise is taken to be white:
    all correlation between neighbouring pixels is attributed to the picture.
    """

    model: str = "auto"
    read_noise: float | None = None
    gain: float | None = None
    white: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitInput:
    """Hold the calibrated pixels of one work unit, from which a task builds problem and prior.

    Attributes
    ----------
    measurement : Tensor
        (B, C, *grid), in network units; 0 where nothing was measured. B is 1, or 2 with a repeated
        exposure, which is scaled to the intensities of the first. In joint training, B is the
        number of images or regions, in the masks and in `neighbours` as well.
    noise : NoiseVariance
        In network units; one for each repeated exposure.
    noise_level : float
        Square root of the mean noise variance, in network units.
    measured_mask : Tensor
        (1, 1, *grid): 1 at measured pixels.
    validation_mask, guard_mask : Tensor
        (1, 1, *grid): 1 at validation pixels, and 1 at validation pixels and their guard bands.
    blind_spot_size : tuple of int
        Size of a hidden block, per axis of the grid.
    certain_noise_share : float
        Share of the measured noise variance that the likelihood takes as certain. It is below 1 for
        priors whose network predicts a variance of its own.
    prior : str
        Such as "random-input" or "blind-spot".
    widths : tuple of int
        Channels of the network at each scale, finest first.
    window : int or None
        Side of the crop that one iteration is trained on; None: the whole grid.
    extra_inputs : mapping of str to Tensor
        The task's further inputs by name, float32, as `Task.prepare_extra_inputs` returned them.
        `Task.prepare_fit_input` may add more.
    zero, unit : Tensor or None
        (1, C, 1, ...): the image's value 0, and one unit of the image, in network units.
    neighbours : Tensor or None
        (1, 2 C, *grid): the previous and the next frame or plane; frames are registered.
    previous_frame : PreviousFrame or None
        Result of the previous frame, registered onto this one.
    noise_correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X, in pixels of the grid; None
        for white noise.
    upscaled_grid : tuple of int or None
        Size of the result of a half-resolution fit; None: that of the grid.
    camera_noise : CameraNoise or None
        Joint noise model of red, green and blue, for a colour camera.
    full_size_measurement : Tensor or None
        (1, 3, *upscaled_grid): the measurement at full size, for a colour camera.
    image_noises : NoiseVariance or None
        Noise of each of the B images of a joint training, where they differ; `noise` is then their
        mean.
    reliability : Tensor or None
        (1, 1, *grid), up to 1: weight of a pixel relative to one of usual read noise; None: 1 for
        all.
    precomputed : mapping of str to object
        Values that `Task.prepare_fit_input` computed once for both prior and problem.
    """

    measurement: Tensor
    noise: NoiseVariance
    noise_level: float
    measured_mask: Tensor
    validation_mask: Tensor
    guard_mask: Tensor
    blind_spot_size: tuple[int, ...]
    certain_noise_share: float
    prior: str
    widths: tuple[int, ...]
    window: int | None
    extra_inputs: Mapping[str, Tensor] = field(default_factory=dict)
    zero: Tensor | None = None
    unit: Tensor | None = None
    neighbours: Tensor | None = None
    previous_frame: PreviousFrame | None = None
    noise_correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    upscaled_grid: tuple[int, ...] | None = None
    camera_noise: CameraNoise | None = None
    full_size_measurement: Tensor | None = None
    image_noises: NoiseVariance | None = None
    reliability: Tensor | None = None
    precomputed: Mapping[str, object] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, ...]:
        """Return the size of the measurement, per axis."""
        return tuple(self.measurement.shape[2:])

    @property
    def weight(self) -> Tensor:
        """Return the weight of each pixel: 0 if not measured, below 1 if noisier than usual."""
        return (
            self.measured_mask
            if self.reliability is None
            else self.measured_mask * self.reliability
        )

    @property
    def low_noise_mask(self) -> Tensor:
        """Return a mask of the measured pixels, without those much noisier than usual."""
        if self.reliability is None:
            return self.measured_mask
        return self.measured_mask * (self.reliability >= MIN_PIXEL_WEIGHT)


__all__ = [
    "IMAGE",
    "RECEPTIVE_FIELD_RADIUS",
    "FitInput",
    "Input",
    "NoiseRequest",
    "Setting",
    "Task",
]


class Task(ABC):
    """Base class of the tasks; subclasses are frozen pydantic dataclasses.

    The methods here suit the simplest task: one image, a result of the same size, every pixel
    measured. A subclass overrides what differs, and always `make_problem` and `make_prior`.

    Attributes
    ----------
    name : str
        Name of the command, of the recipe and of the docs page.
    title : str
        Name in menus.
    inputs : tuple of Input
        The image first.
    accepts_stacks : bool
        Whether stacks and movies are accepted.
    min_depth : int
        Smallest number of planes that can be fitted together.
    result_suffix : str
        Appended to the image's name to name the result.
    has_same_pixels : bool
        Whether the result has the same pixel grid as the image.
    keeps_mean : bool
        Whether the result has the mean intensity of the image. If so, what the fit changed of it
        is corrected, and the report compares both.
    extra_outputs : dict of str to str
        Results besides the image: key in `Restoration.learned`, and description.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE,)
    result_suffix: ClassVar[str]
    extra_outputs: ClassVar[dict[str, str]] = {}
    has_same_pixels: ClassVar[bool] = True
    keeps_mean: ClassVar[bool] = True
    accepts_stacks: ClassVar[bool] = False
    min_depth: ClassVar[int] = 4  # the network halves the depth at least once

    def check(self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]) -> Refusal | None:
        """Check headers; return a refusal of images that this task cannot take, else None."""
        return None

    def check_extra_pixels(
        self, source: ImageSpec, extra_inputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Check the pixel values of the further inputs; return a refusal or None."""
        return None

    def list_header_notes(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]
    ) -> tuple[Note, ...]:
        """Return notes for the plan that follow from the headers."""
        return ()

    def check_image_pixels(
        self, source: ImageSpec, stack: npt.NDArray[np.float32]
    ) -> Refusal | None:
        """Check the pixel values of an image (N, C, *grid); return a refusal or None."""
        return None

    def find_missing_pixels(
        self, stack: npt.NDArray[Any], extra_inputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.bool_] | None:
        """Return a mask of the pixels without a measurement, (N, C, *grid); None if none."""
        return None

    def check_measured_mask(
        self, source: ImageSpec, measured_mask: npt.NDArray[np.bool_] | None
    ) -> Refusal | None:
        """Check the mask of measured pixels, (N, C, *grid); None: all are measured."""
        return None

    def choose_validation_patches(
        self, measured_mask: Tensor
    ) -> tuple[tuple[int, ...], Tensor] | None:
        """Return size and allowed places of validation patches; None: single pixels, anywhere.

        Parameters
        ----------
        measured_mask : Tensor
            (1, 1, *grid), 1 at measured pixels. The mask of allowed places has the same shape.
        """
        return None

    def describe_missing_pixels(self, measured_mask: npt.NDArray[np.bool_]) -> tuple[Note, ...]:
        """Return notes on the missing pixels, given the mask (N, C, *grid) of measured ones."""
        return ()

    def keeps_measured_pixels(self) -> bool:
        """Return whether measured pixels keep their values in the result."""
        return False

    def has_pixel_residual(self) -> bool:
        """Return whether the fit explains the image's own pixels, so that a residual exists."""
        return True

    def uses_joint_channels(self, source: ImageSpec) -> bool:
        """Return whether one fit takes all channels at once.

        Colour samples share edges; fluorescence channels need not.
        """
        return "S" in source.axes

    def choose_stack_mode(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]
    ) -> Literal["auto", "planes", "volume"]:
        """Return how a stack is restored by default; "auto": the plan decides."""
        return "auto"

    def check_axes(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> Refusal | None:
        """Check the axes of one fit, "YX", "ZYX" or "TYX"; return a refusal or None."""
        return None

    def get_upscaling_factors(self, axes: str) -> tuple[int, ...]:
        """Return the upscaling factor along each of these axes."""
        return (1,) * len(axes)

    def compute_network_grid(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> tuple[int, ...]:
        """Return the size of the network's output along each axis of a fit."""
        return source.get_sizes(axes)

    def compute_halo(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> int | None:
        """Return the halo of a tile in pixels; None if a plane cannot be divided into tiles.

        Without tiles, the whole plane has to fit into memory.
        """
        return None

    def choose_prior(self, source: ImageSpec, *, volume: bool) -> str:
        """Return the prior to plan with: the one that the user chose, or the default.

        Parameters
        ----------
        source : ImageSpec
        volume : bool
            Whether planes are fitted together.
        """
        return "random-input"

    def choose_widths(self, prior: str, preset: tuple[int, ...]) -> tuple[int, ...]:
        """Return the network's channels at each scale, finest first, given those of the preset."""
        return preset

    def choose_prior_by_mask(
        self, prior: str, measured_mask: npt.NDArray[np.bool_] | None
    ) -> tuple[str, str]:
        """Return prior and reason, given the mask (N, C, *grid) of measured pixels.

        With an empty reason, the report takes that of `explain_prior`.
        """
        return prior, ""

    def choose_prior_by_noise(
        self, prior: str, *, is_unreliable: bool, is_weak: bool
    ) -> tuple[str, str]:
        """Return prior and reason, given whether the noise is unreliable or weak."""
        return prior, ""

    def list_candidates(self) -> tuple[str, ...]:
        """Return the priors of a model selection; empty if there is none.

        All of them are fitted. The first wins a tie.
        """
        return ()

    def prepare_extra_inputs(
        self,
        image: npt.NDArray[np.float32],
        extra_inputs: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Convert the further inputs to the form that the fits need, once for all fits.

        Parameters
        ----------
        image : ndarray
            (C, *grid), in its own units.
        extra_inputs, headers : mapping
            Pixels of the further inputs as loaded, and all headers, by name.

        Returns
        -------
        others, notes
            What `FitInput.extra_inputs` will hold, and notes for the user.
        """
        return extra_inputs, ()

    def explain_prior(self, prior: str, block: tuple[int, ...]) -> str:
        """Return the reason for a prior, for the report."""
        return "it is the one that this task uses"

    def describe_learned(self, learned: Mapping[str, npt.NDArray[np.float32]]) -> tuple[Note, ...]:
        """Return notes on the parameters that were fitted besides the image, for the report."""
        return ()

    def uses_neighbouring_frames(self, prior: str) -> bool:
        """Return whether a prior takes the neighbouring frames or planes as input."""
        return False

    def uses_previous_frame(self) -> bool:
        """Return whether the result of the previous frame enters the fit."""
        return False

    def list_suggestions(self, name: str) -> tuple[str, ...] | Refusal:
        """Return suggested values of a text setting, or a refusal; may take a second."""
        return ()

    def choose_sharing(
        self, prior: str, count: int, *, tiles: bool = False
    ) -> Literal["joint", "warm-start", "independent"]:
        """Return how `count` planes or frames share a network.

        With `tiles`, `count` is a number of tiles.
        """
        return "warm-start"

    def has_reusable_network(self, prior: str) -> bool:
        """Return whether a prior's network takes the image as input.

        Such a network can be applied to other images.
        """
        return False

    def make_noise_request(self) -> NoiseRequest:
        """Return the user's settings of the noise."""
        return NoiseRequest()

    def reports_unreliable_noise(self) -> bool:
        """Return whether the notes report that an image's noise could not be measured reliably."""
        return False

    def uses_clipping_correction(self) -> bool:
        """Return whether noise that was clipped at black or white is corrected."""
        return False

    def uses_half_resolution(self) -> bool:
        """Return whether an oversampled image may be fitted at half its size."""
        return False

    def choose_blind_spot_size(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Return the size of hidden blocks along Y and X.

        `measured` is the size that follows from the noise correlation.
        """
        return measured

    def prepare_fit_input(self, fit_input: FitInput) -> FitInput:
        """Return the input of a fit with task-specific changes."""
        return fit_input

    @abstractmethod
    def make_problem(self, fit_input: FitInput) -> Problem:
        """Build the problem: terms, penalties and final steps."""

    @abstractmethod
    def make_prior(self, fit_input: FitInput, rng: torch.Generator) -> Prior:
        """Build the untrained network and its input."""

    @classmethod
    def list_setting_names(cls) -> tuple[str, ...]:
        """Return the names of the settings, in the order of the form."""
        assert is_dataclass(cls)
        return tuple(field.name for field in fields(cls))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, in plain JSON types."""
        assert is_dataclass(self)
        return {
            key: value for key, value in asdict(self).items() if value != getattr(type(self), key)
        }
