"""What the page of a comparison says: each number comes from the run that it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.explore.captions import PAPER, SHI
from napari_dip.explore.comparison import SURE, rows_of
from napari_dip.explore.page import Shown, Table, page_text

if TYPE_CHECKING:
    from napari_dip.explore.comparison import Architectures
    from napari_dip.explore.subject import Subject

_HECKEL = (
    "Heckel, Hand, Deep decoder: concise image representations from untrained non-convolutional "
    "networks, ICLR 2019, arXiv:1810.03982."
)


def architecture_page(found: Architectures, pictures: tuple[bytes, bytes]) -> str:
    """Write the page of a comparison of architectures.

    Parameters
    ----------
    found : Architectures
    pictures : tuple of bytes
        PNG files: the scores, and the pictures that are taken.
    """
    figures = architecture_figures(found, pictures)
    summary = (*found.sentences, _what(found.subject), *found.subject.notes)
    title = f"Architectures: {found.subject.name}"
    references = (*PAPER, SHI, _HECKEL)
    recipe = found.subject.recipe
    return page_text(title, summary, figures, recipe, references, table=_table(found))


def architecture_figures(found: Architectures, pictures: tuple[bytes, bytes]) -> tuple[Shown, ...]:
    """Put captions below the pictures of a comparison."""
    return (
        Shown(pictures[0], "The designs beside each other", _scores(found)),
        Shown(pictures[1], "What held-out pixels take of each", _taken(found)),
    )


def _what(subject: Subject) -> str:
    height, width = subject.picture.shape
    return (
        f"Looked at: {width} × {height} pixels of '{subject.name}'. Each design differs from the "
        f"preset's network in one thing ({subject.network}), and is fitted from one start to the "
        f"image and to noise: {subject.iterations} iterations of plain squared error at a steady "
        f"rate, without jitter, seed {subject.seed}."
    )


def _table(found: Architectures) -> Table:
    heads = ["design", "weights", "per pixel", "impedance", "band score"]
    heads += ["held-out error", "taken at", "ms per iteration"]
    if found.truth is not None:
        heads += ["oracle, dB (at)", "taken, dB"]
    lines = []
    for one, row in zip(found.fits, rows_of(found), strict=True):
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
    return Table(tuple(heads), tuple(lines), _meant(found))


def _meant(found: Architectures) -> str:
    words = (
        "Impedance: area between the energies of noise and of the image over the logarithm of the "
        "iteration. Band score: the same area between the correspondences (Shi et al.) of the "
        "lowest and the highest fifth of the frequencies, of the running average. Held-out error: "
        f"mean square, in variances of the image, at {found.best.errors.size} pixels that drove no "
        "fit and are the same for all designs, noise included, of the running average that they "
        "take; they judge as in all fits, the last and the best judgement counting. Designs count "
        f"as level where the mean difference of their errors is below {SURE:g} standard errors."
    )
    if found.truth is not None:
        words += " Oracle: the best running average of all iterations, which only the truth knows."
    return words


def _scores(found: Architectures) -> str:
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


def _taken(found: Architectures) -> str:
    words = "All at the same limits of contrast. Below each its held-out error"
    return f"{words}, and its PSNR." if found.truth is not None else f"{words}."
