"""Invert features: restore an image from what a layer of a network answers to it."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.errors import Refusal, RefusedError, make_refusal, return_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_sizes
from napari_dip.tasks.base import (
    DEFAULT_PRIOR,
    FitInput,
    InspectedPixels,
    Inspection,
    Task,
    TaskPlan,
    TaskSetup,
    TaskSpec,
    load_setting,
)
from napari_dip.tasks.network_import.loading import (
    NetworkSource,
    Normalisation,
    NumbersText,
    choose_normalisation,
    choose_value_range,
    list_network_layers,
    load_network,
)
from napari_dip.tasks.priors.prior_spec import PriorOptions, RandomInputOptions
from napari_dip.tasks.priors.registry import PRIOR_SPECS, PriorChoices
from napari_dip.tasks.shared_settings import GreyValue, refuse_content

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from napari_dip.engine.operators.network_features import FeatureOperator
    from napari_dip.engine.problem import Operator, Penalty, Problem
    from napari_dip.io import Float32Array, ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.tasks.base import ConvertedInputs
    from napari_dip.tasks.network_import.loading import ImportedNetwork
    from napari_dip.tasks.priors.prior_spec import PriorSpec

#: Height and width for which layers are listed without an image: the training size of torchvision
#: architectures.
LISTING_IMAGE_SIZE = (224, 224)
INVERSION_PRIORS = PriorChoices("invert-features", has_automatic=False)
LimitedText = Annotated[str, Field(max_length=4096)]


def get_network_file(task: InvertFeatures) -> NetworkSource:
    """Return where the network comes from."""
    return NetworkSource(network=task.network.strip(), weights=task.weights.strip() or None)


def list_layers(task: InvertFeatures) -> tuple[str, ...]:
    """List the layers of the network; raise `RefusedError` if it cannot be used."""
    layers = list_network_layers(get_network_file(task), LISTING_IMAGE_SIZE)
    return tuple(path for path, _ in layers)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class InvertFeatures(Task):
    """Settings of feature inversion: network, layer, prior and normalisation."""

    spec: ClassVar[TaskSpec] = TaskSpec(
        name="invert-features",
        title="Invert features",
        result_suffix="inverted",
        methods_phrase="restored from the activations of a layer of a network",
        keeps_pixel_grid=False,
        explains_pixels=False,
    )

    network: Annotated[LimitedText, load_setting("network")] = ""
    layer: Annotated[LimitedText, load_setting("layer", list_suggestions=list_layers)] = ""
    prior: Annotated[str, load_setting("invert_features_prior", choices=INVERSION_PRIORS)] = (
        DEFAULT_PRIOR
    )
    weights: Annotated[LimitedText, load_setting("weights")] = ""
    normalisation: Annotated[Literal["auto", "imagenet", "none"], load_setting("normalisation")] = (
        "auto"
    )
    mean: Annotated[NumbersText, load_setting("mean")] = ""
    deviation: Annotated[NumbersText, load_setting("deviation")] = ""
    black: Annotated[GreyValue | None, load_setting("black")] = None
    white: Annotated[GreyValue | None, load_setting("white")] = None
    smoothing: Annotated[
        Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)],
        load_setting("invert_features_smoothing"),
    ] = 1.0

    def plan(self, header: ImageHeader, extra_headers: Headers, axes: str) -> TaskPlan | Refusal:
        """Choose the prior; refuse settings of network, layer and range, without opening files."""
        prior_spec = INVERSION_PRIORS.select(self.prior)[0]
        return self._refuse_settings() or TaskPlan(
            # the network takes all channels or colours at once
            joint_channels="S" in header.axes or "C" in header.axes,
            prior_key=prior_spec.key,
            prior_reasons={prior_spec.key: _explain_prior(prior_spec)},
        )

    def _refuse_settings(self) -> Refusal | None:
        if fault := get_network_file(self).refuse_files():
            return fault
        if not self.layer.strip():
            return make_refusal("layer-missing")
        black, white = self.black, self.white
        if black is not None and white is not None and black >= white:
            why = f"it should lie above black, {black:g}"
            hint = "Leave both empty for the automatic range."
            facts = {"field": "white", "value": f"{white:g}"}
            return make_refusal("setting-wrong", why=why, hint=hint, **facts)
        return None

    @return_refusal
    def inspect(self, pixels: InspectedPixels, plan: TaskPlan) -> Inspection | Refusal:
        """Load the network, and refuse images that it cannot take."""
        if refusal := refuse_content(pixels.image, pixels.header.name):
            return refusal
        network = self._load_network(pixels.header.grid)
        count = pixels.stack.shape[1]
        if count not in (1, network.channels) and network.channels != 1:
            facts = {"wanted": network.channels, "name": pixels.header.name, "count": count}
            return make_refusal("network-channels", **facts)
        for number, channel in enumerate(pixels.stack.swapaxes(0, 1), 1):
            if channel.min() == channel.max():  # not fitted, but the network needs all channels
                return make_refusal("network-constant", name=pixels.header.name, channel=number)
        refusal = self._choose_normalisation(network).refuse_values(network.channels)
        return refusal or Inspection(convert_inputs=self._make_range)

    def _make_range(
        self, image: Float32Array, extra_inputs: Mapping[str, Float32Array], headers: Headers
    ) -> ConvertedInputs:
        """Return the value range of the network's input, and notes on network and range.

        Raises
        ------
        RefusedError
            If the network cannot be used.
        """
        import numpy as np

        header = headers["image"]
        black, white = choose_value_range(image, header.dtype, self.black, self.white)
        network = self._load_network(header.grid)
        notes = (
            make_note(
                "network-cut",
                network=self.network,
                sha256=network.sha256[:12],
                layer=self.layer,
                answer=describe_layer_size(self, header.grid),
                count=image.size,
            ),
            make_note(
                "network-range",
                black=black,
                white=white,
                normalisation=self._choose_normalisation(network).description,
            ),
            make_note("network-only"),
        )
        return {**extra_inputs, "range": np.array([black, white], np.float32)}, notes

    def setup(self, fit_input: FitInput, rng: torch.Generator) -> TaskSetup:
        """Build the prior, and the problem, whose loss compares activations, not pixels."""
        from napari_dip.engine.likelihood.penalties import make_total_variation

        prior_spec, operator = PRIOR_SPECS[fit_input.prior_key], self._make_operator(fit_input)
        low, value_range = _get_network_range(fit_input)
        options = PriorOptions(random_input=RandomInputOptions(bounds=(low, low + value_range)))
        prior = prior_spec.build_prior(fit_input, rng, options)
        # in units of the network's range, so that a weight means the same for every image
        penalty = make_total_variation(float(operator.get_buffer("input_scale").mean()))
        penalties = ((self.smoothing, penalty),) if prior_spec.uses_total_variation else ()
        problem = _build_problem(fit_input.measurement, operator, penalties)
        if problem is None:
            raise RefusedError("layer-silent", layer=self.layer, name="the image")
        return TaskSetup(prior=prior, problem=problem, fit_input=fit_input)

    def _make_operator(self, fit_input: FitInput) -> FeatureOperator:
        import torch

        from napari_dip.engine.operators.network_features import FeatureGraph, FeatureOperator

        network = self._load_network(fit_input.grid)
        tensors = {name: torch.from_numpy(array) for name, array in network.tensors.items()}
        graph = FeatureGraph(network.description, tensors)
        normalisation = self._choose_normalisation(network)
        operator = FeatureOperator(
            graph,
            *_get_network_range(fit_input),
            network.channels,
            normalisation.mean,
            normalisation.deviation,
        )
        return operator.to(fit_input.measurement.device)

    def _load_network(self, size: tuple[int, ...]) -> ImportedNetwork:
        return load_network(get_network_file(self), self.layer.strip(), size)

    def _choose_normalisation(self, network: ImportedNetwork) -> Normalisation:
        program = get_network_file(self).is_program
        return choose_normalisation(
            self.normalisation, self.mean, self.deviation, is_program=program
        )


def _explain_prior(prior_spec: PriorSpec) -> str:
    """Return what a prior adds to the activations, for the report."""
    if prior_spec.has_network:
        return (
            "the structure of an untrained network, fed random numbers, fills in what the "
            "activations leave open"
        )
    if prior_spec.uses_total_variation:
        return "you chose it; few and short edges fill in what they leave open"
    return "you chose it; nothing fills in what the activations leave open"


def _get_network_range(fit_input: FitInput) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the network's 0 and the length of its range, in network units: (1, C, 1, 1) each."""
    black, white = (float(value) for value in fit_input.extra_inputs["range"])
    return fit_input.to_network_units(black), (white - black) * fit_input.network_per_image_unit


def _build_problem(
    image: torch.Tensor, operator: Operator, penalties: tuple[tuple[float, Penalty], ...]
) -> Problem | None:
    """Return the problem of finding an image with the same activations as the given one.

    Squared residuals are divided by the mean square of the activations. The loss is then 1 for an
    image without activations, so that a penalty's weight means the same for all layers.

    Parameters
    ----------
    image : Tensor
        (1, C, Y, X), in network units.
    operator : Operator
        (1, C, Y, X) -> (1, K, h, w), the layer's activations.
    penalties : tuple of (weight, Penalty)

    Returns
    -------
    Problem or None
        None if all activations are zero, or any is not finite.

    References
    ----------
    Mahendran, Vedaldi, Understanding deep image representations by inverting them, CVPR 2015,
    doi:10.1109/CVPR.2015.7299155.
    """
    import torch

    from napari_dip.engine.likelihood.fidelity import make_least_squares
    from napari_dip.engine.operators.network_features import UnmeasuredIdentity
    from napari_dip.engine.problem import Problem, Term

    with torch.no_grad():
        activations = operator(image)
    mean_square = float(activations.square().mean())
    if not (isfinite(mean_square) and mean_square > 0):
        return None
    no_pixels, all_activations = torch.zeros_like(image[:, :1]), torch.ones_like(activations[:, :1])
    # the first term defines the grid of the image for the loop, previews and report
    pixels = Term(
        measurement=torch.zeros_like(image),
        operator=UnmeasuredIdentity(image.mean((2, 3), keepdim=True)),
        fidelity=make_least_squares(1.0),
        deviance=make_least_squares(1.0),
        training_pixel_weights=no_pixels,
        validation_mask=no_pixels,
        refit_pixel_weights=no_pixels,
    )
    features = Term(
        measurement=activations,
        operator=operator,
        fidelity=make_least_squares(mean_square),
        deviance=make_least_squares(mean_square),
        training_pixel_weights=all_activations,
        validation_mask=torch.zeros_like(all_activations),
        refit_pixel_weights=all_activations,
    )
    return Problem(terms=(pixels, features), penalties=penalties)


def describe_layer_size(task: Task, size: tuple[int, ...]) -> str:
    """Return the size of the layer's activations for an image of that size, as text.

    Raises
    ------
    RefusedError
        If the network cannot be used.
    """
    assert isinstance(task, InvertFeatures)
    network = load_network(get_network_file(task), task.layer.strip(), size)
    return format_sizes(network.shape)
