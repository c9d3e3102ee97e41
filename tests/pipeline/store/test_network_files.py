"""Fitted networks outside of this package: the pixels of the run, and all that describes them."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
import pytest
import tifffile
import torch

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.engine.fit.trainer import Trainer
from napari_dip.engine.problem import Estimate
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.tensor_file import read_metadata, read_tensors
from napari_dip.pipeline.torch_state import use_default_torch_state
from small_runs import make_noisy, plan_for, run_to_end

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

FAST: dict[str, Any] = {
    "preset": "fast",
    "max_iterations": 20,
    "device": "cpu",
    "threads": 1,
}
IMAGE = make_noisy(48)[:, :44]
HOLE = np.zeros(IMAGE.shape, bool)
HOLE[20:26, 10:22] = True
MOVIE = np.stack([make_noisy(40, seed) for seed in range(2)])


@pytest.fixture
def final_means(monkeypatch) -> list[np.ndarray]:
    """What the networks of a run give in its final inference, before any postprocessing."""
    means: list[np.ndarray] = []
    run = Trainer.run_final_inference

    def record(trainer: Trainer) -> Iterator[Estimate | float]:
        for step in run(trainer):
            if isinstance(step, Estimate):
                means.append(step.mean.numpy().copy())
            yield step

    monkeypatch.setattr(Trainer, "run_final_inference", record)
    return means


def read_package(path: Path) -> dict[str, bytes]:
    with ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def run_script(files: dict[str, bytes]) -> np.ndarray:
    source = torch.from_numpy(np.load(BytesIO(files["test_input.npy"])))
    with use_default_torch_state(1), torch.no_grad():
        return torch.jit.load(BytesIO(files["weights.pt"]))(source).numpy()


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "image", "settings"),
    [
        ("denoise", IMAGE, {}),
        ("denoise", IMAGE, {"prior": "blind-spot"}),
        ("denoise", IMAGE, {"restarts": 2}),
        ("denoise", MOVIE, {"axes": "TYX"}),
        ("denoise", MOVIE, {"axes": "CYX"}),
        ("denoise", MOVIE, {"axes": "TYX", "prior": "blind-spot", "neighbouring_frames": True}),
        ("inpaint", IMAGE, {"mask": HOLE}),
        ("super_resolve", IMAGE, {"factor": 2}),
        ("guide", IMAGE, {"guide": np.flipud(IMAGE)}),
    ],
    ids=lambda value: repr(sorted(value)) if isinstance(value, dict) else None,
)
@pytest.mark.all_cores
def test_a_package_gives_the_pixels_of_the_run_before_refinement(
    task, image, settings, final_means, tmp_path
):
    result = getattr(dip, task)(image, **FAST, **settings)
    result.network.save(tmp_path / "network.zip")
    files = read_package(tmp_path / "network.zip")
    output = run_script(files)
    np.testing.assert_array_equal(output, final_means[-1])
    np.testing.assert_array_equal(output, np.load(BytesIO(files["test_output.npy"])))
    assert (
        "average"
        not in files["README.md"]
        .decode()
        .partition("## Noise")[0]
        .lower()
        .partition("## validation")[0]
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "settings"),
    [("denoise", {"prior": "random-input"}), ("deblur", {"gaussian_sigma": 1.0})],
)
def test_a_package_of_random_input_says_that_the_run_averages(task, settings, tmp_path):
    result = getattr(dip, task)(IMAGE, **FAST, **settings)
    result.network.save(tmp_path / "network.zip")
    files = read_package(tmp_path / "network.zip")
    page = files["README.md"].decode()
    assert "running average of outputs" in page
    assert "Fixed random numbers" in page
    source = np.load(BytesIO(files["test_input.npy"]))
    assert source.shape[1] >= 32
    np.testing.assert_array_equal(run_script(files), np.load(BytesIO(files["test_output.npy"])))


@pytest.mark.long
def test_a_page_says_what_the_network_was_fitted_to_and_what_it_leaves_out(tmp_path):
    tifffile.imwrite(tmp_path / "cells.tif", IMAGE)
    result = dip.denoise(tmp_path / "cells.tif", **FAST, restarts=2)
    result.network.save(tmp_path / "network.zip")
    files = read_package(tmp_path / "network.zip")
    page, model = files["README.md"].decode(), json.loads(files["rdf.yaml"])
    assert "cells.tif" in page
    assert result.report["input_sha256"] in page
    assert "NL-Bayes" in page
    assert "2 networks" in page
    assert f'"gain": [\n    {result.report["noise"]["gain"][0]}' in page
    description = model["config"]["napari_dip"]
    assert dip.make_recipe("denoise", **FAST, restarts=2).to_dict() == description["recipe"]
    scale, offset = description["scale"][0], description["offset"][0]
    grey = np.load(BytesIO(files["test_input.npy"]))[0, 0] * scale + offset
    np.testing.assert_allclose(grey, IMAGE, rtol=1e-5)


def test_a_run_that_should_begin_with_a_package_asks_for_the_weights(tmp_path):
    result = dip.denoise(IMAGE, **FAST)
    result.network.save(tmp_path / "network.zip")
    with pytest.raises(dip.RefusedError, match="BioImage Model Zoo") as caught:
        dip.denoise(IMAGE, **FAST, network_file=tmp_path / "network.zip")
    assert caught.value.code == "joint-package" and ".safetensors" in str(caught.value)


def test_a_package_holds_no_path_of_this_computer(tmp_path):
    tifffile.imwrite(tmp_path / "cells.tif", IMAGE)
    result = dip.denoise(tmp_path / "cells.tif", **FAST)
    result.network.save(tmp_path / "network.zip")
    package = Path(dip.__file__).parent
    for content in read_package(tmp_path / "network.zip").values():
        for path in (tmp_path, package, Path(torch.__file__).parent):
            assert os.fsencode(path) not in content


@pytest.mark.filterwarnings("ignore")  # those of the libraries of that program
@pytest.mark.all_cores
def test_bioimageio_core_validates_a_package_offline_and_gives_its_pixels(
    final_means, tmp_path, monkeypatch
):
    core = pytest.importorskip("bioimageio.core")
    result = dip.denoise(IMAGE, **FAST)
    result.network.save(tmp_path / "network.zip")

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    summary = core.test_model(tmp_path / "network.zip", weight_format="torchscript")
    assert summary.status == "passed", summary.format()
    model = core.load_model(tmp_path / "network.zip")
    sample = core.digest_spec.get_test_input_sample(model)
    with core.create_prediction_pipeline(model, devices=["cpu"]) as pipeline:
        prediction = pipeline.predict_sample_without_blocking(sample)
    (output,) = prediction.members.values()
    np.testing.assert_array_equal(output.data.values, final_means[-1])


@pytest.mark.long
def test_weights_come_with_a_recipe_that_repeats_the_run(tmp_path):
    result = dip.denoise(IMAGE, **FAST)
    path = result.network.save(tmp_path / "network.safetensors")
    weights, description = read_tensors(path), read_metadata(path)["fitted_network"]
    assert weights.keys() == result.network.weights.keys()
    assert all(torch.equal(weights[name], result.network.weights[name]) for name in weights)
    again = dip.restore(IMAGE, description["recipe"])
    np.testing.assert_array_equal(again.image, result.image)
    assert all(torch.equal(weights[name], again.network.weights[name]) for name in weights)


@pytest.mark.long
def test_a_run_that_was_kept_has_a_network(tmp_path):
    run = dip.run("denoise", IMAGE, **FAST)
    for event in run:
        if event.iteration >= 8:
            run.keep()
    run.result.network.save(tmp_path / "network.zip")
    assert "ended by hand" in read_package(tmp_path / "network.zip")["README.md"].decode()


@pytest.mark.long
def test_a_resumed_run_has_the_network_of_one_without_interruption(tmp_path):
    plan = plan_for(MOVIE, "TYX", **FAST)
    _, whole = run_to_end(plan, MOVIE)
    polls = iter(range(30))
    interrupt = partial(next, polls, None)
    first = CheckpointStore(tmp_path / "run", resume=False)
    _, kept = run_to_end(
        plan,
        MOVIE,
        checkpoints=first,
        poll_control=lambda: Control.KEEP if interrupt() is None else Control.GO,
    )
    assert kept.stop_reason.value == "user"
    _, resumed = run_to_end(plan, MOVIE, checkpoints=CheckpointStore(tmp_path / "run", resume=True))
    np.testing.assert_array_equal(resumed.image, whole.image)
    weights, expected = resumed.network.weights, whole.network.weights
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    resumed.network.save(tmp_path / "resumed.safetensors")


@pytest.mark.long
def test_the_command_saves_the_network_of_the_python_function(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", IMAGE)
    options = ["--preset", "fast", "--max-iterations", "20", "--device", "cpu", "--threads", "1"]
    for suffix in ("safetensors", "zip"):
        command = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif")]
        network = str(tmp_path / f"network.{suffix}")
        assert main([*command, *options, "--overwrite", "--save-network", network]) == 0
    weights = read_tensors(tmp_path / "network.safetensors")
    expected = dip.denoise(IMAGE, **FAST).network.weights
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert "rdf.yaml" in read_package(tmp_path / "network.zip")


@pytest.mark.parametrize(
    "options",
    [
        ["--save-network", "network.pt"],
        ["--save-network", "network.zip", "--tile", "128"],
    ],
)
def test_a_network_that_cannot_be_saved_is_refused_before_work(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("in.tif", make_noisy(288))
    assert main(["denoise", "in.tif", "-o", "out.tif", *options]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"in.tif"}


@pytest.mark.long
def test_an_image_in_tiles_has_no_network_and_says_so():
    result = dip.denoise(make_noisy(288), **{**FAST, "max_iterations": 2}, tile=128)
    with pytest.raises(dip.RefusedError, match="tiles"):
        _ = result.network


@pytest.fixture
def first_network(tmp_path: Path) -> Path:
    """The network of another image, from a file."""
    path = tmp_path / "first.safetensors"
    dip.denoise(make_noisy(48, 1), **FAST).network.save(path)
    return path


def test_a_fit_begins_with_the_network_of_another_image(tmp_path):
    settings = {"preset": "fast", "device": "cpu", "threads": 1, "max_iterations": 40}
    network = tmp_path / "first.safetensors"
    dip.denoise(make_noisy(48, 1), **settings).network.save(network)
    usual = dip.denoise(IMAGE, **settings)
    begun = dip.denoise(IMAGE, network_file=network, **settings)
    assert (usual.report["iterations"], begun.report["iterations"]) == (40, 25)
    shared = begun.report["fit"]["joint_training"]
    assert (shared["network_file"], shared["region_count"], shared["inference"]) == (
        network.name,
        1,
        0,
    )
    assert "network-start" in [note["code"] for note in begun.report["note_codes"]]
    assert "weights of a network that was fitted to another image" in write_methods_section(
        begun.report
    )
    assert "and to no other data" in write_methods_section(usual.report)
    assert "and to no other data" not in write_methods_section(begun.report)


def test_the_loss_is_lower_from_the_start_with_the_network_of_another_image(tmp_path):
    settings = {"preset": "fast", "device": "cpu", "threads": 1}
    network = tmp_path / "first.safetensors"
    dip.denoise(make_noisy(96, 1), **settings).network.save(network)
    few, losses = {**settings, "max_iterations": 8}, []
    for seed in (0, 2, 3):  # one image alone differs by chance as well
        image = make_noisy(96, seed)
        begun, cold = dip.denoise(image, network_file=network, **few), dip.denoise(image, **few)
        assert begun.report["iterations"] == cold.report["iterations"] == 8
        losses.append([result.report["validation_loss"][0][1] for result in (begun, cold)])
    begun_loss, cold_loss = np.mean(losses, 0)
    assert begun_loss < cold_loss - 0.01


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"preset": "instant"}, "joint-settings"),
        ({"prior": "blind-spot"}, "joint-settings"),
        ({"restarts": 2}, "joint-repeats"),
        ({"prior": "random-input"}, "joint-alone"),
    ],
)
def test_a_network_of_other_settings_is_refused(first_network, settings, code):
    with pytest.raises(dip.RefusedError) as refused:
        dip.denoise(IMAGE, network_file=first_network, **{**FAST, **settings})
    assert refused.value.reason.code == code


def test_the_network_of_a_movie_is_refused_as_the_start_of_an_image(tmp_path):
    network = tmp_path / "movie.safetensors"
    dip.denoise(MOVIE, axes="TYX", **FAST).network.save(network)
    with pytest.raises(dip.RefusedError, match="only with the network of one plane"):
        dip.denoise(IMAGE, network_file=network, **FAST)


def test_a_fit_of_its_own_is_made_where_the_noise_asks_for_another_network(first_network):
    single_photons = np.random.default_rng(0).poisson(0.1, (48, 44)).astype(np.uint8)
    result = dip.denoise(single_photons, network_file=first_network, **FAST)
    codes = [note["code"] for note in result.report["note_codes"]]
    assert "joint-unfit" in codes and "network-start" not in codes
    assert "joint_training" not in result.report["fit"]


def test_a_run_that_ends_before_its_first_image_has_no_result_whatever_it_began_with(
    first_network: Path,
) -> None:
    settings = {**FAST, "time_limit": 0.02}
    with pytest.raises(dip.FailedError, match="time limit"):
        dip.denoise(IMAGE, network_file=first_network, **settings)


def test_a_fit_that_began_with_a_network_is_no_start_for_a_third_image(first_network, tmp_path):
    second = tmp_path / "second.safetensors"
    dip.denoise(IMAGE, network_file=first_network, **FAST).network.save(second)
    with pytest.raises(dip.RefusedError, match="from random weights"):
        dip.denoise(IMAGE, network_file=second, **FAST)


def _keep_early(event: dip.Event) -> str | None:
    return "keep" if event.iteration >= 3 else None


def test_a_fit_that_was_ended_by_hand_is_no_start_for_another_image(tmp_path):
    path = tmp_path / "ended.safetensors"
    result = dip.denoise(make_noisy(48, 1), progress=_keep_early, **FAST)
    result.network.save(path)
    with pytest.raises(dip.RefusedError, match="to the end"):
        dip.denoise(IMAGE, network_file=path, **FAST)


def test_the_network_of_an_image_with_an_empty_channel_is_no_start_for_a_full_one(tmp_path):
    colours = np.stack([make_noisy(32, seed) for seed in range(3)], -1)
    one_empty = colours.copy()
    one_empty[..., 2] = 0
    path = tmp_path / "first.safetensors"
    dip.denoise(one_empty, axes="YXS", **FAST).network.save(path)
    with pytest.raises(dip.RefusedError, match="all channels together"):
        dip.denoise(colours, axes="YXS", network_file=path, **FAST)


def test_the_methods_text_tells_the_limit_of_a_fit_that_began_with_a_network(first_network):
    result = dip.denoise(IMAGE, network_file=first_network, **{**FAST, "max_iterations": 40})
    assert result.report["iterations"] == result.report["fit"]["max_iterations"] == 25
