"""Open napari with the sample and the dock, and press Run: `python -m napari_dip.qt.demo`.

Sample data in napari: the shipped pictures, and what was made worse of them for each task.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

from napari_dip.qt.task.dock import DenoiseDock
from napari_dip.samples import MITOCHONDRIA
from napari_dip.samples.degraded import Spoilt, blurred, coarse, holed, movie, stack, weak_channel

if TYPE_CHECKING:
    import napari.types

#: Further inputs that are labels and not pictures.
_LABEL_INPUTS = ("mask",)


def mitochondria() -> list[napari.types.LayerData]:
    """Mitochondria in a confocal microscope: one noisy shot, and a long exposure to compare.

    The long exposure is hidden at first and never used by a restoration.
    """
    import tifffile

    frames = tifffile.imread(MITOCHONDRIA)
    return [
        (frames[1], {"name": "mitochondria, long exposure", "visible": False}, "image"),
        (frames[0], {"name": "mitochondria"}, "image"),
    ]


def scratched() -> list[napari.types.LayerData]:
    """Mitochondria under scratches and dust, which a labels layer marks."""
    return _make_sample_layers(holed())


def coarse_pixels() -> list[napari.types.LayerData]:
    """Mitochondria in coarse pixels, laid over the fine ones that they were binned from."""
    return _make_sample_layers(coarse())


def blurred_with_psf() -> list[napari.types.LayerData]:
    """Blurred mitochondria, and the PSF."""
    return _make_sample_layers(blurred())


def weak_beside_clean() -> list[napari.types.LayerData]:
    """Show a channel of few photons, and a clean one of the same cell."""
    return _make_sample_layers(weak_channel())


def noisy_movie() -> list[napari.types.LayerData]:
    """Nuclei that wander, in few photons."""
    return _make_sample_layers(movie())


def noisy_stack() -> list[napari.types.LayerData]:
    """Show an embryo's cell walls, in few photons."""
    return _make_sample_layers(stack())


def _make_sample_layers(sample: Spoilt) -> list[napari.types.LayerData]:
    """Truth, hidden; further inputs; on top what is to be restored."""
    finer = sample.truth.shape[-1] // sample.image.shape[-1]
    # pixel j of the finer grid has its centre at (j + 0.5) / finer - 0.5 of the coarse one's
    place = {"scale": (1 / finer,) * 2, "translate": (0.5 / finer - 0.5,) * 2} if finer > 1 else {}
    named = {"axis_labels": tuple(sample.axes.lower())}
    truth = {"name": f"{sample.name}, truth", "visible": False, **named, **place}
    layers: list[napari.types.LayerData] = [(sample.truth, truth, "image")]
    labels: list[napari.types.LayerData] = []
    for key, pixels in sample.others.items():
        if key in _LABEL_INPUTS:
            labels.append((pixels, {"name": key}, "labels"))
        else:
            # a PSF is no second picture of the field, and would lie in its corner
            look = {"name": key, "visible": pixels.shape == sample.image.shape[-2:]}
            layers.append((pixels, look, "image"))
    return [*layers, (sample.image, {"name": sample.name, **named}, "image"), *labels]


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
