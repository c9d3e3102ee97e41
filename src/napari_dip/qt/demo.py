"""Sample data for napari, and a demo that runs Denoise: `python -m napari_dip.qt.demo`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

from napari_dip.qt.task.task_dock import DenoiseDock
from napari_dip.samples import (
    MITOCHONDRIA,
    DegradedSample,
    make_binned_sample,
    make_blurred_sample,
    make_masked_sample,
    make_movie_sample,
    make_stack_sample,
    make_weak_channel_sample,
)

if TYPE_CHECKING:
    import napari.types

#: Extra inputs that become labels layers.
_LABEL_INPUTS = ("mask",)
#: Seconds for the window to appear before the button is pressed.
_WINDOW_SECONDS = 1.0


def make_mitochondria_layers() -> list[napari.types.LayerData]:
    """Return confocal mitochondria: a noisy exposure, and a long exposure for comparison.

    The long exposure is a hidden layer, and no restoration uses it.
    """
    import tifffile

    frames = tifffile.imread(MITOCHONDRIA)
    return [
        (frames[1], {"name": "mitochondria, long exposure", "visible": False}, "image"),
        (frames[0], {"name": "mitochondria"}, "image"),
    ]


def make_scratched_layers() -> list[napari.types.LayerData]:
    """Return mitochondria with scratches and dust, and a labels layer that marks them."""
    return _make_sample_layers(make_masked_sample())


def make_coarse_layers() -> list[napari.types.LayerData]:
    """Return mitochondria in coarse pixels, and the fine pixels that they were binned from."""
    return _make_sample_layers(make_binned_sample())


def make_blurred_layers() -> list[napari.types.LayerData]:
    """Return blurred mitochondria and the PSF."""
    return _make_sample_layers(make_blurred_sample())


def make_weak_channel_layers() -> list[napari.types.LayerData]:
    """Return a channel with few photons, and a clean channel of the same cell."""
    return _make_sample_layers(make_weak_channel_sample())


def make_movie_layers() -> list[napari.types.LayerData]:
    """Return a movie of moving nuclei with few photons."""
    return _make_sample_layers(make_movie_sample())


def make_stack_layers() -> list[napari.types.LayerData]:
    """Return a stack of an embryo's cell walls with few photons."""
    return _make_sample_layers(make_stack_sample())


def _make_sample_layers(sample: DegradedSample) -> list[napari.types.LayerData]:
    """Return the layers of a sample: hidden ground truth, extra inputs, image, labels."""
    finer = sample.truth.shape[-1] // sample.image.shape[-1]
    # pixel j of the fine grid has its centre at (j + 0.5) / finer - 0.5 in coarse pixels
    placement = (
        {"scale": (1 / finer,) * 2, "translate": (0.5 / finer - 0.5,) * 2} if finer > 1 else {}
    )
    axis_labels = {"axis_labels": tuple(sample.axes.lower())}
    truth = {"name": f"{sample.name}, truth", "visible": False, **axis_labels, **placement}
    layers: list[napari.types.LayerData] = [(sample.truth, truth, "image")]
    labels: list[napari.types.LayerData] = []
    for key, pixels in sample.extra_inputs.items():
        if key in _LABEL_INPUTS:
            labels.append((pixels, {"name": key}, "labels"))
        else:
            # a PSF shows no part of the field and would cover its corner
            attributes = {"name": key, "visible": pixels.shape == sample.image.shape[-2:]}
            layers.append((pixels, attributes, "image"))
    return [*layers, (sample.image, {"name": sample.name, **axis_labels}, "image"), *labels]


def main(preset: str = "fast") -> None:
    """Run the demo until its window is closed.

    Parameters
    ----------
    preset : str
        "instant", "fast", "balanced" or "best".
    """
    import napari

    viewer = napari.Viewer(title="napari-dip")
    for pixels, attributes, _ in make_mitochondria_layers():
        viewer.add_image(pixels, **attributes)
    dock = DenoiseDock(viewer)
    dock.form.widgets["preset"].value = preset
    viewer.window.add_dock_widget(dock, name="Denoise (Deep Image Prior)", area="right")
    QTimer.singleShot(round(1000 * _WINDOW_SECONDS), dock.run_bar.run_button.click)
    napari.run()


if __name__ == "__main__":
    main(*sys.argv[1:2])
