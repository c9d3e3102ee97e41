"""What a plan is made of: plan, work unit, outcome of a unit, budget, costs, tile, member."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.machine import format_bytes, format_duration
from napari_dip.pipeline.plan.layout import PART_NAMES, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.errors.notes import Note, Stop
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a preset spends on one fit; read from `presets/<task>.json`.

    `release` counts the iterations of the last phase, in which the judging pixels drive, too.
    `rivals` are further priors that are fitted as well, over as many `iterations` each.
    `why` says why the pixels asked for this prior, if they did.
    `joint` counts the first iterations, in which a learned operator is fitted along with the
    picture, at `operator_rate`; then it stays as it is.
    `half` says that steps may be in half precision however little noise there is.
    """

    prior: str
    iterations: int
    restarts: int
    widths: tuple[int, ...]
    learning_rate: float
    window: int | None
    release: int = 0
    rivals: tuple[str, ...] = ()
    why: str = ""
    joint: int = 0
    operator_rate: float = 0.0
    half: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """Estimated seconds of all fits, of the last close looks, and of what follows them.

    Attributes
    ----------
    fit : float
        Loading, measuring the noise, iterations and judging.
    usual_inference : float
        Last looks where the noise differs from pixel to pixel, as it mostly does.
    longest_inference : float
        Last looks at the noise that takes most of them.
    ending : float
        The last filter, residual and verdict.
    """

    fit: float
    usual_inference: float
    longest_inference: float
    ending: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedNetwork:
    """What is known of such a network without its weights.

    Attributes
    ----------
    path : str
    sha256 : str
        Of the file; "" for one that is still to be fitted.
    task : str
    settings : mapping
        Of the task it was fitted for, those that differ from their defaults.
    preset, version : str
    repeats : int
    prior : str
    widths : tuple of int
        Channels of the network at each scale.
    uses_half_resolution : bool
        Whether it was fitted to images at half their size.
    groups : tuple of tuple of int
        Channels that it takes together.
    files : tuple of str
        Names of those that it was fitted to.
    outcomes : tuple of UnitOutcome
        How the fit to all went, and its trials.
    """

    path: str
    sha256: str = ""
    task: str = ""
    settings: Mapping[str, Any] | None = None
    preset: str = ""
    version: str = ""
    repeats: int = 0
    prior: str = ""
    widths: tuple[int, ...] = ()
    uses_half_resolution: bool = False
    groups: tuple[tuple[int, ...], ...] = ()
    files: tuple[str, ...] = ()
    outcomes: tuple[UnitOutcome, ...] = ()

    @property
    def name(self) -> str:
        """Name of the file alone."""
        return Path(self.path).name

    @property
    def report_fields(self) -> dict[str, Any]:
        """Name it in a report."""
        return {"network_file": self.name, "sha256": self.sha256}

    def add_outcomes(self, outcomes: list[UnitOutcome], units: tuple[WorkUnit, ...]) -> None:
        """Add how the fits went that a run goes on from, unless they are among its outcomes."""
        existing = {outcome.unit for outcome in outcomes}
        wanted = {unit.series for unit in units}
        for item in self.outcomes:
            if item.series not in wanted or item.unit in existing:
                continue
            if item.role == JOINT:
                note = make_note(
                    "series-network", name=make_printable(self.name), count=item.members
                )
                item = replace(item, notes=(note, *item.notes[1:]))
            outcomes.append(item)


#: What a fit is for: a picture by itself; one network for all; to try whether it pays to go on from
#: that alone; a picture by that network.
INDEPENDENT, JOINT, FINE_TUNE_PROBE, INFERENCE = "own", "shared", "trial", "shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """One fit: a group of channels and a restart.

    Attributes
    ----------
    id : str
        Names the unit in checkpoints and reports.
    channels : tuple of int
        Indices into the channels of the image.
    restart : int
        0-based.
    seed : int
        Of this fit's own random numbers.
    iterations : int
    part : int
        Which plane or volume of a stack, 0-based.
    is_warm_start : bool
        Whether it begins with the weights of the unit before.
    first_unit_id : str
        Id of the first fit of the same channels.
    previous_part, next_part : int or None
        Which part is its neighbour: the same one frame earlier or later, or in a stack that is no
        movie the next plane; None: there is none.
    has_time_neighbours : bool
        Whether these are neighbours in time.
    segment : int
        Which segment of the movie or stack; see `napari_dip.pipeline.plan.units`.
    is_segment_start : bool
        Whether it is in the first frame of its segment, which nothing is handed on to.
    tile : int or None
        Which tile of the picture plane, or of the stack; None: all of it.
    origin : tuple of int
        Where the first pixel of that tile lies in the image, per axis of the fit; () for all of it.
    role : str
        What the fit is for; see `napari_dip.pipeline.plan.joint_training`.
    series : str
        Names the network that several units share; "" where none is shared.
    members : tuple of Member
        What the fit to all sees.
    fine_tune_iterations : int
        Iterations that a unit which is shown that network takes by itself where they pay.
    probe_count : int
        How many trials there are.
    """

    id: str
    channels: tuple[int, ...]
    restart: int
    seed: int
    iterations: int
    part: int = 0
    is_warm_start: bool = False
    first_unit_id: str = ""
    previous_part: int | None = None
    next_part: int | None = None
    has_time_neighbours: bool = False
    segment: int = 0
    is_segment_start: bool = False
    tile: int | None = None
    origin: tuple[int, ...] = ()
    role: str = INDEPENDENT
    series: str = ""
    members: tuple[Member, ...] = ()
    fine_tune_iterations: int = 0
    probe_count: int = 0

    @property
    def has_estimate(self) -> bool:
        """Whether a picture is to come of it, or another fit is helped."""
        return self.role in (INDEPENDENT, INFERENCE)

    @property
    def list_neighbours(self) -> tuple[int, ...]:
        """Give the neighbours, as far as there are any."""
        return tuple(item for item in (self.previous_part, self.next_part) if item is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOutcome:
    """How one unit's fit went, in plain numbers.

    `gain` holds, of a trial, what going on gained at the held-out pixels: its sum, that of its
    squares, and their number; `members` counts what a fit to all has seen.
    """

    unit: str
    stop: Stop
    kept: bool
    best_iteration: int
    iterations: int
    history: tuple[tuple[int, float, float], ...]
    notes: tuple[Note, ...]
    prior: str = ""
    evidence: tuple[float, ...] = ()
    filtered: bool = False
    role: str = INDEPENDENT
    series: str = ""
    members: int = 0
    gain: tuple[float, ...] = ()

    @property
    def has_estimate(self) -> bool:
        """Whether a picture came of it, or another fit was helped."""
        return self.role in (INDEPENDENT, INFERENCE)

    @property
    def refit_iterations(self) -> int:
        """Iterations of the last phase, which held-out pixels drive, too: nothing judges them."""
        if self.kept or not self.history:
            return 0
        return max(0, self.iterations - self.history[-1][0])


class Member(NamedTuple):
    """What the fit to all sees of one frame.

    Attributes
    ----------
    part : int
    origin : tuple of int
        First pixel of what is cut out, per axis of the grid, in the image.
    size : tuple of int
        Of what is cut out; () for all of the part.
    previous_part, next_part : int or None
        The frame's neighbours, as in a unit.
    """

    part: int
    origin: tuple[int, ...]
    size: tuple[int, ...] = ()
    previous_part: int | None = None
    next_part: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done, how, and what it will cost.

    Attributes
    ----------
    recipe, source
        The wish and the header it was made for.
    extra_inputs : mapping of str to ImageSpec
        Headers of the task's further inputs.
    units : tuple of WorkUnit
        In the order they run.
    layout : Layout
        How the image's axes are shared out.
    device : str
        "cpu", "cuda" or "mps".
    threads : int
        CPU threads; part of what fixes the pixels.
    budget : Budget
    peak_bytes : int
        Estimate of the memory needed beyond what the program itself takes.
    costs : CostEstimate
    notes : tuple of Note
        Shown to the user.
    tiles : tuple of Tile
        That the picture plane is restored in, one after another; empty: all of it at once.
    has_bfloat16 : bool
        Whether the processor is made for half precision, which the estimate of the time needs.
    network : SharedNetwork or None
        That was fitted to other files, and that this one is shown.
    """

    recipe: Recipe
    source: ImageSpec
    units: tuple[WorkUnit, ...]
    device: str
    threads: int
    budget: Budget
    peak_bytes: int
    costs: CostEstimate
    layout: Layout
    notes: tuple[Note, ...] = ()
    extra_inputs: Mapping[str, ImageSpec] = field(default_factory=dict)
    tiles: tuple[Tile, ...] = ()
    has_bfloat16: bool = False
    network: SharedNetwork | None = None

    @property
    def factors(self) -> tuple[int, ...]:
        """How many times finer than the image the result is, along each of the image's axes."""
        return self.recipe.task.factors(self.source.axes)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result, in the image's axes."""
        return tuple(
            count * finer for count, finer in zip(self.source.shape, self.factors, strict=True)
        )

    @property
    def result_scale(self) -> tuple[float, ...] | None:
        """Size of a pixel of the result along each of the image's axes; None if not known."""
        if self.source.scale is None:
            return None
        return tuple(
            size / finer for size, finer in zip(self.source.scale, self.factors, strict=True)
        )

    @property
    def seconds(self) -> float:
        """Most that the run is expected to take, no fit stopping early; at most the time limit."""
        whole = self.costs.fit + self.costs.longest_inference + self.costs.ending
        limit = self.recipe.run_settings.time_limit
        return whole if limit is None else min(whole, limit)

    @property
    def fit_share(self) -> float:
        """Share of the time that iterations mostly take; looks and the filter take the rest.

        Where there are no looks, nothing is told after the last iteration, so that is the end.
        """
        if not self.costs.usual_inference:
            return 1.0
        return self.costs.fit / (self.costs.fit + self.costs.usual_inference + self.costs.ending)

    @property
    def part_name(self) -> str:
        """Name what the fits are to the user, where each of them is one such thing."""
        fits = [unit for unit in self.units if unit.has_estimate]
        if self.tiles:  # of which a share may be restored here
            return "tile" if len(fits) == len({unit.tile for unit in fits}) else "part"
        alone = len(fits) == self.layout.count(self.source)
        return (
            PART_NAMES.get(self.layout.get_neighbour_axis(self.source), "part") if alone else "part"
        )

    @property
    def work_summary(self) -> str:
        """Size of the work and what does it, for the user."""
        height, width = self.source.grid
        threads = f" ({self.threads} threads)" if self.threads > 1 else ""
        device = {
            "cpu": f"CPU{threads}",
            "cuda": "NVIDIA GPU",
            "mps": "Apple GPU",
        }[self.device]
        count = len(self.units)
        each = {unit.channels for unit in self.units if len(unit.channels) == 1}
        called = "channel" if len(each) == count else self.part_name
        plain = called != "part" and all(unit.has_estimate for unit in self.units)
        text = f", {count} {called}s one after another" if plain else f", {count} fits"
        fits = text if count > 1 else ""
        depth = "".join(f" × {count}" for count in self.layout.depth(self.source))
        return f"{width} × {height}{depth} pixels{fits} on the {device}"

    @property
    def summary(self) -> str:
        """One line for the user: size, device, memory, expected time."""
        seconds, peak = format_duration(self.seconds), format_bytes(self.peak_bytes)
        return f"{self.work_summary}: up to {seconds}, {peak} of memory."


#: Share of an overlap, at either end of it, where a tile has no say: its outermost pixels have seen
#: a mirror instead of the picture that goes on.
ZERO_WEIGHT_SHARE = 1 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A tile along one axis, in pixels.

    Attributes
    ----------
    start, stop : int
        With what it shares with its neighbours.
    core_start, core_stop : int
        Middles of what is shared; at the border of the image its ends.
    is_context_only : bool
        Whether it has no say in what it shares: that is only looked at.
    """

    start: int
    stop: int
    core_start: int
    core_stop: int
    is_context_only: bool = False

    @property
    def size(self) -> int:
        """Count the pixels."""
        return self.stop - self.start

    def upscale(self, factor: int) -> Span:
        """Give the same span in pixels of a finer picture."""
        start, stop, first, last = (
            item * factor for item in (self.start, self.stop, self.core_start, self.core_stop)
        )
        return Span(
            start=start,
            stop=stop,
            core_start=first,
            core_stop=last,
            is_context_only=self.is_context_only,
        )

    @property
    def core(self) -> Span:
        """Give what no other tile has."""
        return Span(
            start=self.core_start,
            stop=self.core_stop,
            core_start=self.core_start,
            core_stop=self.core_stop,
        )

    def compute_weights(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Give the tile's share in each pixel from `start` to `stop`, all of them in the tile.

        A quarter of a sine, squared; over all tiles it sums to 1.
        """
        place = np.arange(start, stop, dtype=np.float64) + 0.5
        weight = np.ones(stop - start)
        if self.is_context_only:
            return weight * ((place > self.core_start) & (place < self.core_stop))
        if self.core_start > self.start:
            weight *= _compute_blend_ramp(place, self.core_start, self.core_start - self.start)
        if self.core_stop < self.stop:
            weight *= 1 - _compute_blend_ramp(place, self.core_stop, self.stop - self.core_stop)
        return weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Part of the picture plane, or of a stack, that is restored by itself.

    Attributes
    ----------
    index : int
        Row by row; seeds come from it.
    y, x : Span
    z : Span or None
        Planes of a stack; None for a picture plane.
    """

    index: int
    y: Span
    x: Span
    z: Span | None = None

    @property
    def spans(self) -> tuple[Span, ...]:
        """Along Z, where it has one, Y and X."""
        return (self.y, self.x) if self.z is None else (self.z, self.y, self.x)

    @property
    def axes(self) -> str:
        """Name the axes of its spans."""
        return "ZYX"[-len(self.spans) :]

    @property
    def start(self) -> tuple[int, ...]:
        """Where its first pixel lies in the image."""
        return tuple(span.start for span in self.spans)

    @property
    def size(self) -> tuple[int, ...]:
        """Planes, height and width, with what it shares with its neighbours."""
        return tuple(span.size for span in self.spans)

    @property
    def core(self) -> Tile:
        """Give what no other tile has."""
        return Tile(index=self.index, y=self.y.core, x=self.x.core, z=self.z and self.z.core)

    def upscale(self, factors: tuple[int, int]) -> Tile:
        """Give the same tile of a picture that is finer by that along Y and X."""
        return Tile(
            index=self.index, y=self.y.upscale(factors[0]), x=self.x.upscale(factors[1]), z=self.z
        )

    def compute_weights(self) -> npt.NDArray[np.float64]:
        """Give the tile's share in each of its pixels."""
        share = np.ones(())
        for span in self.spans:
            share = share[..., None] * span.compute_weights(span.start, span.stop)
        return share

    def get_slices(self, axes: str) -> tuple[slice, ...]:
        """Say where it lies in an image with these axes."""
        slices = (slice(span.start, span.stop) for span in self.spans)
        slice_by_axis = dict(zip(self.axes, slices, strict=True))
        return tuple(slice_by_axis.get(axis, slice(None)) for axis in axes)

    def join_planes(self, parts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Bring (parts, C, *grid) of the tile to (C, *size), whatever its planes are to a fit."""
        return np.moveaxis(parts, 0, 1) if parts.ndim == len(self.spans) + 1 else parts[0]

    def split_planes(self, pixels: npt.NDArray[Any], grid: str) -> npt.NDArray[Any]:
        """Undo `laid`, for fits that have these axes."""
        return np.moveaxis(pixels, 1, 0) if len(grid) < len(self.spans) else pixels[None]

    def read_pixels(self, image: Any, axes: str) -> npt.NDArray[Any]:
        """Read the tile out of an image with these axes, which may lie on a disk: a copy."""
        return np.array(image[self.get_slices(axes)])

    def make_header(self, source: ImageSpec) -> ImageSpec:
        """Describe the tile as an image of its own."""
        sides = dict(zip(self.axes, self.size, strict=True))
        sizes = zip(source.axes, source.shape, strict=True)
        return replace(source, shape=tuple(sides.get(axis, count) for axis, count in sizes))


def _compute_blend_ramp(
    place: npt.NDArray[np.float64], middle: int, reach: int
) -> npt.NDArray[np.float64]:
    """From 0 to 1 over what two tiles share, but for its ends."""
    ramp = reach * (1 - 2 * ZERO_WEIGHT_SHARE)
    share = np.clip((place - middle + ramp) / (2 * ramp), 0, 1)
    return np.asarray(np.sin(np.pi / 2 * share) ** 2)
