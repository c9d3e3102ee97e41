"""What Python code gets of a run, and what kinds of arrays it may pass in."""

from __future__ import annotations

import json
from typing import (
    TYPE_CHECKING,
    Any,
    NotRequired,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.public_types import Report
from small_runs import make_noisy

if TYPE_CHECKING:
    from pathlib import Path

FAST: dict[str, Any] = {"preset": "fast", "max_iterations": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def plain_result() -> dip.Restoration:
    return dip.denoise(make_noisy(48), **FAST)


def find_untyped(value: Any, kind: Any, path: str = "") -> list[str]:
    """Places of a report that its type does not describe."""
    if get_origin(kind) is NotRequired:
        kind = get_args(kind)[0]
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        required = {name for name, hint in hints.items() if get_origin(hint) is not NotRequired}
        missing = required - value.keys()
        places = [f"{path}.{name} is missing" for name in missing]
        places += [f"{path}.{name} is unknown" for name in value.keys() - hints]
        for name in value.keys() & hints.keys():
            places += find_untyped(value[name], hints[name], f"{path}.{name}")
        return places
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return [place for entry in value for place in find_untyped(entry, item, f"{path}[]")]
    if get_origin(kind) is dict or kind is Any:
        return [] if kind is Any or isinstance(value, dict) else [f"{path} is {value!r}"]
    kinds = get_args(kind) or (kind,)
    allowed = tuple(entry for entry in kinds if isinstance(entry, type))
    allowed += (int,) * (float in allowed)  # as type checkers have it
    if any(get_origin(entry) is list for entry in kinds) and isinstance(value, list):
        return []
    return [] if isinstance(value, allowed) else [f"{path} is {value!r}"]


REPORTED = {
    "plain": lambda: dip.denoise(make_noisy(48), **FAST),
    "movie": lambda: dip.denoise(
        np.stack([make_noisy(48)] * 3), axes="TYX", series_training="joint", **FAST
    ),
    "mask": lambda: dip.inpaint(make_noisy(48), make_noisy(48) > 170, **FAST),
    "tiles": lambda: dip.denoise(np.resize(make_noisy(48), (160, 160)), tile=128, **FAST),
    "colours": lambda: dip.denoise(np.stack([make_noisy(48)] * 3, -1), axes="YXS", **FAST),
    "blind": lambda: dip.blind_deblur(make_noisy(48), blur="gaussian", psf_size=7, **FAST),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", REPORTED)
def test_the_type_of_a_report_has_the_fields_of_real_reports(kind: str) -> None:
    assert find_untyped(REPORTED[kind]().report, Report) == []


def test_measurements_and_batches_show_themselves_in_one_line(tmp_path: Path) -> None:
    image = make_noisy(64)
    tifffile.imwrite(tmp_path / "shot.tif", image)
    dark = np.random.default_rng(0).normal(100, 2, (8, 32, 32))
    outcome = dip.batch(dip.make_recipe("denoise", **FAST), tmp_path, tmp_path / "out")
    assert repr(outcome) == f"<BatchResult: 1 restored, in '{tmp_path / 'out'}'>"
    for report in (dip.measure_noise(image), dip.measure_camera_maps(dark)):
        assert repr(report) == f"<{type(report).__name__}: {report.sentences[0]}>"
        assert "\n" not in repr(report) and len(repr(report)) < 300


def test_a_planted_field_and_a_wrong_type_are_found(plain_result: dip.Restoration) -> None:
    report: Any = {**plain_result.report, "new": 1, "seed": "0"}
    assert sorted(find_untyped(report, Report)) == [".new is unknown", ".seed is '0'"]


def test_a_result_shows_itself_in_a_notebook_by_an_image_and_its_checks(
    plain_result: dip.Restoration,
) -> None:
    html = plain_result._repr_html_()
    assert "data:image/png;base64," in html and "&lt;Restoration: denoise" in html
    assert all(sentence.split("'")[0] in html for sentence in plain_result.warnings)
    assert len(html) < 100_000


def test_recipes_and_plans_show_themselves_in_one_line() -> None:
    recipe = dip.make_recipe("denoise", preset="fast", smoothing=0.5)
    assert repr(recipe) == "<Recipe: denoise, smoothing=0.5, preset='fast'>"
    text = repr(dip.plan("denoise", make_noisy(48), **FAST))
    assert text.startswith("<Plan: denoise, 48 × 48 pixels on the CPU: up to")
    assert len(text) < 120


def test_the_settings_of_a_task_are_listed_with_values_defaults_and_help() -> None:
    settings = dip.list_settings("denoise")
    assert settings["preset"].choices == ("instant", "fast", "balanced", "best")
    assert settings["preset"].default == "balanced" and settings["preset"].help
    assert settings["tile"].limits == (128, 2**16)
    lines = repr(settings).splitlines()
    assert len(lines) == len(settings) and "int from 128 to 65536" in repr(settings)
    with pytest.raises(ValueError, match="Did you mean 'deblur'"):
        dip.list_settings("deblurr")


def test_uncertainty_residual_report_and_recipe_are_saved_as_by_the_command(
    plain_result: dip.Restoration, tmp_path: Any
) -> None:
    tifffile.imwrite(tmp_path / "in.tif", make_noisy(48))
    names = ("uncertainty", "residual", "report", "recipe")
    paths = {name: tmp_path / f"{name}.{'tif' if name[-1] in 'yl' else 'json'}" for name in names}
    options = [word for name in names for word in (f"--{name}", str(paths[name]))]
    fast = ["--preset", "fast", "--max-iterations", "4", "--device", "cpu", "--quiet"]
    command = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif")]
    assert main([*command, *options, *fast]) == 0
    by_command = {name: path.read_bytes() for name, path in paths.items()}
    result = dip.denoise(tmp_path / "in.tif", **FAST)
    saved = result.save(tmp_path / "out.tif", overwrite=True, **paths)
    assert saved == tmp_path / "out.tif"
    for name in ("uncertainty", "residual", "recipe"):
        assert paths[name].read_bytes() == by_command[name], name
    differing = {"seconds", "peak_bytes"}
    reports = [json.loads(text) for text in (by_command["report"], paths["report"].read_bytes())]
    first, second = ({k: v for k, v in r.items() if k not in differing} for r in reports)
    assert first == second


def test_a_save_with_one_name_that_cannot_be_used_writes_nothing(
    plain_result: dip.Restoration, tmp_path: Any
) -> None:
    for names in ({"report": "report.tif"}, {"uncertainty": "out.tif"}, {"residual": "r.png"}):
        wrong = {name: tmp_path / path for name, path in names.items()}
        with pytest.raises(dip.RefusedError):
            plain_result.save(tmp_path / "out.tif", **wrong)
    assert list(tmp_path.iterdir()) == []


def make_labelled(dims: tuple[str, ...] = ("t", "y", "x")) -> Any:
    xarray = pytest.importorskip("xarray")
    pixels = np.stack([make_noisy(48)[:, :40]] * 3)
    coords = {"y": np.arange(48) * 0.1, "x": ("x", 3 + np.arange(40) * 0.2, {"units": "um"})}
    return xarray.DataArray(
        pixels, {**coords, dims[0]: [1, 2, 4]}, dims, "cells", {"objective": "60x"}
    )


def test_dimensions_of_an_xarray_are_its_axes_and_coordinates_its_pixel_size() -> None:
    image = make_labelled()
    header = dip.plan("denoise", image, **FAST).header
    assert header.axes == "TYX" and not header.has_guessed_axes
    assert header.scale == (1.0, 0.1, 0.2) and header.units == ("pixel", "pixel", "um")
    result = dip.denoise(image, **FAST)
    plain = dip.denoise(image.values, axes="TYX", **FAST)
    np.testing.assert_array_equal(result.image, plain.image)


def test_an_xarray_comes_back_with_its_dimensions_coordinates_and_attributes() -> None:
    image = make_labelled()
    back = dip.denoise(image, **FAST).to_xarray()
    assert back.dims == image.dims and back.name == "cells" and back.attrs == image.attrs
    assert back.coords.equals(image.coords) and back.coords["x"].attrs == {"units": "um"}
    fine = dip.super_resolve(image[0], factor=2, **FAST).to_xarray()
    assert fine.shape == (96, 80) and fine.dims == ("y", "x")
    np.testing.assert_allclose(fine.coords["x"][:2], [2.95, 3.05])
    plain = dip.denoise(make_noisy(48), **FAST).to_xarray()
    assert plain.dims == ("y", "x")


def test_dimensions_with_other_names_need_axes() -> None:
    image = make_labelled(("q", "y", "x"))
    with pytest.raises(dip.RefusedError, match=r"\(q, y, x\)"):
        dip.denoise(image, **FAST)
    assert dip.plan("denoise", image, axes="TYX", **FAST).header.axes == "TYX"


@pytest.mark.all_cores
def test_a_tensor_of_pytorch_gives_the_pixels_of_its_array(plain_result: dip.Restoration) -> None:
    import torch

    tensor = torch.tensor(make_noisy(48).astype("float32"), requires_grad=True)
    result = dip.denoise(tensor, **FAST)
    np.testing.assert_array_equal(result.image, dip.denoise(make_noisy(48) * 1.0, **FAST).image)


def test_a_tensor_in_bfloat16_is_restored_as_float32() -> None:
    import torch

    tensor = torch.tensor(make_noisy(48).astype("float32")).bfloat16()
    result = dip.denoise(tensor, preset="fast", max_iterations=1)
    np.testing.assert_allclose(result.image + result.residual, tensor.float().numpy(), rtol=1e-3)


def test_a_memory_mapped_array_is_restored_and_not_written_to(
    plain_result: dip.Restoration, tmp_path: Any
) -> None:
    np.save(tmp_path / "in.npy", make_noisy(48))
    before = (tmp_path / "in.npy").read_bytes()
    mapped = np.load(tmp_path / "in.npy", mmap_mode="r")
    np.testing.assert_array_equal(dip.denoise(mapped, **FAST).image, plain_result.image)
    assert (tmp_path / "in.npy").read_bytes() == before


def test_inpainting_fills_in_what_a_masked_array_hides_and_denoising_refuses_it() -> None:
    image = make_noisy(48)
    masked = np.ma.masked_greater(image, 170)
    result = dip.inpaint(masked, **FAST)
    by_mask = dip.inpaint(image, np.ma.getmaskarray(masked), **FAST)
    np.testing.assert_array_equal(result.image, by_mask.image)
    with pytest.raises(dip.RefusedError, match="with inpaint"):
        dip.denoise(masked, **FAST)
