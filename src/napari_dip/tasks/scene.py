"""The scene of a fit: one unit's pixels, calibrated, as tasks see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_dip.tasks.camera_maps import LEAST_TRUST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_dip.engine.camera_noise import CameraNoise
    from napari_dip.engine.fidelity import NoiseVariance
    from napari_dip.engine.steadiness import Before


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a task builds its problem and its prior from: one unit's pixels, calibrated.

    Attributes
    ----------
    measurement : Tensor
        (B, C, *grid), in network units; 0 where nothing was measured. B counts the measurements
        of one picture, in the first one's intensities: 1, or 2 with a second shot.
    noise : NoiseVariance
        In network units; one of each measurement where there are two.
    noise_level : float
        Mean standard deviation of the noise, in network units.
    known : Tensor
        (1, 1, *grid): 1 where there is a measurement.
    held_out, guarded : Tensor
        (1, 1, *grid): 1 at pixels that judge, and at those with their guard band.
    block : tuple of int
        Size of hidden blocks, per axis of the grid.
    granted : float
        Share of the measured noise that the fit takes for certain; less where the network itself
        says how far a pixel may lie off.
    prior : str
        Such as "noise" or "blind-spot".
    widths : tuple of int
        Channels of the network at each scale.
    window : int or None
        Side of what a step looks at; None: the whole grid.
    others : mapping of str to Tensor
        The task's further inputs by name, float32, as they came.
    zero, unit : Tensor or None
        (1, C, 1, ...): where the image's units have their zero, and how long one of them is.
    beside : Tensor or None
        (1, 2 C, *grid): the frames or planes before and after, laid onto this one.
    before : Before or None
        The picture of the frame before, laid onto this one.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X, in pixels of the grid; None
        where it is taken to be white.
    enlarged : tuple of int or None
        Size that the picture is to have, where the grid holds an oversampled image at half its
        size; None: that of the grid.
    camera : CameraNoise or None
        The noise of red, green and blue together, where it is a colour camera's.
    full_size : Tensor or None
        (1, 3, *enlarged): the measurement, where the noise is a colour camera's.
    noises : NoiseVariance or None
        Of each of B pictures that a network is fitted to together, where they do not share one:
        `noise` then is their mean.
    trust : Tensor or None
        (1, 1, *grid), up to 1: how much a pixel counts beside those of usual read noise; None: all
        count alike.
    worked_out : mapping of str to object
        What `Task.seen` has worked out from all this, for both prior and problem.
    """

    measurement: Tensor
    noise: NoiseVariance
    noise_level: float
    known: Tensor
    held_out: Tensor
    guarded: Tensor
    block: tuple[int, ...]
    granted: float
    prior: str
    widths: tuple[int, ...]
    window: int | None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    zero: Tensor | None = None
    unit: Tensor | None = None
    beside: Tensor | None = None
    before: Before | None = None
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    enlarged: tuple[int, ...] | None = None
    camera: CameraNoise | None = None
    full_size: Tensor | None = None
    noises: NoiseVariance | None = None
    trust: Tensor | None = None
    worked_out: Mapping[str, object] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, ...]:
        """Size of the measurement, per axis."""
        return tuple(self.measurement.shape[2:])

    @property
    def weight(self) -> Tensor:
        """Weight of each pixel: 0 where nothing was measured, less than 1 where it is noisy."""
        return self.known if self.trust is None else self.known * self.trust

    @property
    def quiet(self) -> Tensor:
        """Measured pixels, 1, but for those that are much noisier than others."""
        if self.trust is None:
            return self.known
        return self.known * (self.trust >= LEAST_TRUST)
