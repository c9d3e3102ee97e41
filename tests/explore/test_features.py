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
from napari_dip.errors.templates import make_printable
from napari_dip.explore import feature_layers
from napari_dip.explore.feature_layers import (
    PRIOR_LABELS,
    FeatureInversion,
    FeatureInversionResult,
    compute_correlation,
)
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


def make_inversions(correlations, layer="body.1"):
    return tuple(
        FeatureInversion(
            layer=layer,
            layer_size="12",
            prior_key=prior_key,
            image=np.zeros((4, 4), "float32"),
            correlation=correlation,
            distance=0.0,
        )
        for prior_key, correlation in zip(PRIOR_LABELS, correlations, strict=True)
    )


def make_result(*rows):
    facts = {"name": "a.tif", "image": np.eye(4, dtype="float32"), "axes": "YX"}
    return FeatureInversionResult(rows=rows, recipe={"network": "a.pt2"}, notes=(), **facts)


def test_no_prior_is_best_where_no_inversion_is_like_the_image():
    result = make_result(make_inversions((-0.01, -0.02, 0.12)), make_inversions((0.2, 0.1, 0.0)))
    nothing, something = result.sentences
    assert nothing.endswith("; none shows the image.")
    assert something.endswith("; best: untrained network.")


def test_titles_of_the_images_of_features_have_two_lines_of_plain_text(monkeypatch):
    figures = []
    monkeypatch.setattr(feature_layers, "render_figure", figures.append)
    (figure,) = make_result(make_inversions((0.1, 0.2, 0.3), layer="a\t$b$")).make_report().figures
    figure.draw()
    titles = [ax.get_title() for ax in figures[0].axes]
    assert titles[0] == make_printable("a\t$b$") + "\n12 values"
    assert titles[1] == "Untrained network\ncorrelation 0.10"


@pytest.mark.long
def test_a_wrong_layer_is_refused_before_anything_is_fitted(network, tmp_path, capsys):
    with pytest.raises(RefusedError) as caught:
        explore.features(load_coins(), network, layers=["body.1", "body.9"])
    assert caught.value.reason.code == "layer-unknown"
    assert main(["explore", "features", "none.png", "-o", str(tmp_path), "--network", "x"]) == 2
    assert "none.png" in capsys.readouterr().err
