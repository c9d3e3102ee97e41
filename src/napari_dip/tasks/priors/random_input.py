"""Deep Image Prior (random input): its network, its problem, and variants of its architecture.

`napari-dip explore architectures` compares the variants on an image; Denoise can use most of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from napari_dip.errors import Refusal, make_refusal
from napari_dip.tasks.base import load_setting
from napari_dip.tasks.priors.image_input import compute_variance_factor, make_measured_term
from napari_dip.tasks.priors.prior_spec import RANDOM_INPUT_CHANNELS, RANDOM_INPUT_SKIP_CHANNELS
from napari_dip.tasks.priors.refinement import filter_repeatedly, holds_patches

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from napari_dip.engine.networks.layers import UpsamplingFactory
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.tasks.base import FitInput
    from napari_dip.tasks.priors.prior_spec import PriorOptions

    Grid = tuple[int, ...]

#: Filters in a row after the network without skip connections, where noise is white: a second
#: gains 0.34, 0.08 and 0.03 dB on three of three crops (camera, coins, Confocal_BPAE_G).
SMOOTH_GUIDE_ROUNDS = 2
#: Range of the random input: value of the paper.
RANDOM_INPUT_RANGE = 0.1
#: Standard deviation of the initial pixel parameters before the sigmoid, if there is no network: a
#: nearly uniform grey, as in Mahendran, Vedaldi 2015.
PIXEL_START_SIGMA = 0.1
OptimizerName = Literal["adam", "sgd", "l-bfgs"]
#: Learning rates of optimisers other than Adam, with which the energy of camera (scikit-image,
#: central 64 x 64 pixels) fell fastest in 60 iterations without diverging: docs/explore.md.
LEARNING_RATES = {"sgd": 0.1, "l-bfgs": 1.0}
#: Channels of the narrow deep decoder, which has fewer weights than pixels.
DEEP_DECODER_CHANNELS = 24
#: Channels of the wide deep decoder: Heckel and Hand take 64 or 128.
WIDE_DEEP_DECODER_CHANNELS = 64
#: Scales of the narrow and the wide deep decoder, as of Heckel and Hand.
DEEP_DECODER_SCALES = 6
#: Maximum number of scales of an hourglass that is compared.
MAX_SCALES = 6
#: Name of the preset's architecture, to which all others are compared, and its optimiser.
DEFAULT_ARCHITECTURE: Final = "preset"
ADAM: Final = "adam"
#: Lipschitz bounds of layers (code of Shi et al. 2022 for denoising; 2 also from its figure).
LIPSCHITZ_BOUNDS = (1.4, 2.0)
#: Widths of Gaussian upsampling in coarse pixels, as in the code of Shi et al. 2022.
UPSAMPLING_SIGMAS = (0.1, 0.5)


def build_random_input_prior(
    fit_input: FitInput, rng: torch.Generator, options: PriorOptions
) -> Prior:
    """Build the network and its random input; as `options.random_input` describes.

    Finest scales of width 0 have no layers: input and network are on the first grid that has some.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    from napari_dip.engine.networks.hourglass import (
        Hourglass,
        UpsampledNetwork,
        compute_scale_grids,
    )
    from napari_dip.engine.priors.random_input import RandomInputPrior

    input_options, channels = options.random_input, fit_input.measurement.shape[1]
    grid, extra_input = input_options.grid or fit_input.grid, input_options.extra_input
    architectures = list_architectures(fit_input.widths, 0.0)
    name = input_options.architecture
    if name in architectures and name != DEFAULT_ARCHITECTURE and not name.startswith("depth"):
        # the widths of the fit are already those of the architecture
        architecture = replace(architectures[name], widths=fit_input.widths)
        return build_from_architecture(architecture, grid, rng, channels, input_options.jitter)
    extra_channels = options.extra_channels + (0 if extra_input is None else extra_input.shape[1])
    widths = tuple(width for width in fit_input.widths if width)
    input_grid = compute_scale_grids(grid, len(fit_input.widths) - len(widths) + 1)[-1]
    network: nn.Module
    network = hourglass = Hourglass(
        len(grid),
        input_options.channels + extra_channels,
        channels,
        widths,
        skip_channels=input_options.skip_channels,
        is_normalised=True,
        rng=rng,
    )
    random_input = torch.empty(1, input_options.channels, *input_grid).uniform_(
        0, RANDOM_INPUT_RANGE, generator=rng
    )
    jitter: float | Tensor = input_options.jitter
    if extra_input is not None:
        if input_grid != grid:
            extra_input = functional.interpolate(extra_input, size=input_grid, mode="area")
        random_input = torch.cat([random_input, extra_input.detach().cpu()], 1)
        jitters = [jitter] * input_options.channels
        jitters += [input_options.extra_input_jitter] * extra_input.shape[1]
        jitter = torch.tensor(jitters).reshape(1, -1, *(1,) * len(grid))
    if input_options.baseline is not None:
        hourglass.zero_head()
    if input_grid != grid:
        network = UpsampledNetwork(hourglass, grid)
    scale, baseline = input_options.output_scale, input_options.baseline
    return RandomInputPrior(
        network, random_input, jitter, scale, baseline, grid=grid, bounds=input_options.bounds
    )


def build_no_skip_prior(fit_input: FitInput, rng: torch.Generator, options: PriorOptions) -> Prior:
    """Build the same without skip connections and, as in the paper, without jitter."""
    no_skip_input = replace(options.random_input, skip_channels=0, jitter=0.0)
    return build_random_input_prior(fit_input, rng, replace(options, random_input=no_skip_input))


def build_pixel_prior(fit_input: FitInput, rng: torch.Generator, options: PriorOptions) -> Prior:
    """Build free pixels within the bounds of `options.random_input`, without a network."""
    import torch

    from napari_dip.engine.priors.random_input import PixelParameters, RandomInputPrior

    channels, grid = fit_input.measurement.shape[1], fit_input.grid
    network = PixelParameters(channels, grid, PIXEL_START_SIGMA, rng)
    bounds = options.random_input.bounds
    return RandomInputPrior(network, torch.zeros(1, 1, *grid), 0.0, bounds=bounds)


def build_random_input_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the problem: the measurement is the image plus noise.

    With a repeated exposure, all pixels of the first enter the loss, and the validation pixels are
    of the second only. Noise of the first that the network has fitted then raises the validation
    loss.
    """
    from napari_dip.engine.likelihood.fidelity import make_weighted_residual
    from napari_dip.engine.likelihood.penalties import SureTerm
    from napari_dip.engine.problem import Problem

    exposure_count, noise = len(fit_input.measurement), fit_input.noise
    terms = []
    for exposure in range(exposure_count):
        noise_variance = noise.noise_variance.scale(noise.assumed_fraction).select(exposure)
        is_validated = exposure == exposure_count - 1
        masks = fit_input.masks if is_validated else fit_input.masks.clear_validation()
        measurement = fit_input.measurement[exposure : exposure + 1]
        fidelity = make_weighted_residual(noise_variance)
        terms.append(make_measured_term(measurement, masks, noise_variance, fidelity))
    uses_sure = exposure_count == 1 and any(side > 1 for side in fit_input.masks.blind_spot_size)
    sure_term = SureTerm(fit_input.measurement) if uses_sure else None
    return Problem(terms=tuple(terms), penalties=options.penalties, sure_term=sure_term)


def build_no_skip_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the same problem. If measured pixels are predicted, they are refined at the end.

    That is in planes only. The network is too smooth for them, as holes need it.
    """
    from napari_dip.engine.problem import Identity, make_single_step

    problem = build_random_input_problem(fit_input, options)
    is_refinable = len(fit_input.grid) == 2 and holds_patches(fit_input)
    if not (options.predicts_measured and is_refinable):
        return problem

    def refine(estimate: Estimate) -> Estimate:
        refined = filter_repeatedly(fit_input, estimate, SMOOTH_GUIDE_ROUNDS)
        if estimate.log_variance is None or refined.log_variance is None:
            return refined
        # this factor multiplies the variance later, but holds for that of the network alone
        factor = compute_variance_factor(fit_input, Identity(), estimate)
        return refined._replace(log_variance=refined.log_variance - factor.log())

    return replace(problem, full_postprocess=make_single_step(refine))


def validate_by_squared_error(fit_input: FitInput, problem: Problem) -> Problem:
    """Replace the validation loss by the squared error, regardless of the predicted variance.

    With random input, the spread from iteration to iteration is largest at the start. With little
    noise, it would make the least fitted prediction the most likely one. Predicted variances of
    missing planes are too small, by a factor that grows during the fit. For scattered pixels they
    are nearly right: squared error and likelihood chose iterations 450 and 425 of 540, at 34.07 and
    34.00 dB (montage, docs/benchmarks/inpainting.md).
    """
    from napari_dip.engine.likelihood.fidelity import make_gaussian_deviance

    deviance = make_gaussian_deviance(fit_input.noise.noise_variance, uses_predicted_variance=False)
    terms = tuple(replace(term, deviance=deviance) for term in problem.terms)
    return replace(problem, terms=terms)


def build_from_architecture(
    architecture: Architecture,
    grid: Grid,
    rng: torch.Generator,
    channels: int = 1,
    jitter: float = 0.0,
) -> Prior:
    """Build the network and the input of an architecture.

    Parameters
    ----------
    architecture : Architecture
    grid : tuple of int
        Size of the image.
    rng : torch.Generator
        Draws the weights first and the random input then, as `build_random_input_prior` does.
    channels : int
        Channels of the image.
    jitter : float
        Standard deviation of the jitter of the input; coarse inputs of decoders have none.
    """
    from torch import nn

    from napari_dip.engine.networks.hourglass import (
        Decoder,
        DeepDecoder,
        Hourglass,
        compute_scale_grids,
    )
    from napari_dip.engine.networks.layers import bound_spectral_norms
    from napari_dip.engine.priors.random_input import RandomInputPrior

    widths, upsampling = architecture.widths, _choose_upsampling_factory(architecture)
    input_channels, input_grid, network = RANDOM_INPUT_CHANNELS, grid, nn.Module()
    if architecture.structure == "hourglass":
        if architecture.input_kind == "coordinates":
            input_channels = len(grid)
        network = Hourglass(
            len(grid),
            input_channels,
            channels,
            widths,
            skip_channels=architecture.skip_channels,
            is_normalised=True,
            rng=rng,
            preserves_variance=architecture.initialisation == "He",
            make_upsampling=upsampling,
        )
    else:
        input_grid, jitter = compute_scale_grids(grid, len(widths))[-1], 0.0
        if architecture.structure == "decoder":
            network = Decoder(
                grid, input_channels, channels, widths, rng=rng, make_upsampling=upsampling
            )
        else:
            input_channels = widths[0]
            network = DeepDecoder(
                grid, channels, input_channels, len(widths), rng=rng, make_upsampling=upsampling
            )
    network_input = _make_network_input(architecture, input_channels, input_grid, rng)
    prior = RandomInputPrior(network, network_input, jitter, grid=grid)
    if architecture.lipschitz_bound is not None:
        bound_spectral_norms(network, architecture.lipschitz_bound)
    return prior


def _choose_upsampling_factory(architecture: Architecture) -> UpsamplingFactory:
    from napari_dip.engine.networks.layers import (
        TransposedUpsampling,
        make_gaussian_upsampling_factory,
        make_linear_upsampling,
        make_nearest_upsampling,
    )

    if architecture.upsampling_sigma is not None:
        return make_gaussian_upsampling_factory(architecture.upsampling_sigma)
    factories: dict[str, UpsamplingFactory] = {
        "bilinear": make_linear_upsampling,
        "nearest": make_nearest_upsampling,
        "transposed": TransposedUpsampling,
    }
    return factories[architecture.upsampling]


def _make_network_input(
    architecture: Architecture, channels: int, grid: Grid, rng: torch.Generator
) -> Tensor:
    """Return the network input, random numbers or coordinates: (1, channels, *grid)."""
    import torch

    if architecture.input_kind == "coordinates":
        axes = [torch.linspace(0, 1, count) for count in grid]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    random_input = torch.empty(1, channels, *grid)
    if architecture.input_kind == "Gaussian":
        return random_input.normal_(0, RANDOM_INPUT_RANGE, generator=rng)
    return random_input.uniform_(0, RANDOM_INPUT_RANGE, generator=rng)


ARCHITECTURE_SETTING = load_setting("denoise_architecture")
#: Labels in all interfaces of the architectures that Denoise can use: all that differ in the
#: network or its input, none that differ in the optimiser.
ARCHITECTURE_LABELS: Mapping[str, str] = ARCHITECTURE_SETTING.choices or {}
#: Labels of the architectures that only experiments use.
_OPTIMIZER_LABELS = {"sgd": "SGD with momentum", "l-bfgs": "L-BFGS, no line search"}
ArchitectureName = Annotated[str, ARCHITECTURE_SETTING]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Describe a network, its input and its optimiser.

    Attributes
    ----------
    name : str
        Name in commands and tables.
    label : str
        What differs from the preset's architecture.
    structure : str
    widths : tuple of int
        Channels at each scale, finest first.
    learning_rate : float
    skip_channels : int
        Channels of each skip connection.
    upsampling : str
    initialisation : str
        Of the weights; "uniform" is the default of torch.
    input_kind : str
        Network input.
    optimizer : str
    lipschitz_bound : float or None
        Lipschitz bound of each layer but the last (`bound_spectral_norms`).
    upsampling_sigma : float or None
        Width of Gaussian upsampling, in coarse pixels.
    """

    name: str
    label: str
    structure: Literal["hourglass", "decoder", "deep decoder"]
    widths: tuple[int, ...]
    learning_rate: float
    skip_channels: int = 0
    upsampling: Literal["bilinear", "nearest", "transposed", "gaussian"] = "bilinear"
    initialisation: Literal["uniform", "He"] = "uniform"
    input_kind: Literal["uniform", "Gaussian", "coordinates"] = "uniform"
    optimizer: OptimizerName = ADAM
    lipschitz_bound: float | None = None
    upsampling_sigma: float | None = None


def list_architectures(widths: tuple[int, ...], learning_rate: float) -> dict[str, Architecture]:
    """Return all architectures by name, that of the preset first.

    Parameters
    ----------
    widths : tuple of int
        Channels of the preset's network at each scale, finest first.
    learning_rate : float
        Its learning rate.
    """
    scales = " → ".join(map(str, widths))
    base_label = f"hourglass of {scales} channels, skips of {RANDOM_INPUT_SKIP_CHANNELS}"
    preset = Architecture(
        name=DEFAULT_ARCHITECTURE,
        label=base_label,
        structure="hourglass",
        widths=widths,
        learning_rate=learning_rate,
        skip_channels=RANDOM_INPUT_SKIP_CHANNELS,
    )
    decoder = _vary(preset, "decoder", structure="decoder", skip_channels=0)
    bounded_decoder = bound_architecture(decoder, LIPSCHITZ_BOUNDS[-1])
    half_widths = tuple(max(1, width // 2) for width in widths)
    architectures = (
        preset,
        _vary(preset, "no-skips", skip_channels=0),
        decoder,
        *_vary_depth(preset),
        _vary(preset, "half-width", widths=half_widths),
        _vary(preset, "nearest", upsampling="nearest"),
        _vary(preset, "transposed", upsampling="transposed"),
        _vary(preset, "he-weights", initialisation="He"),
        _vary(preset, "gaussian-input", input_kind="Gaussian"),
        _vary(preset, "coordinates", input_kind="coordinates"),
        *(
            _vary(preset, name, optimizer=name, learning_rate=LEARNING_RATES[name])
            for name in _OPTIMIZER_LABELS
        ),
        _make_deep_decoder(preset, "deep-decoder", DEEP_DECODER_CHANNELS),
        _make_deep_decoder(preset, "wide-deep-decoder", WIDE_DEEP_DECODER_CHANNELS),
        *(set_gaussian_upsampling(preset, sigma) for sigma in UPSAMPLING_SIGMAS),
        *(bound_architecture(preset, bound) for bound in LIPSCHITZ_BOUNDS),
        bounded_decoder,
        set_gaussian_upsampling(bounded_decoder, UPSAMPLING_SIGMAS[1]),
    )
    return {architecture.name: architecture for architecture in architectures}


def bound_architecture(architecture: Architecture, bound: float) -> Architecture:
    """Return an architecture with Lipschitz-bounded layers."""
    label = f"Lipschitz bound {bound:g}"
    return _derive_architecture(architecture, f"lipschitz-{bound:g}", label, lipschitz_bound=bound)


def set_gaussian_upsampling(architecture: Architecture, sigma: float) -> Architecture:
    """Return an architecture with Gaussian upsampling."""
    label = f"Gaussian upsampling, width {sigma:g}"
    return _derive_architecture(
        architecture, f"upsampling-{sigma:g}", label, upsampling="gaussian", upsampling_sigma=sigma
    )


def set_learning_rate(architecture: Architecture, rate: float) -> Architecture:
    """Return an architecture with another learning rate."""
    name, label = f"rate-{rate:g}", f"rate {rate:g}"
    return _derive_architecture(architecture, name, label, learning_rate=rate)


def make_architecture_refusal(architecture_name: str, conflict: str) -> Refusal:
    """Refuse an architecture together with a setting that has its own network."""
    why = f"{conflict} has a network of its own"
    hint = "Choose the random input (--prior random-input) and a detector's noise with it."
    return make_refusal(
        "setting-wrong", field="architecture", value=f"'{architecture_name}'", why=why, hint=hint
    )


def compute_channel_widths(architecture_name: str, preset: tuple[int, ...]) -> tuple[int, ...]:
    """Return an architecture's channels at each scale, given those of the preset's network."""
    if architecture_name == DEFAULT_ARCHITECTURE:
        return preset
    # the preset's own depth is not listed
    architecture = list_architectures(preset, 0.0).get(architecture_name)
    return preset if architecture is None else architecture.widths


def _vary_depth(base: Architecture) -> list[Architecture]:
    """Return architectures with other numbers of scales, repeating the preset's coarsest width."""
    widths = base.widths + base.widths[-1:] * MAX_SCALES
    counts = (count for count in range(1, MAX_SCALES + 1) if count != len(base.widths))
    return [_vary(base, f"depth-{count}", widths=widths[:count]) for count in counts]


def _vary(base: Architecture, name: str, **changes: Any) -> Architecture:
    """Return an architecture with changes, under its name and label."""
    label = {**ARCHITECTURE_LABELS, **_OPTIMIZER_LABELS}[name]
    return replace(base, name=name, label=label, **changes)


def _make_deep_decoder(base: Architecture, name: str, width: int) -> Architecture:
    widths = (width,) * DEEP_DECODER_SCALES
    return _vary(base, name, structure="deep decoder", widths=widths, skip_channels=0)


def _derive_architecture(
    architecture: Architecture, name: str, text: str, **changes: object
) -> Architecture:
    """Return an architecture with further changes, which are appended to name and label."""
    if architecture.name != DEFAULT_ARCHITECTURE:
        name, text = f"{architecture.name}+{name}", f"{architecture.label}, {text}"
    label = ARCHITECTURE_LABELS.get(name, text)
    return replace(architecture, name=name, label=label, **changes)  # type: ignore[arg-type]
