"""Benchmarks compute what their tables say, on small made-up inputs."""

import ast
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_are_found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def _case(name="picture", sigma=None):
    from quality_sets import Case

    def load():
        return np.full((8, 8), 101.0), np.full((8, 8), 100.0)

    return Case("made", name, Path("made.png"), load, Path("made.png"), sigma)


def _is_module(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent is no package
        return False


def _find_missing_names(path):
    """Return imports of a benchmark whose module lacks the name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    imports = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node not in for_types
        and ((BENCHMARKS / f"{node.module}.py").exists() or node.module.startswith("napari_dip"))
    ]
    return [
        f"{node.module}.{alias.name}"
        for node in imports
        for alias in node.names
        if not hasattr(import_module(node.module), alias.name)
        and not _is_module(f"{node.module}.{alias.name}")
    ]


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(path):
    assert _find_missing_names(path) == []


@pytest.mark.parametrize("signal", [30.0, 80.0, 200.0])
def test_anscombe_gives_unit_variance_and_its_inverse_the_mean_without_bias(signal):
    from variance_stabilising import invert_stabilisation, stabilise

    rng = np.random.default_rng(0)
    gain, offset, read = 3.0, 10.0, 2.5
    photons = rng.poisson((signal - offset) / gain, 200_000)
    pixels = gain * photons + offset + rng.normal(0, read, 200_000)
    line = gain, read**2 - gain * offset
    stable = stabilise(pixels, *line)
    assert stable.std() == pytest.approx(1, abs=0.04)
    back = invert_stabilisation(np.array([stable.mean()]), *line)
    assert back[0] == pytest.approx(signal, abs=0.15)


def test_anscombe_without_gain_is_a_division():
    from variance_stabilising import invert_stabilisation, stabilise

    plane = np.arange(12.0).reshape(3, 4)
    np.testing.assert_allclose(stabilise(plane, 0, 4), plane / 2)
    np.testing.assert_allclose(invert_stabilisation(plane / 2, 0, 4), plane)


def test_neighbour_differences_give_gain_and_intercept_of_white_noise():
    from variance_stabilising import estimate_variance_line

    rng = np.random.default_rng(0)
    scene = np.add.outer(np.linspace(20, 200, 256), 15 * np.sin(np.arange(256) / 20))
    gain, intercept = estimate_variance_line(scene + rng.normal(0, np.sqrt(2 * scene + 50)))
    assert gain == pytest.approx(2, rel=0.1)
    assert gain * 110 + intercept == pytest.approx(2 * 110 + 50, rel=0.05)


def test_neighbour_differences_take_correlated_noise_for_little():
    from scipy.ndimage import gaussian_filter

    from variance_stabilising import estimate_variance_line

    noise = gaussian_filter(np.random.default_rng(0).normal(size=(128, 128)), 1.0)
    gain, intercept = estimate_variance_line(100 + 10 * noise / noise.std())
    assert gain * 100 + intercept < 0.1 * 10**2


def test_spectrum_of_white_noise_is_flat():
    from bm3d_forms import compute_noise_psd

    np.testing.assert_allclose(compute_noise_psd((16, 24), (), ()), 16 * 24)


def test_spectrum_is_that_of_noise_with_these_correlations():
    from bm3d_forms import compute_noise_psd

    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 16, 24))
    # (1, 2, 1) along x: 4/6 at one pixel, 1/6 at two
    noise = (np.roll(noise, 1, 2) + 2 * noise + np.roll(noise, -1, 2)) / np.sqrt(6)
    measured = (np.abs(np.fft.fft2(noise)) ** 2).mean((0, 1))
    psd = compute_noise_psd((16, 24), (), (4 / 6, 1 / 6))
    np.testing.assert_allclose(measured, psd[0], rtol=0.1, atol=0.01 * psd.max())


def test_a_result_that_is_there_is_not_made_again_unless_its_settings_change(tmp_path):
    from quality import result
    from quality_method import Method, Output

    calls = []

    def run(case, noisy, truth):
        calls.append(case.name)
        return Output(noisy)

    method = Method("made", run, settings=lambda case, noisy: {"strength": 1})
    first = result(_case(), "made", method, tmp_path)
    assert result(_case(), "made", method, tmp_path) == first
    assert first["psnr"] == pytest.approx(20 * np.log10(255))
    assert len(calls) == 1
    changed = replace(method, settings=lambda case, noisy: {"strength": 2})
    assert result(_case(), "made", changed, tmp_path)["made_from"] != first["made_from"]
    brighter = replace(_case(), load=lambda: (np.full((8, 8), 102.0), np.full((8, 8), 100.0)))
    result(brighter, "made", changed, tmp_path)
    assert len(calls) == 3


def test_baselines_are_imported_without_bm3d(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    for module in ("baselines", "bm3d_forms"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    from baselines import METHODS

    assert METHODS["vst_bm3d"].applies(replace(_case(), group="fmd"))
    assert not METHODS["bm3d_told"].applies(_case())
    assert METHODS["bm3d_told"].applies(_case(sigma=25))


def test_a_line_fit_forgives_gain_and_offset_only():
    from quality_sets import line_psnr

    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 255, (32, 32))
    assert line_psnr(0.3 * truth + 40, truth) > 100
    noisy = 0.3 * (truth + rng.normal(0, 10, truth.shape)) + 40
    assert line_psnr(noisy, truth) == pytest.approx(20 * np.log10(255 / 10), abs=0.3)


def test_total_variation_takes_away_as_much_as_there_is_noise():
    from baselines import tv_blind

    rng = np.random.default_rng(0)
    truth = np.where(np.add.outer(np.arange(64), np.arange(64)) > 64, 180.0, 60.0)
    noisy = truth + rng.normal(0, 12, truth.shape)
    output = tv_blind(_case(), noisy, truth)
    assert np.std(output.image - noisy) == pytest.approx(output.notes["sigma"], rel=0.1)
    assert np.std(output.image - truth) < 6


def test_zs_n2n_halves_are_the_diagonals_of_each_two_by_two_block():
    import torch

    from zs_n2n import split_halves

    image = torch.arange(20.0).reshape(1, 1, 4, 5)  # the odd last column is left out
    rising, falling = split_halves(image)
    assert rising.tolist() == [[[[3.0, 5.0], [13.0, 15.0]]]]
    assert falling.tolist() == [[[[3.0, 5.0], [13.0, 15.0]]]]
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    rising, falling = split_halves(noise)
    assert abs(float((rising * falling).mean())) < 0.02  # the noise of the one is not the other's
    assert float(rising.var()) == pytest.approx(0.5, rel=0.05)


def test_zs_n2n_takes_noise_away():
    from zs_n2n import denoise

    rng = np.random.default_rng(0)
    truth = np.add.outer(60 + 2.0 * np.arange(32), 2.0 * np.arange(32))
    noisy = truth + rng.normal(0, 25, truth.shape)
    clean = denoise(noisy, steps=80)
    assert np.std(clean - truth) < 0.8 * np.std(noisy - truth)


def test_reference_network_has_the_published_size():
    from reference_network import Reference

    weights = sum(weight.numel() for weight in Reference().parameters())
    # that of the published denoising example has 3 outputs: 2,217,831
    assert weights == 2_217_831 - 2 * (128 + 1)


def test_the_reference_fit_is_evaluated_during_the_run():
    from reference_dip import fit

    truth = np.full((64, 64), 100.0)
    last, history = fit(truth, truth, 2)
    assert last.shape == (64, 64)
    assert [entry["step"] for entry in history] == [2]
    assert {"output", "average", "cpu_seconds"} <= set(history[0])


def test_tables_name_images_below_their_input_and_the_gain_over_blind_bm3d():
    from quality_tables import differences, summary

    def rows(method, *decibels):
        images = ("Confocal_BPAE_B_raw1", "WideField_BPAE_R_raw1")
        record = {"title": method, "cpu_seconds": 1.0, "seconds": 2.0, "code": "same"}
        return {image: {**record, "psnr": db} for image, db in zip(images, decibels, strict=True)}

    rows_by_method = {
        "input": rows("input", 30, 25),
        "vst_bm3d": rows("VST", 33, 26),
        "fast": rows("fast", 34, 24),
    }
    text = "\n".join(summary(rows_by_method, "psnr"))
    assert "Below their input: fast: WideField_BPAE_R_raw1." in text
    assert "| fast | 2 | 29.00 | 24.00 | 29.00 | +1.50 | 1 |" in text
    assert "| -0.50 | -2.00 | +2.0 |" in differences(rows_by_method)[1]


def test_the_reference_network_has_as_many_weights_as_the_published_one():
    from reference_network import Reference
    from speed_reference import WEIGHTS

    for channels, weights in ((1, WEIGHTS), (3, WEIGHTS + 2 * 129)):
        assert sum(weight.numel() for weight in Reference(channels).parameters()) == weights


def test_the_reference_s_coarse_pixels_lie_in_the_middle_of_the_fine_ones():
    import torch

    from speed_reference import make_downsampler

    ramp = torch.arange(64.0).expand(1, 2, 64, 64)
    coarse = make_downsampler(4, 2)(ramp)
    assert coarse.shape == (1, 2, 16, 16)
    middle = torch.arange(16.0) * 4 + 1.5
    torch.testing.assert_close(coarse[0, 1, 8, 2:-2], middle[2:-2], atol=1e-3, rtol=0)


def test_time_to_an_image_is_that_of_the_first_as_good():
    from speed_tables import find_time_to_quality

    curve = [
        {"seconds": 1.0, "dB": 20.0},
        {"seconds": 2.0, "dB": 25.0},
        {"seconds": 3.0, "dB": 24.0},
    ]
    assert find_time_to_quality({"curve": curve}, 22.0) == 2.0
    assert find_time_to_quality({"curve": curve}, 26.0) is None


def test_results_are_distinguished_by_budget_and_code_state():
    import quality

    assert quality.preset_settings("fast")["budget"]["blind-spot"]["iterations"] > 0
    parts = ("engine", "tasks", "pipeline")
    assert all((quality.ROOT / "src" / "napari_dip" / part).is_dir() for part in parts)
    assert len(quality.code_state()) == 12


@pytest.mark.parametrize(
    "path",
    sorted([*BENCHMARKS.glob("*.py"), *BENCHMARKS.with_name("scripts").glob("*.py")]),
    ids=lambda path: path.stem,
)
def test_a_script_takes_nothing_from_numpy_that_is_not_there(path):
    taken = [
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.value, ast.Name)
        and node.value.id == "np"
    ]
    assert [name for name in taken if not hasattr(np, name)] == []


def test_intervals_count_the_noise_of_a_truth_that_is_a_mean_of_shots():
    from uncertainty import measure_channel

    rng = np.random.default_rng(0)
    scene = np.add.outer(np.linspace(50, 150, 192), np.linspace(0, 40, 192))
    sd, noise = 2.0, (0.0, 200.0)  # the mean of 50 shots has the variance 4
    truth = np.rint(1.2 * (scene + rng.normal(0, 2, scene.shape)) + 7)
    noisy = scene + rng.normal(0, noise[1] ** 0.5, scene.shape)
    result = scene + rng.normal(0, sd, scene.shape)
    figures = measure_channel("fmd", noise, noisy, truth, result, np.full_like(scene, sd))
    assert figures["inside 90 %, counted"] == pytest.approx(90, abs=1)
    assert figures["factor"] == pytest.approx(1, abs=0.03)
    assert figures["inside 90 %"] < 30
    assert figures["drift"] < 0.05
    moved = noisy + 3 * np.sin(np.arange(192) / 30)
    assert (
        measure_channel("fmd", noise, moved, truth, result, np.full_like(scene, sd))["drift"] > 0.3
    )


def test_intervals_of_an_exact_truth_are_measured_as_they_are():
    from uncertainty import measure_channel

    rng = np.random.default_rng(0)
    truth, sd = np.full((192, 192), 90.0), np.full((192, 192), 4.0)
    figures = measure_channel(
        "made", (1.0, 0.0), truth, truth, truth + rng.normal(0, 2, sd.shape), sd
    )
    assert figures["factor"] == pytest.approx(0.5, abs=0.02)
    assert figures["inside 50 %"] == pytest.approx(82, abs=1)
    assert figures["inside 50 %"] == figures["inside 50 %, counted"]
