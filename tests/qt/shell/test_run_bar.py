"""The text below Run shows whole lines, a sign of hidden ones, and seconds before the bar."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt

from napari_dip.pipeline.progress import Event, Progress
from napari_dip.qt.shell.job_controller import JobState
from napari_dip.qt.shell.run_bar import RunBar


@pytest.fixture
def bar(qtbot):
    bar = RunBar()
    qtbot.addWidget(bar)
    bar.resize(310, 400)
    bar.show()
    return bar


def number_sentences(count, last=""):
    return "\n".join([*(f"Sentence {number}." for number in range(count - 1)), last or "The last."])


def test_many_sentences_end_at_a_whole_line_and_a_sign_says_how_many_more_there_are(bar, qtbot):
    bar.show_message(number_sentences(40, "\u26a0 It may be invented."))
    qtbot.wait(20)
    label, place = bar.message_label, bar.message_area
    line = (label.heightForWidth(200) - label.contentsMargins().top() * 2 - label.indent()) / 40
    assert label.height() == pytest.approx(10 * line + label.indent(), abs=2)
    assert place.more_button.isVisible()
    assert place.more_button.text() == "\u25bc 30 more lines, with a warning \u26a0"
    assert place.more_button.geometry().top() >= label.geometry().bottom()
    bar.show_message(number_sentences(40))
    assert place.more_button.text() == "\u25bc 30 more lines"
    bar.show_message(number_sentences(10))
    qtbot.wait(20)
    assert not place.more_button.isVisible()


def test_a_sign_never_stands_for_one_or_two_lines(bar, qtbot):
    place = bar.message_area
    for count in (11, 12):
        bar.show_message(number_sentences(count))
        qtbot.wait(20)
        assert not place.more_button.isVisible()
        assert place.height() == bar.message_label.heightForWidth(place.width())
    bar.show_message(number_sentences(13))
    assert place.more_button.text() == "\u25bc 3 more lines"


def test_a_folded_text_ends_with_a_whole_sentence(bar, qtbot):
    wrapped = "A sentence that is too long for a single line of so narrow a dock as this is."
    bar.show_message("\n".join([wrapped] * 20))
    qtbot.wait(20)
    place, label = bar.message_area, bar.message_label
    ends = [bottom for bottom, text in place._line_ends if text.endswith(("\n", "this is."))]
    assert len(ends) == 20 < len(place._line_ends)
    assert label.height() - label.contentsRect().top() - label.indent() in ends
    bar.show_message(wrapped * 20)
    qtbot.wait(20)
    assert not place.more_button.isVisible()
    assert label.height() == label.heightForWidth(label.width())


def test_a_click_on_the_sign_of_more_lines_shows_them_all(bar, qtbot):
    bar.show_message(number_sentences(40))
    qtbot.wait(20)
    place = bar.message_area
    qtbot.mouseClick(place.more_button, Qt.MouseButton.LeftButton)
    qtbot.wait(20)
    assert not place.more_button.isVisible()
    assert place.height() == bar.message_label.heightForWidth(bar.message_label.width())
    bar.show_message(number_sentences(41))
    assert place.more_button.isVisible()


def test_lines_that_wrap_are_counted_as_they_are_seen(bar, qtbot):
    bar.show_message("Some words that are too many for a single line of so narrow a dock. " * 20)
    qtbot.wait(20)
    place = bar.message_area
    height = bar.message_label.heightForWidth(place.width()) - bar.message_label.indent()
    assert place._line_ends[-1][0] == pytest.approx(height, abs=2)
    assert len(place._line_ends) > 20


def test_until_the_bar_has_something_to_show_the_seconds_are_counted(bar, qtbot):
    bar.show_state(JobState.PLANNED)
    bar.show_state(JobState.RUNNING)
    bar.show_event(Event(message="Starting the engine"))
    qtbot.waitUntil(lambda: "so\u00a0far" in bar.message_label.text(), timeout=5000)
    assert bar.message_label.text().startswith("Starting\u00a0the\u00a0engine · ")
    bar.show_event(Event(message="Restoring", progress=Progress(done=0.1)))
    assert bar.message_label.text() == "Restoring"
    bar.show_state(JobState.PLANNED)
    assert not bar._second_timer.isActive()


def test_a_name_in_a_sentence_is_neither_mark_up_nor_turned_around(bar):
    bar.show_message("'a\x1b[31m\u202egnp<img src=x>' is restored.\nThe last.")
    assert bar.message_label.text() == "'a\ufffd[31m\ufffdgnp<img src=x>' is restored.\nThe last."
    assert bar.message_label.textFormat() == Qt.TextFormat.PlainText
