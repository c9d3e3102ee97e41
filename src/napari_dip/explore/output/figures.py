"""Figures of the experiments, in the manner of those of restorations."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors.fault import make_printable
from napari_dip.explore.experiment_setup import TARGETS
from napari_dip.explore.feature_layers import PRIOR_LABELS
from napari_dip.explore.spectra import BAND_COUNT, compute_band_edges
from napari_dip.pipeline.assess.report_figures import (
    compute_contrast_limits,
    draw_picture,
    make_figure,
    render_png,
    select_middle_plane,
    stretch_contrast,
    use_default_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_dip.explore.comparison import Architectures
    from napari_dip.explore.experiment_setup import Picture
    from napari_dip.explore.feature_layers import FeatureRows
    from napari_dip.explore.noise_impedance import Impedance
    from napari_dip.explore.spectra import Spectrum

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


@use_default_style
def draw_energy_curves(impedance: Impedance) -> bytes:
    """Draw the targets, and below them energy against iteration; a PNG file."""
    figure = make_figure(8.6, 6.4)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    panels = rows[0].subplots(1, len(TARGETS))
    axes = rows[1].subplots()
    for panel, (name, text), colour in zip(panels, TARGETS.items(), _REPORT_COLOURS, strict=True):
        target = impedance.targets[name]
        _draw_picture(panel, target, text, compute_contrast_limits(target))
        curve = impedance.energies[name]
        place = np.arange(1, len(curve) + 1)
        axes.plot(place, curve, color=colour, label=text)
    image, noise = impedance.energies["image"], impedance.energies["noise"]
    between = f"between image and noise: score {impedance.score:.3f}"
    axes.fill_between(place, image, noise, color="0.5", alpha=0.15, linewidth=0, label=between)
    _format_iteration_axis(axes, len(image), logarithmic=True)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Energy (mean square,\ntarget's variance = 1)")
    axes.legend(frameon=False)
    return render_png(figure)


@use_default_style
def draw_power_curves(spectrum: Spectrum) -> bytes:
    """Draw the spectra of target, truth and outputs, and the outputs; a PNG file."""
    figure = make_figure(8.6, 6.4)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 3.4))
    facts = {"Target": spectrum.subject.picture}
    if spectrum.truth is not None:
        facts["Truth"] = spectrum.truth
    facts |= {f"Iteration {at}": item for at, item in spectrum.pictures.items()}
    limits = compute_contrast_limits(
        spectrum.subject.picture if spectrum.truth is None else spectrum.truth
    )
    panels = rows[0].subplots(1, len(facts), squeeze=False)[0]
    for panel, (title, picture) in zip(panels, facts.items(), strict=True):
        _draw_picture(panel, picture, title, limits)
    axes = rows[1].subplots()
    shades = _choose_shades(len(spectrum.pictures))
    for at, shade in zip(spectrum.pictures, shades, strict=True):
        axes.plot(spectrum.frequency, spectrum.power[str(at)], color=shade, label=f"iteration {at}")
    axes.plot(spectrum.frequency, spectrum.power["target"], "k-", linewidth=2, label="target")
    if "truth" in spectrum.power:
        axes.plot(spectrum.frequency, spectrum.power["truth"], "k--", linewidth=2, label="truth")
    axes.set_yscale("log")
    axes.set_xlim(0, 0.5)
    axes.set_xlabel("Radial frequency (cycles per pixel)")
    axes.set_ylabel("Power spectral density\n(squared intensity)")
    axes.legend(frameon=False, ncols=2)
    return render_png(figure)


@use_default_style
def draw_band_curves(spectrum: Spectrum) -> bytes:
    """Draw how much of each band is there at each iteration, twice: as curves and as a map."""
    figure = make_figure(8.6, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    count = len(spectrum.correspondence)
    place, limits = np.arange(1, count + 1), compute_band_edges()
    names = [f"{low:.1f} to {high:.1f}" for low, high in pairwise(limits)]
    for band, (name, shade) in enumerate(zip(names, _choose_shades(BAND_COUNT), strict=True)):
        upper.plot(place, spectrum.correspondence[:, band], color=shade, label=name)
    _format_iteration_axis(upper, count, logarithmic=True)
    upper.set_xlabel("")
    upper.set_ylim(0, 1)
    upper.set_ylabel("Correspondence")
    title = "Radial frequency (cycles per pixel)"
    figure.legend(frameon=False, title=title, loc="outside upper center", ncols=BAND_COUNT)
    sides = np.arange(1, count + 2) - 0.5
    colours = lower.pcolormesh(sides, limits, spectrum.correspondence.T, vmin=0, vmax=1)
    figure.colorbar(colours, ax=lower, label="Correspondence", location="bottom", aspect=50)
    lower.set_yticks(limits)
    lower.set_ylabel("Radial frequency\n(cycles per pixel)")
    lower.set_xlabel("Iteration")
    return render_png(figure)


@use_default_style
def draw_stopping_curves(spectrum: Spectrum) -> bytes:
    """Draw both stops: that of blurriness over sharpness, and that of held-out pixels."""
    rows = 2 if spectrum.psnr is None else 3
    figure = make_figure(8.6, 2.2 * rows)
    panels = list(figure.subplots(rows, 1, sharex=True))
    place = np.arange(1, len(spectrum.ratio) + 1)
    panels[0].plot(place, spectrum.ratio, color="tab:blue")
    panels[0].set_yscale("log")
    begun = spectrum.ratio[len(place) // _SKIPPED_START_DIVISOR :]
    panels[0].set_ylim(0.8 * begun.min(), 1.25 * begun.max())
    panels[0].yaxis.set_major_formatter("{x:g}")
    near = begun.max() < _DECADE * begun.min()
    panels[0].yaxis.set_minor_formatter("{x:g}" if near else "")
    panels[0].set_ylabel("Blurriness\n/ sharpness")
    judged = np.array(spectrum.held_out.judged)
    panels[1].plot(judged[:, 0], judged[:, 1], ".-", color="tab:orange")
    panels[1].set_ylabel("Held-out error\n(target's variance = 1)")
    if spectrum.psnr is not None:
        panels[2].plot(place, spectrum.psnr, color="0.3")
        panels[2].set_ylabel("PSNR of the\noutput (dB)")
        low = np.percentile(spectrum.psnr, 5)  # the first outputs are none yet
        panels[2].set_ylim(low, max(spectrum.psnr.max(), spectrum.held_out_psnr or low) + 1)
        taken = spectrum.held_out.best_iteration
        panels[2].plot(
            taken, spectrum.held_out_psnr, "o", color="tab:orange", label="running average"
        )
        panels[2].legend(frameon=False, loc="lower right")
    for axes in panels:
        if spectrum.ratio_stop:
            axes.axvline(spectrum.ratio_stop, color="tab:blue", linestyle="--")
        axes.axvline(spectrum.held_out.best_iteration, color="tab:orange", linestyle="--")
    _format_iteration_axis(panels[-1], len(place), logarithmic=False)
    ratio = (
        f"ratio settled at {spectrum.ratio_stop}" if spectrum.ratio_stop else "ratio never settled"
    )
    panels[0].set_title(
        f"Blue dashes: {ratio}. Orange dashes: held-out pixels take "
        f"{spectrum.held_out.best_iteration}.",
        fontsize=10,
    )
    return render_png(figure)


@use_default_style
def draw_architecture_scores(architectures: Architectures) -> bytes:
    """Draw the scores of each design on a line of its own, the preset's dashed; a PNG file."""
    fits = architectures.fits
    figure = make_figure(8.6, 1.6 + 0.28 * len(fits))
    columns = {
        "Impedance score": [fit.impedance for fit in fits],
        "Band score": [fit.band_score for fit in fits],
        "Held-out error\n(image's variance = 1)": [fit.held_out_error for fit in fits],
        "Weights per pixel": [fit.weights / architectures.subject.picture.size for fit in fits],
    }
    panels = figure.subplots(1, len(columns) + (architectures.truth is not None), sharey=True)
    place = np.arange(len(fits))
    for axes, (title, values) in zip(panels, columns.items(), strict=False):
        axes.plot(values, place, "o", color="tab:blue")
        axes.axvline(values[0], color="0.5", linestyle="--", linewidth=1)
        axes.set_xlabel(title)
    weights = columns["Weights per pixel"]
    if max(weights) > _MIN_LOGARITHMIC_RATIO * min(weights):
        panels[3].set_xscale("log")
        panels[3].xaxis.set_major_formatter("{x:g}")
    if architectures.truth is not None:
        last = panels[-1]
        last.plot([fit.oracle for fit in fits], place, "o", color="tab:green", label="oracle")
        taken = [fit.taken_psnr for fit in fits]
        last.plot(taken, place, "o", color="tab:green", mfc="none", label="taken")
        last.axvline(taken[0], color="0.5", linestyle="--", linewidth=1)
        last.set_xlabel("PSNR (dB)")
    for axes in panels:
        axes.grid(axis="y", alpha=0.25)
    panels[0].set_yticks(place, [fit.design.name for fit in fits])
    panels[0].invert_yaxis()
    return render_png(figure)


@use_default_style
def draw_architecture_pictures(architectures: Architectures) -> bytes:
    """Draw what held-out pixels take of each design; a PNG file."""
    facts = {"given": architectures.subject.picture}
    if architectures.truth is not None:
        facts["truth"] = architectures.truth
    for fit in architectures.fits:
        text = "" if fit.taken_psnr is None else f", {fit.taken_psnr:.2f} dB"
        facts[f"{fit.design.name}\n{fit.held_out_error:.4f}{text}"] = fit.picture
    limits = compute_contrast_limits(
        architectures.subject.picture if architectures.truth is None else architectures.truth
    )
    rows = -(-len(facts) // _PICTURES_PER_ROW)
    figure = make_figure(8.6, 2.1 * rows)
    panels = figure.subplots(rows, _PICTURES_PER_ROW, squeeze=False).ravel()
    for panel, (title, picture) in zip(panels, facts.items(), strict=False):
        _draw_picture(panel, picture, title, limits)
    for panel in panels[len(facts) :]:
        panel.set_axis_off()
    return render_png(figure)


@use_default_style
def draw_feature_pictures(rows: FeatureRows) -> bytes:
    """Draw the image and what came back of it, a row for each layer; a PNG file."""
    plane = select_middle_plane(rows.image, rows.axes)
    limits = compute_contrast_limits(plane)
    across = 1 + len(rows.rows[0])
    figure = make_figure(2.1 * across, 2.35 * len(rows.rows))
    panels = figure.subplots(len(rows.rows), across, squeeze=False)
    for row, places in zip(rows.rows, panels, strict=True):
        _draw_picture(places[0], plane, f"{row[0].layer}\n{row[0].answer} values", limits)
        for item, place in zip(row, places[1:], strict=True):
            title = f"{PRIOR_LABELS[item.prior]}\ncorrelation {item.correlation:.2f}"
            _draw_picture(place, select_middle_plane(item.picture, rows.axes), title, limits)
    return render_png(figure)


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
    draw_picture(axes, stretch_contrast(picture, *limits))
    axes.set_title(
        make_printable(title), fontsize=8, parse_math=False
    )  # names of layers among them
