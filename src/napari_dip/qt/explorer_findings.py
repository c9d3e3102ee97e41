"""What came out of an experiment, put into a headline, a table and a stack of pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.explore.bands import LEVELS, edges, reached
from napari_dip.explore.designs import called
from napari_dip.explore.targets import TARGETS, TOLD
from napari_dip.tasks.designs import designs_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

#: How short a mark says that a row is the one to take.
_TAKEN = "✓ "


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Pictures of the part that was looked at, to be laid over it as one layer.

    Attributes
    ----------
    called : str
        Goes behind the image's name.
    axis : str
        What the slider goes through.
    names : tuple of str
        Of each picture.
    pictures : ndarray (N, Y, X) float32
    in_units : bool
        Whether they have the image's units, and so its contrast.
    """

    called: str
    axis: str
    names: tuple[str, ...]
    pictures: npt.NDArray[np.float32]
    in_units: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """An experiment's outcome, as the dock shows it.

    Attributes
    ----------
    headline : str
    heads : tuple of str
    rows : tuple of tuple of str
    stack : Stack
    sentences : tuple of str
        The outcome in words.
    curves : tuple of (group, mapping of str to sequence of float)
        What the plot shows where a row is chosen; empty: nothing else.
    """

    headline: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    stack: Stack
    sentences: tuple[str, ...]
    curves: tuple[tuple[str, Mapping[str, Any]], ...] = field(default=())


def findings_of(experiment: str, found: Any) -> Findings:
    """Put an outcome into the form that the dock shows.

    Parameters
    ----------
    experiment : str
    found : Impedance, Spectrum or Architectures
    """
    return {
        "impedance": _impedance,
        "spectrum": _spectrum,
        "architectures": _architectures,
    }[experiment](found)


def _impedance(found: Any) -> Findings:
    last = found.subject.iterations
    places = [*(at for at in TOLD if at < last), last]
    rows = [(str(at), *(f"{one:.3f}" for one in found.at(at).values())) for at in places]
    heads = ("After", "image", "+ noise", "shuffled", "noise")
    targets = np.stack([found.targets[name] for name in TARGETS])
    stack = Stack("targets", "target", tuple(TARGETS.values()), targets, in_units=False)
    headline = f"Impedance score {found.score:.3f}"
    return Findings(headline, heads, tuple(rows), stack, _said(found))


def _spectrum(found: Any) -> Findings:
    limits = edges()
    levels = [reached(found.correspondence, level) for level in LEVELS]
    rows = tuple(
        (
            f"{limits[band]:.1f} to {limits[band + 1]:.1f}",
            *(str(level[band] or "never") for level in levels),
            f"{found.correspondence[-1, band]:.2f}",
        )
        for band in range(found.correspondence.shape[1])
    )
    heads = ("Band", "half at", f"{LEVELS[1]:.0%} at", "at the end")
    places = sorted(found.evolution)
    pictures = np.stack([found.evolution[at] for at in places])
    names = tuple(f"iteration {at}" for at in places)
    stack = Stack("evolution", "iteration", names, pictures)
    taken = found.held_out.best_iteration
    headline = f"Held-out pixels take iteration {taken}"
    return Findings(headline, heads, rows, stack, _said(found))


def _architectures(found: Any) -> Findings:
    taken = found.suits
    heads = ["Design", "held out", "score", "bands", "weights"]
    if found.truth is not None:
        heads.insert(2, "dB")
    fits = sorted(found.fits, key=lambda one: one.held_out_error)
    rows = []
    for one in fits:
        row = [
            f"{_TAKEN if one is taken else ''}{called(one.design)}",
            f"{one.held_out_error:.4f}",
            f"{one.impedance:.3f}",
            f"{one.band_score:.3f}",
            f"{one.weights / 1000:.0f}k",
        ]
        if found.truth is not None:
            row.insert(2, f"{one.taken_psnr:.2f}")
        rows.append(tuple(row))
    names = tuple(called(one.design) for one in fits)
    stack = Stack("designs", "design", names, np.stack([one.picture for one in fits]))
    curves = tuple(
        (name, {"image": one.energy, "noise": one.noise})
        for name, one in zip(names, fits, strict=True)
    )
    headline = f"Suits best: {called(taken.design)}"
    return Findings(headline, tuple(heads), tuple(rows), stack, _compared(found), curves)


def _compared(found: Any) -> tuple[str, ...]:
    """Say which network suits the image, and how sure that is."""
    best, first, taken = found.best, found.fits[0], found.suits
    others = [called(one.design) for one in (best, *found.level) if one is not taken]
    least = f"its error at held-out pixels is {taken.held_out_error:.4f}"
    if taken is best:
        said = [f"{called(taken.design).capitalize()}: {least}, the least of {len(found.fits)}."]
        if taken is not first:
            share = 1 - best.held_out_error / first.held_out_error
            said.append(f"That is {share:.1%} below that of the preset's network.")
        others = [called(one.design) for one in found.level]
    else:
        said = ["The preset's network: held-out pixels cannot tell it from the best one."]
    if others:
        said.append(f"Level with it: {', '.join(others)}.")
    if found.truth is not None:
        most = max(one.oracle for one in found.fits)
        told = f"{taken.taken_psnr:.2f} dB; the best that any network came by is {most:.2f} dB."
        said.append(f"By the truth its picture has {told}")
    known = designs_for(found.subject.plan.budget.widths, 0.0)
    for names, words in ((found.broken, "Broke down"), (found.left_out, "Ended; not fitted")):
        if names:
            said.append(f"{words}: {', '.join(called(known[name]) for name in names)}.")
    return tuple(said)


def _said(found: Any) -> tuple[str, ...]:
    """Give the sentences of an experiment, and how it ended where someone ended it."""
    ended = [one for one in found.subject.notes if one.startswith("Ended by hand")]
    return (*ended, *found.sentences)
