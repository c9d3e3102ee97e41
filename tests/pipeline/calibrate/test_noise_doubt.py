"""What an image cannot tell is said in one sentence, with one on what to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_dip.engine.noise.estimate import CAUTIONS, UNRELIABLE_REASONS, NoiseEstimate
from napari_dip.errors.fault import NOTES
from napari_dip.pipeline.calibrate.channel_noise import SEPARATELY_NOTED_CAUTIONS, make_noise_notes
from napari_dip.pipeline.noise_report import UNRELIABLE_REASON_TEXTS

NONE = (0.0,) * 5


def told(doubt: str) -> NoiseEstimate:
    return NoiseEstimate(
        gain=1.0, intercept=1.0, floor=1.0, along_y=NONE, along_x=NONE, unreliable_reason=doubt
    )


def list_keys(start: str) -> set[str]:
    return {code.removeprefix(start) for code in NOTES if code.startswith(start)}


def test_every_doubt_has_its_sentence() -> None:
    assert list_keys("noise-doubt-") == set(UNRELIABLE_REASON_TEXTS) == set(UNRELIABLE_REASONS)


def test_every_caution_has_its_words_where_no_other_note_speaks_of_it() -> None:
    assert list_keys("noise-caution-") == set(CAUTIONS)
    noted = [one for one in CAUTIONS if make_noise_notes([replace(told(""), caution=one)], ())]
    assert set(CAUTIONS) - set(noted) == {"lines", "camera"} == set(SEPARATELY_NOTED_CAUTIONS)


def test_an_image_that_tells_its_noise_gets_no_note() -> None:
    assert make_noise_notes([told("")], ()) == ()


def test_a_channel_is_named_where_there_are_more() -> None:
    (note,) = make_noise_notes([told(""), told("texture")], ())
    assert str(note).startswith("Channel 2: ")


def test_constant_channels_are_no_doubt() -> None:
    assert make_noise_notes([told("blocks"), told("")], (0,)) == ()


def test_the_report_says_that_it_cannot_tell() -> None:
    import napari_dip as dip

    image = (np.indices((32, 32)).sum(0) // 4 % 2 * 200).astype(np.uint8)
    result = dip.denoise(image, preset="fast", max_iterations=2)
    assert result.report["noise"]["cannot_tell"] == ["grey values"]
    assert any("noise cannot be told" in note for note in result.report["notes"])
