"""Draw the parts that figures of several experiments share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors.fault import make_printable
from napari_dip.pipeline.assess.report_figures import plot_image, stretch_contrast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_dip.explore.experiment_setup import ImageArray

#: Lightest shade of a row of curves; lighter ones are too light for white paper.
_LIGHTEST_SHADE = 0.85


def format_iteration_axis(axes: Axes, count: int, *, logarithmic: bool) -> None:
    """Format the horizontal axis for iterations, in plain numbers."""
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlim(1, max(2, count))
    axes.set_xlabel("Iteration")


def choose_shades(count: int) -> Any:
    """Return colours from dark to light, one for each curve."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, _LIGHTEST_SHADE, count))


def draw_titled_image(
    axes: Axes, image: ImageArray, title: str, limits: tuple[float, float]
) -> None:
    """Draw an image at limits of contrast, with a title of plain text."""
    plot_image(axes, stretch_contrast(image, *limits))
    axes.set_title(
        make_printable(title), fontsize=8, parse_math=False
    )  # names of layers among them
