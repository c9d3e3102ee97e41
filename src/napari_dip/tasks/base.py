"""What a task is: a frozen value whose typed fields become the form, the command and the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from napari_dip.engine.fidelity import NoiseVariance
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
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
    """

    label: str
    help: str
    choices: Mapping[str, str] | None = None
    least: float | None = None
    most: float | None = None
    step: float | None = None
    advanced: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a task builds its problem and its prior from: one unit's pixels, calibrated.

    Attributes
    ----------
    measurement : Tensor
        (1, C, *grid), in network units.
    noise : NoiseVariance
        In network units.
    noise_level : float
        Mean standard deviation of the noise, in network units.
    held_out, guarded : Tensor
        (1, 1, *grid): 1 at pixels that judge, and at those with their guard band.
    block : tuple of int
        Size of hidden blocks, per axis of the grid.
    granted : float
        Share of the measured noise that the fit takes for certain; less where the network itself
        says how far a pixel may lie off.
    prior : str
        "noise" or "blind-spot".
    widths : tuple of int
        Channels of the network at each scale.
    window : int or None
        Side of what a step looks at; None: the whole grid.
    """

    measurement: Tensor
    noise: NoiseVariance
    noise_level: float
    held_out: Tensor
    guarded: Tensor
    block: tuple[int, ...]
    granted: float
    prior: str
    widths: tuple[int, ...]
    window: int | None


class Task(Protocol):
    """One thing a user wants. Implementations are frozen pydantic dataclasses."""

    name: ClassVar[str]
    title: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    done: ClassVar[str]

    def check(self, spec: ImageSpec) -> Refusal | None:
        """Say no to a picture that this task cannot restore, from its header alone."""
        ...

    def together(self, spec: ImageSpec) -> bool:
        """Whether one fit takes all channels at once."""
        ...

    def problem(self, scene: Scene) -> Problem:
        """Say what has to be explained."""
        ...

    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Make the untrained network and its code."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that differ from their defaults, in plain JSON types."""
        ...
