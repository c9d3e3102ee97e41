"""A dock whose runs read layers: one image, and perhaps others beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from napari_dip.qt.chooser import InputChooser
from napari_dip.qt.ending import attempt
from napari_dip.qt.further import FurtherInputs
from napari_dip.qt.run_dock import RunDock

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer
    from napari.layers import Image

    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec
    from napari_dip.qt.run_bar import RunBar
    from napari_dip.tasks import Input


class LayerDock(RunDock):
    """Chooses an image, and what goes with it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers are offered.
    run_bar : RunBar
    further : sequence of Input
        What is chosen beside the image.
    asks_axes : bool
        Whether the meaning of the axes is asked for.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        run_bar: RunBar,
        further: Sequence[Input],
        *,
        asks_axes: bool = True,
    ) -> None:
        super().__init__(viewer, run_bar)
        self.chooser = InputChooser(self._viewer, asks_axes=asks_axes)
        self.further = FurtherInputs(self._viewer, further)
        self._refused_image: ImageSpec | Refusal | None = None
        self._said_of: ref[Image] | None = None
        self.chooser.changed.connect(self._on_image)
        self.further.changed.connect(self.show_plan)

    def shut_down(self) -> None:
        """Stop all work and let go of the viewer; for a dock that is closed."""
        super().shut_down()
        self.chooser.disconnect_viewer()
        self.further.disconnect_viewer()

    def _on_image(self) -> None:
        self.further.set_image(self.chooser.layer())
        other = self._said_of is not None and self._said_of() is not self.chooser.layer()
        if other or self._refused_image not in (None, self.chooser.header()):
            self._refused_image = self._said_of = None
            if self.run_bar.add_button.isHidden():  # else a result waits, and the words tell of it
                self.run_bar.say("")  # it was said of another image
        self.show_plan()

    def _finish(self, words: str = "") -> None:
        """Say how the run ended, until another image is chosen."""
        super()._finish(words)
        layer = None if self.busy else self.chooser.layer()  # or the next run is on
        self._said_of = None if layer is None else ref(layer)

    def _refused(self) -> None:
        self._refused_image = self.chooser.header()

    def _close_parts(self, busy: bool) -> None:
        self._refused_image = self._said_of = None
        self.chooser.setEnabled(not busy)
        self.further.setEnabled(not busy)
        if not busy:
            attempt(self.chooser.refresh, "The list of images could not be brought up to date")
