"""Run `napari-dip demo`: denoise the bundled image, in napari or into a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from napari_dip.cli.progress import run_and_show
from napari_dip.cli.terminal import PLAN_TIME_NOTE, print_message, print_result
from napari_dip.errors import Failed, Refusal, Refused
from napari_dip.errors.notes import serialise_stop
from napari_dip.explore.output.files import find_free_folder
from napari_dip.io.header import ImageSpec
from napari_dip.io.outputs import check_output
from napari_dip.io.paths import make_folder_refusal
from napari_dip.io.reading import read_pixels, read_spec
from napari_dip.io.writing import write_bytes, write_image
from napari_dip.pipeline.assess.report_figures import draw_before_after
from napari_dip.pipeline.doctor import QT_BINDINGS
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.machine import detect_machine, format_duration
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.samples import MITOCHONDRIA

#: Folder of the pictures, in the working folder; numbered if it already holds some.
FOLDER = "demo"
PICTURE, RESULT = "before_after.png", "mitochondria_denoised.tif"


def run_demo_command(window: bool | None, preset: str) -> int:
    """Run the demo and return the exit code.

    Parameters
    ----------
    window : bool or None
        Whether to open napari; None: if a display and napari are available.
    preset : str
        "fast", "balanced" or "best".
    """
    why = _explain_no_window()
    if window and why:
        raise Refused("window-missing", why=why)
    if window or (window is None and not why):
        print_message("Opening napari with the sample; close its window to end the demo.")
        command = [sys.executable, "-m", "napari_dip.qt.demo", preset]
        if subprocess.run(command, check=False).returncode == 0:
            return 0
        print_message("napari could not show its window, so the demo goes on without one.")
    return _save_demo_pictures(preset)


def _explain_no_window() -> str:
    """Return why no window can be opened here, "" if one can."""
    if sys.platform not in ("win32", "darwin"):
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            return "there is no display"
    if find_spec("napari") is None:
        return "napari is not installed"
    if not any(find_spec(name) for name in QT_BINDINGS):
        return "no Qt binding is installed"
    return ""


def _save_demo_pictures(preset: str) -> int:
    folder = Path(FOLDER)
    if any(os.path.lexists(folder / name) for name in (PICTURE, RESULT)):
        folder = find_free_folder(".", FOLDER)  # the files may be those of an earlier demo
    picture, result_path = folder / PICTURE, folder / RESULT
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(make_folder_refusal(Path.cwd(), error)) from None
    check_output(picture, suffixes=(".png",))
    check_output(result_path)
    noisy, reference = read_pixels(read_spec(MITOCHONDRIA))
    spec = ImageSpec(name=MITOCHONDRIA.name, shape=noisy.shape, dtype=noisy.dtype.name, axes="YX")
    plan = preflight(make_recipe("denoise", preset=preset), spec, detect_machine())
    if isinstance(plan, Refusal):
        raise Refused(plan)
    print_message(f"{plan.summary} {PLAN_TIME_NOTE}")
    result = run_and_show(run(plan, {"image": noisy}))
    if result is None:  # unreachable without a control that discards
        raise Failed("unexpected", why="the run ended without a picture")
    provenance = {"recipe": result.recipe.to_dict(), **serialise_stop(result.stop)}
    write_image(result_path, result.image, axes="YX", provenance=provenance)
    titles = ("One noisy exposure", "Restored from it alone", "Long exposure, for comparison")
    overview = draw_before_after(noisy, result.image, reference, titles=titles)
    write_bytes(picture, overview)
    seconds = result.report.get("seconds")
    duration = f" in {format_duration(seconds)}" if seconds else ""
    print_message(f"Done{duration}, since {result.stop}. Before and after, and the restored image:")
    print_result(str(picture.resolve()), saved=True)
    print_result(str(result_path.resolve()), saved=True)
    return 0
