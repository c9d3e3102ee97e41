"""List all noise models: what `Denoise` checks, removes and adds for each, and how it is described.

A noise model is one row of `NOISE_MODELS`. Here are also speckle, whose variance is a share of the
squared signal, the removal of impulses before other noise is measured, and hints for the user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_dip.engine.noise import crop_centre, predict_variance
from napari_dip.errors import make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import keep_extra_inputs
from napari_dip.tasks.noise_models.impulses import (
    average_neighbours,
    build_impulse_problem,
    compute_local_median,
    exclude_missing,
    fill_stack_impulses,
    find_impulses,
    find_stack_impulses,
    gather_on_black,
    replace_by_random_neighbours,
)
from napari_dip.tasks.noise_models.jpeg_traces import (
    read_jpeg_traces,
    refuse_jpeg_header,
    refuse_jpeg_pixels,
)
from napari_dip.tasks.noise_models.stripes import (
    add_line_offsets,
    make_stripes_note,
    remove_stripes,
    subtract_line_offsets,
)
from napari_dip.tasks.priors.recompression import add_jpeg_projection
from napari_dip.tasks.priors.registry import MASKED_INPUT_PRIOR, RECOMPRESSION_PRIOR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.tasks.base import ConvertedInputs, ConvertInputs, FitInput
    from napari_dip.tasks.noise_models.stripes import StripeOffsets
    from napari_dip.tasks.priors.prior_spec import PriorOptions

    #: One channel (..., Y, X), where it was measured, and the distance of its grey values.
    NoiseSample = tuple[Float32Array, BoolArray | None, float]
    RemoveArtefact = Callable[[Float32Array, BoolArray | None, float], NoiseSample]

#: Minimum signal for the variance of speckle, as a share of the mean: without it, the variance of
#: dark pixels would be 0 and their weight infinite.
MIN_SPECKLE_SIGNAL = 0.02
#: Lower bound of intensities before the logarithm, as a share of the channel's mean. In single-look
#: speckle, one pixel in two hundred lies below that share of its signal.
MIN_INTENSITY_FRACTION = 0.005
#: Range of the number of looks; 10,000 are noise of one percent.
LOOKS_RANGE = (0.5, 1e4)
#: Side of the central crop that is searched for hints, in pixels: enough for noise that is
#: everywhere, and fast.
HINT_CROP_SIDE = 256
#: Standard deviations from which on a pixel counts as an impulse, for a hint.
HINT_IMPULSE_SIGMAS = 8.0
#: Share of impulses from which on they are worth a hint: of 189 noisy images, only one camera
#: picture gets it, also with 0.002; hot pixels on 0.001 of a micrograph cost it 2 to 8 dB.
MIN_IMPULSE_FRACTION = 0.0005
#: Minimum number of impulses worth a hint, so that each quarter by brightness holds a few.
MIN_IMPULSE_COUNT = 12
#: Minimum share of impulses that deviate twice as far, for a hint. It was at least 0.43 for salt
#: and pepper on four images, and 0.03 for a confocal image of few photons, whose noise has long
#: tails.
MIN_FAR_IMPULSE_FRACTION = 0.2
#: Share of impulses below which more of them must deviate twice as far, for a hint.
RARE_IMPULSE_FRACTION = 0.002
#: Minimum share of rare impulses that deviate twice as far, for a hint: 0.30 in photographs of
#: coins and bricks without noise, 0.4 to 0.8 in most micrographs with hot pixels.
MIN_FAR_RARE_FRACTION = 0.35
#: Minimum share of impulses in each quarter of the pixels by brightness, relative to that in all
#: pixels. Impulses occur at every brightness, the long tails of photon noise do not.
MIN_QUARTER_IMPULSE_FRACTION = 0.3
#: Least height of impulses over the median around, in ranges of the image, that is told by other
#: tasks than denoising: it is 0.7 or less in 1794 of 1796 pictures without hot pixels, many of them
#: made coarser; hot pixels of one range on 0.005 of the pixels pass in 86 of 110.
MIN_HINT_HEIGHT = 0.7
#: Minimum number of impulses that are worth a hint since no lens makes such sharp spots.
MIN_SHARP_IMPULSE_COUNT = 3
#: Minimum height of sharp impulses over the median around, in ranges of the image: at most 0.73 in
#: 632 crops of all shared sets with sharp ones, hot pixels of a camera are mostly higher.
MIN_SHARP_IMPULSE_HEIGHT = 1.0
#: Maximum share of a sharp impulse's height in its four neighbours: 0.16 in the sharpest spot of
#: a lens (docs/constants.md), 0.3 to 0.6 in 375 of 632 crops.
MAX_SHARP_NEIGHBOUR_SHARE = 0.1
#: Minimum share of far impulses, among sharp ones of `SUSPECT_SIGMAS`: 0.54 to 1 with hot pixels of
#: equal and of exponential height, at most 0.43 in the tails of speckle and of Student's t noise.
MIN_SHARP_FAR_FRACTION = 0.5
#: Least repetition of pixels that is told: an image that repeats them twice is fitted at half size.
MIN_REPEATED_FACTOR = 3
#: Minimum ratio of the variance of line offsets to that of a line's mean by pixel noise that is
#: worth a hint.
MIN_STRIPE_VARIANCE_RATIO = 20.0


def refuse_speckle_pixels(name: str, stack: Float32Array) -> Refusal | None:
    """Refuse images with negative values, which no multiplicative noise produces."""
    count = int((stack < 0).sum())
    if not count:
        return None
    facts = {"count": count, "total": stack.size, "least": f"{float(stack.min()):g}"}
    return make_refusal("speckle-negative", name=name, **facts)


def compute_logarithm(planes: Float32Array) -> Float32Array:
    """Return the natural logarithm of intensities (..., Y, X) of one channel, bounded below."""
    import numpy as np

    min_intensity = max(MIN_INTENSITY_FRACTION * float(planes.mean(dtype=np.float64)), 1e-30)
    return np.log(np.maximum(planes, np.float32(min_intensity)))


def estimate_number_of_looks(variance: float) -> float:
    """Return the number of looks L of speckle whose logarithm has a given variance, trigamma(L).

    The mean of L looks of fully developed speckle is the signal times a gamma variate of shape L
    and mean one. Its relative variance is 1/L. The variance of its logarithm is trigamma(L) at any
    signal.

    Parameters
    ----------
    variance : float, > 0

    References
    ----------
    Arsenault, April, Properties of speckle integrated with a finite aperture and logarithmically
    transformed, JOSA 66(11), 1976, doi:10.1364/JOSA.66.001160.
    """
    from scipy.optimize import brentq
    from scipy.special import polygamma

    fewest, most = LOOKS_RANGE
    if not polygamma(1, most) < variance < polygamma(1, fewest):
        return most if variance < 1 else fewest
    return float(brentq(lambda looks: polygamma(1, looks) - variance, fewest, most))


def convert_log_noise(noise_estimate: NoiseEstimate, logarithms: Float32Array) -> NoiseEstimate:
    """Convert the noise that was measured on logarithms to that of intensities."""
    import numpy as np

    level = float(logarithms.mean(dtype=np.float64))
    variance = predict_variance(level, noise_estimate.gain, noise_estimate.intercept)
    variance = max(variance, noise_estimate.floor)
    relative = estimate_number_of_looks(variance) ** -0.5
    signal = float(np.exp(logarithms, dtype=np.float64).mean())
    floor = (MIN_SPECKLE_SIGNAL * relative * signal) ** 2
    return replace(
        noise_estimate, gain=0.0, intercept=0.0, floor=floor, relative_deviation=relative
    )


def _replace_impulses(
    volume: Float32Array, measured_mask: BoolArray | None, grey_level_step: float
) -> NoiseSample:
    """Replace the impulses of one channel (..., Y, X) by random neighbours, however many."""
    if measured_mask is None:
        return volume, measured_mask, grey_level_step
    planes = volume.reshape(-1, *volume.shape[-2:])
    replaced = replace_by_random_neighbours(planes, measured_mask.reshape(planes.shape))
    return replaced.reshape(volume.shape), None, grey_level_step


def list_noise_hints(image: Float32Array) -> tuple[Note, ...]:
    """Return notes on artefacts that an image (C, *grid) clearly shows."""
    plane = _choose_hint_plane(_crop_planes(image))
    notes = []
    if impulses := _find_clear_impulses(plane):
        notes.append(make_note("impulses-likely", share=impulses.share))
    if stripes := find_clear_stripes(plane):
        rows = stripes.axis == -2
        notes.append(make_note("stripes-likely", rows=rows, deviation=stripes.std))
    if (factor := find_repeated_pixels(plane)) >= MIN_REPEATED_FACTOR:
        notes.append(make_note("pixels-repeated", factor=factor))
    return tuple(notes)


def list_high_impulses(image: Float32Array, measured_mask: BoolArray | None) -> tuple[Note, ...]:
    """Return a note on impulses so high that they spoil pixels around, for any task.

    Sharp structure without noise looks like lower ones.

    Parameters
    ----------
    image : ndarray
        (C, *grid).
    measured_mask : ndarray of bool or None
        (C, *grid), False where nothing was measured; None: nowhere.
    """
    import numpy as np

    planes = _crop_planes(image)
    if measured_mask is not None:  # a smooth filling would differ from all around it
        planes = replace_by_random_neighbours(planes, _crop_planes(measured_mask))
    plane = _choose_hint_plane(planes)
    if not (impulses := _find_clear_impulses(plane)):
        return ()
    low, high = np.percentile(plane, (1, 99))
    is_high = impulses.height > MIN_HINT_HEIGHT * (high - low)
    return (make_note("impulses-likely", share=impulses.share),) if is_high else ()


def _crop_planes(stack: AnyArray) -> AnyArray:
    """Return the centres of all planes (..., Y, X), as far as hints are looked for: (P, Y, X)."""
    import numpy as np

    planes = stack.reshape(-1, *stack.shape[-2:])
    return np.stack([crop_centre(plane, HINT_CROP_SIDE) for plane in planes])


def _choose_hint_plane(planes: AnyArray) -> AnyArray:
    """Return the plane of (P, Y, X) that varies most."""
    return max(planes, key=lambda plane: float(plane.std()))


def find_repeated_pixels(plane: Float32Array) -> int:
    """Return how often each pixel of (Y, X) is repeated along Y and X, at least; 1 if it is not."""
    import numpy as np

    factors = []
    for pixels in (plane, plane.T):
        changes = np.flatnonzero((pixels[1:] != pixels[:-1]).any(1))
        factors.append(int(np.gcd.reduce(np.diff(changes))) if len(changes) > 1 else 1)
    return min(factors)


def find_clear_stripes(plane: npt.NDArray[np.floating]) -> StripeOffsets | None:
    """Find clear stripes in the centre of a plane (Y, X); None if there are none."""
    from napari_dip.tasks.noise_models.stripes import find_line_offsets

    stripes = find_line_offsets(crop_centre(plane, HINT_CROP_SIDE))
    if stripes is None or stripes.variance_ratio <= MIN_STRIPE_VARIANCE_RATIO:
        return None
    return stripes


def remove_clear_artefacts(planes: Float32Array) -> Float32Array | None:
    """Return planes (P, Y, X) without the impulses and stripes that the middle one clearly shows.

    Where they hide the noise, it can be measured in these planes. None if there are none.
    """
    plane, cleaned = planes[len(planes) // 2], planes
    if _find_clear_impulses(crop_centre(plane, HINT_CROP_SIDE)):
        cleaned = fill_stack_impulses(planes)
    if find_clear_stripes(plane):
        cleaned = subtract_line_offsets(cleaned)
    return None if cleaned is planes else cleaned


class _ClearImpulses(NamedTuple):
    """Share of the pixels, and median height over the medians around."""

    share: float
    height: float


def _find_clear_impulses(plane: Float32Array) -> _ClearImpulses | None:
    """Describe the clear impulses of a plane; None if they are too few or not everywhere."""
    import numpy as np

    impulses = find_impulses(plane, threshold_sigmas=HINT_IMPULSE_SIGMAS, max_passes=1)
    fraction, count = float(impulses.mean()), int(impulses.sum())
    if count < MIN_SHARP_IMPULSE_COUNT:
        return None
    surroundings = compute_local_median(plane)
    if gather_on_black(impulses, plane, surroundings):
        return None
    heights = plane - surroundings
    clear = _ClearImpulses(fraction, float(np.median(np.abs(heights[impulses]))))
    if _are_hot_pixels(plane, heights, impulses):
        return clear
    if fraction < MIN_IMPULSE_FRACTION or count < MIN_IMPULSE_COUNT:
        return None
    far_impulses = find_impulses(plane, threshold_sigmas=2 * HINT_IMPULSE_SIGMAS, max_passes=1)
    is_rare = fraction < RARE_IMPULSE_FRACTION
    far_fraction = MIN_FAR_RARE_FRACTION if is_rare else MIN_FAR_IMPULSE_FRACTION
    if float(far_impulses.mean()) < far_fraction * fraction:
        return None
    order = surroundings.argsort(axis=None, kind="stable")
    quarters = [float(impulses.ravel()[members].mean()) for members in np.array_split(order, 4)]
    if min(quarters) <= MIN_QUARTER_IMPULSE_FRACTION * fraction:
        return None
    return clear


def _are_hot_pixels(plane: Float32Array, heights: AnyArray, impulses: BoolArray) -> bool:
    """Return whether impulses are higher and sharper than light, and no tail of the noise."""
    import numpy as np

    low, high = np.percentile(plane, (1, 99))
    if not 0 < high - low < np.median(np.abs(heights[impulses])) / MIN_SHARP_IMPULSE_HEIGHT:
        return False
    share = float(np.median(average_neighbours(heights)[impulses] / heights[impulses]))
    suspects = find_impulses(plane, max_passes=1)
    return (
        share < MAX_SHARP_NEIGHBOUR_SHARE
        and impulses.sum() >= MIN_SHARP_FAR_FRACTION * suspects.sum()
    )


def _return_none(*_: object) -> None:
    """Refuse nothing, and find nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseModel:
    """Describe one noise model; the defaults are those of a detector's noise.

    Attributes
    ----------
    key : str
        Value of the setting `noise`, and name in reports.
    label : str
        Name in forms.
    methods_phrase : str
        Completion of "The noise was modelled as" in the methods section.
    figures_template_key : str
        Key of the template that says the strength of the noise there.
    list_figures : callable
        (noise in a report) -> the facts of that template, one value a channel.
    papers : tuple of str
        Papers to cite: keys of `pipeline.assess.methods_section.PAPERS`.
    has_variance_model : bool
        Whether the variance is gain x signal + intercept, the same everywhere; other models
        describe artefacts. Then clipping can be corrected, and pixels averaged.
    volume_refusal : str
        Code of the refusal of volumes; "" if planes may be fitted together.
    prior_key : str
        Key of the prior that *Automatic* takes; "" for that of a detector's noise.
    prior_reason : str
        Why it takes this prior, for the report.
    joins_colours : bool
        Whether all colours are always fitted together.
    fills_missing_pixels : bool
        Whether some pixels hold no measurement, and that prior fills them in.
    remove_artefact : callable or None
        (channel (..., Y, X), measured_mask, grey_level_step) -> the same without the artefact, for
        measuring the other noise; None: the detector's noise is measured as it is.
    convert_noise : callable or None
        (noise, pixels) -> the noise of intensities, where `remove_artefact` changed their scale.
    has_noise_residual : bool
        Whether the residual of a good fit is noise of the measured strength.
    refuse_header : callable
        (header, extra_headers) -> Refusal or None.
    refuse_pixels : callable
        (name, image (N, C, *grid)) -> Refusal or None.
    convert_inputs : callable
        (image, extra_inputs, headers) -> what the fits get, and notes.
    find_missing : callable
        (image) -> mask of the pixels that hold no measurement, or None.
    correct_fit_input : callable
        (fit_input) -> the same without what the model removes before a fit.
    limit_network_input : callable
        (fit_input) -> the same without pixels that must not enter the network.
    problem_factory : callable or None
        (fit_input, options) -> Problem, instead of the prior's own.
    wrap_problem : callable
        (fit_input, problem) -> the problem with the model's operator or postprocessing.
    """

    key: str
    label: str
    methods_phrase: str = ""
    figures_template_key: str = "figures-line"
    list_figures: Callable[[Mapping[str, Any]], Mapping[str, list[float]]] = lambda noise: {
        name: noise[name] for name in ("gain", "intercept")
    }
    papers: tuple[str, ...] = ()
    has_variance_model: bool = False
    volume_refusal: str = ""
    prior_key: str = ""
    prior_reason: str = ""
    joins_colours: bool = False
    fills_missing_pixels: bool = False
    has_noise_residual: bool = True
    remove_artefact: RemoveArtefact | None = None
    convert_noise: Callable[[NoiseEstimate, Float32Array], NoiseEstimate] | None = None
    refuse_header: Callable[[ImageHeader, Headers], Refusal | None] = _return_none
    refuse_pixels: Callable[[str, Float32Array], Refusal | None] = _return_none
    convert_inputs: ConvertInputs = keep_extra_inputs
    find_missing: Callable[[Float32Array], BoolArray | None] = _return_none
    correct_fit_input: Callable[[FitInput], FitInput] = lambda fit_input: fit_input
    limit_network_input: Callable[[FitInput], FitInput] = lambda fit_input: fit_input
    problem_factory: Callable[[FitInput, PriorOptions], Problem] | None = None
    wrap_problem: Callable[[FitInput, Problem], Problem] = lambda fit_input, problem: problem

    @property
    def allows_added_noise(self) -> bool:
        """Whether more noise of its kind can be drawn, as for R2R, halves and null control."""
        return self.has_variance_model


def _refuse_exposures(title: str, header: ImageHeader, extra_headers: Headers) -> Refusal | None:
    """Refuse repeated exposures: the noise is found in a single image."""
    if "repeated_exposure" not in extra_headers:
        return None
    name = extra_headers["repeated_exposure"].name
    return make_refusal("noise-repeated-exposure", noise=title, name=name)


def _add_hints(
    image: Float32Array, extra_inputs: Mapping[str, Float32Array], headers: Headers
) -> ConvertedInputs:
    """Return the inputs, and hints on a noise model that fits better."""
    return extra_inputs, () if "repeated_exposure" in headers else list_noise_hints(image)


AUTO = NoiseModel(key="auto", label="Automatic", has_variance_model=True, convert_inputs=_add_hints)
GAUSSIAN = NoiseModel(
    key="gaussian",
    label="Gaussian",
    methods_phrase="Gaussian, equally strong everywhere",
    figures_template_key="figures-gaussian",
    list_figures=lambda noise: {"std": [max(0.0, v) ** 0.5 for v in noise["intercept"]]},
    has_variance_model=True,
)
POISSON_GAUSSIAN = NoiseModel(
    key="poisson-gaussian",
    label="Poisson-Gaussian",
    methods_phrase="Poisson-Gaussian, its variance a line in the intensity",
    has_variance_model=True,
)
JPEG = NoiseModel(
    key="jpeg",
    label="JPEG compression",
    methods_phrase="the loss of JPEG compression",
    papers=("jpeg traces",),
    volume_refusal="jpeg-volume",
    prior_key=RECOMPRESSION_PRIOR.key,
    prior_reason="it learns to undo the compression that was found, on the image itself",
    joins_colours=True,  # JPEG mixes the colours
    has_noise_residual=False,
    refuse_header=refuse_jpeg_header,
    refuse_pixels=lambda name, stack: refuse_jpeg_pixels(stack[0], name),
    convert_inputs=lambda image, extra_inputs, headers: read_jpeg_traces(image),
    wrap_problem=add_jpeg_projection,
)
SALT_AND_PEPPER = NoiseModel(
    key="salt-and-pepper",
    label="Salt and pepper (faulty pixels)",
    methods_phrase="impulses on single pixels beside a detector's noise",
    papers=("impulses",),
    volume_refusal="impulses-volume",
    prior_key=MASKED_INPUT_PRIOR.key,
    prior_reason="it learns to fill pixels in from those around, as the impulses need",
    fills_missing_pixels=True,
    remove_artefact=_replace_impulses,
    refuse_header=partial(_refuse_exposures, "Salt and pepper"),
    find_missing=find_stack_impulses,
    limit_network_input=exclude_missing,
    problem_factory=build_impulse_problem,
)
STRIPES = NoiseModel(
    key="stripes",
    label="Stripes (line noise)",
    methods_phrase="offsets of whole rows or columns beside a detector's noise",
    papers=("stripes",),
    remove_artefact=lambda volume, mask, step: (subtract_line_offsets(volume), mask, step),
    refuse_header=partial(_refuse_exposures, "Stripes"),
    convert_inputs=lambda image, extra_inputs, headers: (extra_inputs, (make_stripes_note(image),)),
    correct_fit_input=remove_stripes,
    wrap_problem=add_line_offsets,
)
SPECKLE = NoiseModel(
    key="speckle",
    label="Speckle",
    methods_phrase="speckle, in proportion to the signal",
    figures_template_key="figures-speckle",
    list_figures=lambda noise: {"std": noise.get("relative_deviation", [0])},
    papers=("speckle",),
    remove_artefact=lambda volume, mask, _: (compute_logarithm(volume), mask, 0.0),
    convert_noise=convert_log_noise,
    refuse_header=partial(_refuse_exposures, "Speckle"),
    refuse_pixels=refuse_speckle_pixels,
)

_MODELS = (AUTO, GAUSSIAN, POISSON_GAUSSIAN, JPEG, SALT_AND_PEPPER, STRIPES, SPECKLE)
#: All noise models, by key, in the order of forms.
NOISE_MODELS: Mapping[str, NoiseModel] = MappingProxyType({model.key: model for model in _MODELS})


def get_noise_model(key: str) -> NoiseModel:
    """Return the row of a noise model; a bare row for one that only another version has."""
    return NOISE_MODELS.get(key) or NoiseModel(key=key, label=key, methods_phrase=key)
