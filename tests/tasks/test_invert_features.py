"""Feature inversion restores what a layer keeps of an image; the prior fills in the rest."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from skimage import data

import napari_dip as dip
from napari_dip.pipeline.assess.card import make_card
from napari_dip.pipeline.assess.methods_section import write_methods_section

ROOT = Path(__file__).resolve().parents[2]
EXPECTS = {"mean": 0.5, "deviation": 0.25}
SMALL = {"preset": "fast", "device": "cpu"}


def coins():
    return data.coins()[200:232, 100:132]


def correlation(first, second):
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Train a small classifier, if only a little, and save it as torch does."""
    script = runpy.run_path(str(ROOT / "scripts" / "small_classifier.py"))
    classifier, _ = script["trained"](steps=8, side=32)
    place = tmp_path_factory.mktemp("network") / "small.pt2"
    script["save"](classifier, place, side=32)
    return place


@pytest.fixture(scope="module")
def inversions(network):
    """Invert the same layer with each prior."""

    def invert_with(prior):
        settings = {**EXPECTS, **SMALL, "prior": prior, "max_iterations": 100}
        return dip.invert_features(coins(), network=network, layer="features.5", **settings)

    return {prior: invert_with(prior) for prior in ("random-input", "total-variation", "none")}


@pytest.mark.long
def test_the_image_comes_back_from_its_activations_in_its_own_units(inversions):
    image = coins()
    image_back = inversions["random-input"].image
    assert image_back.shape == image.shape and image_back.dtype == np.float32
    assert correlation(image_back, image) > 0.8
    assert abs(image_back.mean() - image.mean()) < 0.3 * image.std()


@pytest.mark.long
def test_the_untrained_network_restores_more_than_free_pixels(inversions):
    image = coins()
    similarities = {prior: correlation(result.image, image) for prior, result in inversions.items()}
    assert similarities["random-input"] > similarities["total-variation"] > similarities["none"]


@pytest.mark.long
def test_the_report_says_which_layer_of_which_file_and_that_no_pixel_was_fitted(inversions):
    notes = " ".join(inversions["random-input"].report["notes"])
    assert "cut at 'features.5', which returns 32 × 8 × 8 values" in notes
    assert "SHA-256" in notes and "The fit matched activations, not pixels" in notes
    assert not [
        sentence
        for sentence in inversions["random-input"].report["verdict"]["sentences"]
        if "noise as" in sentence
    ]
    assert "No network was fitted" in write_methods_section(inversions["none"].report)
    assert "Mahendran" in write_methods_section(inversions["random-input"].report)


@pytest.mark.long
@pytest.mark.long
def test_the_card_says_that_the_prior_filled_in_what_the_layer_leaves_open(inversions):
    for result in inversions.values():
        card = make_card(result.report)
        assert card.headline == "Look closer: the prior filled in what the layer leaves open."
        codes = {note.code for note in (*card.all_warnings, *card.details)}
        assert codes.isdisjoint({"mean-off", "mean-kept", "detail-unchecked"})


def test_the_mean_of_the_image_is_not_handed_over(network):
    # black and white told wrongly: the same activations then belong to another brightness
    settings = {**EXPECTS, **SMALL, "max_iterations": 25, "black": 0, "white": 2000}
    result = dip.invert_features(coins(), network=network, layer="features.5", **settings).image
    assert abs(result.mean() - coins().mean()) > 100


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"mean": "half"}, "setting-wrong"),
        ({"mean": "0.5,0.4"}, "setting-wrong"),
        ({"deviation": "0"}, "setting-wrong"),
        ({"black": 5, "white": 5}, "setting-wrong"),
        ({"weights": "more.safetensors"}, "weights-extra"),
        ({"layer": ""}, "layer-missing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(network, settings, code):
    chosen = {"layer": "features.5", **SMALL, **settings}
    with pytest.raises(dip.RefusedError) as caught:
        dip.invert_features(coins(), network=network, **chosen)
    assert caught.value.reason.code == code


def test_channels_are_averaged_for_a_network_of_one_unless_one_is_empty(network):
    pair = np.stack([coins(), coins()])
    chosen = {**SMALL, "max_iterations": 2, "axes": "CYX"}
    assert (
        dip.invert_features(pair, network=network, layer="features.5", **chosen).image.shape
        == pair.shape
    )
    pair[1] = 7
    with pytest.raises(dip.RefusedError) as caught:
        dip.invert_features(pair, network=network, layer="features.5", **chosen)
    assert caught.value.reason.code == "network-constant"
