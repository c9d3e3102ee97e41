"""Feature inversion of several layers: one row for each, with three priors, on one page."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from skimage import data

from napari_dip import explore
from napari_dip.cli import main
from napari_dip.errors import RefusedError
from napari_dip.explore.feature_layers import compute_correlation
from programs import make_entries, make_small_program, write_archive


def load_coins():
    return data.coins()[200:224, 100:124]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_archive(
        tmp_path_factory.mktemp("network") / "net.pt2", make_entries(*make_small_program())
    )


@pytest.fixture(scope="module")
def inversion(network):
    return explore.features(load_coins(), network, layers="body.1", max_iterations=12, device="cpu")


@pytest.mark.long
def test_each_layer_has_a_row_with_three_priors(inversion, tmp_path):
    page = inversion.save(tmp_path)
    rows = list(csv.DictReader((tmp_path / "features.csv").read_text().splitlines()))
    assert [row["layer"] for row in rows] == ["body.1"]
    correlations = [
        float(rows[0][f"{prior}_correlation"])
        for prior in ("random_input", "total_variation", "none")
    ]
    assert (
        correlations == [cell.correlation for cell in inversion.rows[0]]
        and len(set(correlations)) == 3
    )
    text = page.read_text()
    assert f"{inversion.rows[0][0].correlation:.3f}" in text and "data:image/png;base64" in text
    assert "http" not in text.replace("https://doi.org", "")
    assert json.loads((tmp_path / "features.json").read_text())["recipe"]["layers"] == ["body.1"]


@pytest.mark.long
def test_the_correlation_is_that_of_the_image_with_what_was_looked_at(inversion):
    for cell in inversion.rows[0]:
        wanted = np.corrcoef(cell.image.ravel(), load_coins().ravel())[0, 1]
        assert cell.correlation == pytest.approx(wanted, abs=1e-6)
    assert compute_correlation(np.ones((4, 4)), load_coins()[:4, :4]) == 0


@pytest.mark.long
def test_a_wrong_layer_is_refused_before_anything_is_fitted(network, tmp_path, capsys):
    with pytest.raises(RefusedError) as caught:
        explore.features(load_coins(), network, layers=["body.1", "body.9"])
    assert caught.value.reason.code == "layer-unknown"
    assert main(["explore", "features", "none.png", "-o", str(tmp_path), "--network", "x"]) == 2
    assert "none.png" in capsys.readouterr().err
