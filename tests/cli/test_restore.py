"""`napari-dip denoise`: its outputs, its messages, and how it is stopped."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from commands import start
from napari_dip.cli import main
from napari_dip.cli.terminal import SINGLE_RUN, BarReporter, format_event
from napari_dip.io.reading import read_header, read_pixels
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.progress import Event, Progress
from napari_dip.pipeline.store.result_files import choose_free_name
from napari_dip.tasks.denoise import Denoise

FAST = ("--preset", "fast", "--max-iterations", "10", "--device", "cpu")
REPORT_KEYS = (
    "task recipe version device threads seed shape axes noise prior iterations best_iteration "
    "stop_reason seconds validation_loss residual peak_bytes input_sha256 output_sha256 notes "
    "note_codes stop_sentence extra_inputs_sha256"
).split()


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    y, x = np.mgrid[:48, :40]
    clean = 200 + 80 * np.sin(x / 5) * np.cos(y / 7)
    image = np.random.default_rng(0).poisson(clean).astype("uint16")
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(10, 5), metadata={"unit": "um"})
    return path


@pytest.mark.parametrize("unmasked", ["keep", "denoise"])
def test_a_residual_of_kept_pixels_is_said_to_be_zero(noisy, tmp_path, capsys, unmasked):
    mask = np.zeros((48, 40), np.uint8)
    mask[20:24, 20] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    files = ("-o", str(tmp_path / "out.tif"), "--residual", str(tmp_path / "r.tif"))
    line = ["inpaint", str(noisy), "--mask", str(tmp_path / "mask.tif"), "--unmasked", unmasked]
    assert main([*line, *files, *FAST]) == 0
    is_zero = not read_pixels(read_header(tmp_path / "r.tif")).any()
    assert ("The residual is 0 everywhere" in capsys.readouterr().err) == is_zero
    assert is_zero == (unmasked == "keep")


def test_a_run_writes_all_requested_outputs_and_keeps_the_pixel_size(noisy, tmp_path, capsys):
    names = {"uncertainty": "sd.tif", "residual": "r.tif", "report": "a.json", "recipe": "b.json"}
    extra = [text for name, file in names.items() for text in (f"--{name}", str(tmp_path / file))]
    assert main(["denoise", str(noisy), "-o", str(tmp_path / "out.tif"), *FAST, *extra]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out.tif'}\n"
    assert "of memory" in captured.err and "since all 10 iterations" in captured.err
    source, header = read_pixels(read_header(noisy)), read_header(tmp_path / "out.tif")
    image = read_pixels(header)
    assert (header.shape, header.dtype, header.axes) == (source.shape, "float32", "YX")
    assert header.scale == pytest.approx((0.2, 0.1)) and set(header.units or ()) == {"micrometer"}
    residual = read_pixels(read_header(tmp_path / "r.tif"))
    np.testing.assert_allclose(residual, source - image.astype("float64"), atol=1e-4)
    assert (read_pixels(read_header(tmp_path / "sd.tif")) > 0).all()
    report = json.loads((tmp_path / "a.json").read_text())
    assert set(REPORT_KEYS) <= set(report)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.long
def test_a_file_of_what_repeats_asks_for_the_check_by_halves(tmp_path, capsys):
    y, x = np.mgrid[:64, :72]
    clean = 200 + 80 * np.sin(x / 5) * np.cos(y / 7)
    image = np.random.default_rng(0).poisson(clean).astype("uint16")
    options = {"resolution": (10, 5), "metadata": {"unit": "um"}}
    tifffile.imwrite(tmp_path / "in.tif", image, imagej=True, **options)
    names = {"repeated": "repeated.tif", "report": "out.json"}
    extra = [text for name, file in names.items() for text in (f"--{name}", str(tmp_path / file))]
    command = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif")]
    assert main([*command, *FAST, *extra, "--verbose"]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["recipe"]["halves"] is True and report["halves"]["unit"] == "µm"
    assert "µm came again in two independent halves" in capsys.readouterr().err
    repeated = read_header(tmp_path / "repeated.tif")
    assert repeated.shape == image.shape and repeated.scale == pytest.approx((0.2, 0.1))
    share = np.nanmean(read_pixels(repeated) >= 0.5)
    assert 0 < report["halves"]["repeated"] <= 1 and share > 0


def test_a_file_of_what_repeats_that_is_not_made_is_named_with_the_reason(tmp_path, capsys):
    pattern = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.uint8) * 200
    tifffile.imwrite(tmp_path / "in.tif", pattern)
    where = ("-o", str(tmp_path / "out.tif"), "--repeated", str(tmp_path / "repeated.tif"))
    assert main(["denoise", str(tmp_path / "in.tif"), *where, *FAST]) == 0
    error = capsys.readouterr().err
    assert "repeated.tif' was not written. The noise is not known well enough" in error
    assert (tmp_path / "out.tif").exists() and not (tmp_path / "repeated.tif").exists()


@pytest.mark.parametrize(
    "limit",
    ["setting", "environment", "container", pytest.param("none", marks=pytest.mark.long)],
)
def test_each_limit_to_one_thread_is_in_plan_and_report(limit, tmp_path, monkeypatch, capsys):
    quota, image, report = tmp_path / "cpu.max", tmp_path / "in.tif", tmp_path / "out.json"
    quota.write_text("100000 100000" if limit == "container" else "max 100000")
    tifffile.imwrite(image, np.random.default_rng(0).poisson(90, (64, 64)).astype("uint16"))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(
        "napari_dip.cli.restore.detect_machine", partial(detect_machine, quota.parent)
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = [*FAST, *(["--threads", "1"] * (limit == "setting"))]
    assert main(["plan", "denoise", str(image), *options]) == 0
    assert ("on the CPU: up to" in capsys.readouterr().out) == (limit != "none")
    output = ["-o", str(tmp_path / "out.tif"), "--report", str(report)]
    assert main(["denoise", str(image), *output, *options]) == 0
    assert json.loads(report.read_text())["threads"] == (3 if limit == "none" else 1)


def test_the_pixels_of_a_command_are_arranged_once(noisy, tmp_path, monkeypatch):
    inspect, calls = Denoise.inspect, []

    def count(task, pixels, plan):
        calls.append(pixels)
        return inspect(task, pixels, plan)

    monkeypatch.setattr(Denoise, "inspect", count)
    assert main(["denoise", str(noisy), "-o", str(tmp_path / "out.tif"), *FAST]) == 0
    assert len(calls) == 1


@pytest.mark.long
@pytest.mark.all_cores
def test_the_recipe_that_was_written_repeats_the_pixels_here_and_in_python(noisy, tmp_path):
    first, second, recipe = (str(tmp_path / name) for name in ("a.tif", "b.tif", "r.json"))
    assert main(["denoise", str(noisy), "-o", first, *FAST, "--seed", "5", "--recipe", recipe]) == 0
    assert main(["denoise", str(noisy), "-o", second, "--from-recipe", recipe]) == 0
    assert Path(first).read_bytes() == Path(second).read_bytes()
    result = dip.restore(noisy, Path(recipe))
    np.testing.assert_array_equal(result.image, read_pixels(read_header(first)))
    assert dip.recipe_from_json(Path(recipe).read_text()).run_settings.seed == 5


def test_options_overrule_the_recipe(noisy, tmp_path):
    recipe, written = tmp_path / "r.json", tmp_path / "w.json"
    recipe.write_text(dip.make_recipe("denoise", seed=3, max_iterations=10).to_json())
    options = ["--from-recipe", str(recipe), "--seed", "4", "--prior", "random-input", *FAST]
    argv = ["denoise", str(noisy), "-o", str(tmp_path / "o.tif"), "--recipe", str(written)]
    assert main([*argv, *options]) == 0
    result = dip.recipe_from_json(written.read_text())
    assert (result.run_settings.seed, result.run_settings.max_iterations, result.task.prior) == (
        4,
        10,
        "random-input",
    )


def test_the_result_is_of_the_inputs_type_where_that_is_wanted(noisy, tmp_path):
    out = str(tmp_path / "out.tif")
    assert main(["denoise", str(noisy), "-o", out, *FAST, "--dtype", "same"]) == 0
    assert read_header(out).dtype == "uint16"


def test_quiet_says_nothing_at_all(noisy, tmp_path, capfd):
    assert main(["denoise", str(noisy), "-o", str(tmp_path / "o.tif"), *FAST, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_overwrite_replaces_the_result_and_only_then(noisy, tmp_path):
    out = tmp_path / "out.tif"
    out.write_text("mine")
    assert main(["denoise", str(noisy), "-o", str(out), *FAST]) == 2
    assert out.read_text() == "mine"
    assert main(["denoise", str(noisy), "-o", str(out), *FAST, "--overwrite"]) == 0
    assert read_header(out).shape == (48, 40)


def test_provenance_in_the_result_repeats_the_run(noisy, tmp_path):
    out = tmp_path / "out.tif"
    assert main(["denoise", str(noisy), "-o", str(out), *FAST]) == 0
    with tifffile.TiffFile(out) as file:
        record = json.loads(file.imagej_metadata["Info"])
    assert record["source"] == "in.tif" and record["recipe"]["max_iterations"] == 10


def test_a_pipe_gets_plain_lines_with_iteration_loss_and_time(noisy, tmp_path):
    process = start("denoise", noisy, "-o", tmp_path / "out.tif", *FAST)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0
    assert out == f"{tmp_path / 'out.tif'}\n"
    assert "\x1b" not in err and "\r" not in err
    line = next(line for line in err.splitlines() if "iteration 10 of 10" in line)
    assert "validation loss" in line and "left" in line


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows has no terminals of this kind")
def test_a_terminal_gets_a_bar(noisy, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "napari_dip", "denoise", noisy, "-o", tmp_path / "o.tif", *FAST]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs)
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(ours)
    assert process.communicate(timeout=100)[0].decode() == f"{tmp_path / 'o.tif'}\n"
    assert process.returncode == 0
    assert "━".encode() in output and b"iteration" in output


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signal to one process")
@pytest.mark.sampled(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_best_so_far_beside_the_result(noisy, tmp_path, number):
    long = (
        "--preset",
        "fast",
        "--max-iterations",
        "100000",
        "--device",
        "cpu",
        "--prior",
        "random-input",
    )
    report = ("--report", tmp_path / "out.json")
    process = start("denoise", noisy, "-o", tmp_path / "out.tif", *long, *report)
    assert process.stderr is not None
    for line in process.stderr:
        if "iteration" in line:
            break
    interrupted_at = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - interrupted_at < 20
    assert "out.partial.tif" in err and "kept" in err
    assert f"'{tmp_path / 'out.json'}' was not written" in err
    leftovers = ["in.tif", "out.partial.tif", "out.tif.unfinished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == leftovers
    assert "--resume" in err
    assert read_header(tmp_path / "out.partial.tif").scale == pytest.approx((0.2, 0.1))


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signal to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["Error of a pixel", "Done in"])
def test_an_interrupt_after_the_last_iteration_changes_nothing(noisy, tmp_path, number, moment):
    fit_config = ("--preset", "instant", "--max-iterations", "3", "--device", "cpu")
    process = start("denoise", noisy, "-o", tmp_path / "out.tif", *fit_config)
    for line in process.stderr:
        if line.startswith(moment):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif"]


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signal to one process")
@pytest.mark.all_cores
def test_an_interrupted_run_resumes_to_the_same_bytes(noisy, tmp_path):
    fit_config = ("--preset", "fast", "--max-iterations", "120", "--device", "cpu")
    whole, halved = tmp_path / "whole.tif", tmp_path / "halved.tif"
    assert main(["denoise", str(noisy), "-o", str(whole), *fit_config]) == 0
    process = start("denoise", noisy, "-o", halved, *fit_config)
    assert process.stderr is not None
    for line in process.stderr:
        if "iteration" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert main(["denoise", str(noisy), "-o", str(halved), *fit_config, "--resume"]) == 0
    assert whole.read_bytes() == halved.read_bytes()
    assert not (tmp_path / "halved.tif.unfinished").exists()
    assert not (tmp_path / "halved.partial.tif").exists()  # its place is taken


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signal to one process")
def test_an_interrupt_before_the_first_iteration_ends_with_a_message_too(noisy, tmp_path):
    process = start("denoise", noisy, "-o", tmp_path / "out.tif", *FAST)
    assert process.stderr is not None
    process.stderr.readline()  # the plan: the engine is not loaded yet
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted before there was an image to keep; nothing was saved." in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_a_time_limit_that_is_over_before_the_first_iteration_is_a_failure_with_a_message(
    noisy, tmp_path, capsys
):
    limit = ("--time-limit", "0.001")
    assert main(["denoise", str(noisy), "-o", str(tmp_path / "out.tif"), *FAST, *limit]) == 1
    assert "The time limit of 0.001 s was reached" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


@pytest.fixture
def image_with_nan(tmp_path: Path) -> Path:
    image = np.full((2, 40, 40), 7, "uint16")
    image[0] = np.random.default_rng(0).normal(500, 20, (40, 40)).astype("uint16")
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, image, imagej=True, metadata={"axes": "CYX"})
    return path


def test_notes_of_a_run_are_said_unless_it_is_to_be_quiet(image_with_nan, tmp_path, capsys):
    argv = ["denoise", str(image_with_nan), "-o", str(tmp_path / "out.tif"), *FAST, "--overwrite"]
    report = tmp_path / "report.json"
    assert main([*argv, "--verbose", "--report", str(report)]) == 0
    err = capsys.readouterr().err
    notes = json.loads(report.read_text())["notes"]
    assert notes
    for note in notes:
        assert err.count(note) == 1
    assert main([*argv, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_figures_in_the_terminal_have_plain_spaces(noisy, tmp_path, capsys):
    assert main(["denoise", str(noisy), "-o", str(tmp_path / "out.tif"), *FAST]) == 0
    err = capsys.readouterr().err
    assert re.search(r"input [\d.]+, result [\d.]+ grey values", err) and "\u00a0" not in err


def test_notes_of_the_plan_are_not_said_twice(tmp_path, capsys):
    image = np.random.default_rng(0).normal(500, 20, (16, 16)).astype("uint16")
    tifffile.imwrite(tmp_path / "in.tif", image)
    fit_config = ("--preset", "balanced", *FAST[2:])
    argv = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif"), *fit_config]
    assert main([*argv, "--prior", "random-input"]) == 0
    assert capsys.readouterr().err.count("The image is small") == 1


EVENT = Event(
    message="Restoring, part 2 of 3",
    progress=Progress(done=0.4, seconds_left=14.2),
    iteration=50,
    iterations=100,
    training_loss=0.5,
    validation_loss=0.25,
    best_iteration=50,
    seconds=10.0,
    preview=None,
    unit=2,
    units=3,
)


def test_the_part_is_named_once_in_a_line():
    line = "Restoring, part 2 of 3, iteration 50 of 100, validation loss 0.2500, at most 15 s left"
    assert format_event(EVENT) == line


def test_the_part_is_named_once_and_before_the_bar(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = BarReporter(SINGLE_RUN)
    bar.show(EVENT)
    bar.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n")
    line = next(line for line in reversed(text.splitlines()) if "part" in line)
    assert line.count("part 2 of 3") == 1 and "(2/3)" not in line
    assert line.index("part 2 of 3") < line.index("━") < line.index("iteration 50 of 100")


@pytest.mark.long
def test_a_run_of_two_channels_names_each_once(tmp_path, capsys):
    image = np.random.default_rng(0).normal(500, 20, (2, 40, 40)).astype("uint16")
    tifffile.imwrite(tmp_path / "in.tif", image, imagej=True, metadata={"axes": "CYX"})
    argv = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif"), *FAST]
    assert main(argv) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "Restoring," in line]
    assert {line[: line.index(" of 2") + 5] for line in lines} >= {
        "Restoring, channel 1 of 2",
        "Restoring, channel 2 of 2",
    }
    assert all(line.count("channel") == 1 and "/2)" not in line for line in lines)


def test_a_partial_image_never_takes_the_place_of_another(tmp_path):
    assert choose_free_name(tmp_path / "a.tif", "partial").name == "a.partial.tif"
    assert choose_free_name(tmp_path / "a.ome.tif", "partial").name == "a.partial.ome.tif"
    (tmp_path / "a.partial.tif").touch()
    assert choose_free_name(tmp_path / "a.tif", "partial").name == "a.partial-2.tif"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "The memory ran out"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "The memory ran out"),
        (RuntimeError("no memory format given"), "Something unexpected happened: no memory"),
        (RuntimeError("Sizes differ\nat line 3"), "Something unexpected happened: sizes differ."),
        (OSError(5, "Input/output error"), "Something unexpected happened: input/output error."),
    ],
)
def test_an_error_nobody_foresaw_ends_with_one_in_one_sentence(
    noisy, tmp_path, monkeypatch, capsys, error, message
):
    def raise_error(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("napari_dip.cli.restore.run", raise_error)
    assert main(["denoise", str(noisy), "-o", str(tmp_path / "out.tif"), *FAST]) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "out.tif").exists()


def test_a_disk_that_fills_up_ends_with_one_and_spares_what_was_there(
    noisy, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out.tif"
    out.write_text("mine")

    def raise_disk_full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    assert main(["denoise", str(noisy), "-o", str(out), *FAST, "--overwrite"]) == 1
    assert "no space left" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2
