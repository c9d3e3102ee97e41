"""An unreliable noise measurement is reported in one sentence, with one on what to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_dip.engine.noise import NoiseCaution, UnreliableReason
from napari_dip.engine.noise.estimate import NoiseEstimate
from napari_dip.errors.templates import NOTES, UNRELIABLE_REASONS
from napari_dip.pipeline.calibrate.types import SEPARATELY_NOTED_CAUTIONS, make_noise_notes
from napari_dip.tasks import Denoise, SuperResolve, Task

NONE = (0.0,) * 5


def make_estimate(doubt: str) -> NoiseEstimate:
    return NoiseEstimate(
        gain=1.0, intercept=1.0, floor=1.0, along_y=NONE, along_x=NONE, unreliable_reason=doubt
    )


def list_keys(start: str) -> set[str]:
    return {code.removeprefix(start) for code in NOTES if code.startswith(start)}


def test_every_doubt_has_its_sentence() -> None:
    assert list_keys("noise-unreliable-") == set(UNRELIABLE_REASONS) == set(UnreliableReason)


def test_every_caution_has_its_words_where_no_other_note_speaks_of_it() -> None:
    assert list_keys("noise-caution-") == set(NoiseCaution)
    noted = [
        caution
        for caution in NoiseCaution
        if make_noise_notes([replace(make_estimate(None), caution=caution)], ())
    ]
    assert (
        set(NoiseCaution) - set(noted)
        == {NoiseCaution.LINE_OFFSETS, NoiseCaution.COLOUR_CAMERA}
        == set(SEPARATELY_NOTED_CAUTIONS)
    )


def test_an_image_that_tells_its_noise_gets_no_note() -> None:
    assert make_noise_notes([make_estimate(None)], ()) == ()


def test_a_channel_is_named_where_there_are_more() -> None:
    (note,) = make_noise_notes([make_estimate(None), make_estimate("texture")], ())
    assert str(note).startswith("Channel 2: ")


def test_what_holds_for_all_channels_is_said_once() -> None:
    (note,) = make_noise_notes([make_estimate("texture")] * 3, ())
    assert not str(note).startswith("Channel")


@pytest.mark.parametrize(("task", "has_setting"), [(Denoise(), True), (SuperResolve(), False)])
def test_a_setting_is_advised_only_where_the_task_has_it(task: Task, has_setting: bool) -> None:
    (note,) = make_noise_notes([make_estimate("ambiguous-correlation")], (), task)
    assert ("Blind-spot shape" in str(note)) == has_setting


def test_constant_channels_are_no_doubt() -> None:
    assert make_noise_notes([make_estimate("blocks"), make_estimate(None)], (0,)) == ()


def test_the_report_says_that_it_cannot_tell() -> None:
    import napari_dip as dip

    image = (np.indices((32, 32)).sum(0) // 4 % 2 * 200).astype(np.uint8)
    result = dip.denoise(image, preset="fast", max_iterations=2)
    assert result.report["noise"]["unreliable_reason"] == ["coarse-grey-values"]
    assert any("noise cannot be measured" in note for note in result.report["notes"])
