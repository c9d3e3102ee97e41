"""Define what every experiment reports while it runs, and how its result is shown and saved."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors.notes import make_note, serialise_notes
from napari_dip.io.outputs import resolve_folder_files
from napari_dip.io.paths import make_folder
from napari_dip.io.writing import write_bytes, write_text
from napari_dip.pipeline.assess.methods_section import EXPERIMENT_PAPERS, PAPERS
from napari_dip.pipeline.assess.report_figures import (
    Html,
    make_element,
    make_elements,
    make_image,
    make_table,
    render_page,
)
from napari_dip.pipeline.progress import Event, PausableClock, Progress, ProgressTracker
from napari_dip.pipeline.store.result_files import format_csv, format_json

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.errors.notes import Note
    from napari_dip.explore.experiment_setup import ExperimentSetup, ImageArray
    from napari_dip.io import AnyArray, Float32Array


#: Minimum number of iterations to keep: before that, a network has hardly learned anything.
MIN_KEPT_ITERATIONS = 10
#: Fraction of an experiment from which its speed gives the remaining time (docs/constants.md).
MIN_TIMED_FRACTION = 0.03
#: Factor on the remaining time of an experiment: later fits take 0.8 times as long in the mean, 1.6
#: at most.
TIME_MARGIN = 1.25


class IterationUpdate(NamedTuple):
    """Report of one iteration.

    Attributes
    ----------
    event : Event
        Progress of the experiment.
    points : mapping of str to float
        Values at `event.iteration`, by curve.
    group : str
        Network that the curves belong to, if several are fitted one after another.
    image : ndarray (Y, X) float32 or None
        Current output of the network, in the image's units.
    """

    event: Event
    points: Mapping[str, float]
    group: str = ""
    image: ImageArray | None = None


def make_update(
    message: str, iteration: int, iteration_count: int, points: Mapping[str, float], **fields: Any
) -> IterationUpdate:
    """Return the update of fits that run side by side; `fields` are its further ones."""
    progress = Progress(done=iteration, total=iteration_count)
    event = Event(
        message=message, progress=progress, iteration=iteration, iterations=iteration_count
    )
    return IterationUpdate(event, points, **fields)


def ignore_keep(poll_control: PollControl) -> PollControl:
    """Return a control that ignores KEEP, so that parallel fits end at the same iteration."""

    def poll_without_keep() -> Control:
        control = poll_control()
        return Control.GO if control is Control.KEEP else control

    return poll_without_keep


def mark_ended_early(setup: ExperimentSetup, count: int) -> ExperimentSetup:
    """Return a setup that notes how many iterations its fits had, if the user ended them.

    Parameters
    ----------
    setup : ExperimentSetup
    count : int
        Iterations of each fit.
    """
    if count >= setup.iterations:
        return setup
    note = make_note("experiment-ended", count=count, total=setup.iterations)
    recipe = {**setup.recipe, "ended_after": count}
    return replace(setup, stop_iteration=count, recipe=recipe, notes=(*setup.notes, note))


class ExperimentTimer(PausableClock):
    """Estimate the remaining time of an experiment, without pauses.

    An experiment polls `poll_control` of this object instead of the user's control.
    """

    def __init__(
        self,
        poll_control: PollControl = lambda: Control.GO,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(poll_control, monotonic)
        self._tracker = ProgressTracker(margin=TIME_MARGIN)
        self._step = self._tracker.add_step("experiment", 1.0)

    def add_time_left(self, update: IterationUpdate) -> IterationUpdate:
        """Return the update with elapsed and remaining time, once these can be estimated."""
        event, seconds = update.event, self.seconds
        if event.progress.seconds_left is not None:
            return update
        self._step.update(seconds, event.fraction)
        if not MIN_TIMED_FRACTION < event.fraction < 1:
            return update
        progress = self._tracker.compute_progress(seconds)
        return update._replace(event=replace(event, seconds=seconds, progress=progress))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFigure:
    """A figure of a report.

    Attributes
    ----------
    file : str
        Name of its PNG file.
    title, caption : str
        Plain text.
    draw : callable
        Returns the PNG file.
    """

    file: str
    title: str
    caption: str
    draw: Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """Column headers, rows of the same length and a caption, all in plain text."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentReport:
    """All that is saved of a result, besides its sentences.

    Attributes
    ----------
    title : str
    recipe : mapping
        Settings that repeat the experiment, in plain JSON types.
    notes : tuple of Note
    description : tuple of str
        What was fitted and how.
    figures : tuple of ReportFigure
    references : tuple of str
        Keys of `PAPERS` and `EXPERIMENT_PAPERS`.
    table : ReportTable or None
        Goes before the figures.
    numbers : mapping
        Content of the JSON file besides recipe and notes, in plain types.
    files : mapping of str to str
        Content of further text files, such as tables, by name.
    """

    title: str
    recipe: Mapping[str, Any]
    notes: tuple[Note, ...]
    description: tuple[str, ...] = ()
    figures: tuple[ReportFigure, ...]
    references: tuple[str, ...]
    table: ReportTable | None = None
    numbers: Mapping[str, Any]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImageStack:
    """Images of the crop, which become one layer over the image.

    Attributes
    ----------
    name_suffix : str
        Suffix of the layer name.
    axis : str
        Label of the first axis.
    names : tuple of str
        The name of each image.
    images : ndarray (N, Y, X) float32
    has_image_units : bool
        Whether the pixels have the image's units, so that its contrast limits apply.
    """

    name_suffix: str
    axis: str
    names: tuple[str, ...]
    images: Float32Array
    has_image_units: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentSummary:
    """The result of an experiment, as the dock shows it.

    Attributes
    ----------
    headline : str
    headers : tuple of str
        Headers of the table.
    rows : tuple of tuple of str
        Cells of the table.
    stack : ImageStack
    curves : tuple of (group, mapping of str to sequence of float)
        The curves for each row of the table; empty if the plot is the same for all rows.
    """

    headline: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    stack: ImageStack
    curves: tuple[tuple[str, Mapping[str, Any]], ...] = field(default=())


class ExperimentResult(ABC):
    """Result of one experiment.

    Attributes
    ----------
    experiment : str
        Key of the experiment in `EXPERIMENTS`, and name of its page.
    """

    __slots__ = ()
    experiment: ClassVar[str]

    @property
    @abstractmethod
    def sentences(self) -> tuple[str, ...]:
        """Sentences that summarise the experiment."""

    @abstractmethod
    def make_report(self) -> ExperimentReport:
        """Return all that is saved, with figures that are drawn on saving."""

    def to_dict(self) -> dict[str, Any]:
        """Return recipe, notes and numbers in plain JSON types."""
        report = self.make_report()
        return {
            "experiment": self.experiment,
            "recipe": dict(report.recipe),
            **serialise_notes(report.notes),
            **report.numbers,
        }

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save page, figures, tables and recipe; return the path of the page.

        Raises
        ------
        RefusedError
            If the folder cannot be used, or already holds such files.
        FailedError
            If the files cannot be written.
        """
        report, page = self.make_report(), f"{self.experiment}.html"
        files = {f"{self.experiment}.json": format_json(self.to_dict()), **report.files}
        names = (page, *files, *(figure.file for figure in report.figures))
        path = resolve_folder_files(folder, names, overwrite=overwrite)
        make_folder(path)
        images = [figure.draw() for figure in report.figures]
        for name, text in files.items():
            write_text(path / name, text, overwrite=overwrite)
        for figure, image in zip(report.figures, images, strict=True):
            write_bytes(path / figure.file, image, overwrite=overwrite)
        # the page last, so that a page implies complete files
        content = _render_report(self.sentences, report, images)
        write_text(path / page, content, overwrite=overwrite)
        return path / page


def _render_report(
    sentences: Sequence[str], report: ExperimentReport, images: Sequence[bytes]
) -> str:
    """Return the page of a report with its drawn figures."""
    blocks = [make_elements("p", (*sentences, *report.description, *map(str, report.notes)))]
    if report.table is not None:
        table = make_table(report.table.headers, report.table.rows, "numbers")
        blocks += [make_element("figure", table, make_element("figcaption", report.table.caption))]
    blocks += [
        make_element(
            "figure",
            make_element("h2", figure.title),
            make_image(image, figure.title),
            make_element("figcaption", figure.caption),
        )
        for figure, image in zip(report.figures, images, strict=True)
    ]
    recipe = json.dumps(report.recipe, indent=2, ensure_ascii=False)
    papers = {**PAPERS, **EXPERIMENT_PAPERS}
    return render_page(
        report.title,
        *blocks,
        Html(make_element("h2", "Recipe") + make_element("pre", recipe)),
        Html(make_element("h2", "References")),
        make_element("ol", make_elements("li", (papers[key] for key in report.references))),
    )


def format_columns(columns: Mapping[str, AnyArray]) -> str:
    """Return columns of numbers as CSV, with all digits."""
    return format_csv(
        tuple(columns), zip(*(column.tolist() for column in columns.values()), strict=True)
    )


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of values by column, all with the same columns, as CSV."""
    return format_csv(tuple(rows[0]), (tuple(row.values()) for row in rows))


def add_iteration_column(columns: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Return the columns after one of 1-based iterations."""
    count = len(next(iter(columns.values())))
    return {"iteration": np.arange(1, count + 1), **columns}
