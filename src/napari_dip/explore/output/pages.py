"""Write the HTML pages of experiments: figures, captions with numbers of the run, references."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.explore.comparison import TIE_STANDARD_ERRORS, make_comparison_rows
from napari_dip.explore.experiment_setup import ADDED_NOISE, REPORTED_ITERATIONS, TARGETS
from napari_dip.explore.spectra import (
    BAND_COUNT,
    LEVELS,
    RATIO_TOLERANCE,
    RATIO_WINDOW,
    compute_band_edges,
    find_level_iterations,
)
from napari_dip.pipeline.assess.references import PAPERS
from napari_dip.pipeline.assess.report_figures import make_html_page, make_image_tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_dip.explore.comparison import ArchitectureComparison
    from napari_dip.explore.experiment_setup import ExperimentSetup
    from napari_dip.explore.noise_impedance import ImpedanceResult
    from napari_dip.explore.spectra import SpectrumResult

_PAGE_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 66rem; padding: 0 1rem; }
figure { margin: 1.6rem 0; }
img { background: #fff; display: block; max-width: 100%; }
figcaption { margin-top: .5rem; }
pre { font-size: .85em; overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8884; padding: .2rem .7rem .2rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { vertical-align: bottom; }
"""
SHI = (
    "Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image "
    "prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7."
)
_CRETE = (
    "Crete, Dolmiere, Ladret, Nicolas, The blur effect: perception and estimation with a new "
    "no-reference perceptual blur metric, SPIE 6492, 2007, doi:10.1117/12.702790."
)
_BAHRAMI = (
    "Bahrami, Kot, A fast approach for no-reference image sharpness assessment based on maximum "
    "local variation, IEEE Signal Processing Letters 21(6), 2014, pages 751 to 755."
)
PAPER = (PAPERS["deep image prior"], PAPERS["guide"])
_HECKEL = (
    "Heckel, Hand, Deep decoder: concise image representations from untrained non-convolutional "
    "networks, ICLR 2019, arXiv:1810.03982."
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReportFigure:
    """A figure of a page.

    Attributes
    ----------
    picture : bytes
        A PNG file.
    title, caption : str
        Plain text.
    """

    picture: bytes
    title: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """Column heads, rows of the same length and a caption, all in plain text."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def render_page(
    title: str,
    summary: Sequence[str],
    figures: Sequence[ReportFigure],
    recipe: Mapping[str, object],
    references: Sequence[str],
    table: ReportTable | None = None,
) -> str:
    """Return a page as HTML, without scripts and external resources.

    Parameters
    ----------
    title : str
    summary : sequence of str
        Paragraphs.
    figures : sequence of ReportFigure
    recipe : mapping
        In plain JSON types.
    references : sequence of str
    table : ReportTable or None
        Goes between summary and figures.
    """
    paragraphs = "\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in summary)
    figures_html = "\n".join(map(_render_figure, figures))
    references_html = "\n".join(f"<li>{html.escape(reference)}</li>" for reference in references)
    recipe_json = html.escape(json.dumps(recipe, indent=2, ensure_ascii=False))
    body = f"""{paragraphs}
{_render_table(table) if table else ""}
{figures_html}
<h2>Recipe</h2>
<pre>{recipe_json}</pre>
<h2>References</h2>
<ol>
{references_html}
</ol>"""
    return make_html_page(title, _PAGE_STYLE, body)


def _render_table(table: ReportTable) -> str:
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in table.heads)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide"><table>\n<tr>{heads}</tr>\n{rows}\n</table></div>\n'
        f"<p>{html.escape(table.caption)}</p>"
    )


def _render_figure(figure: ReportFigure) -> str:
    title, caption = html.escape(figure.title), html.escape(figure.caption)
    return (
        f"<figure>\n<h2>{title}</h2>\n{make_image_tag(figure.picture, figure.title)}\n"
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


def write_impedance_page(impedance: ImpedanceResult, picture: bytes) -> str:
    """Return the page of an impedance experiment."""
    summary = (
        f"Impedance score {impedance.score:.3f}: the mean distance between the energies of noise "
        "and "
        "image over the logarithm of the iteration. 0 says that the network learns noise as "
        "readily as the image, 1 that it learns the image at once and noise never.",
        *_list_fit_sentences(impedance.subject),
    )
    title = f"Impedance: {impedance.subject.name}"
    figures = make_impedance_figures(impedance, picture)
    return render_page(title, summary, figures, impedance.subject.recipe, PAPER)


def make_impedance_figures(impedance: ImpedanceResult, picture: bytes) -> tuple[ReportFigure, ...]:
    """Return the figure of an impedance experiment with its caption."""
    return (
        ReportFigure(
            picture=picture, title="Energy against iteration", caption=_caption_energies(impedance)
        ),
    )


def write_spectrum_page(spectrum: SpectrumResult, pictures: tuple[bytes, bytes, bytes]) -> str:
    """Return the page of a spectrum experiment."""
    title = f"Spectrum: {spectrum.subject.name}"
    references = (SHI, _CRETE, _BAHRAMI, *PAPER)
    figures = make_spectrum_figures(spectrum, pictures)
    return render_page(
        title, _list_fit_sentences(spectrum.subject), figures, spectrum.subject.recipe, references
    )


def make_spectrum_figures(
    spectrum: SpectrumResult, pictures: tuple[bytes, bytes, bytes]
) -> tuple[ReportFigure, ...]:
    """Return the figures of a spectrum experiment with their captions."""
    return (
        ReportFigure(
            picture=pictures[0], title="Power spectral density", caption=_caption_power(spectrum)
        ),
        ReportFigure(
            picture=pictures[1],
            title="Which band is learned when",
            caption=_caption_bands(spectrum),
        ),
        ReportFigure(picture=pictures[2], title="Where to stop", caption=_caption_stops(spectrum)),
    )


def _list_fit_sentences(setup: ExperimentSetup) -> tuple[str, ...]:
    height, width = setup.picture.shape
    return (
        f"Looked at: {width} × {height} pixels of '{setup.name}'. Network: {setup.network}, "
        f"fed with random input without jitter; {setup.iterations} iterations of plain squared "
        f"error at a steady rate, nothing held out, seed {setup.seed}.",
        *map(str, setup.notes),
    )


def _caption_energies(impedance: ImpedanceResult) -> str:
    last = impedance.subject.iterations
    selected = [iteration for iteration in REPORTED_ITERATIONS if iteration < last]
    lines = []
    for iteration in (*selected, last):
        energies = ", ".join(
            f"{TARGETS[name]} {energy:.3f}"
            for name, energy in impedance.get_energies(iteration).items()
        )
        order_text = "ordered" if impedance.is_ordered(iteration) else "not ordered"
        lines.append(f"Iteration {iteration}: {energies} ({order_text}).")
    return (
        "Energy: mean square of output minus target. Each target has zero mean and unit "
        f"variance; the added noise has {ADDED_NOISE:g} of the image's standard deviation, so "
        f"{ADDED_NOISE**2 / (1 + ADDED_NOISE**2):.0%} of the variance of image + noise is noise. "
        "All four fits begin with the same weights and the same code. 'Ordered' says: image < "
        f"image + noise < both shuffled pixels and noise. {' '.join(lines)}"
    )


def _caption_power(spectrum: SpectrumResult) -> str:
    high = spectrum.frequency > compute_band_edges()[-2]
    shares = [
        f"{spectrum.power[str(at)][high].mean() / spectrum.power['target'][high].mean():.1%} "
        f"after {at}"
        for at in spectrum.pictures
    ]
    return (
        "Radially averaged, mean taken off, Hann window. In the highest band "
        f"({compute_band_edges()[-2]:.1f} to {compute_band_edges()[-1]:.1f} cycles per pixel) the "
        "output has of the "
        f"target's power: {', '.join(shares)} iterations."
    )


def _caption_bands(spectrum: SpectrumResult) -> str:
    limits, halves, ninety_percent = (
        compute_band_edges(),
        *(find_level_iterations(spectrum.correspondence, level) for level in LEVELS),
    )
    band_texts = []
    for band in range(BAND_COUNT):
        half_iteration, late_iteration = (
            str(correspondence[band] or "never") for correspondence in (halves, ninety_percent)
        )
        band_texts.append(
            f"{limits[band]:.1f} to {limits[band + 1]:.1f}: {half_iteration} and {late_iteration}"
        )
    last = ", ".join(f"{correspondence:.2f}" for correspondence in spectrum.correspondence[-1])
    return (
        "Frequency-band correspondence of Shi et al.: the mean over a band of |F(output)| / "
        "|F(target)|, clipped to 1. The target is what is fitted, noise included. Before the "
        "first steps the output is as strong as any picture and says nothing. Iterations at which "
        f"a band then first has {LEVELS[0]:g} and {LEVELS[1]:g}, bands in cycles per pixel: "
        f"{'; '.join(band_texts)}. At the last iteration, lowest band first: {last}."
    )


def _caption_stops(spectrum: SpectrumResult) -> str:
    stop, stopped_fit = spectrum.ratio_stop, spectrum.validation_stop
    text = (
        "Above, blurriness (Crete et al.) over sharpness (Bahrami and Kot) of each output, on a "
        "scale on which the target spans 0 to 1. Shi et al. stop where the means of the last "
        f"{RATIO_WINDOW} ratios and of the {RATIO_WINDOW} before differ by less than "
        f"{RATIO_TOLERANCE:g}: "
    )
    text += f"iteration {stop}. " if stop else "that did not happen here. "
    text += (
        f"{_explain_stopping_rule(spectrum.subject)} Below, a second fit of the same network with "
        "pixels held "
        f"out, judged by its running average: it took iteration {stopped_fit.best_iteration} and "
        f"ended at {stopped_fit.iterations} ({stopped_fit.reason})."
    )
    if spectrum.psnr is None or spectrum.validation_psnr is None:
        return text
    best = int(np.argmax(spectrum.psnr))
    text += f" PSNR against the truth: at best {spectrum.psnr[best]:.2f} dB (iteration {best + 1})"
    text += f", at the ratio's stop {spectrum.psnr[stop - 1]:.2f} dB" if stop else ""
    text += f", of the picture that validation pixels take {spectrum.validation_psnr:.2f} dB"
    return f"{text}, at the last iteration {spectrum.psnr[-1]:.2f} dB."


def _explain_stopping_rule(setup: ExperimentSetup) -> str:
    """Return a sentence on whether the rule of Shi et al. suits the network."""
    sentence = "Their rule is meant for bounded layers, which hold noise back"
    bound = setup.architecture.bound
    if bound is None:
        return f"{sentence}; this network has none, and goes on to learn it."
    return f"{sentence}; here the bound is {bound:g}."


def write_architecture_page(
    architectures: ArchitectureComparison, pictures: tuple[bytes, bytes]
) -> str:
    """Return the page of a comparison of architectures.

    Parameters
    ----------
    architectures : ArchitectureComparison
    pictures : tuple of bytes
        PNG files: the scores, and the selected pictures.
    """
    figures = make_architecture_figures(architectures, pictures)
    summary = (
        *architectures.sentences,
        _describe_architecture_run(architectures.subject),
        *map(str, architectures.subject.notes),
    )
    title = f"Architectures: {architectures.subject.name}"
    references = (*PAPER, SHI, _HECKEL)
    recipe = architectures.subject.recipe
    return render_page(
        title, summary, figures, recipe, references, table=_make_architecture_table(architectures)
    )


def make_architecture_figures(
    architectures: ArchitectureComparison, pictures: tuple[bytes, bytes]
) -> tuple[ReportFigure, ...]:
    """Return the figures of a comparison with their captions."""
    return (
        ReportFigure(
            picture=pictures[0],
            title="The designs beside each other",
            caption=_caption_scores(architectures),
        ),
        ReportFigure(
            picture=pictures[1],
            title="What validation pixels take of each",
            caption=_caption_pictures(architectures),
        ),
    )


def _describe_architecture_run(setup: ExperimentSetup) -> str:
    height, width = setup.picture.shape
    return (
        f"Looked at: {width} × {height} pixels of '{setup.name}'. Each design differs from the "
        f"preset's network in one thing ({setup.network}), and is fitted from one start to the "
        f"image and to noise: {setup.iterations} iterations of plain squared error at a steady "
        f"rate, without jitter, seed {setup.seed}."
    )


def _make_architecture_table(architectures: ArchitectureComparison) -> ReportTable:
    heads = ["design", "weights", "per pixel", "impedance", "band score"]
    heads += ["validation error", "taken at", "ms per iteration"]
    if architectures.truth is not None:
        heads += ["oracle, dB (at)", "taken, dB"]
    lines = []
    for fit, row in zip(architectures.fits, make_comparison_rows(architectures), strict=True):
        line = [
            f"{fit.architecture.name}: {fit.architecture.label}",
            f"{fit.weights:,}",
            f"{row['weights_per_pixel']:.2f}",
            f"{fit.impedance:.3f}",
            f"{fit.band_score:.3f}",
            f"{fit.validation_error:.4f}",
            str(fit.stop.selected_iteration),
            f"{row['milliseconds']:.0f}",
        ]
        if architectures.truth is not None:
            line.append(f"{fit.best_psnr:.2f} ({row['oracle_iteration']})")
            line.append(f"{fit.selected_psnr:.2f}")
        lines.append(tuple(line))
    return ReportTable(
        heads=tuple(heads), rows=tuple(lines), caption=_explain_columns(architectures)
    )


def _explain_columns(architectures: ArchitectureComparison) -> str:
    caption = (
        "Impedance: area between the energies of noise and of the image over the logarithm of the "
        "iteration. Band score: the same area between the correspondences (Shi et al.) of the "
        "lowest and the highest fifth of the frequencies, of the running average. "
        "Validation error: "
        f"mean square, in variances of the image, at {architectures.best.errors.size} pixels that "
        "drove no "
        "fit and are the same for all designs, noise included, of the running average that they "
        "take; they judge as in all fits, the last and the best judgement counting. Designs count "
        f"as level where the mean difference of their errors is below {TIE_STANDARD_ERRORS:g} "
        "standard errors."
    )
    if architectures.truth is not None:
        caption += (
            " Oracle: the best running average of all iterations, which only the truth knows."
        )
    return caption


def _caption_scores(architectures: ArchitectureComparison) -> str:
    best = architectures.best
    caption = (
        f"The preset's network above, dashed its own values. The least validation error is that of "
        f"'{best.architecture.name}', {best.validation_error:.4f}; the preset's is "
        f"{architectures.fits[0].validation_error:.4f}. "
    )
    ranked = sorted(architectures.fits, key=lambda item: item.impedance)
    caption += (
        f"Impedance lies between {ranked[0].impedance:.3f} ('{ranked[0].architecture.name}') and "
        f"{ranked[-1].impedance:.3f} ('{ranked[-1].architecture.name}')."
    )
    if architectures.truth is None:
        return caption
    losses = {
        fit.architecture.name: (fit.best_psnr or 0) - (fit.selected_psnr or 0)
        for fit in architectures.fits
    }
    worst = max(losses, key=lambda name: losses[name])
    mean = sum(losses.values()) / len(losses)
    return (
        f"{caption} Filled circles: the PSNR of the best running average; open ones: of that which "
        f"validation pixels take, {mean:.2f} dB below it in the mean, "
        f"{losses[worst]:.2f} dB at most "
        f"('{worst}')."
    )


def _caption_pictures(architectures: ArchitectureComparison) -> str:
    caption = "All at the same limits of contrast. Below each its validation error"
    return f"{caption}, and its PSNR." if architectures.truth is not None else f"{caption}."
