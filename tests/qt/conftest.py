"""A viewer with a small noisy crop of the sample and the dock, and helpers for its buttons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt

from napari_dip.samples import MITOCHONDRIA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: A run on 64 x 64 pixels takes seconds; the first one of a session also imports torch.
PATIENCE = 60_000


@pytest.fixture
def noisy() -> np.ndarray:
    """64 x 64 pixels of a real single shot, uint8."""
    return np.ascontiguousarray(tifffile.imread(MITOCHONDRIA)[0, 20:84, 40:104])


@pytest.fixture(autouse=True)
def isolated_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test finds what another test, or the developer, has ticked in napari's settings.

    As napari's own fixture does it, which takes napari's readers away besides.
    """
    from napari import settings

    settings._clear_plugin_settings_cache()
    monkeypatch.setattr(settings, "_CFG_PATH", str(tmp_path / "settings.yaml"))
    yield
    settings._clear_plugin_settings_cache()


@pytest.fixture(scope="session", autouse=True)
def manifests_are_read_once() -> Iterator[None]:
    """Spare each viewer the reading of all manifests: npe2 keeps those it has, and drops the new.

    The page of preferences, forgotten for each test, has it look for them as well.
    """
    from npe2 import PluginManifest

    discover = PluginManifest.discover
    manifests = cache(lambda paths: tuple(discover(paths)))
    once = staticmethod(lambda paths=(): iter(manifests(tuple(paths))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", once)
        yield


@dataclass
class DockDriver:
    """Drive a dock in its viewer as a user does: press, set, run, wait."""

    viewer: Any
    dock: Any
    qtbot: Any

    def press(self, button: Any) -> None:
        assert button.isEnabled(), f"'{button.text()}' cannot be pressed"
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def set(self, **settings: Any) -> None:
        for name, value in settings.items():
            self.dock.form.widgets[name].value = value

    def run(self) -> None:
        self.press(self.dock.run_bar.run_button)
        assert self.dock.is_busy

    def wait_until(self, happened: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(happened, timeout=PATIENCE)

    def wait_for_end(self) -> None:
        self.wait_until(lambda: not self.dock.is_busy)

    def wait_for_fit(self, points: int = 1) -> None:
        """Until the first points of the curve are in, so the network is being fitted."""
        self.wait_until(lambda: self.dock.validation_curve.point_count >= points)

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.viewer.layers]

    @property
    def last_message(self) -> str:
        return self.dock.run_bar.message_label.text()


@pytest.fixture
def driver(make_napari_viewer: Any, qtbot: Any, noisy: np.ndarray) -> Iterator[DockDriver]:
    """A viewer with the layer "cells" and an opened dock set to a short run."""
    from napari_dip.qt.task.task_dock import DenoiseDock

    viewer = make_napari_viewer()
    viewer.add_image(noisy, name="cells")
    dock = DenoiseDock(viewer)
    viewer.window.add_dock_widget(dock, name="Denoise", area="right")
    driver = DockDriver(viewer, dock, qtbot)
    driver.set(preset="fast", max_iterations="12")
    yield driver
    if driver.dock is not None and driver.dock.is_busy:
        driver.dock.jobs.discard()
    driver.viewer = driver.dock = None  # pytest holds on to the driver until after the leak check


LONG = "100000"


@pytest.fixture
def long_run(driver: DockDriver) -> DockDriver:
    """The same, set to a run that would not end by itself during a test."""
    driver.set(prior="random-input", max_iterations=LONG)
    return driver
