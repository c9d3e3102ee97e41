"""Define the masked-input prior for stacks, which predicts each plane from its neighbours.

Each training step masks further measured pixels in the shape of the holes: whole planes where
planes are missing, lines where lines are. Their distance to visible planes is that of the hole.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.prior import (
    StepInput,
    VariancePrior,
    Window,
    draw_random_window,
    draw_uniform,
    limit_window,
)
from napari_dip.engine.priors.masked_input import (
    INFERENCE_FOLDS,
    MAX_MASK_COPIES,
    draw_mask_placement,
    fill_by_normalised_convolution,
    make_filling_windows,
    split_into_folds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

#: Neighbouring planes used on either side; two show motion, one does not.
NEIGHBOURS_PER_SIDE = 2
#: Axes of (B, D, N, Y, X) that the final inference mirrors, one tuple for each pass. On a 15 x 64 x
#: 64 crop of a movie, training with mirrored and reversed stacks gained 2 dB.
MIRROR_AXES: tuple[tuple[int, ...], ...] = ((), (3,), (4,), (3, 4))
#: Draws from which the weight of neighbouring planes is estimated, about 10,000 pixels.
WEIGHTING_DRAWS = 8
#: Side in pixels of the squares in which copies of holes are thinned.
THINNING_SIDE = 32


class NearestVisiblePlanes(NamedTuple):
    """Indices of the nearest planes in which each pixel is visible.

    Attributes
    ----------
    previous : Tensor of int32
        (N, Y, X), the last such plane up to each plane, included; -1: none.
    next : Tensor of int32
        (N, Y, X), the first such plane from each plane on, included; N: none.
    """

    previous: Tensor
    next: Tensor


class NeighbourPlanes(NamedTuple):
    """Values of neighbouring planes for each of P planes.

    Attributes
    ----------
    values : Tensor
        (P, 2 NEIGHBOURS_PER_SIDE C, Y, X), previous planes from the nearest on, then next planes.
    nearness : Tensor
        (P, 2, Y, X), one over the distance to the nearest previous and next plane; 0: none.
    interpolated : Tensor
        (P, C, Y, X), linear interpolation of the nearest two, or the only one; 0 without any.
    """

    values: Tensor
    nearness: Tensor
    interpolated: Tensor

    def reverse(self) -> NeighbourPlanes:
        """Return the values for the stack in reverse order."""
        previous, next_ = self.values.chunk(2, 1)
        return self._replace(values=torch.cat([next_, previous], 1), nearness=self.nearness.flip(1))


def find_visible_planes(visible: Tensor) -> NearestVisiblePlanes:
    """Return the nearest visible planes before and after each plane.

    Parameters
    ----------
    visible : Tensor
        (1, 1, N, Y, X), 0 where hidden.
    """
    is_visible = visible[0, 0] > 0
    count = len(is_visible)
    indices = torch.arange(count, dtype=torch.int32, device=is_visible.device)[:, None, None]
    previous = torch.where(is_visible, indices, -1).cummax(0).values
    next_in_reverse = torch.where(is_visible.flip(0), indices, -1).cummax(0).values
    return NearestVisiblePlanes(previous, (count - 1 - next_in_reverse).flip(0))


def gather_neighbour_planes(
    measurement: Tensor,
    nearest: NearestVisiblePlanes,
    planes: Tensor,
    min_distances: tuple[Tensor, Tensor],
) -> NeighbourPlanes:
    """Gather the nearest visible values before and after some planes.

    Parameters
    ----------
    measurement : Tensor
        (1, C, N, Y, X).
    nearest : NearestVisiblePlanes
        Of the pixels that may be used.
    planes : Tensor of int64
        (P,), indices of the planes.
    min_distances : (Tensor, Tensor) of int64
        Distance to the first previous and next plane that may be used, broadcastable to
        (P, Y, X). 1: the adjacent plane; N or more: none on that side.
    """
    plane_index = planes[:, None, None]
    previous = _gather_side_planes(
        measurement[0], nearest.previous, plane_index - min_distances[0], -1
    )
    following = _gather_side_planes(measurement[0], nearest.next, plane_index + min_distances[1], 1)
    inside_masks = [inside.to(measurement.dtype) for _, _, inside in (previous, following)]
    nearness = torch.stack(
        [
            inside / (nearest_index - plane_index).abs().clamp(min=1)
            for (_, nearest_index, _), inside in zip(
                (previous, following), inside_masks, strict=True
            )
        ],
        1,
    )
    weight = nearness / nearness.sum(1, keepdim=True).clamp(min=1e-6)
    interpolated = weight[:, :1] * previous[0][0] + weight[:, 1:] * following[0][0]
    # a pixel that is visible on one side only takes that value for the other side as well
    sides = []
    for (values, _, in_range), (other_side, _, _) in ((previous, following), (following, previous)):
        sides += [torch.where(in_range[:, None], value, other_side[0]) for value in values]
    return NeighbourPlanes(torch.cat(sides, 1), nearness, interpolated)


def _gather_side_planes(
    measurement: Tensor, visible: Tensor, start: Tensor, direction: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gather visible values from plane `start`, (P, Y, X), backwards (-1) or forwards (1).

    Returns
    -------
    values : list of Tensor
        NEIGHBOURS_PER_SIDE times (P, C, Y, X), the nearest first; 0 if there is none.
    nearest_index : Tensor
        (P, Y, X), index of the nearest visible plane.
    in_range : Tensor of bool
        (P, Y, X), whether there is a visible plane.
    """
    count = len(visible)
    start = start.expand(-1, *visible.shape[1:])
    values: list[Tensor] = []
    for _ in range(NEIGHBOURS_PER_SIDE):
        in_bounds = (start >= 0) & (start < count)
        nearest_index = visible.gather(0, start.clamp(0, count - 1)).to(torch.int64)
        in_range = in_bounds & (nearest_index >= 0) & (nearest_index < count)
        index = nearest_index.clamp(0, count - 1)[None].expand(len(measurement), -1, -1, -1)
        gathered = (measurement.gather(1, index) * in_range).transpose(0, 1)
        if not values:
            nearest = nearest_index, in_range
            values.append(gathered)
        else:
            values.append(torch.where(in_range[:, None], gathered, values[-1]))
        start = torch.where(in_range, nearest_index + direction, -1)
    return values, *nearest


class StackHoles:
    """Planes with holes, and the distance of each missing pixel to visible planes.

    Parameters
    ----------
    measured_mask : Tensor
        (1, 1, N, Y, X), 1 where there is a measurement.

    Attributes
    ----------
    planes : list of int
        Indices of the H planes with holes.
    is_plane_missing : list of bool
        For each of them, whether all of it is missing.
    missing_counts : Tensor
        (H,), number of missing pixels.
    distance_before, distance_after : Tensor of int16
        (H, Y, X), distance to the nearest previous and next plane with that pixel; N: none.
    measured_planes : list of int
        Planes with measured pixels.
    max_nearness : float
        One over the smallest distance at which training predicts a plane from others, if a missing
        plane is nearer to its neighbours than any measured one is; else 1.
    """

    def __init__(self, measured_mask: Tensor) -> None:
        missing = (measured_mask[0, 0] == 0).flatten(1).sum(1)
        size = measured_mask[0, 0, 0].numel()
        count = measured_mask.shape[2]
        self.planes: list[int] = missing.nonzero()[:, 0].tolist()
        self.is_plane_missing: list[bool] = [bool(missing[plane] == size) for plane in self.planes]
        self.measured_planes: list[int] = (missing < size).nonzero()[:, 0].tolist()
        self.missing_counts: Tensor = missing[self.planes].to(torch.float32).cpu()
        planes = find_visible_planes(measured_mask)
        indices = torch.tensor(self.planes, device=measured_mask.device)[:, None, None]
        previous_distance = indices - planes.previous[self.planes]
        next_distance = planes.next[self.planes] - indices
        previous_distance = torch.where(planes.previous[self.planes] < 0, count, previous_distance)
        next_distance = torch.where(planes.next[self.planes] >= count, count, next_distance)
        self.distance_before: Tensor = previous_distance.to(torch.int16)
        self.distance_after: Tensor = next_distance.to(torch.int16)
        is_unlike_all = any(
            self.find_similar_planes(hole_index) is self.measured_planes
            for hole_index, is_missing in enumerate(self.is_plane_missing)
            if is_missing
        )
        gaps = [after - before for before, after in pairwise(self.measured_planes)]
        self.max_nearness: float = 1 / min(gaps) if is_unlike_all and gaps else 1.0

    def to(self, device: torch.device) -> None:
        """Move the distances to a device."""
        self.distance_before = self.distance_before.to(device)
        self.distance_after = self.distance_after.to(device)

    def find_similar_planes(self, hole_index: int) -> list[int]:
        """Return planes with measured planes at the same distances as the given one with holes.

        All measured planes, if that one is not missing as a whole or no plane is similar.
        """
        if not self.is_plane_missing[hole_index]:
            return self.measured_planes
        plane, usable = self.planes[hole_index], set(self.measured_planes)
        previous_distance = min((plane - other for other in usable if other < plane), default=0)
        next_distance = min((other - plane for other in usable if other > plane), default=0)
        similar = [
            other
            for other in self.measured_planes
            if {other - previous_distance, other + next_distance} <= usable
        ]
        return similar or self.measured_planes

    def mask_similar_planes(self, measured_mask: Tensor) -> Tensor:
        """Return the mask of measured pixels in planes that are similar to missing ones.

        `measured_mask` itself, if no plane is missing as a whole.
        """
        similar_planes = {
            plane
            for hole_index, is_missing in enumerate(self.is_plane_missing)
            if is_missing
            for plane in self.find_similar_planes(hole_index)
        }
        if not similar_planes:
            return measured_mask
        is_similar = torch.zeros_like(measured_mask)
        is_similar[:, :, sorted(similar_planes)] = 1
        return measured_mask * is_similar


def count_stack_input_channels(channels: int) -> int:
    """Return the number of input channels: interpolation, neighbours, fillings and masks."""
    return (1 + 2 * NEIGHBOURS_PER_SIDE + len(make_filling_windows(2))) * channels + 3


class MaskedStackPrior(VariancePrior):
    """A stack with further pixels masked at each training step, where the loss is computed.

    Validation pixels are masked in training and previews. The final inference uses all measured
    pixels. If most missing pixels are in whole planes, validation and prediction of measured
    pixels mask whole planes as well, so that pixels are predicted from other planes alone.

    Parameters
    ----------
    network : nn.Module
        A `PlanewiseNetwork` with `count_stack_input_channels` input channels.
    measurement : Tensor
        (1, C, N, Y, X).
    measured_mask : Tensor
        (1, 1, N, Y, X), 1 where there is a measurement.
    validation_mask : Tensor
        (1, 1, N, Y, X), 1 at validation pixels.
    max_masked_fraction : float
        Largest share of a plane that a step masks, where planes are missing in part.
    predicts_measured : bool
        Whether the final inference predicts all measured pixels from the others; otherwise only
        validation pixels.
    window : tuple of int
        Planes, height and width of the crop of one training step.
    """

    def __init__(
        self,
        network: nn.Module,
        measurement: Tensor,
        measured_mask: Tensor,
        validation_mask: Tensor,
        *,
        max_masked_fraction: float,
        predicts_measured: bool,
        window: tuple[int, ...],
    ) -> None:
        self.network = network
        self.max_masked_fraction = max_masked_fraction
        self.predicts_measured = predicts_measured
        self.measurement: Tensor = measurement * measured_mask
        self.measured_mask = measured_mask
        self.validation_mask: Tensor = validation_mask * measured_mask
        self.grid: tuple[int, ...] = tuple(measurement.shape[2:])
        self.window: tuple[int, ...] = limit_window(window, self.grid)
        self.filling_windows: Tensor = make_filling_windows(2).to(measurement)
        self.holes: StackHoles = StackHoles(measured_mask)
        self.visible_planes: NearestVisiblePlanes = find_visible_planes(
            measured_mask - self.validation_mask
        )
        planes = self.holes.missing_counts[
            torch.tensor(self.holes.is_plane_missing, dtype=torch.bool)
        ].sum()
        self.hides_whole_planes: bool = bool(2 * planes > self.holes.missing_counts.sum())
        self.neighbour_weight: float = 1.0
        self.neighbour_weight = self._compute_neighbour_weight()

    def to(self, device: torch.device) -> Self:
        """Move network, measurement, masks and distances to a device."""
        self.holes.to(device)
        self.visible_planes = NearestVisiblePlanes(
            *(plane.to(device) for plane in self.visible_planes)
        )
        return super().to(device)

    def draw_step_input(self, rng: torch.Generator) -> StepInput:
        """Draw a random window of some planes, with the holes of another plane masked in them."""
        hidden, distances, usable = self._draw_hidden_mask(rng)
        count = min(self.window[0], len(usable))
        order = torch.randperm(len(usable), generator=rng)[:count]
        planes = tuple(usable[index] for index in order.tolist())
        plane_window = draw_random_window(self.grid[1:], self.window[1:], rng)
        flipped_dims = tuple(axis + 1 for axis in plane_window.flipped_dims)
        window = Window(
            start=(0, *plane_window.start),
            size=(count, *plane_window.size),
            flipped_dims=flipped_dims,
            planes=planes,
        )
        measured_mask = window.crop(self.measured_mask)
        validation = window.crop(self.validation_mask)
        masked_window = plane_window.crop(hidden[None])
        masked = measured_mask * (1 - (1 - masked_window) * (1 - validation))
        previous_distance, next_distance = (
            plane_window.crop(distance[None, None])[0] for distance in distances
        )
        is_reversed = bool(torch.rand((), generator=rng) < 0.5)
        network_input = self._make_masked_input(
            window,
            self.visible_planes,
            measured_mask - masked,
            (previous_distance, next_distance),
            is_reversed=is_reversed,
        )
        return StepInput(network_input, loss_mask=masked, output_mask=masked, window=window)

    def make_prediction_sample(self) -> StepInput:
        """Return the stack with only validation pixels masked, or with whole planes masked."""
        visible = self.measured_mask - self.validation_mask
        visible = torch.zeros_like(visible) if self.hides_whole_planes else visible
        all_planes = self._make_plane_window(tuple(range(self.grid[0])))
        return StepInput(self._make_masked_input(all_planes, self.visible_planes, visible))

    def make_inference_samples(self) -> Iterator[StepInput]:
        """Yield inputs to fill planes with holes, then inputs to predict measured pixels.

        Planes without a pixel to predict are left out.
        """
        predicted = self.measured_mask if self.predicts_measured else self.validation_mask
        predicted_planes = predicted.amax((0, 1, 3, 4)).nonzero()[:, 0].tolist()
        fold_count = (
            INFERENCE_FOLDS if self.predicts_measured and not self.hides_whole_planes else 1
        )
        hole_planes = len(self.holes.planes)
        total = len(MIRROR_AXES) * hole_planes + fold_count * len(predicted_planes)
        completed = 0  # planes that went through the network, each as long
        planes = find_visible_planes(self.measured_mask)
        for direction, flipped_dims in enumerate(MIRROR_AXES if hole_planes else ()):
            window = self._make_plane_window(tuple(self.holes.planes), flipped_dims)
            network_input = self._make_masked_input(
                window, planes, window.crop(self.measured_mask), is_reversed=bool(direction % 2)
            )
            completed += hole_planes
            yield StepInput(
                network_input,
                output_mask=window.crop(1 - self.measured_mask) / len(MIRROR_AXES),
                window=window,
                completed_fraction=completed / total,
            )
        window = self._make_plane_window(tuple(predicted_planes))
        for fold in split_into_folds(predicted, fold_count) if predicted_planes else ():
            visible, nearest = torch.zeros_like(fold), self.visible_planes
            if not self.hides_whole_planes:
                visible = self.measured_mask - fold
                nearest = find_visible_planes(visible)
            network_input = self._make_masked_input(window, nearest, window.crop(visible))
            completed += len(predicted_planes)
            yield StepInput(
                network_input,
                output_mask=window.crop(fold),
                window=window,
                completed_fraction=completed / total,
            )

    def _compute_neighbour_weight(self) -> float:
        """Return the weight of neighbouring planes against the plane's own filling, 0 to 1.

        It is fitted by least squares to pixels that are masked as in training.
        """
        rng = torch.Generator().manual_seed(0)
        channels = self.measurement.shape[1]
        filling_start = (1 + 2 * NEIGHBOURS_PER_SIDE) * channels
        numerator = denominator = 0.0
        for _ in range(WEIGHTING_DRAWS):
            sample = self.draw_step_input(rng)
            assert sample.loss_mask is not None
            assert sample.window is not None
            neighbours = sample.network_input[:, :channels]
            filling = sample.network_input[:, filling_start : filling_start + channels]
            has_neighbour = (sample.network_input[:, -3:-1] + 0.5).sum(1, keepdim=True) > 0
            is_plane_visible = (
                (sample.network_input[:, -1:] > 0).to(filling.dtype).amax((3, 4), keepdim=True)
            )
            weight = sample.loss_mask * has_neighbour * is_plane_visible
            truth = sample.window.crop(self.measurement)
            numerator += float((weight * (neighbours - filling) * (truth - filling)).sum())
            denominator += float((weight * (neighbours - filling) ** 2).sum())
        return min(1.0, max(0.0, numerator / denominator)) if denominator else 1.0

    def _make_plane_window(
        self, planes: tuple[int, ...], flipped_dims: tuple[int, ...] = ()
    ) -> Window:
        size = (len(planes), *self.grid[1:])
        return Window(start=(0,) * 3, size=size, flipped_dims=flipped_dims, planes=planes)

    def _draw_hidden_mask(
        self, rng: torch.Generator
    ) -> tuple[Tensor, tuple[Tensor, Tensor], list[int]]:
        """Draw the holes of a random plane, at random positions if part of it is measured.

        Returns
        -------
        hidden : Tensor
            (1, Y, X), 1 at pixels to mask.
        distances : (Tensor, Tensor) of int64
            (Y, X), distance to the first previous and next plane that may be used.
        usable : list of int
            Planes in which to mask them.
        """
        if not self.holes.planes:  # no holes in this part of the stack
            plane = self.measured_mask[0, 0, 0]
            adjacent = torch.ones_like(plane, dtype=torch.int64)
            is_masked = draw_uniform(plane, rng) < self.max_masked_fraction
            return is_masked.to(plane.dtype)[None], (adjacent, adjacent), self.holes.measured_planes
        hole_index = int(torch.multinomial(self.holes.missing_counts, 1, generator=rng))
        missing = 1 - self.measured_mask[0, 0, self.holes.planes[hole_index]]
        previous_distance = self.holes.distance_before[hole_index].long()
        next_distance = self.holes.distance_after[hole_index].long()
        usable = self.holes.find_similar_planes(hole_index)
        if self.holes.is_plane_missing[hole_index]:
            return missing[None], (previous_distance, next_distance), usable
        max_fraction = self.max_masked_fraction
        missing_fraction = float(self.holes.missing_counts[hole_index] / missing.numel())
        hidden = torch.zeros_like(missing)
        distances = [torch.ones_like(previous_distance), torch.ones_like(next_distance)]
        for _ in range(min(MAX_MASK_COPIES, max(1, round(max_fraction / missing_fraction)))):
            flipped_axes, shifts = draw_mask_placement(missing.shape, rng)
            holes_copy, *copy_distances = (
                tensor.flip(flipped_axes).roll(shifts, (0, 1))
                for tensor in (missing, previous_distance, next_distance)
            )
            distances = [
                torch.where(holes_copy > 0, new, old)
                for new, old in zip(copy_distances, distances, strict=True)
            ]
            hidden = torch.maximum(hidden, holes_copy)
        return (
            self._thin_mask(hidden, max_fraction, rng)[None],
            (distances[0], distances[1]),
            usable,
        )

    def _thin_mask(self, hidden: Tensor, max_fraction: float, rng: torch.Generator) -> Tensor:
        """Return the mask thinned in squares to about the allowed share."""
        fraction: Tensor | float = hidden.mean()
        if hidden.device.type == "cpu":  # a GPU would have to be waited for
            fraction = float(fraction)
            if fraction <= max_fraction:
                return hidden
        squares = [-(-n // THINNING_SIDE) for n in hidden.shape]
        square_values = draw_uniform(hidden.new_empty((1, 1, *squares)), rng)
        kept_squares = F.interpolate(
            (square_values < max_fraction / fraction).to(hidden.dtype), scale_factor=THINNING_SIDE
        )
        return hidden * kept_squares[0, 0, : hidden.shape[0], : hidden.shape[1]]

    def _make_masked_input(
        self,
        window: Window,
        nearest: NearestVisiblePlanes,
        visible: Tensor,
        distances: tuple[Tensor, Tensor] | None = None,
        *,
        is_reversed: bool = False,
    ) -> Tensor:
        """Return the network input of some planes; (1, D, P, height, width).

        Parameters
        ----------
        visible : Tensor
            (1, 1, P, height, width), visible pixels of these planes themselves.
        distances : (Tensor, Tensor), optional
            As for `gather_neighbour_planes`, in the window; by default the adjacent planes.
        is_reversed : bool
            Whether the stack is in reverse order.
        """
        planes = torch.tensor(window.planes, device=visible.device)
        size = (self.grid[0], *window.size[1:])
        stack_window = Window(
            start=(0, *window.start[1:]), size=size, flipped_dims=window.flipped_dims
        )
        cropped_nearest = NearestVisiblePlanes(
            *(stack_window.crop(indices[None, None])[0, 0] for indices in nearest)
        )
        adjacent = torch.ones((1, 1, 1), dtype=torch.int64, device=visible.device)
        neighbour_planes = gather_neighbour_planes(
            stack_window.crop(self.measurement),
            cropped_nearest,
            planes,
            distances or (adjacent, adjacent),
        )
        neighbour_planes = neighbour_planes.reverse() if is_reversed else neighbour_planes
        own_values = (window.crop(self.measurement) * visible)[0].transpose(0, 1)  # (P, C, Y, X)
        visible_planes = visible[0].transpose(0, 1)
        fillings = fill_by_normalised_convolution(own_values, visible_planes, self.filling_windows)
        # interpolated from other planes where the pixel is visible, else filled within the plane
        neighbours = fillings[:, : own_values.shape[1]]
        has_neighbour = neighbour_planes.nearness.sum(1, keepdim=True) > 0
        has_visible_pixel = visible_planes.amax((1, 2, 3), keepdim=True) > 0
        mixture = (
            self.neighbour_weight * neighbour_planes.interpolated
            + (1 - self.neighbour_weight) * neighbours
        )
        base = torch.where(
            has_neighbour,
            torch.where(has_visible_pixel, mixture, neighbour_planes.interpolated),
            neighbours,
        )
        base = torch.where(visible_planes > 0, own_values, base)
        channels = [
            base,
            neighbour_planes.values,
            fillings,
            # the network would extrapolate from a nearness that it was never trained with
            neighbour_planes.nearness.clamp(max=self.holes.max_nearness) - 0.5,
            visible_planes - 0.5,
        ]
        return torch.cat(channels, 1).transpose(0, 1)[None]
