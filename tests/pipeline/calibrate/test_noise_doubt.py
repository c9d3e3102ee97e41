"""What an image cannot tell is said in one sentence, with one on what to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_dip.engine.noise.estimate import CAUTIONS, UNRELIABLE_REASONS, NoiseEstimate
from napari_dip.pipeline.calibrate.noise import CAUTIONED, ELSEWHERE, SENTENCES, doubt_notes
from napari_dip.pipeline.noise_report import DOUBT_WORDS

NONE = (0.0,) * 5


def told(doubt: str) -> NoiseEstimate:
    return NoiseEstimate(1.0, 1.0, 1.0, NONE, NONE, doubt=doubt)


def test_every_doubt_has_its_sentence() -> None:
    assert set(SENTENCES) == set(DOUBT_WORDS) == set(UNRELIABLE_REASONS)


def test_every_caution_has_its_words_where_no_other_note_speaks_of_it() -> None:
    assert set(CAUTIONED) == set(CAUTIONS)
    noted = [one for one in CAUTIONS if doubt_notes([replace(told(""), caution=one)], ())]
    assert set(CAUTIONS) - set(noted) == {"lines", "camera"} == set(ELSEWHERE)


def test_an_image_that_tells_its_noise_gets_no_note() -> None:
    assert doubt_notes([told("")], ()) == ()


def test_a_channel_is_named_where_there_are_more() -> None:
    (note,) = doubt_notes([told(""), told("texture")], ())
    assert note.startswith("Channel 2: ")


def test_constant_channels_are_no_doubt() -> None:
    assert doubt_notes([told("blocks"), told("")], (0,)) == ()


def test_the_report_says_that_it_cannot_tell() -> None:
    import napari_dip as dip

    image = (np.indices((32, 32)).sum(0) // 4 % 2 * 200).astype(np.uint8)
    result = dip.denoise(image, preset="fast", max_iterations=2)
    assert result.report["noise"]["cannot_tell"] == ["grey values"]
    assert any("noise cannot be told" in note for note in result.report["notes"])
