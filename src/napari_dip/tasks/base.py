"""What a task is: a frozen value whose typed fields become the form, the command and the recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from napari_dip.tasks.fields import IMAGE, Input, NoiseWish, Setting
from napari_dip.tasks.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec

__all__ = ["IMAGE", "SEEN", "Input", "NoiseWish", "Scene", "Setting", "Task"]

#: Pixels around a place that most of what a network says of it comes from; patches that look alike
#: are looked for over 16.
SEEN = 32


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

    def remarks(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> tuple[str, ...]:
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

    def check_known(self, source: ImageSpec, known: npt.NDArray[np.bool_] | None) -> Refusal | None:
        """Say no for where there is a measurement, (parts, C, *grid); None: everywhere."""
        return None

    def judging(self, known: Tensor) -> tuple[tuple[int, ...], Tensor] | None:
        """Size of patches that judge as one, and where they may lie; None: pixels, anywhere.

        Parameters
        ----------
        known : Tensor
            (1, 1, *grid), 1 where there is a measurement; what is given back fits it.
        """
        return None

    def told(self, known: npt.NDArray[np.bool_]) -> tuple[str, ...]:
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
        return "noise"

    def widths(self, prior: str, preset: tuple[int, ...]) -> tuple[int, ...]:
        """Give the network's channels at each grid, finest first, from those of the preset."""
        return preset

    def settled(self, prior: str, known: npt.NDArray[np.bool_] | None) -> tuple[str, str]:
        """Choose the prior anew by where there is a measurement, (parts, C, *grid); and say why.

        Without words, what `why` says holds.
        """
        return prior, ""

    def trusting(self, prior: str, *, doubted: bool, weak: bool) -> tuple[str, str]:
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
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[str, ...]]:
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

    def found(self, learned: Mapping[str, npt.NDArray[np.float32]]) -> tuple[str, ...]:
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
    ) -> Literal["together", "in-turn", "alone"]:
        """How so many planes or frames, or `tiles`, share what is learned."""
        return "in-turn"

    def serves(self, prior: str) -> bool:
        """Whether a network of that prior is shown the image, and so may serve other images."""
        return False

    def noise_wish(self) -> NoiseWish:
        """Say what the user knows about the noise."""
        return NoiseWish()

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

    def seen(self, scene: Scene) -> Scene:
        """Change what a fit is made of, once it is laid out."""
        return scene

    @abstractmethod
    def problem(self, scene: Scene) -> Problem:
        """Say what has to be explained."""

    @abstractmethod
    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Make the untrained network and its code."""

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """Names of the settings, in the order of the form."""
        assert is_dataclass(cls)
        return tuple(one.name for one in fields(cls))

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that differ from their defaults, in plain JSON types."""
        assert is_dataclass(self)
        return {
            key: value for key, value in asdict(self).items() if value != getattr(type(self), key)
        }
