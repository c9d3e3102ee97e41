"""Where a layer that is taken away frees what it holds on the graphics card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtOpenGLWidgets import QOpenGLWidget

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget


def make_canvas_current(docked: QWidget) -> None:
    """Let what comes next reach the OpenGL context that the layers of this window are drawn with.

    napari 0.9 frees textures, buffers and programs of a removed layer at once, in whatever context
    is current, mostly that of the window round the canvas. Two layers removed one after the other,
    and the process ends in `glDrawArrays` at one of the next drawings (seen with Mesa's llvmpipe
    and softpipe; napari's issues 6472 and 8471 tell of crashes there with cards of NVIDIA).
    """
    window = docked.window()
    while window is not None and (around := window.parentWidget()) is not None:  # a floating dock
        window = around.window()
    if window is not None:
        for canvas in window.findChildren(QOpenGLWidget):
            canvas.makeCurrent()
