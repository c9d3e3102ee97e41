"""Arrays, results and interpreters as programs pass them: what is done and checked."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import napari_dip as dip
from faults.cases import (
    FAST,
    Outcome,
    check,
    check_call_refused,
    check_restored,
    check_same_pixels,
    make_hole_mask,
    make_image,
    save_tiff,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def fit(image: Any = None, **options: Any) -> Any:
    return check_restored(
        lambda: dip.denoise(make_plain_image() if image is None else image, **{**FAST, **options})
    )


def make_plain_image() -> np.ndarray:
    return make_image(24, 24)


# --- what is handed over


def check_same_result(make: Callable[[], Any], _: Path) -> None:
    """Hand over the same numbers in another dress: the same answer, and nothing written into it."""
    array = make()
    plain = array.detach() if hasattr(array, "detach") else array  # NumPy takes no gradient
    before = np.array(np.asarray(plain), dtype=np.float64)
    result = fit(array)
    check_same_pixels(result.image, fit().image, "the answer", 1e-3)
    check_same_pixels(np.asarray(plain, dtype=np.float64), before, "what was handed over")
    check(type(result.image) is np.ndarray, f"the answer is a {type(result.image).__name__}")


def check_array_refused(make: Callable[[], Any], pattern: str, _: Path) -> None:
    array = make()
    check_call_refused(lambda: dip.denoise(array, **FAST), pattern)


def check_mask_refused(make: Callable[[], Any], pattern: str, _: Path) -> None:
    array = make()
    check_call_refused(lambda: dip.inpaint(make_image(), array, **FAST), pattern)


class ArraySubclass(np.ndarray):
    """A subclass that gives itself away in every step."""

    def __array_finalize__(self, other: object) -> None:
        pass


class UfuncRefusingArray(np.ndarray):
    """A subclass that refuses arithmetic."""

    def __array_ufunc__(self, *rest: Any, **more: Any) -> Any:
        raise TypeError("no arithmetic here")


class LabelledArray:
    """An array with names, as xarray's: it is one when asked."""

    dims = ("y", "x")

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values.astype(dtype or self.dtype)


class ArrayInterfaceObject:
    """An array by the interface of old."""

    def __init__(self, values: np.ndarray) -> None:
        self.kept = values
        self.__array_interface__ = values.__array_interface__


class RaisingArray:
    """An array that fails in its own way when asked."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise self.error


class WrongShapeArray:
    """An array that says another shape than it has."""

    shape, dtype, ndim = (64, 64), np.dtype("f4"), 2

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return make_plain_image().astype(dtype or "f4")


def make_memmap(mode: str) -> np.ndarray:
    make_plain_image().tofile("raw.bin")
    return np.memmap("raw.bin", np.uint16, mode, shape=(24, 24))


def make_byte_swapped() -> np.ndarray:
    return make_plain_image().astype(">u2")


def make_strided() -> np.ndarray:
    wide = np.zeros((48, 72), np.uint16)
    wide[::2, ::3] = make_plain_image()
    return wide[::2, ::3]


def make_reversed() -> np.ndarray:
    return np.ascontiguousarray(make_plain_image()[::-1, ::-1])[::-1, ::-1]


def make_unaligned() -> np.ndarray:
    raw = np.zeros(24 * 24 * 2 + 1, np.uint8)
    view = raw[1:].view(np.uint16).reshape(24, 24)
    view[...] = make_plain_image()
    return view


def make_read_only() -> np.ndarray:
    array = make_plain_image()
    array.flags.writeable = False
    return array


def make_record_field() -> np.ndarray:
    return np.zeros((24, 24), [("a", "u2"), ("b", "f4")])


def make_buffer() -> memoryview:
    return memoryview(make_plain_image())


def make_torch_tensor() -> Any:
    import torch

    return torch.from_numpy(make_plain_image().astype(np.float32))


def make_torch_tensor_with_gradient() -> Any:
    return make_torch_tensor().requires_grad_()


def make_dask_array() -> Any:
    import dask.array

    return dask.array.from_array(make_plain_image(), chunks=(7, 24))


def make_zarr_array() -> Any:
    import zarr

    array = zarr.create_array({}, shape=(24, 24), dtype="u2")
    array[...] = make_plain_image()
    return array


def check_input_changed_by_callback(_: Path) -> None:
    """Change the image by a callback: what was handed over is what is fitted."""
    image = make_plain_image().astype(np.float32)
    wanted = fit(image.copy()).image

    def spoil(event: Any) -> None:
        if event.iteration:
            image[...] = -5

    result = check_restored(lambda: dip.denoise(image, progress=spoil, **FAST))
    check_same_pixels(result.image, wanted, "an image that was changed meanwhile", 1e-3)


def check_results_share_no_memory(name: str, _: Path) -> None:
    """Write into a result: the input, and the other results, keep their values."""
    image = make_image(24, 24, dtype="float32")
    before = image.copy()
    mask = make_hole_mask(24, 24)
    calls = {
        "denoise": lambda: dip.denoise(image, **FAST),
        "inpaint": lambda: dip.inpaint(image, mask, **FAST),
        "deblur": lambda: dip.deblur(image, np.ones((3, 3)), **FAST),
        "super_resolve": lambda: dip.super_resolve(image, **FAST),
        "guide": lambda: dip.guide(image, make_image(24, 24, seed=3), **FAST),
    }
    result = check_restored(calls[name])
    residual, doubt = result.residual.copy(), result.uncertainty.copy()
    result.image.flags.writeable and result.image.fill(-1)
    check_same_pixels(image, before, "the input")
    check_same_pixels(result.residual, residual, "the residual")
    check_same_pixels(result.uncertainty, doubt, "the uncertainty")
    check(
        not np.shares_memory(result.image, image), "the result is the input's memory", Outcome.LOST
    )
    check_same_pixels(mask, make_hole_mask(24, 24), "the mask")


def check_inputs_unchanged(task: str, _: Path) -> None:
    """Hand over all inputs read-only: nobody tries to write into them."""
    further: dict[str, Any] = {
        "inpaint": {"mask": make_hole_mask(24, 24)},
        "deblur": {"psf": np.ones((3, 3))},
        "guide": {"guide": make_image(24, 24, seed=2)},
        "super_resolve": {},
        "blind_deblur": {"psf_size": 3},
        "denoise": {"repeated_exposure": make_image(24, 24, seed=8)},
    }[task]
    for array in further.values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    check_restored(lambda: getattr(dip, task)(make_read_only(), **further, **FAST))


# --- what is given back


def check_copied_result(options: Callable[[Any], Any], _: Path) -> None:
    """Copy a result in some way: the same pixels and words."""
    result = fit()
    again = options(result)
    check_same_pixels(again.image, result.image, "pixels")
    check(again.report == result.report, "another report")
    check(again.recipe == result.recipe, "another recipe")


def check_short_repr(_: Path) -> None:
    """Look at a result in a notebook: a line or a few, not a wall."""
    text = repr(fit(make_image(48, 48)))
    check(len(text) < 2000, f"repr of {len(text)} letters", Outcome.UNCLEAR)


def check_report_is_json(_: Path) -> None:
    """Write a report as JSON: strictly, as it is."""
    text = json.dumps(fit().report, allow_nan=False)
    check(json.loads(text)["task"] == "denoise", "no report")


def check_recipe_is_immutable(_: Path) -> None:
    """Change a recipe: it cannot be, or the next run is as changed."""
    recipe = dip.make_recipe("denoise", **FAST)
    for change in (
        lambda: setattr(recipe, "task", None),
        lambda: setattr(recipe.run_settings, "seed", 5),
        lambda: setattr(recipe.task, "smoothing", 3.0),
    ):
        try:
            change()
        except (AttributeError, TypeError, ValueError):
            continue
        raise AssertionError("a recipe was changed in place")
    check(recipe == dip.make_recipe("denoise", **FAST), "another recipe")


def check_recipes_are_equal(_: Path) -> None:
    """Make a recipe in four ways: the same one."""
    first = dip.make_recipe("denoise", **FAST)
    text = first.to_json()
    Path("r.json").write_text(text, "utf-8")
    for other in (
        dip.recipe_from_json(text),
        pickle.loads(pickle.dumps(first)),
        copy.deepcopy(first),
    ):
        check(other == first, f"{other} is not {first}")
    check_same_pixels(
        check_restored(lambda: dip.restore(make_plain_image(), first)).image,
        check_restored(lambda: dip.restore(make_plain_image(), "r.json")).image,
        "by a file",
    )
    check_same_pixels(
        check_restored(lambda: dip.restore(make_plain_image(), text)).image,
        check_restored(lambda: dip.restore(make_plain_image(), json.loads(text))).image,
        "by a mapping",
    )


def check_mapping_unchanged(_: Path) -> None:
    """Hand over a recipe as a mapping: it is as before."""
    raw = {"schema": 1, "task": "denoise", "settings": {"smoothing": 0.1}, **FAST}
    before = copy.deepcopy(raw)
    check_restored(lambda: dip.restore(make_plain_image(), raw))
    check(raw == before, f"{raw}")


def check_report_is_not_shared(_: Path) -> None:
    """Change the report of one run: the next run's is its own."""
    first = fit()
    first.report.clear()
    check(fit().report.get("task") == "denoise", "the report is shared between runs")


def check_learned_psf(_: Path) -> None:
    """Write into the PSF that was found: the report and the image stay."""
    result = check_restored(lambda: dip.blind_deblur(make_plain_image(), psf_size=3, **FAST))
    psf = np.asarray(result.learned_parameters["psf"])
    check(
        abs(float(psf.sum()) - 1) < 1e-3 and (psf >= 0).all(), f"sum {psf.sum()}, least {psf.min()}"
    )
    pickle.loads(pickle.dumps(result))


# --- callbacks


class CallbackError(Exception):
    """A user's own."""


def check_error_of_callback(error: BaseException, _: Path) -> None:
    """Raise in a callback: that very error comes out, and the next run is as ever."""
    wanted = fit().image

    def progress(event: Any) -> None:
        raise error

    try:
        dip.denoise(make_plain_image(), progress=progress, **FAST)
    except BaseException as raised:
        check(raised is error, f"{type(raised).__name__} came out: {raised}")
    else:
        check(False, "the error was swallowed")
    check_same_pixels(fit().image, wanted, "the next run")


def check_callable_progress(progress: Any, _: Path) -> None:
    """Call back to anything callable."""
    check_same_pixels(
        check_restored(lambda: dip.denoise(make_plain_image(), progress=progress, **FAST)).image,
        fit().image,
    )


def check_uncallable_progress(_: Path) -> None:
    """Hand over a callback that is none: said, and before the work."""
    try:
        dip.denoise(make_plain_image(), progress=5, **FAST)
    except (TypeError, dip.RefusedError):
        return
    check(False, "nobody minded")


def check_nested_run(_: Path) -> None:
    """Run another fit in a callback: both as if alone."""
    wanted, other = fit().image, fit(seed=9).image
    inner: list[Any] = []

    def progress(event: Any) -> None:
        if not inner:
            inner.append(fit(seed=9).image)

    result = check_restored(
        lambda: dip.denoise(make_plain_image(), progress=progress, **FAST)
    ).image
    check_same_pixels(result, wanted, "the outer run")
    check_same_pixels(inner[0], other, "the inner run")


def check_events_stay(_: Path) -> None:
    """Keep all events of a run: they are not overwritten later."""
    events: list[Any] = []
    copies: list[Any] = []

    def progress(event: Any) -> None:
        events.append(event)
        copies.append(copy.deepcopy(event))

    check_restored(
        lambda: dip.denoise(make_plain_image(), progress=progress, preset="fast", max_iterations=30)
    )
    for event, kept in zip(events, copies, strict=True):
        for name in ("image", "preview", "picture"):
            if getattr(event, name, None) is not None:
                check_same_pixels(getattr(event, name), getattr(kept, name), f"{name} of an event")


def check_changed_previews(_: Path) -> None:
    """Write into the preview that a callback is shown: the result is as ever."""
    wanted = fit(max_iterations=30).image

    def progress(event: Any) -> None:
        for name in ("image", "preview", "picture"):
            array = getattr(event, name, None)
            if isinstance(array, np.ndarray) and array.flags.writeable:
                array[...] = 1e9

    check_same_pixels(
        check_restored(
            lambda: dip.denoise(
                make_plain_image(), progress=progress, preset="fast", max_iterations=30
            )
        ).image,
        wanted,
        "the result",
    )


# --- generators


def start_run(**options: Any) -> Any:
    """Begin a run as the dock does, step by step."""
    from napari_dip.pipeline.execute.runner import run
    from napari_dip.pipeline.lazy_inputs import open_input
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.plan.preflight import preflight

    header, pixels = open_input("image", make_plain_image(), None)
    recipe = dip.make_recipe("denoise", **{**FAST, "max_iterations": 60, **options})
    return run(preflight(recipe, header, detect_machine(), {}), {"image": pixels()})


def run_to_end(steps: Any) -> Any:
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


def check_interleaved_runs(_: Path) -> None:
    """Step through two runs in turn, in one thread: each as if alone."""
    alone = [run_to_end(start_run(seed=seed)).image for seed in (1, 2)]
    running_fits = {0: start_run(seed=1), 1: start_run(seed=2)}
    results = {}
    while running_fits:
        for key, steps in list(running_fits.items()):
            try:
                next(steps)
            except StopIteration as stop:
                results[key] = stop.value.image
                del running_fits[key]
    for key in (0, 1):
        check_same_pixels(results[key], alone[key], f"run {key + 1}")


def check_closed_run(steps_before: int, _: Path) -> None:
    """Close a run at some step: no error, and the next is as ever."""
    wanted = run_to_end(start_run()).image
    steps = start_run()
    for _number in range(steps_before):
        next(steps, None)
    steps.close()
    check(not list(steps), "a closed run goes on")
    check_same_pixels(run_to_end(start_run()).image, wanted, "the next run")


def check_error_thrown_into_run(error: BaseException, _: Path) -> None:
    """Throw an error into a run: it comes out, and the next is as ever."""
    wanted = run_to_end(start_run()).image
    steps = start_run()
    for _number in range(6):
        next(steps)
    try:
        steps.throw(error)
    except BaseException as raised:
        check(raised is error, f"{type(raised).__name__} came out: {raised}")
    else:
        check(False, "the error was swallowed")
    check_same_pixels(run_to_end(start_run()).image, wanted, "the next run")


def check_dropped_run(_: Path) -> None:
    """Drop a run in its midst: it is collected, and threads and memory with it."""
    before = threading.active_count()
    for _number in range(5):
        steps = start_run()
        for _step in range(5):
            next(steps)
        del steps
    gc.collect()
    check(threading.active_count() <= before, f"{threading.enumerate()}")
    check_same_pixels(run_to_end(start_run()).image, run_to_end(start_run()).image, "the next run")


def check_concurrent_threads(_: Path) -> None:
    """Run in a thread while another runs: each as if alone."""
    wanted = [fit(seed=seed).image for seed in (1, 2)]
    results: dict[int, Any] = {}
    thread = threading.Thread(target=lambda: results.update({1: fit(seed=2).image}))
    thread.start()
    results[0] = fit(seed=1).image
    thread.join()
    for key in (0, 1):
        check_same_pixels(results[key], wanted[key], f"run {key + 1}")


def check_path_object(_: Path) -> None:
    """Save results of Python's door by a path object, into bytes and back."""
    save_tiff("in.tif", make_plain_image())
    first = fit("in.tif").image
    check_same_pixels(fit(Path("in.tif")).image, first, "by a Path")


def check_bytes_path(_: Path) -> None:
    """Name a file in bytes: read, or refused in words that a path is text."""
    save_tiff("in.tif", make_plain_image())
    try:
        result = dip.denoise(b"in.tif", **FAST)
    except dip.RefusedError as no:
        check(
            "in.tif" in no.reason.message or "path" in no.reason.message,
            no.reason.message,
            Outcome.UNCLEAR,
        )
    else:
        check_same_pixels(result.image, fit("in.tif").image, "by bytes")


def check_keyword_refused(options: dict[str, Any], pattern: str, _: Path) -> None:
    """Misspell a keyword: refused by its name."""
    check_call_refused(lambda: dip.denoise(make_plain_image(), **options, **FAST), pattern)


def check_axes_refused(axes: Any, pattern: str, _: Path) -> None:
    check_call_refused(lambda: dip.denoise(make_plain_image(), axes=axes, **FAST), pattern)


def check_same_run(options: dict[str, Any], other: dict[str, Any], _: Path) -> None:
    """Write a setting in two ways: the same run."""
    check_same_pixels(fit(**options).image, fit(**other).image, f"{options} and {other}")


def check_batch(_: Path) -> None:
    """Run a batch in Python: generators and paths as inputs, a result for each."""
    for number in range(3):
        save_tiff(f"{number}.tif", make_image(24, 24, seed=number))
    recipe = dip.make_recipe("denoise", **FAST)
    result = dip.batch(recipe, (Path(f"{number}.tif") for number in range(3)), "results")
    check(result.count("restored") == 3, f"{[outcome.state for outcome in result.outcomes]}")
    check(
        [outcome.source.name for outcome in result.outcomes] == ["0.tif", "1.tif", "2.tif"], "order"
    )
    pickle.loads(pickle.dumps(result))


def check_error_of_batch_callback(_: Path) -> None:
    """Raise in a batch's callback, and go on: what was done stays as it is."""
    for number in range(2):
        save_tiff(f"{number}.tif", make_image(24, 24, seed=number))
    recipe = dip.make_recipe("denoise", **FAST)

    def progress(event: Any) -> None:
        if event.outcome is not None:
            raise CallbackError

    try:
        dip.batch(recipe, ["0.tif", "1.tif"], "results", progress=progress)
    except CallbackError:
        pass
    else:
        check(False, "the error was swallowed")
    first = Path("results/0.tif").stat().st_mtime_ns
    result = dip.batch(recipe, ["0.tif", "1.tif"], "results", resume=True)
    check(
        result.count("refused", "failed", "waiting") == 0,
        f"{[outcome.state for outcome in result.outcomes]}",
    )
    check(Path("results/0.tif").stat().st_mtime_ns == first, "what was done was done again")


def check_batch_inputs_refused(inputs: Any, pattern: str, _: Path) -> None:
    check_call_refused(
        lambda: dip.batch({"schema": 1, "task": "denoise"}, inputs, "results"), pattern
    )
