"""A picture of a restoration: before, after, and what it should have been where that is known."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

#: Share of the darkest and of the brightest pixels that may be clipped, as napari's users expect.
_CLIPPED = 0.3
_PANEL_INCHES = 4.0


def before_after(
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    reference: npt.NDArray[Any] | None = None,
    *,
    titles: tuple[str, ...] = ("Input", "Restored", "Reference"),
) -> bytes:
    """Draw images side by side, each with the same contrast limits.

    Parameters
    ----------
    before, after, reference : ndarray (Y, X) or (Y, X, 3)
        In one intensity unit. The limits are those of `after`, so that noise is not dimmed.
    titles : tuple of str
        Written above the panels.

    Returns
    -------
    bytes
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [before, after] if reference is None else [before, after, reference]
    low, high = np.percentile(after, [_CLIPPED, 100 - _CLIPPED])
    height, width = after.shape[:2]
    size = (_PANEL_INCHES * len(panels), _PANEL_INCHES * height / width + 0.4)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # a figure of its own: pyplot's state stays untouched
    for place, (panel, title) in enumerate(zip(panels, titles, strict=False), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        shown = np.clip((panel.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    file = BytesIO()
    canvas.print_png(file)  # type: ignore[no-untyped-call]
    return file.getvalue()
