"""Preferences hold for all docks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from napari_dip.pipeline.machine import Machine
from napari_dip.qt.shell import preferences
from napari_dip.qt.shell.preferences import limit_machine
from napari_dip.qt.task.task_dock import make_dock_class

WHOLE = Machine(cores=8, memory_bytes=16_000_000_000, devices=("cuda", "cpu"), torch_version="2.13")


def make_preferences(device="automatic", memory=0.0, threads=0):
    return SimpleNamespace(device=device, memory=memory, threads=threads)


def test_without_preferences_all_of_the_computer_is_used():
    assert limit_machine(WHOLE, make_preferences()) == limit_machine(WHOLE, None) == WHOLE


@pytest.mark.all_cores
def test_less_memory_and_fewer_threads_are_granted_but_never_more():
    less = limit_machine(WHOLE, make_preferences(memory=2.5, threads=3))
    assert (less.memory_bytes, less.cores) == (2_500_000_000, 3)
    assert limit_machine(WHOLE, make_preferences(memory=99, threads=99)) == WHOLE


def test_a_device_is_preferred_where_there_is_one():
    assert limit_machine(WHOLE, make_preferences("CPU")).devices == ("cpu", "cuda")
    assert limit_machine(WHOLE, make_preferences("Apple GPU")).devices == ("cuda", "cpu")


def test_a_section_that_has_another_title_now_is_unfolded_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(preferences, "find_settings_folder", lambda: tmp_path)
    (tmp_path / "unfolded.json").write_text(
        '["DenoiseDock/Preview on a crop", "DenoiseDock/Noise"]'
    )
    assert preferences.is_section_unfolded("DenoiseDock/Crop")
    assert preferences.is_section_unfolded("DenoiseDock/Noise")
    preferences.save_fold("DenoiseDock/Crop", False)
    assert not preferences.is_section_unfolded("DenoiseDock/Crop")


@pytest.mark.gl
def test_the_page_in_napari_sets_preset_and_limits(driver, plugin_settings, npe2pm):
    from napari.settings import get_plugin_settings
    from npe2 import PluginManifest

    if "napari-dip" not in npe2pm:
        npe2pm.register(PluginManifest.from_distribution("napari-dip"))
    page = get_plugin_settings("napari-dip").computing
    page.preset, page.memory, page.threads = "best", 0.01, 1
    dock = make_dock_class("denoise")(driver.viewer)
    driver.viewer.window.add_dock_widget(dock, name="again")
    assert dock.form.build_recipe().run_settings.preset == "best"
    assert "memory" in dock.plan_label.text() and not dock.run_bar.run_button.isEnabled()
    page.memory = 0
    dock.show_plan()
    assert "on the CPU: up to" in dock.plan_label.text()
    driver.viewer.window.remove_dock_widget(dock)
