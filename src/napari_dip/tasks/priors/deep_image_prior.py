"""The paper's prior, as several tasks use it: an hourglass fed with fixed noise.

The network and the code that a design is of.

Designs of the network that is fed fixed noise: what differs from the preset's.

`napari-dip explore architectures` says which of them suits an image, and a denoising can take that
one over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal

from napari_dip.errors import Refusal, refusal
from napari_dip.tasks.base import Setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.networks.layers import Upsampling
    from napari_dip.engine.prior import Prior, RandomInputPrior
    from napari_dip.engine.problem import Penalty, Problem
    from napari_dip.tasks.base import FitInput

    Grid = tuple[int, ...]

#: Channels of the fixed noise, its range, and the channels of a skip: the values of the paper.
RANDOM_INPUT_CHANNELS, RANDOM_INPUT_RANGE, RANDOM_INPUT_SKIP_CHANNELS = 32, 0.1, 4
#: Channels of noise in a volume that is shown a first guess besides: time and memory go to the
#: finest layers there.
NOISE_IN_VOLUMES = 8
#: Standard deviation of the jitter, in units of the code: 1/30 as in the paper's denoising.
RANDOM_INPUT_JITTER = 1 / 30


def build_random_input_prior(
    scene: FitInput,
    grid: tuple[int, ...],
    rng: torch.Generator,
    *,
    skip: int = RANDOM_INPUT_SKIP_CHANNELS,
    jitter: float = RANDOM_INPUT_JITTER,
    further: int = 0,
    extra_input: Tensor | None = None,
    extra_input_jitter: float = 0.0,
    channels_of_noise: int = RANDOM_INPUT_CHANNELS,
    reach: float = 1.0,
    start: Tensor | None = None,
) -> RandomInputPrior:
    """Make a network and its code for a picture on `grid`.

    Parameters
    ----------
    scene : FitInput
    grid : tuple of int
        Size of the picture, which may be finer or larger than the measurement.
    rng : torch.Generator
    skip : int
        Channels that a skip passes on; 0: no skips.
    jitter : float
    further : int
        Channels fed beside the noise.
    extra_input : Tensor or None
        (1, G, *grid): pictures of a range of about one that stand beside the noise in the code.
    extra_input_jitter : float
        Their own jitter.
    channels_of_noise : int
        Of the fixed noise.
    reach : float
        Range that the picture is expected to have, in network units.
    start : Tensor or None
        (1, C, *grid): the picture that the fit begins with; None: a random one.
    """
    import torch

    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.prior import RandomInputPrior

    channels = scene.measurement.shape[1]
    if extra_input is not None:
        further += extra_input.shape[1]
    fed = channels_of_noise + further
    net = Hourglass(len(grid), fed, channels, scene.widths, skip=skip, normalised=True, rng=rng)
    code = torch.empty(1, channels_of_noise, *grid).uniform_(0, RANDOM_INPUT_RANGE, generator=rng)
    if extra_input is None:
        return RandomInputPrior(net, code, jitter, reach)
    if start is not None:
        net.begin_at_zero()
    jitters = torch.tensor(
        [jitter] * channels_of_noise + [extra_input_jitter] * extra_input.shape[1]
    )
    jitters = jitters.reshape(1, -1, *(1,) * len(grid))
    return RandomInputPrior(
        net, torch.cat([code, extra_input.detach().cpu()], 1), jitters, reach, start
    )


def build_random_input_problem(
    scene: FitInput, penalties: tuple[tuple[float, Penalty], ...]
) -> Problem:
    """Explain the image as picture plus noise, where the network does not see the image.

    Of two measurements the first drives everywhere, and the second judges where it does not
    drive: noise that the network learns from the first is none of the second's, so it shows there.
    """
    import torch

    from napari_dip.engine.likelihood.fidelity import (
        SureTerm,
        gaussian_likelihood,
        weighted_residual,
    )
    from napari_dip.engine.problem import Identity, Problem, Term

    shots = len(scene.measurement)
    terms = []
    for number in range(shots):
        noise = scene.noise.times(scene.granted).of(number)
        judges = number == shots - 1
        terms.append(
            Term(
                measurement=scene.measurement[number : number + 1],
                operator=Identity(),
                fidelity=weighted_residual(noise),
                likelihood=gaussian_likelihood(noise),
                fitted=scene.weight * (1 - scene.guarded) if judges else scene.weight,
                held_out=scene.held_out if judges else torch.zeros_like(scene.held_out),
                measured=scene.weight,
            )
        )
    blind = shots == 1 and any(side > 1 for side in scene.block)
    unseen = SureTerm(scene.measurement) if blind else None
    return Problem(terms=tuple(terms), penalties=penalties, unseen=unseen)


def validate_by_squared_error(scene: FitInput, problem: Problem) -> Problem:
    """Judge a picture by how far off it is, whatever it says of itself.

    The spread of a noise code from step to step is widest at the start, and where the image has
    little noise, it would make the least learned picture the likeliest one. What a network says of
    planes that it has not seen is too sure by a factor that grows as it learns. Of scattered pixels
    it is nearly right: error and likelihood chose steps 450 and 425 of 540, at 34.07 and 34.00 dB
    (montage, docs/benchmarks/inpainting.md).
    """
    from napari_dip.engine.likelihood.fidelity import gaussian_likelihood

    likelihood = gaussian_likelihood(scene.noise)
    terms = (
        replace(
            term,
            likelihood=lambda estimate, measurement: likelihood(
                type(estimate)(estimate.mean), measurement
            ),
        )
        for term in problem.terms
    )
    return replace(problem, terms=tuple(terms))


def build_from_architecture(
    design: Architecture, grid: Grid, rng: torch.Generator, channels: int = 1, jitter: float = 0.0
) -> Prior:
    """Make the network and then its code, as the fixed-noise code does.

    Parameters
    ----------
    design : Architecture
    grid : tuple of int
        Size of the picture.
    rng : torch.Generator
        Draws weights and code.
    channels : int
        Of the picture.
    jitter : float
        Standard deviation of what is added to the code at each step; codes on a grid of their own
        have none.
    """
    prior = _build_unbounded(design, grid, rng, channels, jitter)
    if design.bound is not None:
        from napari_dip.engine.networks.spectral_norm import bound_spectral_norms

        bound_spectral_norms(prior.net, design.bound)
    return prior


def _build_unbounded(
    design: Architecture, grid: Grid, rng: torch.Generator, channels: int, jitter: float
) -> Prior:
    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.prior import RandomInputPrior
    from napari_dip.engine.priors.deep_decoder import (
        CoarseInputPrior,
        Decoder,
        DeepDecoder,
        compute_scale_grids,
    )

    widths, between = design.widths, _make_upsampling(design)
    if design.structure == "hourglass":
        fed = len(grid) if design.code == "coordinates" else RANDOM_INPUT_CHANNELS
        net = Hourglass(
            len(grid),
            fed,
            channels,
            widths,
            skip=design.skip,
            normalised=True,
            rng=rng,
            even=design.weights == "He",
            upsampling=between,
        )
        return RandomInputPrior(net, _make_network_input(design, fed, grid, rng), jitter)
    coarse = compute_scale_grids(grid, len(widths))[-1]
    if design.structure == "decoder":
        decoder = Decoder(
            grid, RANDOM_INPUT_CHANNELS, channels, widths, rng=rng, upsampling=between
        )
        return CoarseInputPrior(
            decoder, _make_network_input(design, RANDOM_INPUT_CHANNELS, coarse, rng), grid
        )
    deep = DeepDecoder(grid, channels, widths[0], len(widths), rng=rng, upsampling=between)
    return CoarseInputPrior(deep, _make_network_input(design, widths[0], coarse, rng), grid)


def _make_upsampling(design: Architecture) -> Upsampling:
    from napari_dip.engine.networks.layers import (
        make_gaussian_upsampling,
        make_linear_upsampling,
        make_nearest_upsampling,
        make_transposed_upsampling,
    )

    if design.sigma is not None:
        return make_gaussian_upsampling(design.sigma)
    return {
        "bilinear": make_linear_upsampling,
        "nearest": make_nearest_upsampling,
        "transposed": make_transposed_upsampling,
    }[design.upsampling]


def _make_network_input(
    design: Architecture, channels: int, grid: Grid, rng: torch.Generator
) -> Tensor:
    """Draw, or lay out, what the network is fed with: (1, channels, *grid)."""
    import torch

    if design.code == "coordinates":
        axes = [torch.linspace(0, 1, count) for count in grid]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    code = torch.empty(1, channels, *grid)
    if design.code == "Gaussian":
        return code.normal_(0, RANDOM_INPUT_RANGE, generator=rng)
    return code.uniform_(0, RANDOM_INPUT_RANGE, generator=rng)


#: Rates of the other optimisers, with which the energy of camera (scikit-image, its middle of
#: 64 x 64 pixels) fell fastest in 60 iterations without breaking down: docs/explore.md.
RATES = {"sgd": 0.1, "l-bfgs": 1.0}
#: Channels of the deep decoders, the narrow one with fewer weights than there are pixels, and their
#: grids: Heckel and Hand take 64 or 128 channels and 6 grids for pictures of 512 x 512.
DEEP_DECODER_CHANNELS, WIDE_DEEP_DECODER_CHANNELS, DEEP_DECODER_SCALES = 24, 64, 6
#: Most grids of an hourglass that are tried; one is without any coarser one.
MAX_SCALES = 6
#: What is compared with all others, and what moves its weights.
PRESET: Final = "preset"
ADAM: Final = "adam"
#: Bounds of layers, and widths of Gaussian upsampling in coarse pixels: those of Shi et al. 2022
#: (the code that they published for denoising, and for the bound of 2 the figure beside it).
BOUNDS, SIGMAS = (1.4, 2.0), (0.1, 0.5)
#: Priors and kinds of noise with which a design of its own goes.
_COMPATIBLE_PRIORS, _COMPATIBLE_NOISE_MODELS = (
    ("auto", "random-input"),
    ("auto", "gaussian", "poisson-gaussian"),
)
#: Those that a denoising can take over: all that differ in the network or in what it is fed, and
#: none that differ in the optimiser.
ArchitectureName = Annotated[
    Literal[
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
    ],
    Setting(
        "Architecture",
        "Which network gets the random input: that of the preset, or one that differs from it. "
        "The Prior explorer says which of them suits an image. Another one than the preset's goes "
        "with the prior 'Deep Image Prior' only, which 'Automatic' then takes.",
        choices={
            "preset": "Preset's",
            "no-skips": "No skip connections",
            "decoder": "Decoder only",
            "depth-1": "1 scale",
            "depth-2": "2 scales",
            "depth-3": "3 scales",
            "depth-4": "4 scales",
            "depth-5": "5 scales",
            "depth-6": "6 scales",
            "half-width": "Half the channels",
            "nearest": "Nearest upsampling",
            "transposed": "Transposed convolution",
            "he-weights": "He initialisation",
            "gaussian-input": "Gaussian random input",
            "coordinates": "Coordinates as input",
            "deep-decoder": "Deep decoder, 24 channels",
            "wide-deep-decoder": "Deep decoder, 64 channels",
            "upsampling-0.1": "Gaussian upsampling, width 0.1",
            "upsampling-0.5": "Gaussian upsampling, width 0.5",
            "lipschitz-1.4": "Lipschitz bound 1.4",
            "lipschitz-2": "Lipschitz bound 2",
            "decoder+lipschitz-2": "Decoder, Lipschitz bound 2",
            "decoder+lipschitz-2+upsampling-0.5": "Decoder, bound 2, Gaussian 0.5",
        },
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network, what it is fed with and how its weights move.

    Attributes
    ----------
    name : str
        As commands and tables call it.
    label : str
        What is different from the preset's.
    structure : str
        "hourglass", "decoder" or "deep decoder".
    widths : tuple of int
        Channels at each grid, finest first.
    rate : float
    skip : int
        Channels that a skip passes on.
    upsampling : str
        "bilinear", "nearest", "transposed" or "gaussian".
    weights : str
        How they begin: "uniform", as torch draws them, or "He".
    code : str
        "uniform", "Gaussian" or "coordinates".
    optimiser : str
        "adam", "sgd" or "l-bfgs".
    bound : float or None
        By which each layer but the last is bounded (`engine.bounded`).
    sigma : float or None
        Width of Gaussian upsampling, in coarse pixels.
    """

    name: str
    label: str
    structure: str
    widths: tuple[int, ...]
    rate: float
    skip: int = 0
    upsampling: str = "bilinear"
    weights: str = "uniform"
    code: str = "uniform"
    optimiser: str = ADAM
    bound: float | None = None
    sigma: float | None = None


def list_architectures(
    widths: tuple[int, ...], rate: float, skip: int = RANDOM_INPUT_SKIP_CHANNELS
) -> dict[str, Architecture]:
    """Give all designs by name, that of the preset first.

    Parameters
    ----------
    widths : tuple of int
        Channels of the preset's network at each grid, finest first.
    rate : float
        Its learning rate.
    skip : int
        Channels that its skips pass on.
    """
    scales = " → ".join(map(str, widths))
    text = f"hourglass of {scales} channels, skips of {skip}"
    base = Architecture(
        name=PRESET, label=text, structure="hourglass", widths=widths, rate=rate, skip=skip
    )
    decoder = replace(base, name="decoder", label="decoder only", structure="decoder", skip=0)
    half = tuple(max(1, width // 2) for width in widths)
    architectures = (
        base,
        replace(base, name="no-skips", label="no skips", skip=0),
        decoder,
        *_vary_depth(base),
        replace(base, name="half-width", label="half the channels", widths=half),
        replace(base, name="nearest", label="nearest upsampling", upsampling="nearest"),
        replace(base, name="transposed", label="learned upsampling", upsampling="transposed"),
        replace(base, name="he-weights", label="weights begin after He", weights="He"),
        replace(base, name="gaussian-input", label="fed Gaussian noise", code="Gaussian"),
        replace(base, name="coordinates", label="fed coordinates", code="coordinates"),
        _set_optimiser(base, "sgd", "SGD with momentum"),
        _set_optimiser(base, "l-bfgs", "L-BFGS, no line search"),
        _make_deep_decoder(base, "deep-decoder", DEEP_DECODER_CHANNELS),
        _make_deep_decoder(base, "wide-deep-decoder", WIDE_DEEP_DECODER_CHANNELS),
        *(set_gaussian_upsampling(base, sigma) for sigma in SIGMAS),
        *(bound_architecture(base, bound) for bound in BOUNDS),
        bound_architecture(decoder, BOUNDS[-1]),
        set_gaussian_upsampling(bound_architecture(decoder, BOUNDS[-1]), SIGMAS[1]),
    )
    return {item.name: item for item in architectures}


def bound_architecture(design: Architecture, bound: float) -> Architecture:
    """Bound the layers of a design."""
    text = f"layers bounded to {bound:g}"
    return _derive_architecture(design, f"lipschitz-{bound:g}", text, bound=bound)


def set_gaussian_upsampling(design: Architecture, sigma: float) -> Architecture:
    """Let a design upsample with a Gaussian kernel."""
    text = f"Gaussian upsampling of width {sigma:g}"
    return _derive_architecture(
        design, f"upsampling-{sigma:g}", text, upsampling="gaussian", sigma=sigma
    )


def set_learning_rate(design: Architecture, rate: float) -> Architecture:
    """Let the weights of a design move at another rate."""
    return _derive_architecture(design, f"rate-{rate:g}", f"rate {rate:g}", rate=rate)


def check_architecture(network: str, prior: str, noise: str) -> Refusal | None:
    """Say no to a design where another prior has a network of its own."""
    if network == PRESET or (prior in _COMPATIBLE_PRIORS and noise in _COMPATIBLE_NOISE_MODELS):
        return None
    other = (
        f"the prior '{prior}'" if prior not in _COMPATIBLE_PRIORS else f"the noise model '{noise}'"
    )
    why = f"{other} has a network of its own"
    hint = "Choose the random input (--prior random-input) and a detector's noise with it."
    return refusal("setting-wrong", field="network", value=f"'{network}'", why=why, hint=hint)


def compute_channel_widths(network: str, prior: str, preset: tuple[int, ...]) -> tuple[int, ...]:
    """Give the channels at each grid of a design, from those of the preset's network."""
    if network == PRESET or prior != "random-input":
        return preset
    architectures = list_architectures(preset, 0.0)
    return (
        architectures[network].widths if network in architectures else preset
    )  # as deep as the preset's


def build_architecture_prior(network: str, scene: FitInput, rng: torch.Generator) -> Prior:
    """Make the network and the code of a fixed-noise fit.

    Parameters
    ----------
    network : str
        One of `ArchitectureName`.
    scene : FitInput
        Whose widths are those of the design already.
    rng : torch.Generator
    """
    architectures = list_architectures(scene.widths, 0.0)
    if network == PRESET or network not in architectures or network.startswith("depth"):
        return build_random_input_prior(scene, scene.grid, rng)
    design = replace(architectures[network], widths=scene.widths)
    return build_from_architecture(
        design, scene.grid, rng, scene.measurement.shape[1], RANDOM_INPUT_JITTER
    )


def _vary_depth(base: Architecture) -> list[Architecture]:
    """Vary how many grids there are; the coarsest of the preset's is repeated."""
    architectures = []
    for count in range(1, MAX_SCALES + 1):
        if count == len(base.widths):
            continue
        widths = (base.widths + base.widths[-1:] * MAX_SCALES)[:count]
        text = f"{count} grids" if count > 1 else "1 grid, no coarser one"
        architectures.append(replace(base, name=f"depth-{count}", label=text, widths=widths))
    return architectures


def _set_optimiser(base: Architecture, optimiser: str, text: str) -> Architecture:
    return replace(base, name=optimiser, label=text, optimiser=optimiser, rate=RATES[optimiser])


def _make_deep_decoder(base: Architecture, name: str, width: int) -> Architecture:
    text = f"deep decoder of {width} channels"
    widths = (width,) * DEEP_DECODER_SCALES
    return replace(base, name=name, label=text, structure="deep decoder", widths=widths, skip=0)


def _derive_architecture(
    design: Architecture, name: str, text: str, **changes: object
) -> Architecture:
    """Change one more thing, and say so; of the preset's alone only that."""
    if design.name != PRESET:
        name, text = f"{design.name}+{name}", f"{design.label}, {text}"
    return replace(design, name=name, label=text, **changes)  # type: ignore[arg-type]
