"""Joint training on a folder: fitted once, applied to each file, the same when interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.data import camera

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.engine.fit.stopping import Control
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.engine.priors.r2r import R2RPrior
from napari_dip.errors import Refusal
from napari_dip.io.paths import compute_file_sha256
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.joint_training import MAX_TRAINING_REGION_SIDE, MAX_TRAINING_REGIONS
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import FINE_TUNE_PROBE, INFERENCE, JOINT
from napari_dip.pipeline.repetition import Repetition, write_python_script
from napari_dip.pipeline.store.network_files import read_network
from napari_dip.pipeline.store.tensor_file import read_metadata, read_tensors, write_tensors
from napari_dip.scale.batch.plan import (
    MIN_JOINT_TRAINING_FILES,
    choose_training_files,
    find_remaining_plans,
    plan_batch,
)
from napari_dip.scale.batch_run import run_batch, summarise_batch_plan
from scale.cluster.simulated_workers import InProcessPool

FEW = {"preset": "fast", "max_iterations": 3, "device": "cpu"}
RECIPE = dip.make_recipe("denoise", **FEW)
NAMES = [f"cell_{number}.tif" for number in range(MIN_JOINT_TRAINING_FILES)]


def make_noisy(seed: int, side: int = 32) -> np.ndarray:
    """Take one shot of a place of its own, with a gain, a range and an offset of its own."""
    y, x = np.mgrid[:side, :side]
    clean = 60 + 40 * np.sin(x / 5 + seed) * np.cos(y / 7 + seed)
    # draws whose noise is measured rightly in so small an image, so that all can share a network
    rng, gain = np.random.default_rng(seed + 50), 1 + seed / 4
    return np.rint(gain * rng.poisson(clean * (1 + seed / 3)) + 50 * seed).astype(np.uint16)


def fill_folder(folder: Path, count: int = MIN_JOINT_TRAINING_FILES) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate(NAMES[:count]):
        tifffile.imwrite(folder / name, make_noisy(seed))
    return folder


@pytest.fixture(scope="module")
def finished_series(tmp_path_factory) -> Path:
    """Folder of a finished batch: its inputs in 'in', its results in 'out'."""
    folder = tmp_path_factory.mktemp("series")
    fill_folder(folder / "in")
    done = dip.batch(RECIPE, folder / "in", folder / "out", joint_training=True)
    assert done.count("restored") == len(NAMES)
    return folder


@pytest.fixture
def network(finished_series, tmp_path) -> Path:
    """A copy of its network, to be harmed."""
    return Path(
        shutil.copy(finished_series / "out" / "series.network", tmp_path / "series.network")
    )


def read_outputs(folder: Path) -> dict[str, bytes]:
    """Give results and network."""
    paths = (*folder.glob("*.tif"), *folder.glob("*.network"))
    return {path.name: path.read_bytes() for path in paths}


def has_same_outputs(first: Path, second: Path) -> bool:
    return read_outputs(first) == read_outputs(second)


def read_report(folder: Path, name: str) -> dict:
    return json.loads((folder / "records" / f"{name}.json").read_text())


def tamper_network(path: Path, **changes: object) -> Path:
    """Let a network's file say something else of itself."""
    metadata = read_metadata(path)
    write_tensors(path, read_tensors(path), {"network": metadata["network"] | changes})
    return path


def read_refusal_code(call, *arguments: object, **options: object) -> str:
    with pytest.raises(dip.RefusedError) as caught:
        call(*arguments, **options)
    return caught.value.reason.code


@pytest.mark.long
def test_records_and_reports_name_the_network_and_its_digest(finished_series):
    digest = compute_file_sha256(finished_series / "out" / "series.network")
    for name in NAMES:
        receipt = read_report(finished_series / "out", name)
        assert receipt["inputs_sha256"]["network_file"] == digest
        shared = receipt["report"]["fit"]["joint_training"]
        assert (shared["network_file"], shared["sha256"]) == ("series.network", digest)
        assert shared["region_count"] == len(NAMES)
        # three iterations for all files are few, so the probes gain and each file takes three more
        assert shared["fine_tuned"] and receipt["report"]["iterations"] == FEW["max_iterations"]
        notes = receipt["report"]["notes"]
        assert any("not fitted to this image alone" in note for note in notes)


@pytest.mark.long
@pytest.mark.all_cores
def test_a_single_image_and_the_command_give_the_pixels_of_the_batch(finished_series, tmp_path):
    image, network = finished_series / "in" / NAMES[3], finished_series / "out" / "series.network"
    wanted = tifffile.imread(finished_series / "out" / NAMES[3])
    by_call = dip.denoise(image, network_file=network, **FEW)
    np.testing.assert_array_equal(by_call.image, wanted)
    argv = ["denoise", str(image), "-o", str(tmp_path / "a.tif"), "--preset", "fast"]
    argv += ["--max-iterations", "3", "--device", "cpu", "--quiet"]
    assert main([*argv, "--network-file", str(network)]) == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), wanted)
    alone = dip.denoise(image, **FEW)
    assert not np.array_equal(alone.image, wanted) and "joint_training" not in alone.report["fit"]


@pytest.mark.long
def test_the_methods_text_and_the_script_name_the_network(finished_series):
    report = read_report(finished_series / "out", NAMES[0])["report"]
    digest = report["fit"]["joint_training"]["sha256"]
    text = write_methods_section(report)
    assert f"8 images of the series together ('series.network', SHA-256 {digest})" in text
    assert "to images of one series" in text and "measurement itself" not in text
    script = write_python_script(
        Repetition(report=report, paths={"image": "cell_0.tif"}, name="cell_0.tif")
    )
    assert 'network_file="series.network"' in script and digest in script


@pytest.mark.long
@pytest.mark.parametrize("polls", [4, 12, 20, 40])
@pytest.mark.all_cores
def test_a_batch_that_is_ended_anywhere_resumes_to_the_same_bytes(finished_series, tmp_path, polls):
    remaining = [polls]

    def poll_control() -> Control:
        remaining[0] -= 1
        return Control.KEEP if remaining[0] < 0 else Control.GO

    plan = plan_batch(RECIPE, finished_series / "in", tmp_path / "out", joint_training=True)
    states = [
        step.outcome.state for step in run_batch(plan, poll_control=poll_control) if step.outcome
    ]
    assert "waiting" in states
    done = dip.batch(RECIPE, finished_series / "in", tmp_path / "out", resume=True)
    assert done.count("waiting") == 0 and has_same_outputs(
        tmp_path / "out", finished_series / "out"
    )
    left_over = [path.name for path in (tmp_path / "out" / "records").glob("series*")]
    assert not left_over


@pytest.mark.long
def test_a_batch_goes_on_with_the_network_that_is_there_and_fits_a_lost_one_again(
    finished_series, tmp_path
):
    shutil.copytree(finished_series, tmp_path / "copy")
    out = tmp_path / "copy" / "out"
    before = (out / "series.network").stat().st_ino
    done = dip.batch(RECIPE, tmp_path / "copy" / "in", out, resume=True)
    assert done.count("already-done") == len(NAMES)
    assert (out / "series.network").stat().st_ino == before
    (out / "series.network").unlink()
    done = dip.batch(RECIPE, tmp_path / "copy" / "in", out, resume=True, joint_training=True)
    assert done.count("already-done") == len(NAMES) and has_same_outputs(
        out, finished_series / "out"
    )


@pytest.mark.long
@pytest.mark.all_cores
def test_workers_give_the_same_bytes_and_the_network_comes_first(finished_series, tmp_path):
    pool = InProcessPool(count=2)
    plan = plan_batch(RECIPE, finished_series / "in", tmp_path / "out", joint_training=True)
    steps = list(run_batch(plan, pool=pool))
    numbers = [step.number for step in steps]
    assert numbers.index(1) > max(place for place, number in enumerate(numbers) if not number)
    assert pool.sent == [str(number) for number in range(1, len(NAMES) + 1)]
    assert has_same_outputs(tmp_path / "out", finished_series / "out")


@pytest.mark.long
def test_the_time_that_is_said_counts_the_network(finished_series, tmp_path):
    plan = plan_batch(RECIPE, finished_series / "in", tmp_path / "out", joint_training=True)
    assert plan.joint_training is not None and plan.joint_training.seconds > 0
    each = [unit for remaining in find_remaining_plans(plan).values() for unit in remaining.units]
    assert {unit.role for unit in each} == {INFERENCE} and not any(unit.iterations for unit in each)
    costs = replace(plan.joint_training.costs, fit_seconds=7000.0)
    long = replace(plan, joint_training=replace(plan.joint_training, costs=costs))
    assert summarise_batch_plan(long) != summarise_batch_plan(plan)


@pytest.mark.long
def test_no_file_is_fine_tuned_where_the_probes_show_no_gain(finished_series, network):
    outcomes = read_metadata(network)["network"]["outcomes"]
    no_gain = [
        outcome | {"log_likelihood_gain": [-50.0, 5.0, 500.0]}
        if outcome["role"] == FINE_TUNE_PROBE
        else outcome
        for outcome in outcomes
    ]
    tamper_network(network, outcomes=no_gain)
    result = dip.denoise(finished_series / "in" / NAMES[0], network_file=network, **FEW)
    assert not result.report["fit"]["joint_training"]["fine_tuned"]
    assert result.report["iterations"] == 0 and "no gain" in result.report["stop_sentence"]
    image = tifffile.imread(finished_series / "out" / NAMES[0])
    assert not np.array_equal(result.image, image)


@pytest.mark.long
def test_stacks_and_images_in_tiles_are_restored_as_ever(network, tmp_path):
    stack = np.stack([make_noisy(seed) for seed in range(2)])
    recipe = RECIPE.replace_run_settings(stacks="planes")
    with_it = dip.restore(stack, recipe, axes="ZYX", network_file=network)
    np.testing.assert_array_equal(with_it.image, dip.restore(stack, recipe, axes="ZYX").image)
    assert any("single planes without tiles" in note for note in with_it.report["notes"])
    fill_folder(tmp_path / "in")
    tifffile.imwrite(tmp_path / "in" / "stack.tif", stack, metadata={"axes": "ZYX"}, imagej=True)
    plan = plan_batch(RECIPE, tmp_path / "in", tmp_path / "out", joint_training=True)
    last = plan.jobs[-1]
    assert not isinstance(last.plan, Refusal)
    assert last.plan.network is None and set(last.inputs) == {"image"}


@pytest.mark.long
def test_a_file_whose_noise_asks_for_another_prior_is_restored_by_itself(network):
    y, x = np.mgrid[:32, :32]
    weak = 1000 * np.sin(x / 5) * np.cos(y / 7) + np.random.default_rng(0).normal(0, 3, (32, 32))
    result = dip.denoise(weak.astype(np.float32), network_file=network, **FEW)
    assert result.report["prior"]["key"] == "blind-spot"
    assert "joint_training" not in result.report["fit"]
    assert any("fitted on its own" in note for note in result.report["notes"])


@pytest.mark.long
def test_files_that_cannot_be_restored_take_no_part_in_the_network(tmp_path):
    fill_folder(tmp_path / "in")
    tifffile.imwrite(tmp_path / "in" / "a_constant.tif", np.full((32, 32), 7, np.uint16))
    done = dip.batch(RECIPE, tmp_path / "in", tmp_path / "out", joint_training=True)
    assert (done.count("restored"), done.count("refused")) == (len(NAMES), 1)
    assert read_network(tmp_path / "out" / "series.network").files == tuple(NAMES)


def test_too_few_files_or_too_unlike_ones_are_refused(tmp_path):
    fill_folder(tmp_path / "in", MIN_JOINT_TRAINING_FILES - 1)
    places = RECIPE, tmp_path / "in"
    assert (
        read_refusal_code(dip.batch, *places, tmp_path / "out", joint_training=True) == "joint-few"
    )
    assert not (tmp_path / "out").exists()
    for seed in range(MIN_JOINT_TRAINING_FILES):
        tifffile.imwrite(tmp_path / "in" / NAMES[seed], np.full((32, 32), seed, np.uint16))
    assert (
        read_refusal_code(dip.batch, *places, tmp_path / "out", joint_training=True)
        == "joint-unlike"
    )
    assert not list((tmp_path / "out").glob("*.tif"))


def test_a_file_of_other_channels_is_refused_before_any_work(tmp_path):
    fill_folder(tmp_path / "in")
    pair = np.stack([make_noisy(1), make_noisy(2)])
    tifffile.imwrite(tmp_path / "in" / "pair.tif", pair, imagej=True, metadata={"axes": "CYX"})
    plan = plan_batch(RECIPE, tmp_path / "in", tmp_path / "out", joint_training=True)
    ((source, no),) = plan.refused_files
    assert source.name == "pair.tif" and no.code == "joint-channels"
    assert "2 channels, fitted one by one" in no.sentence and "1 channel" in no.sentence


@pytest.mark.long
def test_what_the_network_was_not_fitted_for_is_refused(finished_series, network):
    image = tifffile.imread(finished_series / "in" / NAMES[0])

    def find_refusal(**settings: object) -> str:
        return read_refusal_code(dip.denoise, image, **{"network_file": network, **FEW, **settings})

    assert find_refusal(prior="random-input") == "joint-alone"
    assert find_refusal(noise="speckle", prior="blind-spot") == "joint-alone"
    assert find_refusal(repeated_exposure=image) == "joint-alone"
    assert find_refusal(prior="blind-spot") == "joint-settings"
    assert find_refusal(preset="balanced") == "joint-settings"
    assert find_refusal(restarts=2) == "joint-repeats"
    assert find_refusal(network_file=finished_series / "in" / NAMES[0]) == "joint-broken"
    assert find_refusal(network_file=finished_series / "none") == "file-missing"
    tamper_network(network, version="0.0.1")
    assert find_refusal() == "joint-version"


@pytest.mark.long
@pytest.mark.parametrize("place", [20, -3])
def test_a_damaged_network_is_refused_before_any_work(finished_series, network, tmp_path, place):
    content = bytearray(network.read_bytes())
    content[place] ^= 1
    network.write_bytes(content)
    image = finished_series / "in" / NAMES[0]
    assert read_refusal_code(dip.denoise, image, network_file=network, **FEW) == "joint-broken"
    options = {"network_file": network}
    assert (
        read_refusal_code(dip.batch, RECIPE, finished_series / "in", tmp_path / "out", **options)
        == "joint-broken"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_batch_has_one_network_from_its_beginning_or_none(finished_series, network, tmp_path):
    options = {"joint_training": True, "network_file": network}
    places = RECIPE, finished_series / "in", tmp_path / "out"
    assert read_refusal_code(dip.batch, *places, **options) == "joint-twice"
    plan = plan_batch(*places)
    list(run_batch(plan, poll_control=lambda: Control.KEEP))
    assert read_refusal_code(dip.batch, *places, resume=True, joint_training=True) == "joint-late"
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(network, mine / "series.network")
    assert (
        read_refusal_code(dip.batch, RECIPE, finished_series / "in", mine, joint_training=True)
        == "batch-exists"
    )


@pytest.mark.long
def test_a_batch_can_use_a_network_that_was_fitted_before(finished_series, network, tmp_path):
    done = dip.batch(RECIPE, finished_series / "in", tmp_path / "out", network_file=network)
    assert done.count("restored") == len(NAMES)
    for name in NAMES:
        assert (tmp_path / "out" / name).read_bytes() == (
            finished_series / "out" / name
        ).read_bytes()


@pytest.mark.parametrize("sizes", [[(700, 900)] * 40, [(33, 70), (64, 41)] * 6])
def test_what_is_seen_of_a_file_lies_within_it(sizes):
    plans = [
        preflight(
            RECIPE,
            dip.io.ImageHeader(name=str(n), shape=size, dtype="uint16", axes="YX"),
            detect_machine(),
        )
        for n, size in enumerate(sizes)
    ]
    lesson = choose_training_files(plans, detect_machine())
    assert not isinstance(lesson, Refusal)
    assert (
        len(lesson.training_regions) <= MAX_TRAINING_REGIONS
        and len({region.size for region in lesson.training_regions}) == 1
    )
    for plan, member in zip(lesson.plans, lesson.training_regions, strict=True):
        sides = zip(plan.header.grid, member.origin, member.size, strict=True)
        assert all(0 <= start and start + count <= side for side, start, count in sides)
        assert not any(size % 2 for size in (*member.origin, *member.size))  # halves are whole
        assert max(member.size) <= MAX_TRAINING_REGION_SIDE
    if max(sizes[0]) > MAX_TRAINING_REGION_SIDE:
        assert len({region.origin for region in lesson.training_regions}) == len(
            lesson.training_regions
        )


def test_each_image_gets_noise_as_strong_as_its_own():
    strengths = torch.tensor([0.01, 0.04, 0.25]).reshape(3, 1, 1, 1)
    none = torch.zeros_like(strengths)
    noise = NoiseVariance(gain=none, intercept=strengths, floor=none + 1e-6)
    rng = torch.Generator().manual_seed(0)
    clean = torch.zeros(3, 1, 96, 96)
    network = Hourglass(2, 1, 1, (4, 8), skip_channels=None, is_normalised=False, rng=rng)
    prior = R2RPrior(
        network,
        measurement=clean,
        measured_mask=torch.ones(3, 1, 96, 96),
        excluded_mask=torch.zeros(3, 1, 96, 96),
        blind_spot_size=(1, 1),
        noise_variance=noise,
        correlation=None,
        window=None,
    )
    for _ in range(12):
        draw = prior.draw_step_input(rng)
        assert draw.window is not None and draw.target_noise is not None
        wanted = float(strengths[draw.window.batch_index, 0, 0, 0]) ** 0.5 / prior.noise_strength
        assert float(draw.target_noise.std()) == pytest.approx(wanted, rel=0.05)


@pytest.mark.long
def test_the_network_says_what_it_comes_from(finished_series):
    network = read_metadata(finished_series / "out" / "series.network")["network"]
    assert [file["name"] for file in network["files"]] == NAMES
    assert network["files"][0]["sha256"] == compute_file_sha256(finished_series / "in" / NAMES[0])
    assert network["recipe"] == RECIPE.to_dict()
    assert [outcome["role"] for outcome in network["outcomes"]] == [JOINT, *[FINE_TUNE_PROBE] * 3]


def test_compressed_files_share_one_network_that_undoes_the_compression(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(MIN_JOINT_TRAINING_FILES):
        row, column = divmod(number, 4)
        scene = camera()[90 + 64 * row : 154 + 64 * row, 60 + 64 * column : 124 + 64 * column]
        Image.fromarray(scene).save(tmp_path / "in" / f"{number}.jpg", quality=40)
    done = dip.batch(RECIPE, tmp_path / "in", tmp_path / "out", joint_training=True)
    assert done.count("restored") == MIN_JOINT_TRAINING_FILES
    for path in (tmp_path / "out" / "records").glob("*.json"):
        report = json.loads(path.read_text(encoding="utf-8"))["report"]
        codes = {note["code"] for note in report["note_codes"]}
        assert (report["noise"]["model"], report["prior"]["key"]) == ("jpeg", "recompression")
        assert "joint-network-file" in codes and "joint-unfit" not in codes
