"""How a run ends in napari: the result becomes a layer whatever goes wrong, and what is said."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_dip.errors.notes import read_report_notes
from napari_dip.pipeline.machine import format_duration
from napari_dip.qt.shell.layers import add_result
from napari_dip.qt.shell.worker import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import napari.viewer

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.events import Restoration
    from napari_dip.qt.shell.layers import Preview

log = logging.getLogger(__name__)
DISCARDED_MESSAGE = "Discarded, nothing was kept."
SNAPSHOTS_KEPT_MESSAGE = "Discarded; only the pictures that you kept from its history are left."
NO_PICTURE_MESSAGE = (
    "The run was ended before there was a first picture to keep, so no layer was added. "
    "Give it a little more time."
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PendingResult:
    """A result on its way into the viewer.

    Attributes
    ----------
    name : str
        Of the input layer.
    look : mapping
        What the result takes over from it; see `look_of`.
    result : Restoration
    source : callable
        Gives the input layer, or None if it is gone.
    input_look : mapping
        As `look`, for pictures of the input's size.
    trial : str
        Name of what was tried on a part of the input; else empty.
    remarks : tuple of Note
        Notes that stand in the plan line, above the words, and are not said twice.
    preview : Preview or None
        That showed the run; its layer shows the result from then on.
    """

    name: str
    look: Mapping[str, Any]
    result: Restoration
    source: Callable[[], Any] = lambda: None
    input_look: Mapping[str, Any] = field(default_factory=dict)
    trial: str = ""
    remarks: tuple[Note, ...] = ()
    preview: Preview | None = None

    def add(self, viewer: napari.viewer.Viewer) -> tuple[str, str]:
        """Add it as a layer, in the input's place and colours or, where these fail, without.

        Returns
        -------
        name, remark : str
            Of the new layer, and a sentence on what could not be done.

        Raises
        ------
        Exception
            If napari takes no layer at all; any kind, since other plugins listen to its layers.
        """
        try:
            content = self.result, self.trial, self.preview
            return add_result(viewer, self.name, self.look, *content).name, ""
        except Exception as error:
            _log_error(f"Adding the result of '{self.name}' failed", error)
            if layers := self._layers(viewer):  # whoever failed came after napari's own part
                return (
                    layers,
                    f"While it was added, something else failed: {describe_error(error)}.",
                )
            plain = {key: self.look[key] for key in ("rgb", "metadata")}
            try:
                name = add_result(viewer, self.name, plain, self.result, self.trial).name
            except Exception:
                name = self._layers(viewer)
                if not name:
                    raise
            return (
                name,
                f"Place and colours of the input could not be taken over: {describe_error(error)}.",
            )

    def describe(self, layer: str, remarks: Iterable[str] = ()) -> str:
        """Say that it is done and why the fit ended, and all that should be known about it.

        Warnings come first, a line for each, and what else the result is worth last.
        """
        report = self.result.report
        took = report.get("seconds")
        spent = f"It took {format_duration(took)}" if isinstance(took, int | float) else ""
        notes = (str(note) for note in read_report_notes(report) if note not in self.remarks)
        parts = dict.fromkeys((*notes, spent, *remarks))  # each once
        rest = " ".join(format_sentence(part) for part in parts if part)
        reason = str(self.result.stop)
        done = " ".join([f"Done: '{layer}'.", *([format_sentence(reason)] if reason else [])])
        warnings, calm = format_quality_checks(report)
        if not warnings:
            done, rest = " ".join(filter(None, [done, rest])), ""
        return "\n".join(filter(None, [done, *warnings, rest, calm]))

    def _layers(self, viewer: napari.viewer.Viewer) -> str:
        """Name the layer that holds the result already, if one does."""
        return next((layer.name for layer in viewer.layers if layer.data is self.result.image), "")


class ResultQueue:
    """Puts answers into a viewer; those that it does not take wait here and are not lost.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    added : callable, optional
        Told of each answer and the name of its layer; returns what else to tell the user.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        added: Callable[[PendingResult, str], str] = lambda answer, layer: "",
    ) -> None:
        self._viewer = viewer
        self._added = added
        self._waiting: list[PendingResult] = []

    @property
    def waiting(self) -> bool:
        """Whether there is an answer that the viewer has not taken."""
        return bool(self._waiting)

    def add(self, answer: PendingResult, remarks: Iterable[str] = ()) -> str:
        """Make a layer of an answer; returns what to tell the user."""
        try:
            layer, remark = answer.add(self._viewer)
        except Exception as error:
            _log_error(f"The result of '{answer.name}' waits", error)
            self._waiting.append(answer)
            return (
                f"The result for '{answer.name}' is ready but could not be added to the viewer: "
                f"{describe_error(error)}. Press Add the result to try again."
            )
        facts: list[str] = []
        failing = "It cannot be compared with its input"
        trouble = attempt(lambda: facts.append(self._added(answer, layer)), failing)
        return answer.describe(layer, [*remarks, remark, *facts, trouble])

    def add_waiting(self) -> str:
        """Try again; returns what to tell the user."""
        waiting, self._waiting = self._waiting, []
        return "\n".join([self.add(answer) for answer in waiting])


def format_quality_checks(report: Mapping[str, Any]) -> tuple[list[str], str]:
    """Put a report's verdict into a line for each warning, and one for all that is well."""
    said = report.get("verdict", {"sentences": [], "warnings": []})
    calm = said["sentences"][len(said["warnings"]) :]  # warnings come first
    return [f"⚠ {item}" for item in said["warnings"]], " ".join(calm)


def format_sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


def attempt(act: Callable[[], object], failing: str) -> str:
    """Do something that must not stop what comes after it.

    Returns
    -------
    str
        Empty, or a sentence that begins with `failing` and says why; the trace is in the log.
    """
    try:
        act()
    except Exception as error:
        _log_error(failing, error)
        return f"{failing}: {describe_error(error)}."
    return ""


def _log_error(failing: str, error: Exception) -> None:
    """Log the trace as text: a log that keeps its records would keep the whole viewer alive."""
    log.error("%s.\n%s", failing, "".join(traceback.format_exception(error)))
