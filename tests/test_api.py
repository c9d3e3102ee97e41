"""The Python interface: any array in, reproducible pixels out, and no early imports."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.errors import FAULTS
from napari_dip.pipeline import api
from napari_dip.samples import MITOCHONDRIA

FAST = {"preset": "fast", "max_iterations": 10, "device": "cpu"}


def make_noisy(dtype: str = "uint16") -> np.ndarray:
    y, x = np.mgrid[:48, :40]
    clean = 200 + 80 * np.sin(x / 5) * np.cos(y / 7)
    return np.random.default_rng(0).poisson(clean).astype(dtype)


def read_refusal_code(image: object, **settings: object) -> str:
    with pytest.raises(dip.RefusedError) as caught:
        dip.denoise(image, **settings)
    return caught.value.reason.code


@pytest.fixture(scope="module")
def plain_result() -> dip.Restoration:
    return dip.denoise(make_noisy(), **FAST)


def test_a_result_has_the_shape_and_intensities_of_its_input(plain_result):
    image = make_noisy()
    assert plain_result.image.shape == plain_result.uncertainty.shape == image.shape
    assert plain_result.image.dtype == np.float32
    assert plain_result.image.mean() == pytest.approx(image.mean(), rel=0.02)
    assert (
        plain_result.stop_reason
        and plain_result.history
        and plain_result.recipe.run_settings.preset == "fast"
    )


def test_the_warnings_of_a_result_are_those_of_its_report(plain_result):
    assert plain_result.warnings == tuple(plain_result.report["verdict"]["warnings"])
    bright = np.full((48, 48), 250, np.uint8)
    bright[:, ::3] = 255
    cut_off = dip.denoise(bright, **FAST)
    assert any("saturated" in sentence for sentence in cut_off.warnings)


@pytest.mark.long
def test_the_warnings_of_a_result_name_noise_that_could_not_be_measured():
    result = dip.denoise(tifffile.imread(MITOCHONDRIA)[0, :128, :128], **FAST)
    noise_note = next(text for text in result.report["notes"] if "unreliable" in text)
    assert noise_note in result.warnings


def test_a_result_shows_itself_in_one_line_without_its_pixels(plain_result):
    text = repr(plain_result)
    assert text == f"<Restoration: denoise, 48 × 40, float32; ended since {plain_result.stop}>"
    assert len(text) < 200


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "dressed",
    [
        lambda image: image.astype(">u2"),
        lambda image: np.asfortranarray(image),
        lambda image: np.repeat(image, 2, axis=0)[::2],
        lambda image: image[::-1][::-1],
        lambda image: image.tolist(),
        lambda image: np.ma.MaskedArray(image),
    ],
    ids=["big-endian", "fortran", "strided", "negative strides", "lists", "unmasked"],
)
def test_the_way_an_array_lies_in_memory_does_not_change_a_pixel(plain_result, dressed):
    result = dip.denoise(dressed(make_noisy()), **FAST)
    np.testing.assert_array_equal(result.image, plain_result.image)


@pytest.mark.all_cores
def test_a_dask_array_and_a_file_give_the_same_pixels(plain_result, tmp_path):
    array = pytest.importorskip("dask.array")
    lazy = dip.denoise(array.from_array(make_noisy(), chunks=16), **FAST)
    np.testing.assert_array_equal(lazy.image, plain_result.image)
    tifffile.imwrite(tmp_path / "in.tif", make_noisy())
    np.testing.assert_array_equal(
        dip.denoise(tmp_path / "in.tif", **FAST).image, plain_result.image
    )


def test_the_input_is_not_changed():
    image = make_noisy("float32")
    before = image.copy()
    image.flags.writeable = False
    dip.denoise(image, **FAST)
    np.testing.assert_array_equal(image, before)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["recipe", "path", "json", "mapping"])
@pytest.mark.all_cores
def test_a_recipe_repeats_the_pixels_in_whichever_form_it_is_kept(plain_result, kind, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(plain_result.recipe.to_json())
    forms = {
        "recipe": plain_result.recipe,
        "path": path,
        "json": plain_result.recipe.to_json(),
        "mapping": plain_result.recipe.to_dict(),
    }
    np.testing.assert_array_equal(dip.restore(make_noisy(), forms[kind]).image, plain_result.image)


def test_progress_gets_every_event_and_the_last_one_is_the_end():
    events: list[dip.Event] = []
    dip.denoise(make_noisy(), progress=events.append, **FAST)
    assert events and all(isinstance(event, dip.Event) for event in events)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and max(fractions) <= 1
    assert max(event.iteration for event in events) == 10


SLOW = {**FAST, "prior": "blind-spot", "max_iterations": 200}


@pytest.mark.all_cores
def test_a_run_that_is_kept_has_the_bytes_of_one_that_ends_after_as_many_iterations(monkeypatch):
    monkeypatch.setattr(api, "_PREVIEW_SECONDS", 0.0)  # a fast machine ends before the first one
    image, previews = make_noisy(), []
    run = dip.run("denoise", image, **SLOW)
    with pytest.raises(dip.RefusedError) as caught:
        run.result  # noqa: B018
    assert caught.value.code == "result-early"
    for event in run:
        previews += [event.preview] * (event.preview is not None)
        if event.iteration >= 25:
            run.keep()
    result = run.result
    assert result.stop_reason == "user" and result.report["iterations"] == 25
    assert previews and all(preview.shape == image.shape for preview in previews)
    again = dip.restore(image, result.recipe, keep_after=25)
    np.testing.assert_array_equal(result.image, again.image)

    def keep_after_25(event: dip.Event) -> str | None:
        return "keep" if event.iteration >= 25 else None

    np.testing.assert_array_equal(
        dip.denoise(image, progress=keep_after_25, **SLOW).image, again.image
    )


def test_a_run_goes_on_to_its_end_and_pauses_for_as_long_as_its_loop_wants(plain_result):
    run, paused_events = dip.run("denoise", make_noisy(), **FAST), 0
    for event in run:
        if event.iteration and not paused_events:
            run.pause()
        paused_events += bool(event.iteration)
        if paused_events == 3:
            run.resume()
    np.testing.assert_array_equal(run.result.image, plain_result.image)
    assert list(run) == [] and run.result is run.result and "ended" in repr(run)


def test_progress_is_asked_again_while_it_answers_pause(plain_result):
    iterations: list[int] = []

    def pause_at_first(event: dip.Event) -> str:
        iterations.append(event.iteration)
        return "pause" if event.iteration and len(iterations) < 12 else "go"

    result = dip.denoise(make_noisy(), progress=pause_at_first, **FAST)
    np.testing.assert_array_equal(result.image, plain_result.image)
    assert len(iterations) >= 12 and iterations[6:11] == [iterations[5]] * 5


@pytest.mark.parametrize("answer", ["discard", "keep"])
def test_a_run_that_is_ended_before_its_first_iteration_has_no_result(answer):
    with pytest.raises(dip.FailedError) as caught:
        dip.denoise(make_noisy(), progress=lambda event: answer, **FAST)
    assert caught.value.code == "result-none"
    run = dip.run("denoise", make_noisy(), **FAST)
    getattr(run, answer)()
    list(run)
    with pytest.raises(dip.FailedError, match="ended before"):
        run.result  # noqa: B018


def test_an_answer_that_is_none_of_the_four_is_refused_and_other_values_go_on(plain_result):
    with pytest.raises(ValueError, match="Did you mean 'keep'"):
        dip.denoise(make_noisy(), progress=lambda event: "kepe", **FAST)
    result = dip.denoise(make_noisy(), progress=lambda event: True, **FAST)
    np.testing.assert_array_equal(result.image, plain_result.image)


def test_the_settings_of_a_task_are_in_its_signature():
    parameters = inspect.signature(dip.denoise).parameters
    assert parameters["preset"].default == "balanced" and parameters["prior"].default == "auto"
    assert parameters["preset"].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="positional"):
        dip.denoise(make_noisy(), "fast")


@pytest.mark.all_cores
def test_an_interrupt_goes_through_and_leaves_torch_as_it_was():
    import torch

    threads = torch.get_num_threads()

    def interrupt(event: dip.Event) -> None:
        if event.iteration:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dip.denoise(make_noisy(), progress=interrupt, **FAST)
    assert torch.get_num_threads() == threads


def test_colours_are_named_by_their_axes():
    colours = np.stack([make_noisy("uint8")] * 3, axis=-1)
    result = dip.denoise(colours, axes="yxs", **FAST)
    assert result.image.shape == colours.shape


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (None, "image-not-array"),
        (7, "image-scalar"),
        ([], "image-line"),
        (np.zeros((0, 64)), "image-empty"),
        ([[1, 2], [3]], "image-not-array"),
        ([["a", "b"]] * 40, "image-text"),
        (np.zeros((40, 40), [("a", "i4"), ("b", "f4")]), "image-text"),
        (np.zeros((40, 40), "datetime64[s]"), "image-text"),
        (np.zeros((40, 40), object), "image-text"),
        (np.zeros((40, 40), bool), "image-bool"),
        (np.zeros((40, 40), "complex64"), "image-complex"),
        (np.ma.masked_less(np.arange(1600).reshape(40, 40), 9), "image-masked"),
        (np.zeros((40, 40)), "pixels-constant"),
        (np.broadcast_to(np.float32(1), (2**20, 2**20)), "image-large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_are_no_images_are_refused(image, code):
    assert read_refusal_code(image) == code


def test_a_dask_array_of_unknown_size_is_refused():
    array = pytest.importorskip("dask.array")
    image = array.from_array(make_noisy(), chunks=16)
    assert read_refusal_code(image[image[:, 0] > 100]) == "image-not-array"


def test_unknown_settings_and_inputs_are_refused_by_name():
    assert read_refusal_code(make_noisy(), sharpness=3) == "setting-unknown"
    with pytest.raises(dip.RefusedError, match="psf"):
        dip.restore(make_noisy(), dip.make_recipe("denoise"), psf=make_noisy())


@pytest.mark.parametrize(
    ("image", "settings", "kind", "code"),
    [
        (make_noisy(), {"preset": "fasst"}, ValueError, "setting-wrong"),
        (make_noisy()[0], {}, ValueError, "image-line"),
        (make_noisy(), {"sharpness": 3}, TypeError, "setting-unknown"),
        (None, {}, TypeError, "image-not-array"),
        ("missing.tif", {}, FileNotFoundError, "file-missing"),
    ],
)
def test_a_refusal_is_also_the_error_that_python_would_raise(image, settings, kind, code):
    with pytest.raises(kind) as caught:
        dip.denoise(image, **settings)
    error = caught.value
    assert isinstance(error, dip.RefusedError) and error.code == code == error.reason.code
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error) and copied.args == error.args == (str(error),)
    assert copied.reason == error.reason and str(error) == error.reason.message


def test_other_refusals_and_failures_are_no_errors_of_python():
    builtin = (ValueError, TypeError, OSError)
    assert not isinstance(dip.RefusedError("folder-gone"), builtin)
    assert not isinstance(dip.FailedError("program-ends"), builtin)


def test_a_refusal_is_also_the_error_of_python_that_its_message_names():
    for code, fault in FAULTS.items():
        error = dip.RefusedError.__new__(dip.RefusedError, code)
        kinds = (ValueError, TypeError, FileNotFoundError)
        assert [kind.__name__ for kind in kinds if isinstance(error, kind)] == (
            [fault.python_error] if fault.python_error else []
        )


@pytest.mark.parametrize(
    ("settings", "near"),
    [
        ({"preset": "fasst"}, "fast"),
        ({"device": "gpu"}, ""),
        ({"prior": "blindspot"}, "blind-spot"),
        ({"max_iteration": 3}, "max_iterations"),
        ({"gian_map": 3}, "gain_map"),
    ],
)
def test_a_misspelt_name_or_choice_is_answered_with_the_nearest_one(settings, near):
    with pytest.raises((TypeError, ValueError)) as caught:
        dip.denoise(make_noisy(), **settings)
    hint = f"Did you mean '{near}'?" if near else "Leave it out to use the default."
    assert hint in str(caught.value)


def test_a_misspelt_task_or_input_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match="Did you mean 'denoise'"):
        dip.plan("denoize", make_noisy())
    with pytest.raises(TypeError, match="Did you mean 'mask'"):
        dip.restore(make_noisy(), dip.make_recipe("inpaint"), msk=make_noisy())


def test_a_warning_of_an_old_name_points_at_the_line_of_the_caller():
    with pytest.warns(FutureWarning) as caught:
        dip.plan("denoise", make_noisy(), steadiness=1.0)
    assert caught[0].filename == __file__


@pytest.fixture
def image_path(tmp_path):
    path = tmp_path / "in.tif"
    metadata = {"unit": "um", "axes": "YX"}
    tifffile.imwrite(path, make_noisy(), imagej=True, resolution=(10, 5), metadata=metadata)
    return path


@pytest.mark.sampled(1)
@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
@pytest.mark.all_cores
def test_a_saved_result_has_the_bytes_of_the_command_line(image_path, tmp_path, suffix):
    by_command, by_python = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    options = ["--preset", "fast", "--max-iterations", "10", "--device", "cpu", "--quiet"]
    assert main(["denoise", str(image_path), "-o", str(by_command), *options]) == 0
    assert dip.denoise(image_path, **FAST).save(by_python) == by_python
    first, second = (path.read_bytes() for path in (by_command, by_python))
    if suffix == ".tif":  # OME has a UUID of its own in each file
        assert first == second
    assert np.array_equal(*map(tifffile.imread, (by_command, by_python)))
    header = dip.io.reading.read_header(by_python)
    assert header.axes == "YX" and header.scale == pytest.approx((0.2, 0.1))


def test_saving_never_replaces_an_input_and_other_files_only_where_allowed(image_path, tmp_path):
    result, target = dip.denoise(image_path, **FAST), tmp_path / "out.tif"
    before = image_path.read_bytes()
    assert result.save(str(target)) == target
    for path, overwrite, code in (
        (target, False, "output-exists"),
        (image_path, True, "output-is-input"),
        (tmp_path / "out.jpg", False, "output-type"),
        (tmp_path / "no" / "out.tif", False, "output-folder-missing"),
    ):
        with pytest.raises(dip.RefusedError) as caught:
            result.save(path, overwrite=overwrite)
        assert caught.value.code == code
    assert result.save(target, overwrite=True) == target
    assert image_path.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"in.tif", "out.tif"}


def test_the_result_of_an_array_is_saved_with_its_axes(plain_result, tmp_path):
    path = plain_result.save(tmp_path / "out.tif")
    assert np.array_equal(tifffile.imread(path), plain_result.image)
    part = replace(plain_result, writer=None)
    with pytest.raises(dip.RefusedError, match="part of an image"):
        part.save(tmp_path / "part.tif")


def test_a_plan_holds_what_the_command_line_prints(image_path, tmp_path, capsys):
    psf = np.outer(*[np.hanning(9)] * 2).astype("float32")
    psf = np.pad(psf, 12) + np.float32(0.02)  # a constant background, for a note
    tifffile.imwrite(tmp_path / "psf.tif", psf)
    plan = dip.plan("deblur", image_path, psf=psf, preset="fast", device="cpu")
    assert isinstance(plan, dip.Plan) and plan.notes
    assert plan.seconds > 0 and plan.peak_bytes > 0 and plan.threads == 1
    psf_options = ["--psf", str(tmp_path / "psf.tif"), "--preset", "fast", "--device", "cpu"]
    assert main(["plan", "deblur", str(image_path), *psf_options]) == 0
    first, *notes = capsys.readouterr().out.splitlines()
    assert first.startswith(plan.summary) and notes == list(map(str, plan.notes))
    with pytest.raises(AttributeError):
        plan.threads = 2


def test_a_plan_is_refused_as_the_run_would_be():
    for settings, code in (({"psf": np.zeros((9, 9))}, "psf-zero"), ({"no": 1}, "setting-unknown")):
        with pytest.raises(ValueError if code == "psf-zero" else TypeError) as caught:
            dip.plan("deblur", make_noisy(), **settings)
        assert caught.value.code == code
    with pytest.raises(ValueError, match="there is no such task"):
        dip.plan("sharpen", make_noisy())


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, napari_dip\n"
        "print(*{'torch', 'numpy', 'pydantic', 'qtpy', 'napari', 'tifffile'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split() == []


def test_planning_from_python_loads_no_torch():
    code = (
        "import sys, numpy, napari_dip as dip\n"
        "from napari_dip.pipeline.execute import runner\n"
        "try: dip.denoise(numpy.zeros(9))\n"
        "except dip.RefusedError: pass\n"
        "sys.exit(bool({'torch', 'qtpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_exists_and_has_a_docstring():
    for name in dip.__all__:
        value = getattr(dip, name)
        assert name == "__version__" or inspect.getdoc(value)
    assert set(dip.__all__) == set(dir(dip))
    with pytest.raises(AttributeError, match="sharpen"):
        dip.sharpen  # noqa: B018


def test_exceptions_keep_their_old_names_for_one_version():
    for old, new in (("Refused", dip.RefusedError), ("Failed", dip.FailedError)):
        with pytest.warns(FutureWarning, match=new.__name__):
            assert getattr(dip, old) is new
