"""Types of the report, of traces, and of arguments of the Python functions; settings are generated.

Type checkers and editors read them. Nothing here depends on another part of the package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NotRequired,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt


class SupportsArray(Protocol):
    """An array of any library: NumPy, dask, xarray, PyTorch."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the array as one of NumPy."""


#: Path of a file.
FilePath = str | os.PathLike[str]
#: An image: an array, nested lists of numbers, or the path of a file.
ImageLike = SupportsArray | Sequence[SupportsArray | list[Any] | tuple[Any, ...]] | FilePath
#: One letter of T, C, Z, Y, X and S for each axis, as a text or one by one.
AxisLetters = str | Sequence[str]
#: What `progress` may answer: None and "go" go on, "pause" waits and asks again, "keep" ends the
#: run with the best result so far, and "discard" ends it without a result.
Answer = Literal["go", "pause", "keep", "discard"] | None
ResultT_co = TypeVar("ResultT_co", covariant=True)
InputT = TypeVar("InputT")


class FittedNetwork(Protocol):
    """A fitted network, as `Restoration.network` gives it."""

    @property
    def weights(self) -> Mapping[str, Any]:
        """Tensors of PyTorch by name, in the CPU's memory."""

    def to_dict(self) -> dict[str, Any]:
        """Return image, recipe, noise, units and limits of the network, in plain JSON types."""
        ...

    def save(self, path: FilePath, *, overwrite: bool = False) -> Path:
        """Save the network, and return the path.

        Parameters
        ----------
        path : path ending in .safetensors or .zip
            Weights with the recipe in the metadata, or a package of the BioImage Model Zoo.
        overwrite : bool
            Whether an earlier file may be replaced; an input is never replaced.

        Raises
        ------
        RefusedError
            If the name cannot be used; nothing was written.
        FailedError
            If the file cannot be written.

        Examples
        --------
        >>> result = dip.denoise(image, preset="fast", max_iterations=10)
        >>> result.network.save("network.zip").name
        'network.zip'
        """
        ...

    def write(self, target: Path, *, overwrite: bool) -> None:
        """Save the network under a name that was checked before."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceComparison:
    """How restored traces follow the measured ones.

    Attributes
    ----------
    slope, slope_uncertainty : float
        Change of the restored trace for a change of 1 of the object, and its standard uncertainty.
    offset, offset_uncertainty : float
        Mean of restored less measured trace, in units of the image, and its standard uncertainty.
    delay, delay_uncertainty : float
        By how many frames the restored trace is late, and its standard uncertainty.
    region_count : int
        Number of regions that these come from, since their traces vary beyond the noise.
    """

    slope: float
    slope_uncertainty: float
    offset: float
    offset_uncertainty: float
    delay: float
    delay_uncertainty: float
    region_count: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RegionTraces:
    """Traces of regions, in the input and in the result.

    Attributes
    ----------
    measured, restored : ndarray
        (T, regions): means in units of the image; with several channels or planes, the regions of
        each of them.
    comparisons : tuple of TraceComparison or None
        Of each region; None where its trace changes too little to tell.
    pooled : TraceComparison or None
        Of all regions that tell.
    """

    measured: npt.NDArray[np.float64]
    restored: npt.NDArray[np.float64]
    comparisons: tuple[TraceComparison | None, ...]
    pooled: TraceComparison | None

    def to_csv(self) -> str:
        """Return a table with a row for each frame, and each region in the input and the result."""
        numbers = range(1, self.measured.shape[1] + 1)
        rows: list[list[Any]] = [["frame"]]
        rows[0] += [f"{name} {number}" for number in numbers for name in ("input", "result")]
        for before, after in zip(self.measured.tolist(), self.restored.tolist(), strict=True):
            pairs = zip(before, after, strict=True)
            rows.append([len(rows) - 1, *(value for pair in pairs for value in pair)])
        return "".join(",".join(map(str, row)) + "\n" for row in rows)


class ComparisonKeywords(TypedDict, total=False):
    """Settings of the experiments that compare architectures."""

    preset: Literal["instant", "fast", "balanced", "best"]
    max_iterations: int
    crop: int
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    axes: AxisLetters | None


class ExperimentKeywords(ComparisonKeywords, total=False):
    """Settings of the other experiments; `architecture` takes any bound and any width."""

    architecture: str


class OpticsKeywords(TypedDict, total=False):
    """Microscope of an image of beads, as for deblurring."""

    microscope: Literal["none", "widefield", "confocal"]
    na: float | None
    wavelength: float | None
    pixel_size: float | None
    z_step: float | None
    refractive_index: float
    excitation: float | None
    pinhole: float


class NoiseFields(TypedDict):
    """The measured noise in a report; one value for each channel, in units of the image."""

    model: str
    gain: list[float]
    intercept: list[float]
    offset: list[float | None]
    read_noise: list[float | None]
    unreliable_reason: list[str | None]
    caution: list[str | None]
    autocorrelation: dict[str, list[list[float]]]
    blind_spot_size: list[int]
    relative_deviation: NotRequired[list[float]]
    camera: NotRequired[dict[str, Any]]


class PriorFields(TypedDict):
    """The prior in a report."""

    key: str
    reason: str


class FitFields(TypedDict):
    """What was fitted and how, in a report."""

    axes: str
    inputs: list[str]
    scale: list[float] | None
    units: list[str] | None
    widths: list[int]
    max_iterations: int
    refit_iterations: int
    restarts: int
    half_resolution: bool
    refined: bool
    blended: bool
    min_spot_snr: dict[str, float]
    min_line_snr: dict[str, float]
    finished_fit_count: int
    stopped_fit_count: int
    unused_fit_count: int
    joint_training: NotRequired[dict[str, Any]]


class ResidualFields(TypedDict):
    """Mean of the residual and its correlation over a pixel, in a report."""

    lag_1_correlation: float
    mean: float


class NoteFields(TypedDict):
    """The code of a note, and what fills its sentence."""

    code: str
    facts: dict[str, Any]


class VerdictFields(TypedDict):
    """The quality checks in a report; kind is fine, look-closer or do-not-use."""

    kind: str
    headline: str
    sentences: list[str]
    warnings: list[str]
    codes: list[NoteFields]
    figures: dict[str, Any]
    bounds: dict[str, Any]


class Report(TypedDict):
    """The report of a run in plain JSON types, as `--report` writes it."""

    task: str
    recipe: dict[str, Any]
    version: str
    torch: str
    device: str
    threads: int
    seed: int
    shape: list[int]
    axes: str
    noise: NoiseFields
    iterations: int
    best_iteration: int
    stop_reason: str
    stop_sentence: str
    seconds: float
    prior: PriorFields
    fit: FitFields
    validation_loss: list[list[float | None]]
    residual: ResidualFields
    verdict: VerdictFields
    input_sha256: str
    extra_inputs_sha256: dict[str, str]
    output_sha256: str
    notes: list[str]
    note_codes: list[NoteFields]
    peak_bytes: int
    deviation: NotRequired[dict[str, float]]
    halves: NotRequired[dict[str, Any]]
    null_control: NotRequired[dict[str, float]]
    tiles: NotRequired[dict[str, int]]


# Generated by `make pages`; do not edit below.


class RunKeywords(TypedDict, total=False):
    """Settings of all tasks."""

    preset: Literal["instant", "fast", "balanced", "best"]
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    restarts: int | None
    max_iterations: int | None
    time_limit: float | None
    stacks: Literal["auto", "planes", "volume"]
    tile: int | None
    dtype: Literal["float32", "same"]
    halves: bool
    null_control: bool


class DetectorKeywords(RunKeywords, total=False):
    """Settings of tasks that take the noise of a detector."""

    read_noise: float | None
    gain: float | None


class DenoiseKeywords(DetectorKeywords, total=False):
    """Settings of the task denoise."""

    prior: Literal["auto", "r2r", "blind-spot", "random-input"]
    architecture: Literal[
        "preset",
        "no-skips",
        "decoder",
        "depth-1",
        "depth-2",
        "depth-3",
        "depth-4",
        "depth-5",
        "depth-6",
        "half-width",
        "nearest",
        "transposed",
        "he-weights",
        "gaussian-input",
        "coordinates",
        "deep-decoder",
        "wide-deep-decoder",
        "upsampling-0.1",
        "upsampling-0.5",
        "lipschitz-1.4",
        "lipschitz-2",
        "decoder+lipschitz-2",
        "decoder+lipschitz-2+upsampling-0.5",
    ]
    noise: Literal[
        "auto", "gaussian", "poisson-gaussian", "jpeg", "salt-and-pepper", "stripes", "speckle"
    ]
    blind_spot_shape: str
    smoothing: float
    smoothing_kind: Literal["isotropic", "anisotropic"]
    neighbouring_frames: bool
    temporal_smoothing: float
    series_training: Literal["auto", "joint", "warm-start", "independent"]
    channels: Literal["auto", "together", "separate"]


class InpaintKeywords(RunKeywords, total=False):
    """Settings of the task inpaint."""

    invert_mask: bool
    label: int | None
    grow: int
    unmasked: Literal["keep", "denoise"]
    prior: Literal["auto", "masked-input", "random-input", "random-input-no-skips"]


class SuperResolveKeywords(DetectorKeywords, total=False):
    """Settings of the task super-resolve."""

    factor: int | str | tuple[int, ...]
    downsampling: Literal["lanczos", "binning"]
    psf_sigma: float
    psf_sigma_z: float
    prior: Literal["auto", "zssr", "random-input"]
    initial_estimate: Literal["interpolated", "none"]
    noise: Literal["auto", "gaussian", "poisson-gaussian"]


class DeblurKeywords(DetectorKeywords, OpticsKeywords, total=False):
    """Settings of the task deblur."""

    gaussian_sigma: float | None
    gaussian_sigma_z: float | None
    factor: int | str | tuple[int, ...]
    border: Literal["open", "circular"]
    initial_estimate: Literal["richardson-lucy", "none"]
    smoothing: float
    smoothing_kind: Literal["isotropic", "anisotropic"]
    non_negative: bool
    background: float | None
    noise: Literal["auto", "gaussian", "poisson-gaussian"]


class BlindDeblurKeywords(DetectorKeywords, total=False):
    """Settings of the task blind-deblur."""

    blur: Literal["auto", "gaussian", "motion", "defocus", "lens", "free"]
    psf_size: int
    noise: Literal["auto", "gaussian", "poisson-gaussian"]


class GuideKeywords(DetectorKeywords, total=False):
    """Settings of the task guide."""

    prior: Literal["auto", "blind-spot", "random-input"]
    align: bool
    planes_are_channels: bool
    smoothing: float
    smoothing_kind: Literal["isotropic", "anisotropic"]
    noise: Literal["auto", "gaussian", "poisson-gaussian"]
    blind_spot_shape: str
    neighbouring_frames: bool
    temporal_smoothing: float


class FeatureKeywords(RunKeywords, total=False):
    """Settings that the inversion of one layer and of several share."""

    prior: Literal["random-input", "total-variation", "none"]
    weights: FilePath
    normalisation: Literal["auto", "imagenet", "none"]
    mean: str
    deviation: str
    black: float | None
    white: float | None
    smoothing: float


class InvertFeaturesKeywords(FeatureKeywords, total=False):
    """Settings of the task invert-features."""

    network: FilePath
    layer: str


class InputKeywords(TypedDict, Generic[InputT], total=False):
    """Extra inputs of all tasks, of one type: as images or as files."""

    gain_map: InputT | None
    guide: InputT | None
    mask: InputT | None
    noise_map: InputT | None
    offset_map: InputT | None
    psf: InputT | None
    repeated_exposure: InputT | None
    network_file: FilePath | None


class TaskFunction(Protocol[ResultT_co]):
    """A function that takes the name of a task, its inputs and its settings."""

    @overload
    def __call__(
        self,
        task: Literal["denoise"],
        image: ImageLike,
        *,
        axes: AxisLetters | None = None,
        repeated_exposure: ImageLike | None = None,
        offset_map: ImageLike | None = None,
        gain_map: ImageLike | None = None,
        noise_map: ImageLike | None = None,
        network_file: FilePath | None = None,
        **settings: Unpack[DenoiseKeywords],
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self,
        task: Literal["inpaint"],
        image: ImageLike,
        *,
        axes: AxisLetters | None = None,
        mask: ImageLike | None = None,
        **settings: Unpack[InpaintKeywords],
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self,
        task: Literal["super-resolve"],
        image: ImageLike,
        *,
        axes: AxisLetters | None = None,
        **settings: Unpack[SuperResolveKeywords],
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self,
        task: Literal["deblur"],
        image: ImageLike,
        *,
        axes: AxisLetters | None = None,
        psf: ImageLike | None = None,
        **settings: Unpack[DeblurKeywords],
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self,
        task: Literal["blind-deblur"],
        image: ImageLike,
        *,
        axes: AxisLetters | None = None,
        **settings: Unpack[BlindDeblurKeywords],
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self,
        task: Literal["guide"],
        image: ImageLike,
        *,
        axes: AxisLetters | None = None,
        guide: ImageLike,
        **settings: Unpack[GuideKeywords],
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self,
        task: Literal["invert-features"],
        image: ImageLike,
        *,
        axes: AxisLetters | None = None,
        **settings: Unpack[InvertFeaturesKeywords],
    ) -> ResultT_co: ...


class RecipeFunction(Protocol[ResultT_co]):
    """A function that takes the name of a task and its settings."""

    @overload
    def __call__(
        self, task: Literal["denoise"], /, **settings: Unpack[DenoiseKeywords]
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self, task: Literal["inpaint"], /, **settings: Unpack[InpaintKeywords]
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self, task: Literal["super-resolve"], /, **settings: Unpack[SuperResolveKeywords]
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self, task: Literal["deblur"], /, **settings: Unpack[DeblurKeywords]
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self, task: Literal["blind-deblur"], /, **settings: Unpack[BlindDeblurKeywords]
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self, task: Literal["guide"], /, **settings: Unpack[GuideKeywords]
    ) -> ResultT_co: ...

    @overload
    def __call__(
        self, task: Literal["invert-features"], /, **settings: Unpack[InvertFeaturesKeywords]
    ) -> ResultT_co: ...
