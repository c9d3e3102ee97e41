"""Invert features: restore an image from what a layer of a network answers to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import FitInput, Setting, Task
from napari_dip.tasks.network_import.loading import (
    NetworkFile,
    Normalisation,
    NumbersText,
    choose_normalisation,
    choose_value_range,
    list_network_layers,
    load_network,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from napari_dip.engine.operators.network_features import FeatureOperator
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.network_import.loading import ImportedNetwork

#: Prior of each choice, as reports and presets name it.
PRIORS = {"random-input": "random-input", "total-variation": "total-variation", "none": "pixels"}
#: Standard deviation of the pixels at the start where there is no network, of what goes into the
#: sigmoid: a nearly even grey, as in Mahendran, Vedaldi 2015.
PIXEL_START_SIGMA = 0.1
#: Pixels along Y and X for which layers are listed where no image is looked at: what architectures
#: of torchvision were trained on.
SIZE = (224, 224)
LimitedText = Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class InvertFeatures(Task):
    """Settings of a restoration from activations: which network, which layer, which prior."""

    name: ClassVar[str] = "invert-features"
    title: ClassVar[str] = "Invert features"
    done: ClassVar[str] = "inverted"
    same_pixels: ClassVar[bool] = False

    network: Annotated[
        LimitedText,
        Setting(
            "Network",
            "A program of torch.export on the disk (.pt2), or the name of an architecture of "
            "torchvision, such as vgg16, whose weights are named as well.",
            advanced=False,
            files="Programs of torch.export (*.pt2)",
        ),
    ] = ""
    layer: Annotated[
        LimitedText,
        Setting(
            "Layer",
            "Path of the module whose result is inverted, such as features.5; 'list' says which "
            "there are.",
            advanced=False,
            offered=True,
        ),
    ] = ""
    prior: Annotated[
        Literal["random-input", "total-variation", "none"],
        Setting(
            "Prior",
            "What tells the picture apart from all others with the same activations: an untrained "
            "network, few and short edges (total variation), or nothing.",
            choices={
                "random-input": "Deep Image Prior (random input)",
                "total-variation": "Total variation",
                "none": "Nothing",
            },
            advanced=False,
        ),
    ] = "random-input"
    weights: Annotated[
        LimitedText,
        Setting(
            "Weights",
            "Weights of an architecture of torchvision, as safetensors. Empty for a program, which "
            "brings its own.",
            files="Weights (*.safetensors)",
        ),
    ] = ""
    normalisation: Annotated[
        Literal["auto", "imagenet", "none"],
        Setting(
            "Normalisation",
            "What the network expects once its range is 0 to 1. ImageNet: that set's mean and "
            "standard deviation of red, green and blue. Automatic: those for an architecture of "
            "torchvision, none for a program.",
            choices={"auto": "Automatic", "imagenet": "ImageNet", "none": "Left as it is"},
        ),
    ] = "auto"
    mean: Annotated[
        NumbersText,
        Setting(
            "Mean",
            "Mean that the network expects to be taken off, in its range of 0 to 1: one number, or "
            "one for each channel with commas between. Empty: as the normalisation says.",
        ),
    ] = ""
    deviation: Annotated[
        NumbersText,
        Setting(
            "Standard deviation",
            "By which the network expects its input to be divided; as for the mean.",
        ),
    ] = ""
    black: Annotated[
        Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] | None,
        Setting(
            "Black",
            "Value of the image that the network takes for 0. Empty: automatic, 0 for images of 8 "
            "bits and for those from 0 to 1, else the least value.",
            least=-1e9,
            most=1e9,
        ),
    ] = None
    white: Annotated[
        Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] | None,
        Setting(
            "White",
            "Value of the image that the network takes for 1. Empty: automatic, 255 or 1 for such "
            "images, else the largest value.",
            least=-1e9,
            most=1e9,
        ),
    ] = None
    smoothing: Annotated[
        Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)],
        Setting(
            "Smoothing",
            "Weight of the total variation where that is the prior, without unit.",
            least=0,
            most=1000,
            step=0.05,
        ),
    ] = 1.0

    @property
    def file(self) -> NetworkFile:
        """Where the network comes from."""
        return NetworkFile(network=self.network.strip(), weights=self.weights.strip() or None)

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Want a network, a layer, and a range that is one; opens no file."""
        if no := self.file.check():
            return no
        if not self.layer.strip():
            return refusal("layer-missing")
        black, white = self.black, self.white
        if black is not None and white is not None and black >= white:
            why = f"it should lie above black, {black:g}"
            hint = "Leave both empty for the automatic range."
            facts = {"field": "white", "value": f"{white:g}"}
            return refusal("setting-wrong", why=why, hint=hint, **facts)
        return None

    def admit_image(self, source: ImageSpec, parts: npt.NDArray[np.float32]) -> Refusal | None:
        """Read the network, and say no where it cannot be used with this image."""
        network = self._network(source.grid)
        if isinstance(network, Refusal):
            return network
        count = parts.shape[1]
        if count not in (1, network.channels) and network.channels != 1:
            facts = {"wanted": network.channels, "name": source.name, "count": count}
            return refusal("network-channels", **facts)
        even = [c for c in range(count) if parts[:, c].min() == parts[:, c].max()]
        if even:  # it would be left out of the fit, and the network wants all
            return refusal("network-constant", name=source.name, channel=even[0] + 1)
        return self._numbers(network).check(network.channels)

    def fits_pixels(self) -> bool:
        """Only activations are explained."""
        return False

    def together(self, source: ImageSpec) -> bool:
        """One look of the network takes all channels."""
        return "S" in source.axes or "C" in source.axes

    def arranged(
        self,
        image: npt.NDArray[np.float32],
        others: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Find the range that the network is to see, and say what it sees."""
        import numpy as np

        source = headers["image"]
        black, white = choose_value_range(image, source.dtype, self.black, self.white)
        network = self._network(source.grid)
        if isinstance(network, Refusal):
            raise Refused(network)
        facts = (
            make_note(
                "network-cut",
                network=self.network,
                sha256=network.sha256[:12],
                layer=self.layer,
                answer=self.answer(source.grid),
                count=image.size,
            ),
            make_note(
                "network-range",
                black=black,
                white=white,
                normalisation=self._numbers(network).description,
            ),
            make_note("network-only"),
        )
        return {**others, "range": np.array([black, white], np.float32)}, facts

    def first_choice(self, source: ImageSpec, *, volume: bool) -> str:
        """Take the prior that the user has chosen."""
        return PRIORS[self.prior]

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say what tells the picture apart."""
        return {
            "random-input": "the structure of an untrained network, fed random numbers, fills in "
            "what the activations leave open",
            "total-variation": "you chose it; few and short edges fill in what they leave open",
            "pixels": "you chose it; nothing fills in what the activations leave open",
        }[prior]

    def offers(self, name: str) -> tuple[str, ...] | Refusal:
        """List the layers of the network."""
        layers = list_network_layers(self.file, SIZE)
        return layers if isinstance(layers, Refusal) else tuple(path for path, _ in layers)

    def answer(self, size: tuple[int, ...]) -> str:
        """Tell the size of the layer's answer to an image of that size, in words.

        Raises
        ------
        Refused
            If the network cannot be used.
        """
        network = self._network(size)
        if isinstance(network, Refusal):
            raise Refused(network)
        return " × ".join(map(str, network.shape))

    def problem(self, scene: FitInput) -> Problem:
        """Explain the activations, and no pixel."""
        from napari_dip.engine.likelihood.penalties import total_variation
        from napari_dip.engine.priors.feature_inversion import make_feature_inversion_problem

        operator = self._operator(scene)
        # in units of the network's range, so that a weight means the same for every image
        steps = total_variation(float(operator.get_buffer("unit").mean()))
        penalties = ((self.smoothing, steps),) if scene.prior == "total-variation" else ()
        problem = make_feature_inversion_problem(scene.measurement, operator, penalties)
        if problem is None:
            raise Refused(refusal("layer-silent", layer=self.layer, name="the image"))
        return problem

    def prior_for(self, scene: FitInput, rng: torch.Generator) -> Prior:
        """Make the untrained network and its code, or pixels that are free."""
        import torch

        from napari_dip.engine.prior import RandomInputPrior
        from napari_dip.engine.priors.feature_inversion import BoundedRangePrior, PixelParameters
        from napari_dip.tasks.priors.deep_image_prior import build_random_input_prior

        zero, unit = _get_network_range(scene)
        if scene.prior == "random-input":
            return BoundedRangePrior(
                build_random_input_prior(scene, scene.grid, rng), zero, zero + unit
            )
        net = PixelParameters(scene.measurement.shape[1], scene.grid, PIXEL_START_SIGMA, rng)
        return BoundedRangePrior(
            RandomInputPrior(net, torch.zeros(1, 1, *scene.grid), 0.0), zero, zero + unit
        )

    def _operator(self, scene: FitInput) -> FeatureOperator:
        import torch

        from napari_dip.engine.operators.network_features import FeatureGraph, FeatureOperator

        network = self._network(scene.grid)
        if isinstance(network, Refusal):
            raise Refused(network)
        tensors = {name: torch.from_numpy(array) for name, array in network.tensors.items()}
        graph = FeatureGraph(network.description, tensors)
        numbers = self._numbers(network)
        operator = FeatureOperator(
            graph, *_get_network_range(scene), network.channels, numbers.mean, numbers.deviation
        )
        return operator.to(scene.measurement.device)

    def _network(self, size: tuple[int, ...]) -> ImportedNetwork | Refusal:
        return load_network(self.file, self.layer.strip(), size)

    def _numbers(self, network: ImportedNetwork) -> Normalisation:
        program = self.file.is_program
        return choose_normalisation(self.normalisation, self.mean, self.deviation, program=program)


def _get_network_range(scene: FitInput) -> tuple[torch.Tensor, torch.Tensor]:
    """Give what the network takes for 0, and the length of its range: (1, C, 1, 1) each."""
    assert scene.zero is not None and scene.unit is not None
    black, white = (float(value) for value in scene.others["range"])
    return scene.zero + black * scene.unit, (white - black) * scene.unit
