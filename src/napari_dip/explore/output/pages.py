"""One page for people: figures, captions whose numbers come from the run, recipe, references.

What the pages say: each number comes from the run that they are about.

What the page of a comparison says: each number comes from the run that it is about.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.explore.comparison import TIE_STANDARD_ERRORS, make_comparison_rows
from napari_dip.explore.spectra import (
    BAND_COUNT,
    LEVELS,
    RATIO_TOLERANCE,
    RATIO_WINDOW,
    compute_band_edges,
    find_level_iterations,
)
from napari_dip.explore.subject import ADDED_NOISE, REPORTED_ITERATIONS, TARGETS
from napari_dip.pipeline.assess.references import PAPERS
from napari_dip.pipeline.assess.report_picture import html_page, picture_tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_dip.explore.comparison import Architectures
    from napari_dip.explore.energies import Impedance
    from napari_dip.explore.spectra import Spectrum
    from napari_dip.explore.subject import ExperimentSetup

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


@dataclass(frozen=True, slots=True, eq=False)
class ReportFigure:
    """A figure of the page.

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


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Lines of equal length below their heads, and what they say; plain text."""

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
    """Write the page as HTML: nothing is loaded from elsewhere, and no program is in it.

    Parameters
    ----------
    title : str
    summary : sequence of str
        Paragraphs.
    figures : sequence of Shown
    recipe : mapping
        In plain JSON types.
    references : sequence of str
    table : Table or None
        Stands between summary and figures.
    """
    paragraphs = "\n".join(f"<p>{html.escape(words)}</p>" for words in summary)
    drawn = "\n".join(map(_render_figure, figures))
    cited = "\n".join(f"<li>{html.escape(words)}</li>" for words in references)
    told = html.escape(json.dumps(recipe, indent=2, ensure_ascii=False))
    body = f"""{paragraphs}
{_render_table(table) if table else ""}
{drawn}
<h2>Recipe</h2>
<pre>{told}</pre>
<h2>References</h2>
<ol>
{cited}
</ol>"""
    return html_page(title, _PAGE_STYLE, body)


def _render_table(table: ReportTable) -> str:
    heads = "".join(f"<th>{html.escape(one)}</th>" for one in table.heads)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide"><table>\n<tr>{heads}</tr>\n{rows}\n</table></div>\n'
        f"<p>{html.escape(table.caption)}</p>"
    )


def _render_figure(shown: ReportFigure) -> str:
    title, caption = html.escape(shown.title), html.escape(shown.caption)
    return (
        f"<figure>\n<h2>{title}</h2>\n{picture_tag(shown.picture, shown.title)}\n"
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


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


def write_impedance_page(found: Impedance, picture: bytes) -> str:
    """Write the page of an impedance experiment."""
    summary = (
        f"Impedance score {found.score:.3f}: the mean distance between the energies of noise and "
        "image over the logarithm of the iteration. 0 says that the network learns noise as "
        "readily as the image, 1 that it learns the image at once and noise never.",
        *_what_was_fitted(found.subject),
    )
    title = f"Impedance: {found.subject.name}"
    figures = make_impedance_figures(found, picture)
    return render_page(title, summary, figures, found.subject.recipe, PAPER)


def make_impedance_figures(found: Impedance, picture: bytes) -> tuple[ReportFigure, ...]:
    """Put captions below the picture of an impedance experiment."""
    return (ReportFigure(picture, "Energy against iteration", _caption_energies(found)),)


def write_spectrum_page(found: Spectrum, pictures: tuple[bytes, bytes, bytes]) -> str:
    """Write the page of a spectrum experiment."""
    title = f"Spectrum: {found.subject.name}"
    references = (SHI, _CRETE, _BAHRAMI, *PAPER)
    figures = make_spectrum_figures(found, pictures)
    return render_page(
        title, _what_was_fitted(found.subject), figures, found.subject.recipe, references
    )


def make_spectrum_figures(
    found: Spectrum, pictures: tuple[bytes, bytes, bytes]
) -> tuple[ReportFigure, ...]:
    """Put captions below the pictures of a spectrum experiment."""
    return (
        ReportFigure(pictures[0], "Power spectral density", _caption_power(found)),
        ReportFigure(pictures[1], "Which band is learned when", _caption_bands(found)),
        ReportFigure(pictures[2], "Where to stop", _caption_stops(found)),
    )


def _what_was_fitted(subject: ExperimentSetup) -> tuple[str, ...]:
    height, width = subject.picture.shape
    return (
        f"Looked at: {width} × {height} pixels of '{subject.name}'. Network: {subject.network}, "
        f"fed with fixed noise without jitter; {subject.iterations} iterations of plain squared "
        f"error at a steady rate, nothing held out, seed {subject.seed}.",
        *subject.notes,
    )


def _caption_energies(found: Impedance) -> str:
    last = found.subject.iterations
    told = [at for at in REPORTED_ITERATIONS if at < last]
    lines = []
    for at in (*told, last):
        energies = ", ".join(f"{TARGETS[name]} {one:.3f}" for name, one in found.at(at).items())
        yes = "ordered" if found.ordered(at) else "not ordered"
        lines.append(f"Iteration {at}: {energies} ({yes}).")
    return (
        "Energy: mean square of output minus target. Each target has zero mean and unit "
        f"variance; the added noise has {ADDED_NOISE:g} of the image's standard deviation, so "
        f"{ADDED_NOISE**2 / (1 + ADDED_NOISE**2):.0%} of the variance of image + noise is noise. "
        "All four fits begin with the same weights and the same code. 'Ordered' says: image < "
        f"image + noise < both shuffled pixels and noise. {' '.join(lines)}"
    )


def _caption_power(found: Spectrum) -> str:
    high = found.frequency > compute_band_edges()[-2]
    shares = [
        f"{found.power[str(at)][high].mean() / found.power['target'][high].mean():.1%} after {at}"
        for at in found.pictures
    ]
    return (
        "Radially averaged, mean taken off, Hann window. In the highest band "
        f"({compute_band_edges()[-2]:.1f} to {compute_band_edges()[-1]:.1f} cycles per pixel) the "
        "output has of the "
        f"target's power: {', '.join(shares)} iterations."
    )


def _caption_bands(found: Spectrum) -> str:
    limits, halves, most = (
        compute_band_edges(),
        *(find_level_iterations(found.correspondence, one) for one in LEVELS),
    )
    said = []
    for band in range(BAND_COUNT):
        half, nearly = (str(one[band] or "never") for one in (halves, most))
        said.append(f"{limits[band]:.1f} to {limits[band + 1]:.1f}: {half} and {nearly}")
    last = ", ".join(f"{one:.2f}" for one in found.correspondence[-1])
    return (
        "Frequency-band correspondence of Shi et al.: the mean over a band of |F(output)| / "
        "|F(target)|, clipped to 1. The target is what is fitted, noise included. Before the "
        "first steps the output is as strong as any picture and says nothing. Iterations at which "
        f"a band then first has {LEVELS[0]:g} and {LEVELS[1]:g}, bands in cycles per pixel: "
        f"{'; '.join(said)}. At the last iteration, lowest band first: {last}."
    )


def _caption_stops(found: Spectrum) -> str:
    stop, held_out = found.ratio_stop, found.held_out
    words = (
        "Above, blurriness (Crete et al.) over sharpness (Bahrami and Kot) of each output, on a "
        "scale on which the target spans 0 to 1. Shi et al. stop where the means of the last "
        f"{RATIO_WINDOW} ratios and of the {RATIO_WINDOW} before differ by less than "
        f"{RATIO_TOLERANCE:g}: "
    )
    words += f"iteration {stop}. " if stop else "that did not happen here. "
    words += (
        f"{_explain_stopping_rule(found.subject)} Below, a second fit of the same network with "
        "pixels held "
        f"out, judged by its running average: it took iteration {held_out.best_iteration} and "
        f"ended at {held_out.iterations} ({held_out.reason})."
    )
    if found.psnr is None or found.held_out_psnr is None:
        return words
    best = int(np.argmax(found.psnr))
    words += f" PSNR against the truth: at best {found.psnr[best]:.2f} dB (iteration {best + 1})"
    words += f", at the ratio's stop {found.psnr[stop - 1]:.2f} dB" if stop else ""
    words += f", of the picture that held-out pixels take {found.held_out_psnr:.2f} dB"
    return f"{words}, at the last iteration {found.psnr[-1]:.2f} dB."


def _explain_stopping_rule(subject: ExperimentSetup) -> str:
    """Say whether their stop can be expected to work."""
    words = "Their rule is meant for bounded layers, which hold noise back"
    bound = subject.design.bound
    if bound is None:
        return f"{words}; this network has none, and goes on to learn it."
    return f"{words}; here the bound is {bound:g}."


_HECKEL = (
    "Heckel, Hand, Deep decoder: concise image representations from untrained non-convolutional "
    "networks, ICLR 2019, arXiv:1810.03982."
)


def write_architecture_page(found: Architectures, pictures: tuple[bytes, bytes]) -> str:
    """Write the page of a comparison of architectures.

    Parameters
    ----------
    found : Architectures
    pictures : tuple of bytes
        PNG files: the scores, and the pictures that are taken.
    """
    figures = make_architecture_figures(found, pictures)
    summary = (*found.sentences, _describe_architecture_run(found.subject), *found.subject.notes)
    title = f"Architectures: {found.subject.name}"
    references = (*PAPER, SHI, _HECKEL)
    recipe = found.subject.recipe
    return render_page(
        title, summary, figures, recipe, references, table=_make_architecture_table(found)
    )


def make_architecture_figures(
    found: Architectures, pictures: tuple[bytes, bytes]
) -> tuple[ReportFigure, ...]:
    """Put captions below the pictures of a comparison."""
    return (
        ReportFigure(pictures[0], "The designs beside each other", _caption_scores(found)),
        ReportFigure(pictures[1], "What held-out pixels take of each", _caption_pictures(found)),
    )


def _describe_architecture_run(subject: ExperimentSetup) -> str:
    height, width = subject.picture.shape
    return (
        f"Looked at: {width} × {height} pixels of '{subject.name}'. Each design differs from the "
        f"preset's network in one thing ({subject.network}), and is fitted from one start to the "
        f"image and to noise: {subject.iterations} iterations of plain squared error at a steady "
        f"rate, without jitter, seed {subject.seed}."
    )


def _make_architecture_table(found: Architectures) -> ReportTable:
    heads = ["design", "weights", "per pixel", "impedance", "band score"]
    heads += ["held-out error", "taken at", "ms per iteration"]
    if found.truth is not None:
        heads += ["oracle, dB (at)", "taken, dB"]
    lines = []
    for one, row in zip(found.fits, make_comparison_rows(found), strict=True):
        line = [
            f"{one.design.name}: {one.design.words}",
            f"{one.weights:,}",
            f"{row['weights_per_pixel']:.2f}",
            f"{one.impedance:.3f}",
            f"{one.band_score:.3f}",
            f"{one.held_out_error:.4f}",
            str(one.stop.taken),
            f"{row['milliseconds']:.0f}",
        ]
        if found.truth is not None:
            line.append(f"{one.oracle:.2f} ({row['oracle_iteration']})")
            line.append(f"{one.taken_psnr:.2f}")
        lines.append(tuple(line))
    return ReportTable(tuple(heads), tuple(lines), _explain_columns(found))


def _explain_columns(found: Architectures) -> str:
    words = (
        "Impedance: area between the energies of noise and of the image over the logarithm of the "
        "iteration. Band score: the same area between the correspondences (Shi et al.) of the "
        "lowest and the highest fifth of the frequencies, of the running average. Held-out error: "
        f"mean square, in variances of the image, at {found.best.errors.size} pixels that drove no "
        "fit and are the same for all designs, noise included, of the running average that they "
        "take; they judge as in all fits, the last and the best judgement counting. Designs count "
        f"as level where the mean difference of their errors is below {TIE_STANDARD_ERRORS:g} "
        "standard errors."
    )
    if found.truth is not None:
        words += " Oracle: the best running average of all iterations, which only the truth knows."
    return words


def _caption_scores(found: Architectures) -> str:
    best = found.best
    words = (
        f"The preset's network above, dashed its own values. The least held-out error is that of "
        f"'{best.design.name}', {best.held_out_error:.4f}; the preset's is "
        f"{found.fits[0].held_out_error:.4f}. "
    )
    ranked = sorted(found.fits, key=lambda one: one.impedance)
    words += (
        f"Impedance lies between {ranked[0].impedance:.3f} ('{ranked[0].design.name}') and "
        f"{ranked[-1].impedance:.3f} ('{ranked[-1].design.name}')."
    )
    if found.truth is None:
        return words
    lost = {one.design.name: (one.oracle or 0) - (one.taken_psnr or 0) for one in found.fits}
    worst = max(lost, key=lambda name: lost[name])
    mean = sum(lost.values()) / len(lost)
    return (
        f"{words} Filled circles: the PSNR of the best running average; open ones: of that which "
        f"held-out pixels take, {mean:.2f} dB below it in the mean, {lost[worst]:.2f} dB at most "
        f"('{worst}')."
    )


def _caption_pictures(found: Architectures) -> str:
    words = "All at the same limits of contrast. Below each its held-out error"
    return f"{words}, and its PSNR." if found.truth is not None else f"{words}."
