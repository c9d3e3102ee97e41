"""Base types of tasks: settings, inputs, values of its functions, and the class `Task`."""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import no_info_before_validator_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema
    from torch import Tensor

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.likelihood.penalties import PreviousFrame
    from napari_dip.engine.noise.oversampling import HalfResolutionFit
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, ImageHeader
    from napari_dip.io.header import Headers

    #: The extra inputs as `FitInput.extra_inputs`, and notes on them.
    ConvertedInputs = tuple[Mapping[str, Float32Array], tuple[Note, ...]]
    ConvertInputs = Callable[[Float32Array, Mapping[str, Float32Array], Headers], ConvertedInputs]

#: Weight below which a pixel is neither validated nor seen: its neighbours are more certain.
MIN_PIXEL_WEIGHT = 0.5
#: Key of the prior of tasks that choose no other.
DEFAULT_PRIOR = "random-input"
#: Keys for `Setting.relevant_when`: axes of several pixels, chosen inputs, axes without size.
IMAGE_AXES = "image_axes"
EXTRA_INPUTS = "extra_inputs"
UNSIZED_AXES = "unsized_axes"


@dataclass(frozen=True, slots=True)
class Setting:
    """Describe how a field of a task appears in the dock and on the command line.

    An instance is attached to the field's type with `typing.Annotated`.

    Attributes
    ----------
    label, help : str
        Name in the dock; tooltip and command-line help, with units.
    choices : mapping of str to str, or None
        Label of each value. A text field takes no other one.
    step : float or None
        Increment of a number in the dock, in its unit. Its limits are those of the type.
    is_advanced : bool
        Whether the dock folds the setting away, unless it is required.
    is_required : callable or None
        (values by name, with the keys above) -> whether it must not be empty where it is relevant.
    file_filter : str
        Filter of the file dialog for a text field that holds a path, such as "Networks (*.pt2)".
    list_suggestions : callable or None
        (task) -> values that the dock suggests for a text field; may refuse, or take a second.
    relevant_when : callable or None
        (values by name, with the keys above) -> whether the setting can matter.
    is_conditional : bool
        Whether a dock hides and drops it where it is not relevant, even if it was changed.
    report_template : str
        How the methods text states a number, with unit and "{:g}"; "": label, colon and value.
    """

    label: str
    help: str
    choices: Mapping[str, str] | None = None
    step: float | None = None
    is_advanced: bool = True
    is_required: Callable[[Mapping[str, Any]], bool] | None = None
    file_filter: str = ""
    list_suggestions: Callable[[Any], tuple[str, ...]] | None = None
    relevant_when: Callable[[Mapping[str, Any]], bool] | None = None
    is_conditional: bool = False
    report_template: str = ""

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let a text setting take its choices only, of which a registry may get more later."""
        schema = handler(kind)
        if kind is not str or self.choices is None:
            return schema
        return no_info_before_validator_function(self._validate_choice, schema)

    def _validate_choice(self, value: object) -> object:
        if isinstance(value, str) and value in (self.choices or ()):
            return value
        *others, last = map(repr, self.choices or ())
        expected = f"{', '.join(others)} or {last}"
        raise PydanticCustomError("choice", "Input should be {expected}", {"expected": expected})


#: Texts and choices of the settings by key, and "inputs" by name.
_TASK_ROWS = tomllib.loads(Path(__file__).with_name("settings.toml").read_text("utf-8"))


def load_setting(key: str, **conditions: Any) -> Setting:
    """Return the setting of a row of `settings.toml`, with the callables that no file can hold."""
    return Setting(**_TASK_ROWS[key], **conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInput:
    """Describe an image, mask or map that a task takes as input.

    Attributes
    ----------
    name : str
        Key of its pixels, and name of its command-line option.
    label, help : str
        Texts in the dock and on the command line.
    layer_types : tuple of str
        Types of napari layers that it accepts: "image", "labels", "shapes".
    is_optional : bool
    is_repeated_exposure : bool
        Whether it is another measurement of the object, laid out and explained like the image.
    is_overlay : bool
        Whether it covers the image pixel by pixel; it is then laid out as (N, 1 or C, *grid).
    is_detector_map : bool
        Whether it is a map of the detector's pixels, which corrects and weights the measurement.
    is_inspected_early : bool
        Whether the task inspects it before the run as well; in a dock, if it is small.
    has_items : bool
        Whether it is converted to (N or 1, ...), of which a fit gets the entry of its item.
    short_label : str
        Label in a section about the camera; "": `label`.
    """

    name: str
    label: str
    help: str
    layer_types: tuple[str, ...] = ("image",)
    is_optional: bool = False
    is_repeated_exposure: bool = False
    is_overlay: bool = False
    is_detector_map: bool = False
    is_inspected_early: bool = False
    has_items: bool = False
    short_label: str = ""


def load_input(name: str, **attributes: Any) -> TaskInput:
    """Return the input of a row of `settings.toml`, with further attributes."""
    return TaskInput(name=name, **_TASK_ROWS["inputs"][name], **attributes)


#: The image, which is the first input of every task.
IMAGE_INPUT = load_input("image")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSettings:
    """User's settings of the noise, in units of the image; None and "auto": measured.

    With `is_white`, correlation counts as structure. `is_known_white`: the user says there is none.
    """

    model: str = "auto"
    read_noise: float | None = None
    gain: float | None = None
    is_white: bool = False
    is_known_white: bool = False

    @property
    def has_entered_noise(self) -> bool:
        """Whether the user entered gain or read noise."""
        return self.gain is not None or self.read_noise is not None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitNoise:
    """Noise of one fit, in network units.

    Attributes
    ----------
    noise_variance : NoiseVariance
        One for each repeated exposure. In joint training of images that differ, it is their mean.
    rms_std : float
        Square root of the mean variance.
    assumed_fraction : float
        Share of the variance that the likelihood takes as certain: below 1 if networks predict it.
    correlation : tuple of two tuples of float or None
        Autocorrelation at lags 1, 2, ... along Y and X, in grid pixels; None for white noise.
    image_noise_variances : NoiseVariance or None
        Variance model of each of the B images of a joint training, where they differ.
    treats_outliers_as_signal : bool
        Whether a pixel far from its prediction is signal: `NoiseEstimate.has_bounded_tails`.
    off_model_channels : tuple of int
        Channels where hidden pixels measure the noise again: `NoiseEstimate.may_be_off_model`.
    """

    noise_variance: NoiseVariance
    rms_std: float
    assumed_fraction: float = 1.0
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    image_noise_variances: NoiseVariance | None = None
    treats_outliers_as_signal: bool = False
    off_model_channels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitMasks:
    """Masks of one fit: the measured pixels, and those that validate it.

    Attributes
    ----------
    measured, validation : Tensor
        (1, 1, *grid): 1 at measured pixels, and at validation pixels.
    excluded : Tensor
        (1, 1, *grid): 1 at pixels kept out of the fit: validation pixels, guard bands, impulses.
    blind_spot_size : tuple of int
        Size of a blind spot, per axis of the grid.
    blind_spot_shape : Tensor or None
        (*blind_spot_size): 1 where a pixel is hidden; None: all are.
    pixel_weights : Tensor or None
        (1, 1, *grid), up to 1: weight relative to a pixel of usual read noise; None: 1 for all.
    select_validation : callable or None
        Selects validation pixels as in `validation`, given `patch_size` and `allowed_mask`.
    """

    measured: Tensor
    validation: Tensor
    excluded: Tensor
    blind_spot_size: tuple[int, ...]
    blind_spot_shape: Tensor | None = None
    pixel_weights: Tensor | None = None
    select_validation: Callable[..., Tensor] | None = None

    @property
    def visible(self) -> Tensor:
        """Mask of the measured pixels that may enter the fit."""
        return self.measured * (1 - self.excluded)

    @property
    def measured_pixel_weights(self) -> Tensor:
        """Weight of each pixel: 0 if not measured, below 1 if noisier than usual."""
        return self.measured if self.pixel_weights is None else self.measured * self.pixel_weights

    @property
    def training_pixel_weights(self) -> Tensor:
        """Weight of each pixel in the loss: 0 at excluded pixels as well."""
        return self.measured_pixel_weights * (1 - self.excluded)

    @property
    def low_noise(self) -> Tensor:
        """Mask of the measured pixels, without those much noisier than usual."""
        has_low_noise = 1 if self.pixel_weights is None else self.pixel_weights >= MIN_PIXEL_WEIGHT
        return self.measured * has_low_noise

    def redraw_validation(self, patch_size: tuple[int, ...], allowed_mask: Tensor) -> FitMasks:
        """Return the masks with validation patches, where the mask (1, 1, *grid) allows them."""
        from napari_dip.engine.prior import dilate_centres

        assert self.select_validation is not None
        validation = self.select_validation(patch_size=patch_size, allowed_mask=allowed_mask)
        excluded = dilate_centres(validation, self.blind_spot_size, self.blind_spot_shape)
        return replace(self, validation=validation, excluded=excluded)

    def clear_validation(self) -> FitMasks:
        """Return the masks without validation pixels."""
        return replace(self, validation=self.validation * 0, excluded=self.excluded * 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLocation:
    """Part of an image that the grid of a fit is.

    Attributes
    ----------
    start, image_size : tuple of int
        First pixel of the grid in the image, and size of the whole image, along its axes.
    """

    start: tuple[int, ...]
    image_size: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitInput:
    """Pixels, noise and masks of one work unit, from which a task builds problem and prior.

    Attributes
    ----------
    measurement : Tensor
        (B, C, *grid), in network units; 0 if not measured. B is 1, with a repeated exposure (scaled
        to the first) 2, in joint training the number of images or regions, as in the masks.
    intensity_offset, intensity_scale : Tensor
        (1, C, 1, ...): network units are (pixel - intensity_offset) / intensity_scale.
    noise, masks : FitNoise, FitMasks
    prior_key : str
        Key of a row of `tasks.priors.registry.PRIOR_SPECS`.
    widths : tuple of int
        Channels of the network at each scale, finest first.
    window_side : int or None
        Side of the crop that one iteration is trained on; None: the whole grid.
    refines_sparse_groups : bool
        Whether NL-Bayes filters only as many groups of patches as cover the image.
    extra_inputs : mapping of str to Tensor
        The task's extra inputs by name, float32, as `Inspection.convert_inputs` returned them.
    neighbouring_frames : Tensor or None
        (B, 2 C, *grid): the previous and the next frame or plane, registered.
    previous_frame : PreviousFrame or None
        Result of the previous frame, registered.
    half_resolution : HalfResolutionFit or None
        None: the result has the size of the grid, unless the task upscales it.
    removed_artefact : Tensor or None
        What was subtracted from the measurement, such as the offsets of lines; it broadcasts.
    location : GridLocation or None
        Part of the image that the grid is; None: the whole image.
    """

    measurement: Tensor
    intensity_offset: Tensor
    intensity_scale: Tensor
    noise: FitNoise
    masks: FitMasks
    prior_key: str
    widths: tuple[int, ...]
    window_side: int | None
    refines_sparse_groups: bool = False
    extra_inputs: Mapping[str, Tensor] = field(default_factory=dict)
    neighbouring_frames: Tensor | None = None
    previous_frame: PreviousFrame | None = None
    half_resolution: HalfResolutionFit | None = None
    removed_artefact: Tensor | None = None
    location: GridLocation | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """Size of the measurement, per axis."""
        return tuple(self.measurement.shape[2:])

    @property
    def network_per_image_unit(self) -> Tensor:
        """One unit of the image in network units, (1, C, 1, ...)."""
        return 1 / self.intensity_scale

    def to_network_units(self, values: Tensor | float) -> Tensor:
        """Convert intensities of the image, (..., C, 1, ...) or the same for all channels."""
        return values * self.network_per_image_unit - self.intensity_offset / self.intensity_scale

    def to_image_units(self, values: Tensor) -> Tensor:
        """Convert intensities in network units, (B, C, *grid), to units of the image."""
        return (values + self.intensity_offset / self.intensity_scale) / self.network_per_image_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """Describe what is the same for all settings of a task.

    The defaults suit the simplest task: one image, a result of the same size and mean.

    Attributes
    ----------
    name, title : str
        Name of the command, of the recipe and of the docs page; name in menus.
    result_suffix : str
        Appended to the image's name to name the result.
    methods_phrase : str
        Completion of "The image was" in the methods section.
    inputs : tuple of TaskInput
        The image first.
    extra_outputs : mapping of str to str
        Results besides the image: key in `Restoration.learned_parameters`, and description.
    accepts_stacks : bool
        Whether stacks and movies are accepted.
    min_depth : int
        Smallest number of planes that can be fitted together.
    keeps_pixel_grid : bool
        Whether the result has the same pixel grid as the image.
    keeps_mean : bool
        Whether the result keeps the mean intensity: what the fit changed of it is corrected.
    light_crosses_border : bool
        Whether light crosses the border of the field of view, which changes the mean.
    explains_pixels : bool
        Whether the fit explains the image's own pixels, so that a residual exists.
    offers_noise_models : bool
        Whether the user can choose any noise model, and is told of noise measured unreliably.
    candidates : tuple of str
        Priors of the model selection, if `prior` is "auto"; the first wins a tie.
    independent_settings : mapping
        Settings with which frames, tiles and files share no network; empty: the task shares none.
    complete_settings : callable
        (task, header) -> the task, with what it takes from the image's header as settings.
    describe_learned : callable
        (parameters that were fitted besides the image, by name) -> notes on them for the report.
    """

    name: str
    title: str
    result_suffix: str
    methods_phrase: str = "restored"
    inputs: tuple[TaskInput, ...] = (IMAGE_INPUT,)
    extra_outputs: Mapping[str, str] = field(default_factory=dict)
    accepts_stacks: bool = False
    min_depth: int = 4  # the network halves the depth at least once
    keeps_pixel_grid: bool = True
    keeps_mean: bool = True
    light_crosses_border: bool = False
    explains_pixels: bool = True
    offers_noise_models: bool = False
    candidates: tuple[str, ...] = ()
    independent_settings: Mapping[str, object] = field(default_factory=dict)
    complete_settings: Callable[[Any, ImageHeader], Any] = lambda task, header: task
    describe_learned: Callable[[Mapping[str, Float32Array]], tuple[Note, ...]] = lambda learned: ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """What a task decides from headers, for fits with certain axes.

    Attributes
    ----------
    axes_refusal : Refusal or None
        Why the image cannot be fitted with these axes, although it may be with others.
    stacks : str
        How a stack is restored unless the user chooses; "auto": as a volume where memory allows it.
    joint_channels : bool or None
        Whether one fit takes all channels at once; None: colour samples only: they share edges.
    prior_key : str
        The prior that the user chose, or the default.
    prior_reasons : mapping of str to str
        Why a prior runs, for the report, by prior; "{blind_spot}" stands for its size.
    fallback_prior_key : str
        Prior that replaces `prior_key` where the noise does not suit it (`run_plan.py`); "": none.
    other_priors : mapping of str to str
        Priors that `inspect` may choose, each with the unusual images that get it; "": usual ones.
    architecture : str
        Name of the architecture of priors with random input.
    factors : mapping of str to int
        Upscaling factor of each axis of the image; 1 where it is left out.
    network_grid : tuple of int or None
        Size of the network's output along each axis of a fit; None: that of the image.
    has_initial_estimate, learns_operator : bool
        Whether a volume starts from a deconvolution, and whether a fit may learn its operator.
    halo : int or None
        Halo of a tile in pixels; None if a plane cannot be divided into tiles.
    series_training : str
        How frames, planes or tiles share a network: a value of `SeriesTraining`.
    allows_joint_training : bool
        Whether images, frames or tiles of the task may share a network; see `can_train_jointly`.
    uses_neighbouring_frames, uses_previous_frame : bool
        Whether neighbouring frames or planes are inputs, and whether the last result is.
    noise_settings : NoiseSettings
    blind_spot_shape : tuple of tuple of int
        Rows of pixels: those of 1 are hidden together. Empty: a block by the noise correlation.
    setup_seconds, ending_pixel_seconds : float
        Time of `setup` for each fit, and per pixel and channel of what follows it, on a CPU.
    uses_clipping_correction, uses_half_resolution : bool
        Whether clipped noise is corrected, and an oversampled image may be fitted at half its size.
    keeps_measured_pixels : bool
        Whether measured pixels keep their values in the result.
    notes : tuple of Note
    """

    axes_refusal: Refusal | None = None
    stacks: Literal["auto", "planes", "volume"] = "auto"
    joint_channels: bool | None = None
    prior_key: str = DEFAULT_PRIOR
    prior_reasons: Mapping[str, str] = field(default_factory=dict)
    fallback_prior_key: str = ""
    other_priors: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "preset"
    factors: Mapping[str, int] = field(default_factory=dict)
    network_grid: tuple[int, ...] | None = None
    has_initial_estimate: bool = False
    learns_operator: bool = False
    halo: int | None = None
    series_training: str = "auto"
    allows_joint_training: bool = False
    uses_neighbouring_frames: bool = False
    uses_previous_frame: bool = False
    noise_settings: NoiseSettings = field(default_factory=NoiseSettings)
    blind_spot_shape: tuple[tuple[int, ...], ...] = ()
    setup_seconds: float = 0.0
    ending_pixel_seconds: float = 0.0
    uses_clipping_correction: bool = False
    uses_half_resolution: bool = False
    keeps_measured_pixels: bool = False
    notes: tuple[Note, ...] = ()

    def get_factors(self, axes: str) -> tuple[int, ...]:
        """Return the upscaling factor along each of these axes."""
        return tuple(self.factors.get(axis, 1) for axis in axes)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InspectedPixels:
    """Pixels that a task inspects.

    Attributes
    ----------
    header : ImageHeader
    image : ndarray
        In the axes and type of the file.
    stack : ndarray
        (N, C, *grid) float32: the same image, arranged for the fits.
    extra_inputs : mapping of str to ndarray
        Extra inputs by name, float32; overlays are arranged as the image is.
    extra_headers : mapping of str to ImageHeader
    """

    header: ImageHeader
    image: AnyArray
    stack: Float32Array
    extra_inputs: Mapping[str, Float32Array]
    extra_headers: Headers = field(default_factory=dict)


def keep_extra_inputs(
    image: Float32Array, extra_inputs: Mapping[str, Float32Array], headers: Headers
) -> ConvertedInputs:
    """Return the extra inputs as they are, without notes."""
    return extra_inputs, ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Inspection:
    """What a task decides from the pixels.

    Attributes
    ----------
    measured_mask : ndarray or None
        (N, C, *grid), True where a pixel was measured; None if all were.
    prior_key : str
        Prior that suits the pixels; "": that of the plan.
    prior_reason : str
        Why, for the report; "": that of the plan.
    notes : tuple of Note
    convert_inputs : callable
        Convert the extra inputs to the form that the fits need, once for all fits: (image (C,
        *grid) without outliers, extra_inputs, headers) -> `FitInput.extra_inputs`, and notes.
    """

    measured_mask: BoolArray | None = None
    prior_key: str = ""
    prior_reason: str = ""
    notes: tuple[Note, ...] = ()
    convert_inputs: ConvertInputs = keep_extra_inputs


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TaskSetup:
    """What `Task.setup` returns: problem, prior, and the input that both were built from."""

    problem: Problem
    prior: Prior
    fit_input: FitInput


class Task(ABC):
    """Base class of the tasks; subclasses are frozen pydantic dataclasses of settings.

    A task is data, `spec`, and three functions: `plan`, `inspect` and `setup`.
    """

    spec: ClassVar[TaskSpec]

    def plan(self, header: ImageHeader, extra_headers: Headers, axes: str) -> TaskPlan | Refusal:
        """Decide what headers can decide.

        Parameters
        ----------
        header : ImageHeader
            Of the image, or of one of its tiles.
        extra_headers : mapping of str to ImageHeader
            Extra inputs by name, with all that are not optional.
        axes : str
            Axes of one fit: "YX", "ZYX" or "TYX".

        Returns
        -------
        TaskPlan or Refusal
            A refusal if the image cannot be fitted with any axes.
        """
        return TaskPlan()

    def inspect(self, pixels: InspectedPixels, plan: TaskPlan) -> Inspection | Refusal:
        """Decide what pixels can decide, or refuse them; torch should not be needed."""
        return Inspection()

    @abstractmethod
    def setup(self, fit_input: FitInput, rng: torch.Generator) -> TaskSetup:
        """Build problem and prior of one fit; the untrained weights are drawn from `rng`."""

    @final
    def to_dict(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, in plain JSON types."""
        assert is_dataclass(self)
        return {key: item for key, item in asdict(self).items() if item != getattr(type(self), key)}
