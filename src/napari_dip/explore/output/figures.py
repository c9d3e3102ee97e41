"""Draw the figures of the experiments, in the style of those of restorations."""

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
    make_figure,
    plot_picture,
    render_png,
    select_middle_plane,
    stretch_contrast,
    use_default_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_dip.explore.comparison import ArchitectureComparison
    from napari_dip.explore.experiment_setup import Picture
    from napari_dip.explore.feature_layers import FeatureInversionResult
    from napari_dip.explore.noise_impedance import ImpedanceResult
    from napari_dip.explore.spectra import SpectrumResult

_REPORT_COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:red")
#: Shades of the bands, from dark for the lowest to light, without those too light for white paper.
_BAND_SHADES = np.linspace(0, 0.85, BAND_COUNT)
#: Number of pictures in a row.
_PICTURES_PER_ROW = 5
#: Minimum ratio of maximum to minimum for a logarithmic axis, whose tick labels would overlap below
#: it.
_MIN_LOGARITHMIC_RATIO = 30
#: Divisor for the share of ratios at the start that are not drawn. Those outputs are no pictures
#: yet; with spectral norms they are so smooth that they would take up the whole axis.
_SKIPPED_START_DIVISOR = 50
#: Minimum ratio of maximum to minimum for a logarithmic axis with labels at powers of ten only.
_DECADE = 10


@use_default_style
def plot_energy_curves(impedance: ImpedanceResult) -> bytes:
    """Draw the targets, and below them energy against iteration; return a PNG file."""
    figure = make_figure(8.6, 6.4)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    panels = rows[0].subplots(1, len(TARGETS))
    axes = rows[1].subplots()
    for panel, (name, target_label), colour in zip(
        panels, TARGETS.items(), _REPORT_COLOURS, strict=True
    ):
        target = impedance.targets[name]
        _plot_picture(panel, target, target_label, compute_contrast_limits(target))
        curve = impedance.energies[name]
        iterations = np.arange(1, len(curve) + 1)
        axes.plot(iterations, curve, color=colour, label=target_label)
    image, noise = impedance.energies["image"], impedance.energies["noise"]
    fill_label = f"between image and noise: score {impedance.score:.3f}"
    axes.fill_between(
        iterations, image, noise, color="0.5", alpha=0.15, linewidth=0, label=fill_label
    )
    _format_iteration_axis(axes, len(image), logarithmic=True)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Energy (mean square,\ntarget's variance = 1)")
    axes.legend(frameon=False)
    return render_png(figure)


@use_default_style
def plot_power_curves(spectrum: SpectrumResult) -> bytes:
    """Draw the spectra of target, truth and outputs, and the outputs; return a PNG file."""
    figure = make_figure(8.6, 6.4)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 3.4))
    pictures = {"Target": spectrum.subject.picture}
    if spectrum.truth is not None:
        pictures["Truth"] = spectrum.truth
    pictures |= {
        f"Iteration {iteration}": output for iteration, output in spectrum.pictures.items()
    }
    limits = compute_contrast_limits(
        spectrum.subject.picture if spectrum.truth is None else spectrum.truth
    )
    panels = rows[0].subplots(1, len(pictures), squeeze=False)[0]
    for panel, (title, picture) in zip(panels, pictures.items(), strict=True):
        _plot_picture(panel, picture, title, limits)
    axes = rows[1].subplots()
    shades = _choose_shades(len(spectrum.pictures))
    for iteration, shade in zip(spectrum.pictures, shades, strict=True):
        axes.plot(
            spectrum.frequency,
            spectrum.power[str(iteration)],
            color=shade,
            label=f"iteration {iteration}",
        )
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
def plot_band_curves(spectrum: SpectrumResult) -> bytes:
    """Draw the correspondence of each band by iteration, as curves and as a map."""
    figure = make_figure(8.6, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    count = len(spectrum.correspondence)
    iterations, limits = np.arange(1, count + 1), compute_band_edges()
    names = [f"{low:.1f} to {high:.1f}" for low, high in pairwise(limits)]
    for band, (name, shade) in enumerate(zip(names, _choose_shades(BAND_COUNT), strict=True)):
        upper.plot(iterations, spectrum.correspondence[:, band], color=shade, label=name)
    _format_iteration_axis(upper, count, logarithmic=True)
    upper.set_xlabel("")
    upper.set_ylim(0, 1)
    upper.set_ylabel("Correspondence")
    title = "Radial frequency (cycles per pixel)"
    figure.legend(frameon=False, title=title, loc="outside upper center", ncols=BAND_COUNT)
    iteration_edges = np.arange(1, count + 2) - 0.5
    colours = lower.pcolormesh(iteration_edges, limits, spectrum.correspondence.T, vmin=0, vmax=1)
    figure.colorbar(colours, ax=lower, label="Correspondence", location="bottom", aspect=50)
    lower.set_yticks(limits)
    lower.set_ylabel("Radial frequency\n(cycles per pixel)")
    lower.set_xlabel("Iteration")
    return render_png(figure)


@use_default_style
def plot_stopping_curves(spectrum: SpectrumResult) -> bytes:
    """Draw both stops: of blurriness over sharpness, and of the validation pixels."""
    rows = 2 if spectrum.psnr is None else 3
    figure = make_figure(8.6, 2.2 * rows)
    panels = list(figure.subplots(rows, 1, sharex=True))
    iterations = np.arange(1, len(spectrum.ratio) + 1)
    panels[0].plot(iterations, spectrum.ratio, color="tab:blue")
    panels[0].set_yscale("log")
    drawn_ratios = spectrum.ratio[len(iterations) // _SKIPPED_START_DIVISOR :]
    panels[0].set_ylim(0.8 * drawn_ratios.min(), 1.25 * drawn_ratios.max())
    panels[0].yaxis.set_major_formatter("{x:g}")
    is_narrow = drawn_ratios.max() < _DECADE * drawn_ratios.min()
    panels[0].yaxis.set_minor_formatter("{x:g}" if is_narrow else "")
    panels[0].set_ylabel("Blurriness\n/ sharpness")
    validation_errors = np.array(spectrum.validation_stop.validation_errors)
    panels[1].plot(validation_errors[:, 0], validation_errors[:, 1], ".-", color="tab:orange")
    panels[1].set_ylabel("Validation error\n(target's variance = 1)")
    if spectrum.psnr is not None:
        panels[2].plot(iterations, spectrum.psnr, color="0.3")
        panels[2].set_ylabel("PSNR of the\noutput (dB)")
        low = np.percentile(spectrum.psnr, 5)  # ignore the outputs before the network has learned
        panels[2].set_ylim(low, max(spectrum.psnr.max(), spectrum.validation_psnr or low) + 1)
        best_iteration = spectrum.validation_stop.best_iteration
        panels[2].plot(
            best_iteration,
            spectrum.validation_psnr,
            "o",
            color="tab:orange",
            label="running average",
        )
        panels[2].legend(frameon=False, loc="lower right")
    for axes in panels:
        if spectrum.ratio_stop:
            axes.axvline(spectrum.ratio_stop, color="tab:blue", linestyle="--")
        axes.axvline(spectrum.validation_stop.best_iteration, color="tab:orange", linestyle="--")
    _format_iteration_axis(panels[-1], len(iterations), logarithmic=False)
    ratio = (
        f"ratio settled at {spectrum.ratio_stop}" if spectrum.ratio_stop else "ratio never settled"
    )
    panels[0].set_title(
        f"Blue dashes: {ratio}. Orange dashes: validation pixels take "
        f"{spectrum.validation_stop.best_iteration}.",
        fontsize=10,
    )
    return render_png(figure)


@use_default_style
def plot_architecture_scores(architectures: ArchitectureComparison) -> bytes:
    """Draw the scores of each architecture in a row, with the preset's dashed."""
    fits = architectures.fits
    figure = make_figure(8.6, 1.6 + 0.28 * len(fits))
    columns = {
        "Impedance score": [fit.impedance for fit in fits],
        "Band score": [fit.band_score for fit in fits],
        "Validation error\n(image's variance = 1)": [fit.validation_error for fit in fits],
        "Weights per pixel": [fit.weights / architectures.subject.picture.size for fit in fits],
    }
    panels = figure.subplots(1, len(columns) + (architectures.truth is not None), sharey=True)
    rows = np.arange(len(fits))
    for axes, (title, values) in zip(panels, columns.items(), strict=False):
        axes.plot(values, rows, "o", color="tab:blue")
        axes.axvline(values[0], color="0.5", linestyle="--", linewidth=1)
        axes.set_xlabel(title)
    weights = columns["Weights per pixel"]
    if max(weights) > _MIN_LOGARITHMIC_RATIO * min(weights):
        panels[3].set_xscale("log")
        panels[3].xaxis.set_major_formatter("{x:g}")
    if architectures.truth is not None:
        psnr_axes = panels[-1]
        psnr_axes.plot(
            [fit.best_psnr for fit in fits], rows, "o", color="tab:green", label="oracle"
        )
        selected_psnr = [fit.selected_psnr for fit in fits]
        psnr_axes.plot(selected_psnr, rows, "o", color="tab:green", mfc="none", label="taken")
        psnr_axes.axvline(selected_psnr[0], color="0.5", linestyle="--", linewidth=1)
        psnr_axes.set_xlabel("PSNR (dB)")
    for axes in panels:
        axes.grid(axis="y", alpha=0.25)
    panels[0].set_yticks(rows, [fit.architecture.name for fit in fits])
    panels[0].invert_yaxis()
    return render_png(figure)


@use_default_style
def plot_architecture_pictures(architectures: ArchitectureComparison) -> bytes:
    """Draw the selected picture of each architecture."""
    pictures = {"given": architectures.subject.picture}
    if architectures.truth is not None:
        pictures["truth"] = architectures.truth
    for fit in architectures.fits:
        psnr_text = "" if fit.selected_psnr is None else f", {fit.selected_psnr:.2f} dB"
        pictures[f"{fit.architecture.name}\n{fit.validation_error:.4f}{psnr_text}"] = fit.picture
    limits = compute_contrast_limits(
        architectures.subject.picture if architectures.truth is None else architectures.truth
    )
    rows = -(-len(pictures) // _PICTURES_PER_ROW)
    figure = make_figure(8.6, 2.1 * rows)
    panels = figure.subplots(rows, _PICTURES_PER_ROW, squeeze=False).ravel()
    for panel, (title, picture) in zip(panels, pictures.items(), strict=False):
        _plot_picture(panel, picture, title, limits)
    for panel in panels[len(pictures) :]:
        panel.set_axis_off()
    return render_png(figure)


@use_default_style
def plot_feature_pictures(rows: FeatureInversionResult) -> bytes:
    """Draw the image and its inversions, one row per layer."""
    plane = select_middle_plane(rows.image, rows.axes)
    limits = compute_contrast_limits(plane)
    column_count = 1 + len(rows.rows[0])
    figure = make_figure(2.1 * column_count, 2.35 * len(rows.rows))
    panels = figure.subplots(len(rows.rows), column_count, squeeze=False)
    for row, row_axes in zip(rows.rows, panels, strict=True):
        _plot_picture(row_axes[0], plane, f"{row[0].layer}\n{row[0].answer} values", limits)
        for inversion, axes in zip(row, row_axes[1:], strict=True):
            title = f"{PRIOR_LABELS[inversion.prior]}\ncorrelation {inversion.correlation:.2f}"
            _plot_picture(axes, select_middle_plane(inversion.picture, rows.axes), title, limits)
    return render_png(figure)


def _format_iteration_axis(axes: Axes, count: int, *, logarithmic: bool) -> None:
    """Format the horizontal axis for iterations, in plain numbers."""
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlim(1, max(2, count))
    axes.set_xlabel("Iteration")


def _choose_shades(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(_BAND_SHADES[0], _BAND_SHADES[-1], count))


def _plot_picture(axes: Axes, picture: Picture, title: str, limits: tuple[float, float]) -> None:
    plot_picture(axes, stretch_contrast(picture, *limits))
    axes.set_title(
        make_printable(title), fontsize=8, parse_math=False
    )  # names of layers among them
