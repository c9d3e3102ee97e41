"""Priors: an untrained network and the code that it is fed.

A `Draw` says what one step looks at and which pixels of its answer may be used for what.
The fixed-noise code and the blind spot are two ways to draw, over the same loop.

Which pixels judge and which only guard: drawn from global coordinates, so tiles agree.

Part of the grid that a step looks at.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Two odd multipliers and shifts of a well-mixed 32-bit hash (constants of Murmur3's finaliser).
_HASH_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
_UINT32_MASK = 0xFFFFFFFF


def draw_validation_centres(
    shape: tuple[int, ...],
    block: tuple[int, ...],
    share: float,
    seed: int,
    origin: tuple[int, ...] | None = None,
    patch: tuple[int, ...] | None = None,
) -> Tensor:
    """Choose the pixels that judge.

    Parameters
    ----------
    shape : tuple of int
        Size of the region, per axis.
    block : tuple of int, odd
        Size of the hidden block around a centre: the centre judges, the rest guards it from
        neighbours that share its noise.
    share : float, 0 to 1
        Part of all pixels that centre and guard may take from the fit, at most.
    seed : int
    origin : tuple of int or None
        Global coordinates of the region's first pixel.
    patch : tuple of int or None
        Size of the patches that share one fate; None: each pixel has its own.

    Returns
    -------
    Tensor
        (1, 1, *shape) float32, 1 at centres. A pixel's fate depends on its global
        coordinates and the seed alone.
    """
    origin, patch = origin or (0,) * len(shape), patch or (1,) * len(shape)
    word = torch.full((), (seed * 0x9E3779B1 + 0x7F4A7C15) & _UINT32_MASK, dtype=torch.int64)
    for axis, (start, count) in enumerate(zip(origin, shape, strict=True)):
        line = torch.arange(start, start + count, dtype=torch.int64) // patch[axis]
        line = line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        word = _hash_integers((word ^ line) + axis + 1)
    chosen = word < int(share / prod(block) * (_UINT32_MASK + 1))
    return chosen.to(torch.float32)[None, None]


def dilate_to_blocks(centres: Tensor, block: tuple[int, ...]) -> Tensor:
    """Grow each centre (B, 1, *grid) to the block around it; same shape, 0 or 1."""
    pools = {1: nn.functional.max_pool1d, 2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
    if prod(block) == 1:
        return centres
    return pools[len(block)](centres, block, stride=1, padding=tuple(size // 2 for size in block))


def _hash_integers(word: Tensor) -> Tensor:
    """Scatter neighbouring integers over 32 bits."""
    word = word & _UINT32_MASK
    for factor in _HASH_MULTIPLIERS:
        word = ((word ^ (word >> 15)) * factor) & _UINT32_MASK
    return word ^ (word >> 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Part of the grid, possibly mirrored, that a step looks at.

    Attributes
    ----------
    start, size : tuple of int
        Per axis.
    mirrored : tuple of int
        Tensor dimensions that are turned round.
    planes : tuple of int or None
        Which ones of the first axis, in any order, instead of those from `start` on.
    member : int or None
        Which one of several pictures, where B of them share a network; None: all B.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    mirrored: tuple[int, ...] = ()
    planes: tuple[int, ...] | None = None
    member: int | None = None

    def of(self, whole: Tensor) -> Tensor:
        """Cut (B, C, *grid) down to (B, C, *size), or to (1, C, *size) of a member."""
        whole = self.of_member(whole)
        for axis, (start, count) in enumerate(zip(self.start, self.size, strict=True)):
            if self.planes is None or axis:
                whole = whole.narrow(axis + 2, start, count)
        if self.planes is not None:
            whole = whole[:, :, list(self.planes)]
        return whole.flip(self.mirrored) if self.mirrored else whole

    def of_member(self, whole: Tensor) -> Tensor:
        """Give the one picture of (B, ...) that was drawn; all where none was, or B is 1."""
        if self.member is None or len(whole) == 1:
            return whole
        return whole[self.member : self.member + 1]

    def onto(self, part: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Put (B, C, *size) back where it was cut from: (B, C, *grid), 0 elsewhere."""
        part = part.flip(self.mirrored) if self.mirrored else part
        if self.size == grid and self.planes is None:
            return part
        whole = part.new_zeros((*part.shape[:2], *grid))
        place: list[slice | list[int]] = [
            slice(first, first + n) for first, n in zip(self.start, self.size, strict=True)
        ]
        if self.planes is not None:
            place[0] = list(self.planes)
        whole[:, :, *place] = part
        return whole


def draw_random_window(
    grid: tuple[int, ...],
    size: tuple[int, ...],
    rng: torch.Generator,
    *,
    mirror: bool = True,
    members: int = 1,
) -> Window:
    """Place a window of `size` at random within `grid`; mirror it at random along each axis.

    Of several members, one is drawn as well.
    """
    dice = torch.rand(2 * len(grid), generator=rng, device=rng.device).tolist()
    start = tuple(
        int(die * (whole - part + 1)) for die, whole, part in zip(dice, grid, size, strict=False)
    )
    item = None
    if members > 1:
        item = int(torch.randint(members, (), generator=rng, device=rng.device))
    chosen = (axis + 2 for axis, die in enumerate(dice[len(grid) :]) if die < 0.5)
    return Window(start=start, size=size, mirrored=tuple(chosen) if mirror else (), member=item)


class Draw(NamedTuple):
    """What a step feeds the network.

    Attributes
    ----------
    code : Tensor
        (B, D, *size).
    driven : Tensor or None
        (B, 1, *size), 1 where the loss counts at this step; None: everywhere.
    trusted : Tensor or None
        (B, 1, *size), 1 where this output may enter the average; None: everywhere.
    window : Window or None
        Where on the grid; None: all of it.
    direct : bool
        Whether the answer speaks of the measured pixels themselves, with no operator between;
        `window` then is one of theirs.
    taken : Tensor or None
        (B, C, *size): what is taken from the measurement before the answer is held against it.
    """

    code: Tensor
    driven: Tensor | None = None
    trusted: Tensor | None = None
    window: Window | None = None
    direct: bool = False
    taken: Tensor | None = None


class Prior(Protocol):
    """A network with a way to draw its code.

    Attributes
    ----------
    grid : tuple of int
        Size of the picture that it speaks of, per axis.
    covers_grid : bool
        Whether each draw shows the whole grid and all of it is trusted. Then outputs are
        averaged; else weights, since a step's output holds a window or a few trusted pixels.
    reveals : bool
        Whether the sweep shows the network what judges, so that only the glance is blind to it.
    """

    net: nn.Module
    grid: tuple[int, ...]
    covers_grid: bool
    reveals: bool = False

    def to(self, device: torch.device) -> None:
        """Move the network and all that is drawn from."""
        ...

    def draw(self, rng: torch.Generator) -> Draw:
        """Draw for one step of the fit."""
        ...

    def glance(self) -> Draw:
        """Draw the whole grid at once, only held-out blocks hidden: to judge and to preview."""
        ...

    def trial(self) -> Draw | None:
        """Draw what held-out pixels judge, if not the glance; its answer speaks of them directly.

        For networks that learn one thing and are then asked for another.
        """
        return None

    def sweep(self) -> Iterator[Draw]:
        """Draws whose trusted pixels cover the grid: the best that the weights can say."""
        ...

    def estimate(self, output: Tensor) -> Estimate:
        """Read the network's output (B, *, *size) as a picture."""
        ...


class RandomInputPrior(Prior):
    """The paper's prior: fixed uniform noise, jittered at every step.

    Parameters
    ----------
    net : nn.Module
    code : Tensor
        (1, D, *grid), drawn once.
    jitter : float or Tensor
        Standard deviation of the fresh noise, in units of the code (1/30 in the paper); one for
        each channel as (1, D, 1, ...).
    reach : float
        What one unit of the network's output is in the picture, which may span far more than the
        measurement does: a point of light that a blur has spread. Weights that have to grow for
        that take many steps.
    start : Tensor or None
        (1, C, *grid): what the output is added to; None: nothing.
    """

    covers_grid = True

    def __init__(
        self,
        net: nn.Module,
        code: Tensor,
        jitter: float | Tensor,
        reach: float = 1.0,
        start: Tensor | None = None,
    ) -> None:
        self.net = net
        self.reach = reach
        self.start = start
        self.grid = tuple(code.shape[2:])
        self.code = code
        self.jitter = jitter

    def to(self, device: torch.device) -> None:
        """Move network and code."""
        self.net.to(device)
        self.code = self.code.to(device)
        if self.start is not None:
            self.start = self.start.to(device)
        if isinstance(self.jitter, Tensor):
            self.jitter = self.jitter.to(device)

    def draw(self, rng: torch.Generator) -> Draw:
        """All pixels count and all may be averaged."""
        noise = torch.empty_like(self.code).normal_(generator=rng)
        return Draw(self.code + self.jitter * noise)

    def glance(self) -> Draw:
        """Show the code without jitter."""
        return Draw(self.code)

    def sweep(self) -> Iterator[Draw]:
        """One draw covers the grid."""
        yield self.glance()

    def estimate(self, output: Tensor) -> Estimate:
        """Output is the picture, in units of its reach."""
        picture = output * self.reach
        return Estimate(picture if self.start is None else picture + self.start)


def split_mean_and_variance(output: Tensor) -> Estimate:
    """Read (B, 2 C, *grid): first half the mean, second half the variance through a softplus."""
    mean, raw = output.chunk(2, 1)
    # 4 lower and halved: starts near 1 % of the squared range, below most noise
    return Estimate(mean, (0.5 * F.softplus(raw - 4) + 1e-9).log())


class BlindSpotPrior(Prior):
    """The measurement itself with blocks hidden afresh at each step; hidden centres drive the fit.

    A pixel never sees itself nor neighbours that share its noise, so it can only learn what
    the picture tells; held-out pixels and their guard band never enter the code at all.

    Parameters
    ----------
    net : nn.Module
        2 C channels out: mean, and a number whose softplus is the variance.
    measurement : Tensor
        (B, C, *grid); of several pictures, each step looks at one.
    held_out_blocks : Tensor
        (B, 1, *grid), 1 at held-out pixels and their guard band.
    block : tuple of int, odd
        Size of a hidden block, per axis: wider than the noise correlation.
    core : tuple of int, odd
        Size of the middle of a block that drives and is trusted, per axis: what lies further from
        anything visible than the noise reaches, or nearly so.
    share : float
        Part of the pixels hidden at a step, about.
    window : tuple of int or None
        Size of what a step looks at; None: the whole grid.
    """

    covers_grid = False

    def __init__(
        self,
        net: nn.Module,
        measurement: Tensor,
        held_out_blocks: Tensor,
        block: tuple[int, ...],
        core: tuple[int, ...],
        *,
        share: float,
        window: tuple[int, ...] | None,
    ) -> None:
        self.net = net
        self.block = block
        self.core = core
        self.share = share
        self.visible = 1 - held_out_blocks
        self.measurement = measurement * self.visible
        self.grid = tuple(measurement.shape[2:])
        self.window = self.grid if window is None else tuple(map(min, window, self.grid))

    def to(self, device: torch.device) -> None:
        """Move network and measurement."""
        self.net.to(device)
        self.measurement, self.visible = self.measurement.to(device), self.visible.to(device)

    def draw(self, rng: torch.Generator) -> Draw:
        """Hide blocks at random places of a random window, mirrored at random."""
        window = draw_random_window(self.grid, self.window, rng, members=len(self.measurement))
        measurement, visible = window.of(self.measurement), window.of(self.visible)
        density = self.share / prod(self.block)
        centres = (torch.empty_like(visible).uniform_(generator=rng) < density).to(visible.dtype)
        driven = dilate_to_blocks(centres, self.core) * visible
        # held-out holes are filled afresh: their filling must not remember what is hidden now
        code = fill_with_local_mean(
            measurement, visible * (1 - dilate_to_blocks(centres, self.block)), self.block
        )
        return Draw(code, driven=driven, trusted=driven, window=window)

    def glance(self) -> Draw:
        """Nothing hidden but the held-out blocks, whose centres are as blind as ever."""
        return Draw(fill_with_local_mean(self.measurement, self.visible, self.block))

    def sweep(self) -> Iterator[Draw]:
        """Shift a lattice of hidden blocks until each pixel was in a trusted core once."""
        grid = self.grid
        margin = [core // 2 for core in self.core]
        # cores must tile the grid, and blocks keep a little of the picture between them
        pitch = [
            core * ceil((size + 2) / core) for size, core in zip(self.block, self.core, strict=True)
        ]
        canvas = [count + 2 * edge for count, edge in zip(grid, margin, strict=True)]
        inside = [slice(edge, edge + count) for edge, count in zip(margin, grid, strict=True)]
        shifts = (
            range(0, min(step, count), core)
            for step, count, core in zip(pitch, canvas, self.core, strict=True)
        )
        for shift in product(*shifts):
            centres = self.visible.new_zeros((1, 1, *canvas))
            lattice = [slice(first, None, step) for first, step in zip(shift, pitch, strict=True)]
            centres[:, :, *lattice] = 1
            trusted = dilate_to_blocks(centres, self.core)[:, :, *inside]
            hidden = dilate_to_blocks(centres, self.block)[:, :, *inside]
            yield Draw(
                fill_with_local_mean(self.measurement, self.visible * (1 - hidden), self.block),
                trusted=trusted,
            )

    def estimate(self, output: Tensor) -> Estimate:
        """First half is the mean, second half the variance."""
        return split_mean_and_variance(output)


def fill_with_local_mean(measurement: Tensor, visible: Tensor, block: tuple[int, ...]) -> Tensor:
    """Replace what is hidden by the mean of the visible pixels around it.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *grid).
    visible : Tensor
        (B, 1, *grid), 0 where hidden.
    block : tuple of int
        Size of the hidden blocks; the mean is taken over twice that and one.
    """
    near = _compute_box_mean(measurement * visible, block)
    weight = _compute_box_mean(visible, block)
    return torch.where(visible > 0, measurement, near / weight.clamp(min=1e-6))


def _compute_box_mean(image: Tensor, block: tuple[int, ...]) -> Tensor:
    """Mean over 2 x block + 1, one axis after the other; outside the grid counts as hidden."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(block)]
    for axis, size in enumerate(block):
        kernel = [1] * len(block)
        kernel[axis] = 2 * size + 1
        image = pool(
            image, kernel, stride=1, padding=[k // 2 for k in kernel], count_include_pad=True
        )
    return image
