"""The end of a run: its result becomes a layer, with a message, even if an error occurs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_dip.errors.templates import format_duration
from napari_dip.qt.shell.background_call import describe_error, log_error, try_call
from napari_dip.qt.shell.napari_layers import add_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari.viewer import Viewer

    from napari_dip.pipeline.events import Restoration
    from napari_dip.qt.shell.job_controller import ResultTarget
    from napari_dip.qt.shell.napari_layers import Preview

SNAPSHOTS_KEPT_MESSAGE = "Discarded; only the images that you kept from its history are left."
NO_IMAGE_MESSAGE = (
    "The run was ended before there was a first image to keep, so no layer was added. "
    "Give it a little more time."
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PendingResult:
    """A result that is to become a layer.

    Attributes
    ----------
    target : ResultTarget
    result : Restoration
    preview : Preview or None
        The preview of the run, whose layer shows the result afterwards.
    """

    target: ResultTarget
    result: Restoration
    preview: Preview | None = None

    def add(self, viewer: Viewer) -> tuple[str, str]:
        """Add the result as a layer; without position and colours of the input if these fail.

        Returns
        -------
        name, remark : str
            The name of the new layer, and a sentence on what failed, or "".

        Raises
        ------
        Exception
            If no layer could be added. Any type, because other plugins listen to the layers.
        """
        target = self.target
        try:
            return add_result(viewer, target, self.result, self.preview).name, ""
        except Exception as error:
            log_error(f"Adding the result of '{target.name}' failed", error)
            # the error may have come after napari had added the layer
            if layer_name := self._find_layer_name(viewer):
                return (
                    layer_name,
                    f"While it was added, something else failed: {describe_error(error)}.",
                )
            plain_attributes = {key: target.layer_attributes[key] for key in ("rgb", "metadata")}
            try:
                plain_target = replace(target, layer_attributes=plain_attributes)
                name = add_result(viewer, plain_target, self.result).name
            except Exception:
                name = self._find_layer_name(viewer)
                if not name:
                    raise
            return (
                name,
                f"Place and colours of the input could not be taken over: {describe_error(error)}.",
            )

    def describe(self, layer_name: str, remarks: Iterable[str] = ()) -> str:
        """Return the message on a finished run: layer, stop reason, duration and remarks."""
        seconds = self.result.report.get("seconds")
        duration = f"It took {format_duration(seconds)}" if isinstance(seconds, int | float) else ""
        sentences = dict.fromkeys((str(self.result.stop), duration, *remarks))
        texts = (format_sentence(sentence) for sentence in sentences if sentence)
        return " ".join([f"Done: '{layer_name}'.", *texts])

    def _find_layer_name(self, viewer: Viewer) -> str:
        """Return the name of the layer that shows the result, or ""."""
        return next((layer.name for layer in viewer.layers if layer.data is self.result.image), "")


class ResultQueue:
    """Adds results to a viewer, and keeps those that could not be added for another attempt.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    on_added : callable, optional
        Called with each result and the name of its layer; returns a further message or "".
    """

    def __init__(
        self,
        viewer: Viewer,
        on_added: Callable[[PendingResult, str], str] = lambda pending, layer_name: "",
    ) -> None:
        self._viewer = viewer
        self._on_added = on_added
        self._waiting_results: list[PendingResult] = []

    @property
    def has_waiting(self) -> bool:
        """Whether a result could not be added yet."""
        return bool(self._waiting_results)

    def add(self, pending: PendingResult, remarks: Iterable[str] = ()) -> str:
        """Add a result as a layer; return the message for the user."""
        try:
            layer_name, remark = pending.add(self._viewer)
        except Exception as error:
            name = pending.target.name
            log_error(f"The result of '{name}' waits", error)
            self._waiting_results.append(pending)
            return (
                f"The result for '{name}' is ready but could not be added to the viewer: "
                f"{describe_error(error)}. Press Add the result to try again."
            )
        message, error_message = try_call(
            lambda: self._on_added(pending, layer_name), "It cannot be compared with its input"
        )
        return pending.describe(layer_name, [*remarks, remark, message or error_message])

    def add_waiting(self) -> str:
        """Try again to add the waiting results; return the message for the user."""
        waiting, self._waiting_results = self._waiting_results, []
        return "\n".join([self.add(pending) for pending in waiting])


def format_sentence(text: str) -> str:
    """Return a text with a capital at the beginning and a full stop at the end."""
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
