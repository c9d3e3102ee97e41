"""Drawings of runs are the same in every folder."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from napari_dip.pipeline.assess.report_figures import (
    PanelImage,
    plot_before_after,
    plot_overview,
    plot_result,
)

if TYPE_CHECKING:
    from pathlib import Path

DRAW = """
import sys
import numpy as np
from napari_dip.pipeline.assess.report_figures import plot_before_after, plot_overview
plane = np.arange(1600.0).reshape(40, 40)
sys.stdout.buffer.write(plot_before_after(plane, plane))
sys.stdout.buffer.write(plot_overview(plane, plane, [(1, 0.5), (2, 0.4)], 2))
"""


@pytest.mark.long
def test_a_matplotlibrc_in_the_current_folder_changes_no_drawing(tmp_path: Path) -> None:
    plane = np.arange(1600.0).reshape(40, 40)
    ours = plot_before_after(plane, plane) + plot_overview(plane, plane, [(1, 0.5), (2, 0.4)], 2)
    settings = "text.usetex: True\naxes.facecolor: red\nfont.size: 30\n"
    (tmp_path / "matplotlibrc").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-c", DRAW], cwd=tmp_path, env=os.environ, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ours


def test_a_drawing_leaves_the_callers_style_alone() -> None:
    plane = np.arange(1600.0).reshape(40, 40)
    plain = plot_before_after(plane, plane)
    with matplotlib.rc_context({"font.size": 30, "axes.titlecolor": "red"}):
        assert plot_before_after(plane, plane) == plain
        assert matplotlib.rcParams["font.size"] == 30


def make_panel(plane: np.ndarray, side: float) -> PanelImage:
    """A grey image from 0 to 100, which covers 20 by 10 units with pixels of a side."""
    grey = np.repeat(np.linspace(0, 1, 256)[:, None], 4, 1)
    grey[:, 3] = 1
    extent = (0, plane.shape[1] * side, plane.shape[0] * side, 0)
    return PanelImage(plane, extent, (0, 100), 1.0, grey)


@pytest.mark.long
def test_a_figure_names_its_panels_and_the_length_of_its_bars() -> None:
    panels = [
        (title, [make_panel(np.full((20, 40), 50.0), 0.5)])
        for title in ("Input", "Result $x$", "Residual", "Uncertainty")
    ]
    drawing = plot_result(panels, [(2, 6, 4, 2)], "µm", "svg")
    assert drawing == plot_result(panels, [(2, 6, 4, 2)], "µm", "svg")
    nodes = ElementTree.fromstring(drawing).iter()
    texts = [node.text for node in nodes if node.tag.endswith("}text")]
    assert {"Input", "Result $x$", "Residual", "Uncertainty"} <= set(texts)
    # a quarter of 20 and of 4 units at most
    assert texts.count("5 µm") == texts.count("1 µm") == 4
    assert plot_result(panels, [], "µm", "pdf").startswith(b"%PDF")


def test_panels_have_equal_gaps_whatever_their_limits() -> None:
    plane = np.full((20, 40), 50.0)
    limits = (0, 80), (-0.000123, 100), (-123456, 123456)
    panels = [("a", [make_panel(plane, 0.5)._replace(limits=pair)]) for pair in limits]
    png = plot_result(panels, [], "µm", "png")
    picture = matplotlib.image.imread(BytesIO(png))[..., :3].min(2)
    is_panel = ((picture < 0.9).mean(0) > 0.5).astype(int)  # no panel is white
    starts, ends = np.flatnonzero(np.diff(is_panel) > 0), np.flatnonzero(np.diff(is_panel) < 0)
    gaps = starts[1:] - ends[:-1]
    assert len(gaps) == 2 and abs(gaps[0] - gaps[1]) <= 1, gaps


def test_equal_values_have_equal_greys_on_grids_of_any_pixel_size() -> None:
    coarse = np.zeros((20, 40))
    coarse[:, 20:] = 50
    fine = coarse.repeat(2, 0).repeat(2, 1)
    panels = [("a", [make_panel(coarse, 0.5)]), ("b", [make_panel(fine, 0.25)])]
    png = plot_result(panels, [(9, 11, 6, 4)], "µm", "png")
    picture = matplotlib.image.imread(BytesIO(png))[..., 0]
    left, right = picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]
    # halves that are black and half bright, in the image and in the inset
    for value in (0.0, 50 / 100):
        counts = [(np.abs(half - value) < 0.01).sum() for half in (left, right)]
        assert counts[0] > 0.2 * left.size and counts[0] == pytest.approx(counts[1], rel=0.05)


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1)])
def test_a_scale_bar_is_as_long_as_it_says_on_a_mirrored_layer_too(signs: tuple[int, int]) -> None:
    panel = make_panel(np.zeros((80, 80)), 0.1)
    left, right, bottom, top = panel.extent
    panel = panel._replace(
        extent=(signs[0] * left, signs[0] * right, signs[1] * bottom, signs[1] * top)
    )
    drawing = plot_result([("", [panel])], [], "µm", "png")
    brightness = matplotlib.image.imread(BytesIO(drawing), "png")[..., :3].min(2)
    inside = brightness[:, brightness[len(brightness) // 2] < 0.5]
    counts = (inside > 0.9).sum(1)
    longest = int(counts[counts < inside.shape[1] / 2].max())  # the others are rows of the page
    assert longest == pytest.approx(inside.shape[1] * 2 / 8, abs=2)
