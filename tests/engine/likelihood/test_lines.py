"""The weakest lines that stay in a result are those that the report and the card say."""

import numpy as np
import pytest

import napari_dip as dip
from napari_dip.engine.likelihood.lost_detail import compute_line_limits
from napari_dip.pipeline.assess.card import make_card

SIDE, STD = 128, 5.0
SPOTS = {"1": 8.2, "2": 5.0, "3": 3.1, "5": 2.0}


def test_said_limits_fall_with_the_width_of_a_line():
    assert compute_line_limits(4.0, 0.0) == {"1": 2.4, "2": 1.2, "3": 0.8}


def test_a_line_on_few_photons_has_to_be_higher():
    # the square roots of 20 + 2.8 * 20**0.5 and of 20 differ by half of 2.4
    assert compute_line_limits(20.0, 1.0)["1"] == 2.8
    assert compute_line_limits(2.0, 1.0)["1"] > compute_line_limits(20.0, 1.0)["1"]


def test_the_card_names_the_weakest_spots_and_lines_in_one_sentence():
    card = make_card({"fit": {"min_spot_snr": SPOTS, "min_line_snr": {"1": 2.5, "2": 1.3}}})
    assert card.figure_line == (
        "Spots below 8.2 times the noise (2 pixels wide: 5) and lines below 2.5 times "
        "may be removed"
    )


def test_the_card_of_an_earlier_report_names_spots_alone():
    card = make_card({"fit": {"min_spot_snr": SPOTS}})
    assert card.figure_line == "Spots below 8.2 times the noise (2 pixels wide: 5) may be removed"


def test_no_limit_of_lines_is_said_for_frames_that_share_their_neighbours():
    movie = np.random.default_rng(2).normal(100, STD, (3, 64, 64)).astype(np.float32)
    fit = dip.denoise(movie, axes="TYX", preset="instant", max_iterations=3).report["fit"]
    assert fit["min_spot_snr"]
    assert fit["min_line_snr"] == {}


@pytest.mark.long
def test_lines_twice_as_high_as_the_limit_stay_and_those_half_as_high_do_not():
    image = np.random.default_rng(6).normal(100, STD, (SIDE, SIDE))
    rows, limit = range(16, SIDE, 24), compute_line_limits(STD**2, 0.0)["1"]
    for number, row in enumerate(rows):
        image[row, 50:70] += (0.5, 2.0)[number % 2] * limit * STD
    result = dip.denoise(image.astype(np.float32), preset="instant")
    assert result.report["fit"]["min_line_snr"]["1"] == limit
    for number, row in enumerate(rows):
        kept = float(result.image[row, 50:70].mean() - 100) / (limit * STD)
        assert (kept > 1.0) if number % 2 else (kept < 0.25)
