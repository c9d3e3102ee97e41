"""Docks that are open at once take turns."""

from __future__ import annotations

import pytest
from qtpy.QtCore import QObject

from napari_dip.qt.shell.job_controller import JobQueue, JobState
from napari_dip.qt.task.task_dock import DenoiseDock


class Owner(QObject):
    def __init__(self):
        super().__init__()
        self.updates = []

    def record_update(self, place):
        self.updates.append("begun" if place.has_begun else place.description)


@pytest.fixture
def waiting_jobs(qapp):
    queue, owners = JobQueue(), [Owner() for _ in range(4)]
    places = [
        queue.enqueue(f"run {i}", owner, owner.record_update) for i, owner in enumerate(owners)
    ]
    return places, owners


def test_one_job_runs_and_each_other_says_what_it_waits_for(waiting_jobs):
    _, owners = waiting_jobs
    assert owners[0].updates == ["begun"]
    assert owners[1].updates == ["Waiting for 'run 0' to end. Then 'run 1' begins by itself."]
    assert "'run 0' to end, and another." in owners[2].updates[0]
    assert "and then for 2 more" in owners[3].updates[0]


def test_who_leaves_lets_the_next_begin_and_leaving_twice_does_no_harm(waiting_jobs):
    places, owners = waiting_jobs
    places[1].leave()
    assert owners[2].updates[-1] == "Waiting for 'run 0' to end. Then 'run 2' begins by itself."
    places[0].leave()
    places[0].leave()
    assert owners[2].updates[-1] == "begun"
    assert "'run 2'" in owners[3].updates[-1]


def test_who_waits_reads_that_the_run_before_was_discarded_and_only_has_to_end(waiting_jobs):
    places, owners = waiting_jobs
    places[0].discard()
    message = "Waiting for 'run 0', which was discarded, to end. Then 'run 1' begins by itself."
    assert owners[1].updates[-1] == message
    places[0].leave()
    assert owners[1].updates[-1] == "begun"


def test_nobody_waits_for_an_owner_that_is_gone(waiting_jobs, qtbot):
    places, owners = waiting_jobs
    owners[1].deleteLater()
    del owners[1]
    qtbot.wait(20)
    places[0].leave()
    assert owners[1].updates[-1] == "begun"


def open_second_dock(driver, noisy):
    """A second dock on another image; no fixture, which would outlive the search for leaks."""
    driver.viewer.add_image(noisy[::-1].copy(), name="other")
    dock = DenoiseDock(driver.viewer)
    driver.viewer.window.add_dock_widget(dock, name="Denoise again", area="right", tabify=True)
    dock.form.widgets["preset"].value = "fast"
    dock.form.widgets["max_iterations"].value = "6"
    combo = driver.dock.image_chooser.combo
    combo.setCurrentText("cells")
    combo.activated.emit(combo.currentIndex())  # as if chosen by hand
    assert dock.image_chooser.get_layer().name == "other"
    return dock


@pytest.mark.long
@pytest.mark.gl
def test_a_second_run_waits_in_sight_and_begins_by_itself_when_the_first_is_discarded(
    long_run, noisy
):
    second = open_second_dock(long_run, noisy)
    long_run.run()
    long_run.press(second.run_bar.run_button)
    bar = second.run_bar
    assert second.is_busy and bar.state is JobState.WAITING
    message = "Waiting for 'Denoise cells' to end. Then 'Denoise other' begins by itself."
    assert bar.message_label.text() == message
    assert not bar.run_button.isEnabled() and bar.discard_button.isEnabled()
    assert not second.form.basic_page.isEnabled()
    long_run.wait_for_fit()
    assert bar.state is JobState.WAITING
    long_run.press(long_run.dock.run_bar.discard_button)
    long_run.wait_until(lambda: not second.is_busy)
    assert long_run.names == ["cells", "other", "other denoised"]


@pytest.mark.long
@pytest.mark.gl
def test_a_run_that_waits_can_be_discarded_and_leaves_the_first_alone(long_run, noisy):
    second = open_second_dock(long_run, noisy)
    long_run.run()
    long_run.press(second.run_bar.run_button)
    long_run.press(second.run_bar.discard_button)
    assert not second.is_busy and second.run_bar.state is JobState.PLANNED
    assert "Taken out of the queue" in second.run_bar.message_label.text()
    long_run.wait_for_fit()
    assert long_run.dock.run_bar.state is JobState.RUNNING
    long_run.press(second.run_bar.run_button)
    long_run.viewer.window.remove_dock_widget(long_run.dock)  # its run ends with it
    long_run.dock = None
    long_run.wait_until(lambda: not second.is_busy)
    assert "other denoised" in long_run.names
