"""Drawings of runs are the same in every folder."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import pytest

from napari_dip.pipeline.assess.report_figures import plot_before_after, plot_overview

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
