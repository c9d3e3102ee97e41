"""An experiment that the user ends keeps its results so far, and says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage import data

from napari_dip import explore
from napari_dip.engine.fit.stopping import Control
from napari_dip.explore.architecture_comparison import explore_architectures
from napari_dip.explore.experiment_setup import choose_architectures, make_experiment_setup
from napari_dip.explore.noise_impedance import explore_impedance
from napari_dip.explore.spectra import explore_spectrum

SETTINGS = {"max_iterations": 14, "device": "cpu"}


def load_image() -> np.ndarray:
    return data.camera()[64:448:16, 64:448:16].astype(np.float32)


def keep_when(steps, switch, when):
    """Drain an experiment, and wish to keep once `when` is true of what it shows."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        if when(step):
            switch[0] = Control.KEEP


@pytest.mark.long
def test_impedance_keeps_the_energies_of_all_targets_so_far(tmp_path):
    subject, switch = make_experiment_setup(load_image(), **SETTINGS), [Control.GO]
    steps = explore_impedance(subject, poll_control=lambda: switch[0])
    result = keep_when(steps, switch, lambda step: step.event.iteration == 11)
    whole = explore.impedance(load_image(), **SETTINGS)
    for name, curve in result.losses.items():
        assert curve.tolist() == whole.losses[name][:11].tolist()
    assert result.setup.iterations == 11 and result.score != whole.score
    page = result.save(tmp_path / "out").read_text(encoding="utf-8")
    assert "Ended by hand after 11 of 14 iterations" in page and "Iteration 11: image" in page
    recipe = json.loads((tmp_path / "out" / "impedance.json").read_text())["recipe"]
    assert (recipe["max_iterations"], recipe["ended_after"]) == (14, 11)


def test_a_spectrum_keeps_its_bands_its_last_image_and_its_validation():
    subject, switch = make_experiment_setup(load_image(), **SETTINGS), [Control.GO]
    steps = explore_spectrum(subject, poll_control=lambda: switch[0])
    result = keep_when(steps, switch, lambda step: step.event.iteration == 12)
    assert result.correspondence.shape == (12, 5) and result.setup.iterations == 12
    assert max(result.reported_outputs) == max(result.recorded_outputs) == 12
    assert set(result.reported_outputs) <= set(result.recorded_outputs)
    assert result.validation_stop.validation_errors and result.validation_stop.best_iteration > 0
    assert result.power["12"].shape == result.frequency.shape


def test_a_comparison_shows_the_output_of_each_iteration_in_units_of_the_image():
    subject = make_experiment_setup(load_image(), **SETTINGS)
    architectures = choose_architectures(subject, "preset")
    images = [step.image for step in explore_architectures(subject, architectures)]
    outputs = [image for image in images if image is not None]
    assert len(outputs) == subject.iterations and np.ptp([output.std() for output in outputs]) > 0
    assert abs(outputs[-1].mean() - subject.image.mean()) < subject.image.std()


def test_a_comparison_keeps_the_designs_that_are_done_and_names_the_others():
    subject, switch = make_experiment_setup(load_image(), **SETTINGS), [Control.GO]
    architectures = choose_architectures(subject, "depth-2,decoder")
    steps = explore_architectures(subject, architectures, poll_control=lambda: switch[0])
    result = keep_when(steps, switch, lambda step: step.group == "decoder")
    assert [fit.architecture.name for fit in result.fits] == ["preset"]
    assert result.skipped_architectures == ("decoder", "depth-2")
    assert "Ended by hand; not fitted: decoder, depth-2." in result.sentences
    assert result.recommended_fit is result.fits[0]


@pytest.mark.parametrize("explored", [explore_impedance, explore_spectrum])
def test_discarding_or_ending_too_early_returns_nothing(explored):
    subject, switch = make_experiment_setup(load_image(), **SETTINGS), [Control.GO]
    assert (
        keep_when(explored(subject, poll_control=lambda: switch[0]), switch, lambda step: True)
        is None
    )
    switch[0] = Control.DISCARD
    assert (
        keep_when(explored(subject, poll_control=lambda: switch[0]), switch, lambda step: False)
        is None
    )
