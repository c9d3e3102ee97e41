"""Draw the figures of reports, and write HTML pages of one style, without scripts."""

from __future__ import annotations

import base64
import html
from functools import wraps
from io import BytesIO
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec

import numpy as np

from napari_dip.errors.templates import make_lines_printable, make_printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from napari_dip.io import AnyArray, FloatArray

P = ParamSpec("P")
#: Percentage of the darkest and of the brightest pixels that are clipped in a figure.
_CLIPPED_PERCENTILE = 0.3
#: Width of a panel of a page's figure, in inches.
_PANEL_INCHES = 4.0
#: Dots per inch of a page's figure.
_DOTS_PER_INCH = 120
#: Width and height of an overview in inches.
_OVERVIEW_INCHES = (5.2, 1.7)
#: Dots per inch of an overview; small enough for 500 on a page.
_OVERVIEW_DOTS = 100
#: Width of the figure of a single plane, in inches.
_PLANE_INCHES = 2.5
#: Minimum pixels along the longer side of a thumbnail, if the image has as many.
_MIN_THUMBNAIL_SIDE = 160
#: Width and height of a line profile in inches.
_PROFILE_INCHES = (3.5, 2.6)
#: Colours of input and result (Okabe-Ito).
_LINE_COLOURS = ("#0072B2", "#D55E00")
#: Metadata of a figure without the time, by file format.
_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
#: Panels in a row of the figure of a result.
_MAX_COLUMNS = 3
#: Width of a panel in inches: three make the 180 mm of a page in most journals.
_COLUMN_INCHES = 2.36
#: Inches for title and colour bar.
_TITLE_INCHES = 0.5
#: Colours of the frames of magnified insets (Okabe-Ito).
_INSET_COLOURS = ("#E69F00", "#56B4E9", "#009E73")
#: A table of class "numbers" is aligned to the right; any other has a narrow first column of names.
_STYLE = Path(__file__).with_name("report_style.css").read_text("utf-8")


def use_default_style(draw: Callable[P, bytes]) -> Callable[P, bytes]:
    """Return the drawing function so that it uses Matplotlib's default style.

    A matplotlibrc file in the current folder may come from others, and can make Matplotlib run
    LaTeX.
    """

    @wraps(draw)
    def plot_in_default_style(*args: P.args, **kwargs: P.kwargs) -> bytes:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            # text stays text for drawing programs, and equal figures are equal files
            matplotlib.rcParams["svg.fonttype"], matplotlib.rcParams["pdf.fonttype"] = "none", 42
            matplotlib.rcParams["svg.hashsalt"] = "napari-dip"
            return draw(*args, **kwargs)

    return plot_in_default_style


@use_default_style
def plot_before_after(
    before: AnyArray,
    after: AnyArray,
    reference: AnyArray | None = None,
    *,
    titles: tuple[str, ...] = ("Input", "Restored", "Reference"),
) -> bytes:
    """Draw images side by side with the same contrast limits.

    Parameters
    ----------
    before, after, reference : ndarray (Y, X) or (Y, X, 3)
        In the same intensity unit. The limits are those of `after`, so that noise in `before` does
        not lower the contrast.
    titles : tuple of str
        Titles of the panels.

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
    for position, (panel, title) in enumerate(zip(panels, titles, strict=False), start=1):
        ax = figure.add_subplot(1, len(panels), position)
        plot_image(ax, stretch_contrast(panel, *limits))
        ax.set_title(title)
    return render_figure(figure)


@use_default_style
def plot_overview(
    before: AnyArray | None,
    after: AnyArray,
    validation_loss: Sequence[Sequence[float | None]],
    best_iteration: int,
) -> bytes:
    """Draw a small overview of a run: input, result and validation loss.

    Parameters
    ----------
    before, after : ndarray (Y, X) or (Y, X, 3)
        In the same intensity unit; without `before`, only the result is drawn. Large images are
        subsampled; averaging would hide the noise.
    validation_loss : sequence of (iteration, loss)
        Validation loss; None where it is not a number.
    best_iteration : int
        Iteration to mark in the curve; 0 for none.

    Returns
    -------
    bytes
        A PNG file.
    """
    limits = compute_contrast_limits(after)
    figure = make_figure(*_OVERVIEW_INCHES, dots=_OVERVIEW_DOTS)
    panels = [] if before is None else [(before, "Input")]
    panels.append((after, "Restored"))
    *image_axes, right = figure.subplots(1, len(panels) + 1, width_ratios=(*[1] * len(panels), 1.3))
    for ax, (panel, title) in zip(image_axes, panels, strict=True):
        thumbnail = subsample_plane(panel, _MIN_THUMBNAIL_SIDE)
        plot_image(ax, np.nan_to_num(stretch_contrast(thumbnail, *limits)))
        ax.set_title(title, fontsize=8)
    points = [(entry[0], entry[1]) for entry in validation_loss if entry[1] is not None]
    steps, losses = [point[0] for point in points], [point[1] for point in points]
    right.plot(steps, losses, ".-", color="tab:blue", linewidth=1, markersize=3)
    if best_iteration:
        right.axvline(best_iteration, color="tab:orange", linewidth=1)
    right.set_title("Validation loss (line: taken)", fontsize=8)
    right.tick_params(labelsize=6)
    return render_figure(figure)


@use_default_style
def plot_plane(plane: AnyArray) -> bytes:
    """Draw one plane (Y, X) or (Y, X, 3), small enough for a notebook, as a PNG."""
    figure = make_figure(_PLANE_INCHES, _PLANE_INCHES * plane.shape[0] / plane.shape[1])
    thumbnail = subsample_plane(plane, _MIN_THUMBNAIL_SIDE)
    limits = compute_contrast_limits(thumbnail)
    plot_image(figure.add_subplot(), np.nan_to_num(stretch_contrast(thumbnail, *limits)))
    return render_figure(figure)


def make_figure(width: float, height: float, dots: int = _DOTS_PER_INCH) -> Figure:
    """Return an empty figure of a width and height in inches, with `dots` dots per inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dots, layout="constrained")


def render_figure(figure: Figure, kind: str = "png") -> bytes:
    """Return a figure as the bytes of a file: "png", "svg" or "pdf", equal for equal figures."""
    file = BytesIO()
    figure.savefig(file, format=kind, dpi="figure", metadata=_NO_DATE.get(kind))
    return file.getvalue()


@use_default_style
def plot_profiles(
    curves: Sequence[tuple[str, FloatArray, FloatArray]], axis_label: str, kind: str
) -> bytes:
    """Draw intensities of an input and its result along a line or over time, for a paper.

    Parameters
    ----------
    curves : sequence of (label, distance, intensity)
    axis_label : str
        Label of the horizontal axis.
    kind : str
        "png", "svg" or "pdf".

    Returns
    -------
    bytes
        A file whose text can be edited.
    """
    figure = make_figure(*_PROFILE_INCHES)
    ax = figure.add_subplot()
    for (label, distance, intensity), colour in zip(curves, _LINE_COLOURS, strict=False):
        ax.plot(distance, intensity, color=colour, label=escape_math(label))
    ax.set_xlabel(axis_label)
    ax.set_ylabel("Intensity")
    figure.legend(loc="outside upper left", fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return render_figure(figure, kind)


class PanelImage(NamedTuple):
    """An image in a panel of `plot_result`.

    Attributes
    ----------
    plane : ndarray (Y, X) or (Y, X, 3)
    extent : (float, float, float, float)
        Left, right, bottom and top edge, in the unit of the figure.
    limits : (float, float)
        Contrast limits.
    gamma : float
    colours : ndarray
        (n, 4): the colours from the lower limit to the upper one; not used for RGB.
    """

    plane: AnyArray
    extent: tuple[float, float, float, float]
    limits: tuple[float, float]
    gamma: float
    colours: FloatArray


@use_default_style
def plot_result(
    panels: Sequence[tuple[str, Sequence[PanelImage]]],
    insets: Sequence[tuple[float, float, float, float]],
    unit: str,
    kind: str,
) -> bytes:
    """Draw images of one field of view side by side, with scale bars and magnified insets.

    Parameters
    ----------
    panels : sequence of (title, images)
        Later images of a panel lie on the earlier ones.
    insets : sequence of (left, right, bottom, top)
        They are drawn below each image.
    unit : str
        Unit of the lengths; "" for no scale bars.
    kind : str
        "png", "svg" or "pdf".

    Returns
    -------
    bytes
        A file. Images have at least 300 pixels per inch.
    """
    from matplotlib.patches import Rectangle

    outline: dict[str, Any] = {"fill": False, "linewidth": 1.5}
    bar_style: dict[str, Any] = {"location": "bottom", "format": "%.3g", "aspect": 30, "pad": 0.02}
    frames = [panels[0][1][0].extent, *insets]
    ratios = [abs((bottom - top) / (right - left)) for left, right, bottom, top in frames]
    blocks = ceil(len(panels) / _MAX_COLUMNS)
    columns = ceil(len(panels) / blocks)
    dots = min(max(1.2 * panels[0][1][0].plane.shape[1] / _COLUMN_INCHES, 300), 1200)
    height = blocks * (_COLUMN_INCHES * sum(ratios) + _TITLE_INCHES)
    figure = make_figure(columns * _COLUMN_INCHES, height, ceil(dots))
    axes = figure.subplots(
        blocks * len(frames), columns, height_ratios=ratios * blocks, squeeze=False
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for number, (title, images) in enumerate(panels):
        row, column = len(frames) * (number // columns), number % columns
        group = axes[row : row + len(frames), column]
        group[0].set_title(escape_math(title), fontsize=9)
        for index, (ax, frame) in enumerate(zip(group, frames, strict=True)):
            drawn = [_draw_panel_image(ax, image) for image in images][-1]
            ax.set(xlim=frame[:2], ylim=frame[2:])
            if unit:
                _draw_scale_bar(ax, frame, unit)
            if index:
                colour = _INSET_COLOURS[index % 3]
                corner, sides = (frame[0], frame[3]), (frame[1] - frame[0], frame[2] - frame[3])
                group[0].add_patch(Rectangle(corner, *sides, color=colour, **outline))
                border = Rectangle((0, 0), 1, 1, transform=ax.transAxes, color=colour, **outline)
                ax.add_patch(border)
        if images[-1].plane.ndim == 2:
            bar = figure.colorbar(drawn, ax=group[0], ticks=images[-1].limits, **bar_style)
            bar.ax.tick_params(labelsize=6)
            low, high = bar.ax.get_xticklabels()
            low.set_horizontalalignment("left")  # a long label at its middle would widen the gap
            high.set_horizontalalignment("right")
    return render_figure(figure, kind)


def _draw_panel_image(ax: Axes, image: PanelImage) -> Any:
    from matplotlib.colors import ListedColormap, PowerNorm

    options: dict[str, Any] = {"extent": image.extent, "interpolation": "nearest"}
    if image.plane.ndim > 2:
        return ax.imshow(stretch_contrast(image.plane, *image.limits), **options)
    norm = PowerNorm(image.gamma, *image.limits, clip=True)
    return ax.imshow(image.plane, cmap=ListedColormap(image.colours), norm=norm, **options)


def _draw_scale_bar(ax: Axes, frame: tuple[float, float, float, float], unit: str) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten, at most a quarter as long as the frame."""
    from matplotlib.patches import Rectangle
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    width = abs(frame[1] - frame[0])  # of a mirrored layer, the right edge has the lower value
    longest = width / 4
    power = 10.0 ** floor(log10(longest))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= longest)
    options = {"size_vertical": width / 80, "color": "white", "pad": 0.3}
    bar = AnchoredSizeBar(
        ax.transData,
        length,
        f"{length:g} {unit}",
        "lower right",
        **options,
        fontproperties={"size": 7},
        sep=2,
    )
    for outline in bar.findobj(Rectangle):
        outline.set_linewidth(0)  # half of an outline would lie beyond each end
    bar.patch.set(facecolor="black", alpha=0.5)  # legible on bright ground
    ax.add_artist(bar)


def escape_math(text: str) -> str:
    """Return printable text in which Matplotlib finds no formula."""
    return make_printable(text).replace("$", r"\$")


def compute_contrast_limits(image: AnyArray) -> tuple[float, float]:
    """Return the values to show as black and white; a few extreme pixels are clipped."""
    low, high = np.percentile(image, [_CLIPPED_PERCENTILE, 100 - _CLIPPED_PERCENTILE])
    return float(low), float(high)


def stretch_contrast(image: AnyArray, low: float, high: float) -> FloatArray:
    """Scale values between the limits to 0 to 1, and clip the others."""
    scaled = (image.astype(np.float64) - low) / max(high - low, 1e-300)
    return np.clip(scaled, 0, 1)


def plot_image(ax: Axes, image: FloatArray) -> None:
    """Draw a grey or colour image of values 0 to 1, without interpolation and axes."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()


def select_middle_plane(image: AnyArray, axes: str) -> AnyArray:
    """Return one plane of an image: the middle along time and depth, of the first channel.

    Returns
    -------
    ndarray
        (Y, X), or (Y, X, 3) with colour samples.
    """
    for axis in "TZC":
        if axis in axes:
            axis_index = axes.index(axis)
            image = image.take(0 if axis == "C" else image.shape[axis_index] // 2, axis=axis_index)
            axes = axes.replace(axis, "")
    return image.transpose([axes.index(axis) for axis in "YXS" if axis in axes])


def subsample_plane(plane: AnyArray, side: int) -> AnyArray:
    """Subsample a plane (Y, X, ...) so that its longer side keeps at least `side` pixels."""
    step = max(1, max(plane.shape[:2]) // side)
    return plane[::step, ::step]


#: Lightest shade of a row of curves; lighter ones are too light for white paper.
_LIGHTEST_SHADE = 0.85


def format_iteration_axis(ax: Axes, count: int, *, is_logarithmic: bool) -> None:
    """Format the horizontal axis for iterations, in plain numbers."""
    if is_logarithmic:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_xlim(1, max(2, count))
    ax.set_xlabel("Iteration")


def choose_shades(count: int) -> Any:
    """Return colours from dark to light, one for each curve."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, _LIGHTEST_SHADE, count))


def draw_titled_image(ax: Axes, image: AnyArray, title: str, limits: tuple[float, float]) -> None:
    """Draw an image at limits of contrast, with a title of plain text in one or more lines."""
    plot_image(ax, stretch_contrast(image, *limits))
    # names of layers are among the titles
    lines = map(make_printable, title.split("\n"))
    ax.set_title("\n".join(lines), fontsize=8, parse_math=False)


def format_small_axes(ax: Axes, legend_place: Literal["best", "upper left"] = "best") -> None:
    """Set small labels and legend, and remove the lines at the top and on the right."""
    ax.xaxis.label.set_fontsize(8)
    ax.yaxis.label.set_fontsize(8)
    ax.title.set_fontsize(9)
    ax.legend(fontsize=7, frameon=False, loc=legend_place)
    ax.tick_params(labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)


# HTML pages


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


def make_element(tag: str, *children: str, **attributes: str) -> Html:
    """Return an HTML element. Text is escaped, in children and in attributes.

    Parameters
    ----------
    tag : str
    *children : str
        Text, or `Html`.
    **attributes : str
        A name may end in "_", as in `class_`.
    """
    names = "".join(
        f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    content = (child if isinstance(child, Html) else html.escape(child) for child in children)
    return Html(f"<{tag}{names}>{''.join(content)}</{tag}>")


def make_elements(tag: str, texts: Iterable[str]) -> Html:
    """Return one element for each text, one a line."""
    return Html("\n".join(make_element(tag, text) for text in texts))


def make_image(png: bytes, alt_text: str = "") -> Html:
    """Return an image with the PNG data in it, and an alternative text."""
    coded = base64.b64encode(png).decode("ascii")
    return Html(f'<img alt="{html.escape(alt_text)}" src="data:image/png;base64,{coded}">')


def make_table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> Html:
    """Return a table; `kind` "numbers" aligns all columns but the first to the right."""
    lines = [make_element("tr", make_elements("td", row)) for row in rows]
    head = make_element("tr", make_elements("th", heads))
    return make_element("table", head, Html("\n".join(lines)), class_=kind)


def render_page(title: str, *blocks: Html) -> str:
    """Return a complete page with a title, which is also its heading.

    Characters that reverse the direction of writing are replaced.
    """
    body = Html("\n".join([make_element("h1", title), *blocks]))
    head = f"""<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{make_element("title", title)}
<style>
{_STYLE}</style>"""
    page = f'<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    return make_lines_printable(f"<!DOCTYPE html>\n{page}")
