"""Open napari with the sample and the dock, and press Run: `python -m napari_dip.qt.demo`."""

from __future__ import annotations

import sys

from qtpy.QtCore import QTimer

from napari_dip.qt.docks import DenoiseDock
from napari_dip.qt.samples import mitochondria

#: Time for the window to appear before the button is pressed.
_WINDOW_SECONDS = 1.0


def main(preset: str = "fast") -> None:
    """Show the demo; returns when its window is closed.

    Parameters
    ----------
    preset : str
        "fast", "balanced" or "best".
    """
    import napari

    viewer = napari.Viewer(title="napari-dip")
    for pixels, look, _ in mitochondria():
        viewer.add_image(pixels, **look)
    dock = DenoiseDock(viewer)
    dock.form.widgets["preset"].value = preset
    viewer.window.add_dock_widget(dock, name="Denoise (Deep Image Prior)", area="right")
    QTimer.singleShot(round(1000 * _WINDOW_SECONDS), dock.run_bar.run_button.click)
    napari.run()


if __name__ == "__main__":
    main(*sys.argv[1:2])
