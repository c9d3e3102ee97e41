"""A picture of a restoration: before, after, and what else is known of it.

The frame of a page in HTML: nothing is loaded from elsewhere, and no program is in it.
"""

from __future__ import annotations

import base64
import html
from functools import wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from napari_dip.errors.fault import make_lines_printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
#: Share of the darkest and of the brightest pixels that may be clipped, as napari's users expect.
_CLIPPED_PERCENTILE = 0.3
_PANEL_INCHES = 4.0
_DOTS_PER_INCH = 120
#: Width and height of an overview, and dots per inch: small enough for a page of 500 of them.
_OVERVIEW_INCHES, _OVERVIEW_DOTS = (5.2, 1.7), 100
#: Pixels along a thumbnail's longer side, at least, where the image has as many.
_MIN_THUMBNAIL_SIDE = 160


def use_default_style(draw: Callable[P, bytes]) -> Callable[P, bytes]:
    """Let a function draw in Matplotlib's own style, whatever a matplotlibrc says.

    Matplotlib obeys the one in the current folder, which may be anybody's: LaTeX is run by it.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> bytes:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            return draw(*args, **kwargs)

    return drawn


@use_default_style
def draw_before_after(
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    reference: npt.NDArray[Any] | None = None,
    *,
    titles: tuple[str, ...] = ("Input", "Restored", "Reference"),
) -> bytes:
    """Draw images side by side, each with the same contrast limits.

    Parameters
    ----------
    before, after, reference : ndarray (Y, X) or (Y, X, 3)
        In one intensity unit. The limits are those of `after`, so that noise is not dimmed.
    titles : tuple of str
        Written above the panels.

    Returns
    -------
    bytes
        A PNG file.
    """
    panels = [before, after] if reference is None else [before, after, reference]
    limits = compute_contrast_limits(after)
    height, width = after.shape[:2]
    size = (_PANEL_INCHES * len(panels), _PANEL_INCHES * height / width + 0.4)
    figure = make_figure(*size)
    for place, (panel, title) in enumerate(zip(panels, titles, strict=False), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        draw_picture(axes, stretch_contrast(panel, *limits))
        axes.set_title(title)
    return render_png(figure)


@use_default_style
def draw_overview(
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    held_out: Sequence[Sequence[float | None]],
    best_iteration: int,
) -> bytes:
    """Draw a small picture of a run: input, result, and how the held-out loss went.

    Parameters
    ----------
    before, after : ndarray (Y, X) or (Y, X, 3)
        In one intensity unit. Larger ones are thinned out, not averaged: that would hide the noise.
    held_out : sequence of (iteration, loss)
        None where a loss is not a number.
    best_iteration : int
        Marked in the curve; 0 for none.

    Returns
    -------
    bytes
        A PNG file.
    """
    limits = compute_contrast_limits(after)
    figure = make_figure(*_OVERVIEW_INCHES, dots=_OVERVIEW_DOTS)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    for axes, panel, title in ((left, before, "Input"), (middle, after, "Restored")):
        draw_picture(axes, np.nan_to_num(stretch_contrast(_subsample_panel(panel), *limits)))
        axes.set_title(title, fontsize=8)
    points = [(item[0], item[1]) for item in held_out if item[1] is not None]
    steps, losses = [point[0] for point in points], [point[1] for point in points]
    right.plot(steps, losses, ".-", color="tab:blue", linewidth=1, markersize=3)
    if best_iteration:
        right.axvline(best_iteration, color="tab:orange", linewidth=1)
    right.set_title("Held-out loss (line: taken)", fontsize=8)
    right.tick_params(labelsize=6)
    return render_png(figure)


def make_figure(width: float, height: float, dots: int = _DOTS_PER_INCH) -> Figure:
    """Make an empty figure of that many inches, with so many dots in each."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dots, layout="constrained")


def render_png(figure: Figure) -> bytes:
    """Draw a figure; a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)  # a figure of its own: pyplot's state stays untouched
    file = BytesIO()
    canvas.print_png(file)  # type: ignore[no-untyped-call]
    return file.getvalue()


def compute_contrast_limits(picture: npt.NDArray[Any]) -> tuple[float, float]:
    """Tell what to show black and white, so that a few odd pixels do not darken all others."""
    low, high = np.percentile(picture, [_CLIPPED_PERCENTILE, 100 - _CLIPPED_PERCENTILE])
    return float(low), float(high)


def stretch_contrast(picture: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float64]:
    """Bring what lies between the limits to 0 to 1, and clip what lies beyond."""
    scaled = (picture.astype(np.float64) - low) / max(high - low, 1e-12)
    return np.clip(scaled, 0, 1)


def draw_picture(axes: Axes, picture: npt.NDArray[np.float64]) -> None:
    """Show a picture of 0 to 1, or one in colours, pixel by pixel and without a frame."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()


def select_middle_plane(image: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """Take one picture out of an image: the middle of time and depth, the first channel.

    Returns
    -------
    ndarray
        (Y, X), or (Y, X, 3) where there are colour samples.
    """
    for axis in "TZC":
        if axis in axes:
            place = axes.index(axis)
            image = image.take(0 if axis == "C" else image.shape[place] // 2, axis=place)
            axes = axes.replace(axis, "")
    return image.transpose([axes.index(axis) for axis in "YXS" if axis in axes])


def _subsample_panel(panel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    step = max(1, max(panel.shape[:2]) // _MIN_THUMBNAIL_SIDE)
    return panel[::step, ::step]


def make_html_page(title: str, style: str, body: str) -> str:
    """Write a whole page.

    Parameters
    ----------
    title : str
        Plain text, in the head and above the rest.
    style : str
        CSS, as it is.
    body : str
        HTML, as it is.
    """
    escaped_title = html.escape(title)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escaped_title}</title>
<style>{style}</style>
</head>
<body>
<h1>{escaped_title}</h1>
{body}
</body>
</html>
"""
    return make_lines_printable(page)  # a browser obeys marks that turn the direction of writing


def make_image_tag(png: bytes, alt_text: str = "") -> str:
    """Put a picture into the page itself; `alt_text` is for those who cannot see it."""
    coded = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(alt_text)}" src="data:image/png;base64,{coded}">'
