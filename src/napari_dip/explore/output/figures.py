"""Figures of the experiments, in the manner of those of restorations."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors.fault import make_printable
from napari_dip.explore.feature_layers import PRIOR_LABELS
from napari_dip.explore.spectra import BAND_COUNT, compute_band_edges
from napari_dip.explore.subject import TARGETS
from napari_dip.pipeline.assess.report_picture import (
    contrast_limits,
    middle_plane,
    new_figure,
    png_of,
    show_picture,
    stretched,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_dip.explore.comparison import Architectures
    from napari_dip.explore.energies import Impedance
    from napari_dip.explore.feature_layers import FeatureRows
    from napari_dip.explore.spectra import Spectrum
    from napari_dip.explore.subject import Picture

_REPORT_COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:red")
#: The lowest band dark, the highest light; ends before what is too light to be seen on white.
_BAND_SHADES = np.linspace(0, 0.85, BAND_COUNT)
#: Pictures side by side.
_PICTURES_PER_ROW = 5
#: From this ratio of most to least on, an axis is logarithmic: below, its numbers would run into
#: each other.
_MIN_LOGARITHMIC_RATIO = 30
#: One in so many iterations, at the start, has a ratio that is not drawn: these outputs are no
#: pictures yet; those of bounded layers are so smooth that they would take up all of the axis.
_SKIPPED_START_DIVISOR = 50
#: From this ratio of most to least on, only powers of ten stand beside a logarithmic axis.
_DECADE = 10


@styled
def draw_energy_curves(found: Impedance) -> bytes:
    """Draw the targets, and below them energy against iteration; a PNG file."""
    figure = new_figure(8.6, 6.4)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    panels = rows[0].subplots(1, len(TARGETS))
    axes = rows[1].subplots()
    for panel, (name, words), colour in zip(panels, TARGETS.items(), _REPORT_COLOURS, strict=True):
        target = found.targets[name]
        _draw_picture(panel, target, words, contrast_limits(target))
        curve = found.energies[name]
        place = np.arange(1, len(curve) + 1)
        axes.plot(place, curve, color=colour, label=words)
    image, noise = found.energies["image"], found.energies["noise"]
    between = f"between image and noise: score {found.score:.3f}"
    axes.fill_between(place, image, noise, color="0.5", alpha=0.15, linewidth=0, label=between)
    _format_iteration_axis(axes, len(image), logarithmic=True)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Energy (mean square,\ntarget's variance = 1)")
    axes.legend(frameon=False)
    return png_of(figure)


@styled
def draw_power_curves(found: Spectrum) -> bytes:
    """Draw the spectra of target, truth and outputs, and the outputs; a PNG file."""
    figure = new_figure(8.6, 6.4)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 3.4))
    shown = {"Target": found.subject.picture}
    if found.truth is not None:
        shown["Truth"] = found.truth
    shown |= {f"Iteration {at}": one for at, one in found.pictures.items()}
    limits = contrast_limits(found.subject.picture if found.truth is None else found.truth)
    panels = rows[0].subplots(1, len(shown), squeeze=False)[0]
    for panel, (title, picture) in zip(panels, shown.items(), strict=True):
        _draw_picture(panel, picture, title, limits)
    axes = rows[1].subplots()
    shades = _choose_shades(len(found.pictures))
    for at, shade in zip(found.pictures, shades, strict=True):
        axes.plot(found.frequency, found.power[str(at)], color=shade, label=f"iteration {at}")
    axes.plot(found.frequency, found.power["target"], "k-", linewidth=2, label="target")
    if "truth" in found.power:
        axes.plot(found.frequency, found.power["truth"], "k--", linewidth=2, label="truth")
    axes.set_yscale("log")
    axes.set_xlim(0, 0.5)
    axes.set_xlabel("Radial frequency (cycles per pixel)")
    axes.set_ylabel("Power spectral density\n(squared intensity)")
    axes.legend(frameon=False, ncols=2)
    return png_of(figure)


@styled
def draw_band_curves(found: Spectrum) -> bytes:
    """Draw how much of each band is there at each iteration, twice: as curves and as a map."""
    figure = new_figure(8.6, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    count = len(found.correspondence)
    place, limits = np.arange(1, count + 1), compute_band_edges()
    names = [f"{low:.1f} to {high:.1f}" for low, high in pairwise(limits)]
    for band, (name, shade) in enumerate(zip(names, _choose_shades(BAND_COUNT), strict=True)):
        upper.plot(place, found.correspondence[:, band], color=shade, label=name)
    _format_iteration_axis(upper, count, logarithmic=True)
    upper.set_xlabel("")
    upper.set_ylim(0, 1)
    upper.set_ylabel("Correspondence")
    title = "Radial frequency (cycles per pixel)"
    figure.legend(frameon=False, title=title, loc="outside upper center", ncols=BAND_COUNT)
    sides = np.arange(1, count + 2) - 0.5
    colours = lower.pcolormesh(sides, limits, found.correspondence.T, vmin=0, vmax=1)
    figure.colorbar(colours, ax=lower, label="Correspondence", location="bottom", aspect=50)
    lower.set_yticks(limits)
    lower.set_ylabel("Radial frequency\n(cycles per pixel)")
    lower.set_xlabel("Iteration")
    return png_of(figure)


@styled
def draw_stopping_curves(found: Spectrum) -> bytes:
    """Draw both stops: that of blurriness over sharpness, and that of held-out pixels."""
    rows = 2 if found.psnr is None else 3
    figure = new_figure(8.6, 2.2 * rows)
    panels = list(figure.subplots(rows, 1, sharex=True))
    place = np.arange(1, len(found.ratio) + 1)
    panels[0].plot(place, found.ratio, color="tab:blue")
    panels[0].set_yscale("log")
    begun = found.ratio[len(place) // _SKIPPED_START_DIVISOR :]
    panels[0].set_ylim(0.8 * begun.min(), 1.25 * begun.max())
    panels[0].yaxis.set_major_formatter("{x:g}")
    near = begun.max() < _DECADE * begun.min()
    panels[0].yaxis.set_minor_formatter("{x:g}" if near else "")
    panels[0].set_ylabel("Blurriness\n/ sharpness")
    judged = np.array(found.held_out.judged)
    panels[1].plot(judged[:, 0], judged[:, 1], ".-", color="tab:orange")
    panels[1].set_ylabel("Held-out error\n(target's variance = 1)")
    if found.psnr is not None:
        panels[2].plot(place, found.psnr, color="0.3")
        panels[2].set_ylabel("PSNR of the\noutput (dB)")
        low = np.percentile(found.psnr, 5)  # the first outputs are none yet
        panels[2].set_ylim(low, max(found.psnr.max(), found.held_out_psnr or low) + 1)
        taken = found.held_out.best_iteration
        panels[2].plot(taken, found.held_out_psnr, "o", color="tab:orange", label="running average")
        panels[2].legend(frameon=False, loc="lower right")
    for axes in panels:
        if found.ratio_stop:
            axes.axvline(found.ratio_stop, color="tab:blue", linestyle="--")
        axes.axvline(found.held_out.best_iteration, color="tab:orange", linestyle="--")
    _format_iteration_axis(panels[-1], len(place), logarithmic=False)
    ratio = f"ratio settled at {found.ratio_stop}" if found.ratio_stop else "ratio never settled"
    panels[0].set_title(
        f"Blue dashes: {ratio}. Orange dashes: held-out pixels take "
        f"{found.held_out.best_iteration}.",
        fontsize=10,
    )
    return png_of(figure)


@styled
def draw_architecture_scores(found: Architectures) -> bytes:
    """Draw the scores of each design on a line of its own, the preset's dashed; a PNG file."""
    fits = found.fits
    figure = new_figure(8.6, 1.6 + 0.28 * len(fits))
    columns = {
        "Impedance score": [one.impedance for one in fits],
        "Band score": [one.band_score for one in fits],
        "Held-out error\n(image's variance = 1)": [one.held_out_error for one in fits],
        "Weights per pixel": [one.weights / found.subject.picture.size for one in fits],
    }
    panels = figure.subplots(1, len(columns) + (found.truth is not None), sharey=True)
    place = np.arange(len(fits))
    for axes, (title, values) in zip(panels, columns.items(), strict=False):
        axes.plot(values, place, "o", color="tab:blue")
        axes.axvline(values[0], color="0.5", linestyle="--", linewidth=1)
        axes.set_xlabel(title)
    weights = columns["Weights per pixel"]
    if max(weights) > _MIN_LOGARITHMIC_RATIO * min(weights):
        panels[3].set_xscale("log")
        panels[3].xaxis.set_major_formatter("{x:g}")
    if found.truth is not None:
        last = panels[-1]
        last.plot([one.oracle for one in fits], place, "o", color="tab:green", label="oracle")
        taken = [one.taken_psnr for one in fits]
        last.plot(taken, place, "o", color="tab:green", mfc="none", label="taken")
        last.axvline(taken[0], color="0.5", linestyle="--", linewidth=1)
        last.set_xlabel("PSNR (dB)")
    for axes in panels:
        axes.grid(axis="y", alpha=0.25)
    panels[0].set_yticks(place, [one.design.name for one in fits])
    panels[0].invert_yaxis()
    return png_of(figure)


@styled
def draw_architecture_pictures(found: Architectures) -> bytes:
    """Draw what held-out pixels take of each design; a PNG file."""
    shown = {"given": found.subject.picture}
    if found.truth is not None:
        shown["truth"] = found.truth
    for one in found.fits:
        told = "" if one.taken_psnr is None else f", {one.taken_psnr:.2f} dB"
        shown[f"{one.design.name}\n{one.held_out_error:.4f}{told}"] = one.picture
    limits = contrast_limits(found.subject.picture if found.truth is None else found.truth)
    rows = -(-len(shown) // _PICTURES_PER_ROW)
    figure = new_figure(8.6, 2.1 * rows)
    panels = figure.subplots(rows, _PICTURES_PER_ROW, squeeze=False).ravel()
    for panel, (title, picture) in zip(panels, shown.items(), strict=False):
        _draw_picture(panel, picture, title, limits)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    return png_of(figure)


@styled
def draw_feature_pictures(found: FeatureRows) -> bytes:
    """Draw the image and what came back of it, a row for each layer; a PNG file."""
    shown = middle_plane(found.image, found.axes)
    limits = contrast_limits(shown)
    across = 1 + len(found.rows[0])
    figure = new_figure(2.1 * across, 2.35 * len(found.rows))
    panels = figure.subplots(len(found.rows), across, squeeze=False)
    for row, places in zip(found.rows, panels, strict=True):
        _draw_picture(places[0], shown, f"{row[0].layer}\n{row[0].answer} values", limits)
        for one, place in zip(row, places[1:], strict=True):
            title = f"{PRIOR_LABELS[one.prior]}\ncorrelation {one.correlation:.2f}"
            _draw_picture(place, middle_plane(one.picture, found.axes), title, limits)
    return png_of(figure)


def _format_iteration_axis(axes: Axes, count: int, *, logarithmic: bool) -> None:
    """Let the horizontal axis count iterations, in plain numbers."""
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlim(1, max(2, count))
    axes.set_xlabel("Iteration")


def _choose_shades(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(_BAND_SHADES[0], _BAND_SHADES[-1], count))


def _draw_picture(axes: Axes, picture: Picture, title: str, limits: tuple[float, float]) -> None:
    show_picture(axes, stretched(picture, *limits))
    axes.set_title(
        make_printable(title), fontsize=8, parse_math=False
    )  # names of layers among them
