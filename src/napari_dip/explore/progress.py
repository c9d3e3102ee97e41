"""What an experiment shows while it runs, to whoever watches; and how it is ended by hand.

What every experiment hands over: figures that are saved in one way, whatever they hold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from napari_dip.engine.control import Control
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture
    from napari_dip.pipeline.events import Event

#: Fewest iterations that are worth keeping: before them hardly anything is learned.
MIN_KEPT_ITERATIONS = 10


class IterationUpdate(NamedTuple):
    """One iteration.

    Attributes
    ----------
    event : Event
        How far the experiment is.
    points : mapping of str to float
        Values at `event.iteration`, by the curves that they belong to.
    group : str
        Whose curves these are, where several networks are fitted one after another.
    picture : ndarray (Y, X) float32 or None
        What the network says now, in the image's units.
    """

    event: Event
    points: Mapping[str, float]
    group: str = ""
    picture: Picture | None = None


def delay_keep(control: Callable[[], Control]) -> Callable[[], Control]:
    """Let what belongs together come to its end before a wish to keep is heard."""

    def poll_control() -> Control:
        result = control()
        return Control.GO if result is Control.KEEP else result

    return poll_control


def mark_ended_early(subject: ExperimentSetup, count: int) -> ExperimentSetup:
    """Say of a subject how far its fits went, where someone ended them.

    Parameters
    ----------
    subject : ExperimentSetup
    count : int
        Iterations of each fit.
    """
    if count >= subject.iterations:
        return subject
    note = make_note("experiment-ended", count=count, total=subject.iterations)
    recipe = {**subject.recipe, "ended_after": count}
    return replace(subject, ended_after=count, recipe=recipe, notes=(*subject.notes, note))


class Writer(Protocol):
    """Whatever saves an outcome."""

    def __call__(
        self, outcome: ExperimentResult, folder: str | os.PathLike[str], *, overwrite: bool = False
    ) -> Path:
        """Save page, pictures, tables and recipe; gives the page."""


#: The latest is taken.
_WRITERS: list[Writer] = []


class ExperimentResult:
    """Figures of one experiment.

    Attributes
    ----------
    experiment : str
        As the command calls it; a key in `place.FILES`.
    """

    __slots__ = ()
    experiment: ClassVar[str]

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save page, pictures, tables and recipe; gives the page.

        Raises
        ------
        Refused
            If the folder cannot be used, or holds such files already.
        Failed
            If the disk does not take them.
        """
        return _WRITERS[-1](self, folder, overwrite=overwrite)


def set_writer(writer: Writer) -> None:
    """Let `writer` save outcomes: the modules that draw pages stand above the experiments."""
    _WRITERS.append(writer)
