"""Runs recipes by each interface of the program; the only module here that knows its inside.

Python is called by its public names, the command line as `python -m napari_dip`, and docks are
found in the manifest. What remains of the inside stands in `_Dock`, and is all that has to follow
when folders or names of the program change.
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
from golden.pictures import MAKERS, Picture
from golden.recipes import NETWORK, USUAL, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Pixels = np.ndarray[Any, Any]
    #: What a run returns, by name: "image", and for some interfaces "uncertainty" and others.
    Outcome = dict[str, Pixels]

ROOT = Path(__file__).resolve().parents[2]
#: Where the modules of the package lie, for programs that are started here.
SOURCES = Path(dip.__file__).resolve().parents[1]
#: Seconds that a run by any interface may take before it counts as hanging.
PATIENCE = 100.0
#: The part of a picture that is tried on: rows and columns of a rectangle that is drawn.
PART = (16, 56)
#: Settings and further pictures that the program calls otherwise by now, by task and by the name
#: in the table.
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
#: Values that it calls otherwise, by task, the setting in the table, and the value there.
REVALUED: Mapping[tuple[str, str, object], str] = {
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
    """Run a recipe by one of its interfaces, on one thread, in an empty folder of its own."""
    with tempfile.TemporaryDirectory() as scratch, _one_thread():
        folder = Path(scratch)
        picture = MAKERS[recipe.picture]()
        named = picture.others.items()
        others = {RENAMED.get((recipe.task, name), name): value for name, value in named}
        return INTERFACES[interface](recipe, replace(picture, others=others), folder)


def settings_of(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Give all settings of a recipe as the program calls them today."""
    settings = {**USUAL, **recipe.settings}
    if settings.get("network") == NETWORK:
        settings["network"] = str(_network(folder))
    return {
        RENAMED.get((recipe.task, name), name): REVALUED.get((recipe.task, name, value), value)
        for name, value in settings.items()
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Fit on one thread: the last digits of large pictures depend on their number."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _network(folder: Path) -> Path:
    """Write a small network of two convolutions."""
    from programs import entries, packed, small

    return packed(folder / "network.pt2", entries(*small()))


# Python


def _python(recipe: Recipe, picture: Picture, folder: Path) -> Outcome:
    """Call the function of the task, once for each image."""
    call = getattr(dip, recipe.task.replace("-", "_"))
    settings = settings_of(recipe, folder)
    images = (picture.image, *picture.other_images)
    results = [call(image, axes=picture.axes, **picture.others, **settings) for image in images]
    if picture.other_images:
        return {f"image {place}": result.image for place, result in enumerate(results, 1)}
    (result,) = results
    arrays = {"image": result.image, "uncertainty": result.uncertainty, "residual": result.residual}
    arrays |= {f"found {name}": np.asarray(value) for name, value in result.learned.items()}
    return {name: pixels for name, pixels in arrays.items() if pixels is not None}


def _batch(recipe: Recipe, picture: Picture, folder: Path) -> Outcome:
    return _in_a_batch(recipe, picture, folder)


def _series(recipe: Recipe, picture: Picture, folder: Path) -> Outcome:
    return _in_a_batch(recipe, picture, folder, joint_training=True)


def _in_a_batch(recipe: Recipe, picture: Picture, folder: Path, **options: Any) -> Outcome:
    """Restore files in this process."""
    result = dip.make_recipe(recipe.task, **settings_of(recipe, folder))
    names = _folder_of_files(picture, folder)
    dip.batch(result, folder / "in", folder / "out", axes=picture.axes, threads=1, **options)
    return _results_of(folder / "out", names)


def _folder_of_files(picture: Picture, folder: Path) -> list[str]:
    (folder / "in").mkdir()
    names = []
    for place, pixels in enumerate((picture.image, *picture.other_images), 1):
        names.append(f"{place}")
        _save(folder / "in" / f"{place}.tif", pixels)
    return names


def _results_of(folder: Path, names: list[str]) -> Outcome:
    """Read the one picture that each file has become."""
    results = {}
    for name in names:
        (path,) = folder.glob(f"{name}*.tif")
        results[f"image {name}"] = tifffile.imread(path)
    return results


# Command line


def _command(recipe: Recipe, picture: Picture, folder: Path) -> Outcome:
    """Type the command, and carry it out in this process."""
    code = import_module("napari_dip.__main__").main(_typed(recipe, picture, folder))
    if code:
        raise RuntimeError(f"'{recipe.name}' ended with {code}")
    return _written(folder)


def _killed(recipe: Recipe, picture: Picture, folder: Path) -> Outcome:
    """Kill the process as soon as it has kept something, and go on from there."""
    command = _typed(recipe, picture, folder)
    earlier = set(folder.iterdir())
    process = _started(command)
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not _kept(folder, earlier):
        if time.monotonic() > end:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL or not _kept(folder, earlier):
        raise RuntimeError("the run ended before it could be killed")
    _finished(_started([*command, "--resume"]))
    return _written(folder)


def _kept(folder: Path, earlier: set[Path]) -> bool:
    """Look for a checkpoint; a lock and files that are still being written are none."""
    return any(
        path.name.endswith(".unfinished") and (path / "checkpoint.safetensors").exists()
        for path in set(folder.iterdir()) - earlier
    )


def _workers(recipe: Recipe, picture: Picture, folder: Path) -> Outcome:
    """Restore files by two processes side by side."""
    result = dip.make_recipe(recipe.task, **settings_of(recipe, folder))
    (folder / "recipe.json").write_text(result.to_json(), encoding="utf-8")
    names = _folder_of_files(picture, folder)
    command = ["batch", str(folder / "recipe.json"), str(folder / "in"), "-o", str(folder / "out")]
    command += ["--axes", picture.axes, "--workers", "2", "--threads", "1", "--quiet"]
    _finished(_started(command))
    return _results_of(folder / "out", names)


def _typed(recipe: Recipe, picture: Picture, folder: Path) -> list[str]:
    """Save the pictures, and give what is typed after the program's name."""
    _save(folder / "in.tif", picture.image)
    argv = [recipe.task, str(folder / "in.tif"), "--axes", picture.axes, "--quiet"]
    argv += ["-o", str(folder / "image.tif")]
    for name in ("uncertainty", "residual"):
        argv += [f"--{name}", str(folder / f"{name}.tif")]
    for name, pixels in picture.others.items():
        _save(folder / f"other {name}.tif", pixels)
        argv += [_option(name), str(folder / f"other {name}.tif")]
    for name, value in settings_of(recipe, folder).items():
        if isinstance(value, bool):
            argv.append(_option(name) if value else _option(f"no_{name}"))
        else:
            argv += [_option(name), str(value)]
    return argv


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _save(path: Path, pixels: Pixels) -> None:
    tifffile.imwrite(path, pixels, photometric="minisblack")


def _written(folder: Path) -> Outcome:
    names = ("image", "uncertainty", "residual")
    return {name: tifffile.imread(folder / f"{name}.tif") for name in names}


def _started(argv: list[str]) -> subprocess.Popen[str]:
    paths = [str(SOURCES), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "napari_dip", *argv]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def _finished(process: subprocess.Popen[str]) -> None:
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode:
        raise RuntimeError(f"the program ended with {process.returncode}: {said}")


# Docks


def _dock(recipe: Recipe, picture: Picture, folder: Path) -> Outcome:
    """Press Run in the dock of the task."""
    with _opened(recipe, picture, folder) as dock:
        return {"image": dock.pixels(dock.start)}


def _part(recipe: Recipe, picture: Picture, folder: Path) -> Outcome:
    """Draw a rectangle, and press Try."""
    with _opened(recipe, picture, folder) as dock:
        low, high = PART
        corners = [(low, low), (low, high - 1), (high - 1, high - 1), (high - 1, low)]
        dock.viewer.add_shapes([np.array(corners)], shape_type="polygon", name="region")
        dock.choose(recipe, picture)
        return {"image": dock.pixels(lambda: dock.try_on("region"))}


@contextmanager
def _opened(recipe: Recipe, picture: Picture, folder: Path) -> Iterator[_Dock]:
    """Open the dock of the task beside layers of the pictures, with the form filled in."""
    dock = _Dock(recipe.task, picture)
    try:
        dock.show(dip.make_recipe(recipe.task, **settings_of(recipe, folder)))
        dock.choose(recipe, picture)
        yield dock
    finally:
        dock.close()


@cache
def _application() -> Any:
    from qtpy.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


class _Dock:
    """A viewer without a window and one dock; what it reads of the dock is not public."""

    def __init__(self, task: str, picture: Picture) -> None:
        _application()
        from napari.components import ViewerModel

        self.viewer = ViewerModel()
        for name, pixels in picture.others.items():
            add = self.viewer.add_labels if name == "mask" else self.viewer.add_image
            add(pixels, name=name)
        self.viewer.add_image(picture.image, name="picture", rgb=picture.axes.endswith("S"))
        self._dock = _dock_of(task)(self.viewer)

    def show(self, recipe: dip.Recipe) -> None:
        self._dock.form.show(recipe)

    def choose(self, recipe: Recipe, picture: Picture) -> None:
        self._dock.chooser.choose("picture", picture.axes)
        self._dock.extra_inputs.choose({name: name for name in picture.others})

    def start(self) -> None:
        self._dock.start()

    def try_on(self, region: str) -> None:
        self._dock.crop_preview.regions.setCurrentText(region)
        self._dock.crop_preview.request_preview()

    def pixels(self, start: Callable[[], object]) -> Pixels:
        """Begin, let the event loop turn until the dock is idle, and take the new picture."""
        before, end = set(self.viewer.layers), time.monotonic() + PATIENCE
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
            self._dock.discard()
        self._dock.shut_down()
        self._dock.deleteLater()


def _is_result(layer: Any) -> bool:
    """Leave out previews, and what was found beside the picture."""
    metadata = layer.metadata.get("napari_dip", {})
    return "recipe" in metadata and metadata.get("shows", "result") in ("result", "crop-preview")


@cache
def _dock_of(task: str) -> Any:
    """Find the dock of a task where the manifest says that it is."""
    manifest = yaml.safe_load((ROOT / "napari.yaml").read_text(encoding="utf-8"))
    wanted = f"napari-dip.{task.replace('-', '_')}"
    (place,) = (
        command["python_name"]
        for command in manifest["contributions"]["commands"]
        if command["id"] == wanted
    )
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


INTERFACES: dict[str, Callable[[Recipe, Picture, Path], Outcome]] = {
    "python": _python,
    "command": _command,
    "dock": _dock,
    "part": _part,
    "batch": _batch,
    "workers": _workers,
    "series": _series,
    "killed": _killed,
}
