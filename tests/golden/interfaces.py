"""Runs recipes by each interface of the program.

Only public names are used: Python functions, `python -m napari_dip`, and docks by the manifest,
except in `_DockDriver`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import yaml

import napari_dip as dip
from golden.inputs import MAKERS, Inputs
from golden.recipes import NETWORK, USUAL, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Pixels = np.ndarray[Any, Any]
    #: What a run returns, by name: "image", and for some interfaces "uncertainty" and others.
    Outcome = dict[str, Pixels]

ROOT = Path(__file__).resolve().parents[2]
#: Folder of the package, for new processes.
SOURCES = Path(dip.__file__).resolve().parents[1]
#: Seconds that a run by any interface may take before it counts as hanging.
TIMEOUT_S = 100.0
#: Rows and columns of the previewed crop.
PREVIEW_RANGE = (16, 56)
#: New names of settings and extra inputs, by task and name in the table.
RENAMED: Mapping[tuple[str, str], str] = {
    ("denoise", "network"): "architecture",
    ("denoise", "neighbours"): "neighbouring_frames",
    ("denoise", "steadiness"): "temporal_smoothing",
    ("denoise", "sharing"): "series_training",
    ("denoise", "second"): "repeated_exposure",
    ("inpaint", "known"): "unmasked",
    ("super-resolve", "start"): "initial_estimate",
    ("deblur", "start"): "initial_estimate",
}
#: New names of values, by task, setting and value in the table.
RENAMED_VALUES: Mapping[tuple[str, str, object], str] = {
    ("denoise", "prior", "recorrupted"): "r2r",
    ("denoise", "prior", "noise"): "random-input",
    ("denoise", "network", "gaussian-code"): "gaussian-input",
    ("denoise", "sharing", "together"): "joint",
    ("denoise", "sharing", "in-turn"): "warm-start",
    ("denoise", "sharing", "alone"): "independent",
    ("inpaint", "known", "measured"): "keep",
    ("inpaint", "known", "restored"): "denoise",
    ("inpaint", "prior", "image"): "masked-input",
    ("inpaint", "prior", "noise"): "random-input",
    ("inpaint", "prior", "deep"): "random-input-no-skips",
    ("super-resolve", "prior", "scales"): "zssr",
    ("super-resolve", "prior", "noise"): "random-input",
    ("guide", "prior", "noise"): "random-input",
    ("invert-features", "prior", "deep"): "random-input",
}


def run(recipe: Recipe, interface: str) -> Outcome:
    """Run a recipe by one of its interfaces, in an empty folder of its own."""
    with tempfile.TemporaryDirectory() as scratch, _use_threads_of_the_table():
        folder = Path(scratch)
        inputs = MAKERS[recipe.inputs]()
        named = inputs.others.items()
        others = {RENAMED.get((recipe.task, name), name): value for name, value in named}
        return INTERFACES[interface](recipe, replace(inputs, others=others), folder)


def translate_settings(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Translate the settings of a recipe to today's names."""
    settings = {**USUAL, **recipe.settings}
    if settings.get("network") == NETWORK:
        settings["network"] = str(_write_network(folder))
    return {
        RENAMED.get((recipe.task, name), name): RENAMED_VALUES.get(
            (recipe.task, name, value), value
        )
        for name, value in settings.items()
    }


@contextmanager
def _use_threads_of_the_table() -> Iterator[None]:
    """Fit on as many threads as a plan takes by itself; only NumPy's library stays at one."""
    before = os.environ.pop("OMP_NUM_THREADS", None), os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        for name, value in zip(names, before, strict=True):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _write_network(folder: Path) -> Path:
    """Write a small network of two convolutions."""
    from programs import make_entries, make_small_program, write_archive

    return write_archive(folder / "network.pt2", make_entries(*make_small_program()))


# Python


def _run_python(recipe: Recipe, inputs: Inputs, folder: Path) -> Outcome:
    """Call the function of the task, once for each image."""
    call = getattr(dip, recipe.task.replace("-", "_"))
    settings = translate_settings(recipe, folder)
    images = (inputs.image, *inputs.other_images)
    results = [call(image, axes=inputs.axes, **inputs.others, **settings) for image in images]
    if inputs.other_images:
        return {f"image {place}": result.image for place, result in enumerate(results, 1)}
    (result,) = results
    arrays = {"image": result.image, "uncertainty": result.uncertainty, "residual": result.residual}
    arrays |= {
        f"found {name}": np.asarray(value) for name, value in result.learned_parameters.items()
    }
    return {name: pixels for name, pixels in arrays.items() if pixels is not None}


def _run_folder(recipe: Recipe, inputs: Inputs, folder: Path) -> Outcome:
    return _run_batch(recipe, inputs, folder)


def _run_series(recipe: Recipe, inputs: Inputs, folder: Path) -> Outcome:
    return _run_batch(recipe, inputs, folder, joint_training=True)


def _run_batch(recipe: Recipe, inputs: Inputs, folder: Path, **options: Any) -> Outcome:
    """Restore files in this process."""
    result = dip.make_recipe(recipe.task, **translate_settings(recipe, folder))
    names = _write_folder(inputs, folder)
    dip.batch(result, folder / "in", folder / "out", axes=inputs.axes, threads=1, **options)
    return _read_folder(folder / "out", names)


def _write_folder(inputs: Inputs, folder: Path) -> list[str]:
    (folder / "in").mkdir()
    names = []
    for place, pixels in enumerate((inputs.image, *inputs.other_images), 1):
        names.append(f"{place}")
        _save(folder / "in" / f"{place}.tif", pixels)
    return names


def _read_folder(folder: Path, names: list[str]) -> Outcome:
    """Read the result of each file."""
    results = {}
    for name in names:
        (path,) = folder.glob(f"{name}*.tif")
        results[f"image {name}"] = tifffile.imread(path)
    return results


# Command line


def _run_command(recipe: Recipe, inputs: Inputs, folder: Path) -> Outcome:
    """Run the command in this process."""
    code = import_module("napari_dip.__main__").main(_write_inputs(recipe, inputs, folder))
    if code:
        raise RuntimeError(f"'{recipe.name}' ended with {code}")
    return _read_outputs(folder)


def _kill_and_resume(recipe: Recipe, inputs: Inputs, folder: Path) -> Outcome:
    """Kill the process after its first checkpoint, and resume."""
    command = _write_inputs(recipe, inputs, folder)
    earlier = set(folder.iterdir())
    process = _start(command)
    end = time.monotonic() + TIMEOUT_S
    while process.poll() is None and not _has_checkpoint(folder, earlier):
        if time.monotonic() > end:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL or not _has_checkpoint(folder, earlier):
        raise RuntimeError("the run ended before it could be killed")
    _wait(_start([*command, "--resume"]))
    return _read_outputs(folder)


def _has_checkpoint(folder: Path, earlier: set[Path]) -> bool:
    """Whether a new folder has a checkpoint."""
    return any(
        path.name.endswith(".unfinished") and (path / "checkpoint.safetensors").exists()
        for path in set(folder.iterdir()) - earlier
    )


def _run_workers(recipe: Recipe, inputs: Inputs, folder: Path) -> Outcome:
    """Restore files by two workers."""
    result = dip.make_recipe(recipe.task, **translate_settings(recipe, folder))
    (folder / "recipe.json").write_text(result.to_json(), encoding="utf-8")
    names = _write_folder(inputs, folder)
    command = ["batch", str(folder / "recipe.json"), str(folder / "in"), "-o", str(folder / "out")]
    command += ["--axes", inputs.axes, "--workers", "2", "--threads", "1", "--quiet"]
    _wait(_start(command))
    return _read_folder(folder / "out", names)


def _write_inputs(recipe: Recipe, inputs: Inputs, folder: Path) -> list[str]:
    """Save the images; return the arguments of the command."""
    _save(folder / "in.tif", inputs.image)
    argv = [recipe.task, str(folder / "in.tif"), "--axes", inputs.axes, "--quiet"]
    argv += ["-o", str(folder / "image.tif")]
    for name in ("uncertainty", "residual"):
        argv += [f"--{name}", str(folder / f"{name}.tif")]
    for name, pixels in inputs.others.items():
        _save(folder / f"other {name}.tif", pixels)
        argv += [_option(name), str(folder / f"other {name}.tif")]
    for name, value in translate_settings(recipe, folder).items():
        if isinstance(value, bool):
            argv.append(_option(name) if value else _option(f"no_{name}"))
        else:
            argv += [_option(name), str(value)]
    return argv


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _save(path: Path, pixels: Pixels) -> None:
    tifffile.imwrite(path, pixels, photometric="minisblack")


def _read_outputs(folder: Path) -> Outcome:
    names = ("image", "uncertainty", "residual")
    return {name: tifffile.imread(folder / f"{name}.tif") for name in names}


def _start(argv: list[str]) -> subprocess.Popen[str]:
    paths = [str(SOURCES), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "napari_dip", *argv]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def _wait(process: subprocess.Popen[str]) -> None:
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode:
        raise RuntimeError(f"the program ended with {process.returncode}: {said}")


# Docks


def _run_dock(recipe: Recipe, inputs: Inputs, folder: Path) -> Outcome:
    """Run the dock of the task."""
    with _open_dock(recipe, inputs, folder) as dock:
        return {"image": dock.read_result(dock.start)}


def _run_preview(recipe: Recipe, inputs: Inputs, folder: Path) -> Outcome:
    """Preview a crop in the dock."""
    with _open_dock(recipe, inputs, folder) as dock:
        low, high = PREVIEW_RANGE
        corners = [(low, low), (low, high - 1), (high - 1, high - 1), (high - 1, low)]
        dock.viewer.add_shapes([np.array(corners)], shape_type="polygon", name="region")
        dock.choose(recipe, inputs)
        return {"image": dock.read_result(lambda: dock.preview("region"))}


@contextmanager
def _open_dock(recipe: Recipe, inputs: Inputs, folder: Path) -> Iterator[_DockDriver]:
    """Open the dock of the task with layers of the images and the form filled in."""
    dock = _DockDriver(recipe.task, inputs)
    try:
        dock.show(dip.make_recipe(recipe.task, **translate_settings(recipe, folder)))
        dock.choose(recipe, inputs)
        yield dock
    finally:
        dock.close()


@cache
def _application() -> Any:
    from qtpy.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


class _DockDriver:
    """A viewer without a window and one dock; uses private attributes of the dock."""

    def __init__(self, task: str, inputs: Inputs) -> None:
        _application()
        from napari.components import ViewerModel

        self.viewer = ViewerModel()
        for name, pixels in inputs.others.items():
            add = self.viewer.add_labels if name == "mask" else self.viewer.add_image
            add(pixels, name=name)
        self.viewer.add_image(inputs.image, name="cells", rgb=inputs.axes.endswith("S"))
        self._dock = _find_dock_class(task)(self.viewer)

    def show(self, recipe: dip.Recipe) -> None:
        self._dock.form.show_recipe(recipe)

    def choose(self, recipe: Recipe, inputs: Inputs) -> None:
        self._dock.image_chooser.choose("cells", inputs.axes)
        self._dock.extra_inputs.choose({name: name for name in inputs.others})

    def start(self) -> None:
        self._dock.start()

    def preview(self, region: str) -> None:
        self._dock.crop_preview.region_combo.setCurrentText(region)
        self._dock.crop_preview.request_preview()

    def read_result(self, start: Callable[[], object]) -> Pixels:
        """Start a run, process events until the dock is idle, and read the new layer."""
        before, end = set(self.viewer.layers), time.monotonic() + TIMEOUT_S
        start()
        while self._dock.is_busy and time.monotonic() < end:
            _application().processEvents()
            time.sleep(0.002)
        layer = [layer for layer in self.viewer.layers if layer not in before and _is_result(layer)]
        if self._dock.is_busy or len(layer) != 1:
            raise RuntimeError(f"the dock said: {self._dock.run_bar.message_label.text()}")
        return np.asarray(layer[0].data)

    def close(self) -> None:
        if self._dock.is_busy:
            self._dock.jobs.discard()
        self._dock.shut_down()
        self._dock.deleteLater()


def _is_result(layer: Any) -> bool:
    """Whether a layer is a result, and no preview or extra output."""
    metadata = layer.metadata.get("napari_dip", {})
    return "recipe" in metadata and metadata.get("shows", "result") in ("result", "crop-preview")


@cache
def _find_dock_class(task: str) -> Any:
    """Find the dock of a task by the manifest."""
    manifest = yaml.safe_load((ROOT / "napari.yaml").read_text(encoding="utf-8"))
    wanted = f"napari-dip.{task.replace('-', '_')}"
    (place,) = (
        command["python_name"]
        for command in manifest["contributions"]["commands"]
        if command["id"] == wanted
    )
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


INTERFACES: dict[str, Callable[[Recipe, Inputs, Path], Outcome]] = {
    "python": _run_python,
    "command": _run_command,
    "dock": _run_dock,
    "preview": _run_preview,
    "batch": _run_folder,
    "workers": _run_workers,
    "series": _run_series,
    "resume": _kill_and_resume,
}
