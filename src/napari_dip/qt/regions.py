"""Which part of an image is meant: what is in view, or a rectangle that was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_dip.run.trial import region_of

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Shapes

    from napari_dip.run.plan import Plan
    from napari_dip.run.trial import Region

Box = tuple[float, float, float, float]


def region_in(
    viewer: napari.viewer.Viewer, plan: Plan, image: Image, shapes: Shapes | None
) -> Region:
    """Find the region that is meant, in pixels of the image.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    plan : Plan
        For the whole image.
    image : Image
    shapes : Shapes or None
        With at least one shape: the rectangle around the selected or else the last one. None: what
        is in view.
    """
    box = in_view(image) if shapes is None else around(shapes, image)
    point = image.world_to_data(viewer.dims.point[-image.ndim :])
    at = [
        int(np.clip(round(one), 0, n - 1)) for one, n in zip(point, plan.source.shape, strict=False)
    ]
    at += [0] * (len(plan.source.shape) - len(at))  # red, green and blue
    return region_of(plan.source, plan.layout, box, tuple(at))


def around(shapes: Shapes, image: Image) -> Box:
    """Give the rectangle around a shape: top, left, bottom, right; shapes lie on pixel centres."""
    number = max(shapes.selected_data, default=len(shapes.data) - 1)
    corners = np.array(
        [
            image.world_to_data(shapes.data_to_world(one)[-image.ndim :])[-2:]
            for one in shapes.data[number]
        ]
    )
    (top, left), (bottom, right) = corners.min(0) + 0.5, corners.max(0) + 0.5
    return float(top), float(left), float(bottom), float(right)


def in_view(image: Image) -> Box:
    """Give the part of the picture plane that the canvas shows; all of it before it was drawn."""
    finer = np.ones(image.ndim)
    if image.multiscale:
        finer = np.asarray(image.downsample_factors[image.data_level])[: image.ndim]
    corners = np.asarray(image.corner_pixels, float) * finer
    (top, left), (bottom, right) = corners[0, -2:], corners[1, -2:] + finer[-2:]
    if bottom - top < 2 or right - left < 2:
        return 0.0, 0.0, np.inf, np.inf
    return float(top), float(left), float(bottom), float(right)
