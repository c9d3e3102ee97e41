"""The photon transfer plot of a camera: variance against light, and how its pixels differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_dip.run.report import new_figure, png_of, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_dip.run.camera_maps import CameraReport

#: Pixels of a level that are drawn as dots.
DOTS = 1500
BLUE, ORANGE = "#1f77b4", "#d95f02"


@styled
def photon_transfer(found: CameraReport) -> bytes:
    """Draw the levels with their line, the read noise and the gains of all pixels; a PNG file."""
    count = 3 if found.gain is not None else 1
    figure = new_figure(3.6 * count, 3.2)
    panels = figure.subplots(1, count, squeeze=False)[0]
    _read_noise(panels[-1] if count == 1 else panels[1], found)
    if found.gain is not None:
        _levels(panels[0], found)
        _gains(panels[2], found)
    for one in panels:
        one.tick_params(labelsize=7)
        one.spines[["top", "right"]].set_visible(False)
    return png_of(figure)


def _levels(axes: Axes, found: CameraReport) -> None:
    """Draw variance against light, and the line of the whole camera."""
    usual = float(np.median(found.noise)) ** 2
    some = np.linspace(0, found.offset.size - 1, min(DOTS, found.offset.size)).astype(int)
    for one in found.flats:
        light = (one.mean - found.offset).ravel()
        dots = light[some], one.variance.ravel()[some]
        axes.plot(*dots, ".", color=BLUE, markersize=1.5, alpha=0.15, rasterized=True)
        axes.plot(np.median(light), np.median(one.variance), "o", color=ORANGE, markersize=5)
    ends = [float(np.median(one.mean - found.offset)) for one in found.flats]
    along = np.geomspace(min(ends) / 3, max(ends) * 1.5, 200)
    label = f"{found.camera_gain:.3g} × light + {usual:.3g}"
    axes.plot(along, found.camera_gain * along + usual, color="black", linewidth=1, label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_title("Photon transfer", fontsize=9)
    axes.set_xlabel("Light: grey values above the offset", fontsize=8)
    axes.set_ylabel("Variance, grey values squared", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left")


def _read_noise(axes: Axes, found: CameraReport) -> None:
    """Draw how many pixels read with how much noise."""
    low, high = float(found.noise.min()), float(found.noise.max())
    bins = np.geomspace(low, max(high, 1.01 * low), 60).tolist()
    axes.hist(found.noise.ravel(), bins, color=BLUE)
    usual = float(np.median(found.noise))
    axes.axvline(usual, color=ORANGE, linewidth=1, label=f"median {usual:.3g}")
    axes.set(xscale="log", yscale="log")
    axes.set_title("Read noise", fontsize=9)
    axes.set_xlabel("Standard deviation, grey values", fontsize=8)
    axes.set_ylabel("Pixels", fontsize=8)
    axes.legend(fontsize=7, frameon=False)


def _gains(axes: Axes, found: CameraReport) -> None:
    """Draw the pixels' gains as they were measured, and as the map has them."""
    assert found.gain is not None and found.raw_gain is not None
    low, high = np.quantile(found.raw_gain, [0.001, 0.999])
    bins = np.linspace(float(low), float(high), 80).tolist()
    axes.hist(found.raw_gain.ravel(), bins, color=BLUE, alpha=0.5, label="as measured")
    style = {"histtype": "step", "color": ORANGE, "label": "in the map"}
    axes.hist(found.gain.ravel(), bins, **style)  # type: ignore[arg-type]
    axes.set(yscale="log")
    axes.set_title("Gain", fontsize=9)
    axes.set_xlabel("Grey values for a photo-electron", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
