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
    End,
    check,
    hole_array,
    picture,
    refused,
    restored,
    same,
    saved,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def fit(image: Any = None, **how: Any) -> Any:
    return restored(lambda: dip.denoise(plain() if image is None else image, **{**FAST, **how}))


def plain() -> np.ndarray:
    return picture(24, 24)


# --- what is handed over


def alike(make: Callable[[], Any], _: Path) -> None:
    """Hand over the same numbers in another dress: the same answer, and nothing written into it."""
    handed = make()
    before = np.array(np.asarray(handed), dtype=np.float64)
    result = fit(handed)
    same(result.image, fit().image, "the answer", 1e-3)
    same(np.asarray(handed, dtype=np.float64), before, "what was handed over")
    check(type(result.image) is np.ndarray, f"the answer is a {type(result.image).__name__}")


def not_taken(make: Callable[[], Any], pattern: str, _: Path) -> None:
    handed = make()
    refused(lambda: dip.denoise(handed, **FAST), pattern)


def mask_not_taken(make: Callable[[], Any], pattern: str, _: Path) -> None:
    handed = make()
    refused(lambda: dip.inpaint(picture(), handed, **FAST), pattern)


class Matrix(np.ndarray):
    """A subclass that gives itself away in every step."""

    def __array_finalize__(self, other: object) -> None:
        pass


class Stubborn(np.ndarray):
    """A subclass that refuses arithmetic."""

    def __array_ufunc__(self, *rest: Any, **more: Any) -> Any:
        raise TypeError("no arithmetic here")


class Labelled:
    """An array with names, as xarray's: it is one when asked."""

    dims = ("y", "x")

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values.astype(dtype or self.dtype)


class OldFashioned:
    """An array by the interface of old."""

    def __init__(self, values: np.ndarray) -> None:
        self.kept = values
        self.__array_interface__ = values.__array_interface__


class Raising:
    """An array that fails in its own way when asked."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise self.error


class Lying:
    """An array that says another shape than it has."""

    shape, dtype, ndim = (64, 64), np.dtype("f4"), 2

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return plain().astype(dtype or "f4")


def memmapped(mode: str) -> np.ndarray:
    plain().tofile("raw.bin")
    return np.memmap("raw.bin", np.uint16, mode, shape=(24, 24))


def swapped() -> np.ndarray:
    return plain().astype(">u2")


def strided() -> np.ndarray:
    wide = np.zeros((48, 72), np.uint16)
    wide[::2, ::3] = plain()
    return wide[::2, ::3]


def backwards() -> np.ndarray:
    return np.ascontiguousarray(plain()[::-1, ::-1])[::-1, ::-1]


def unaligned() -> np.ndarray:
    raw = np.zeros(24 * 24 * 2 + 1, np.uint8)
    view = raw[1:].view(np.uint16).reshape(24, 24)
    view[...] = plain()
    return view


def read_only() -> np.ndarray:
    array = plain()
    array.flags.writeable = False
    return array


def with_records() -> np.ndarray:
    return np.zeros((24, 24), [("a", "u2"), ("b", "f4")])


def buffered() -> memoryview:
    return memoryview(plain())


def torch_tensor() -> Any:
    import torch

    return torch.from_numpy(plain().astype(np.float32))


def torch_with_gradient() -> Any:
    return torch_tensor().requires_grad_()


def dask_array() -> Any:
    import dask.array

    return dask.array.from_array(plain(), chunks=(7, 24))


def zarr_array() -> Any:
    import zarr

    array = zarr.create_array({}, shape=(24, 24), dtype="u2")
    array[...] = plain()
    return array


def changed_in_a_run(_: Path) -> None:
    """Change the picture by a callback: what was handed over is what is fitted."""
    image = plain().astype(np.float32)
    wanted = fit(image.copy()).image

    def spoil(event: Any) -> None:
        if event.iteration:
            image[...] = -5

    result = restored(lambda: dip.denoise(image, progress=spoil, **FAST))
    same(result.image, wanted, "a picture that was changed meanwhile", 1e-3)


def aliased(name: str, _: Path) -> None:
    """Write into a result: the input, and the other results, keep their values."""
    image = picture(24, 24, dtype="float32")
    before = image.copy()
    mask = hole_array(24, 24)
    calls = {
        "denoise": lambda: dip.denoise(image, **FAST),
        "inpaint": lambda: dip.inpaint(image, mask, **FAST),
        "deblur": lambda: dip.deblur(image, np.ones((3, 3)), **FAST),
        "super_resolve": lambda: dip.super_resolve(image, **FAST),
        "guide": lambda: dip.guide(image, picture(24, 24, seed=3), **FAST),
    }
    result = restored(calls[name])
    residual, doubt = result.residual.copy(), result.uncertainty.copy()
    result.image.flags.writeable and result.image.fill(-1)
    same(image, before, "the input")
    same(result.residual, residual, "the residual")
    same(result.uncertainty, doubt, "the uncertainty")
    check(not np.shares_memory(result.image, image), "the result is the input's memory", End.LOST)
    same(mask, hole_array(24, 24), "the mask")


def inputs_untouched(task: str, _: Path) -> None:
    """Hand over all inputs read-only: nobody tries to write into them."""
    further = {
        "inpaint": {"mask": hole_array(24, 24)},
        "deblur": {"psf": np.ones((3, 3))},
        "guide": {"guide": picture(24, 24, seed=2)},
        "super_resolve": {},
        "blind_deblur": {"psf_size": 3},
        "denoise": {"repeated_exposure": picture(24, 24, seed=8)},
    }[task]
    for array in further.values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    restored(lambda: getattr(dip, task)(read_only(), **further, **FAST))


# --- what is given back


def copied(how: Callable[[Any], Any], _: Path) -> None:
    """Copy a result in some way: the same pixels and words."""
    result = fit()
    again = how(result)
    same(again.image, result.image, "pixels")
    check(again.report == result.report, "another report")
    check(again.recipe == result.recipe, "another recipe")


def short_repr(_: Path) -> None:
    """Look at a result in a notebook: a line or a few, not a wall."""
    text = repr(fit(picture(48, 48)))
    check(len(text) < 2000, f"repr of {len(text)} letters", End.UNCLEAR)


def report_plain(_: Path) -> None:
    """Write a report as JSON: strictly, as it is."""
    text = json.dumps(fit().report, allow_nan=False)
    check(json.loads(text)["task"] == "denoise", "no report")


def recipe_frozen(_: Path) -> None:
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


def recipe_equal(_: Path) -> None:
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
    same(
        restored(lambda: dip.restore(plain(), first)).image,
        restored(lambda: dip.restore(plain(), "r.json")).image,
        "by a file",
    )
    same(
        restored(lambda: dip.restore(plain(), text)).image,
        restored(lambda: dip.restore(plain(), json.loads(text))).image,
        "by a mapping",
    )


def mapping_untouched(_: Path) -> None:
    """Hand over a recipe as a mapping: it is as before."""
    raw = {"schema": 1, "task": "denoise", "settings": {"smoothing": 0.1}, **FAST}
    before = copy.deepcopy(raw)
    restored(lambda: dip.restore(plain(), raw))
    check(raw == before, f"{raw}")


def report_untouched(_: Path) -> None:
    """Change the report of one run: the next run's is its own."""
    first = fit()
    first.report.clear()
    check(fit().report.get("task") == "denoise", "the report is shared between runs")


def learned_copy(_: Path) -> None:
    """Write into the PSF that was found: the report and the picture stay."""
    result = restored(lambda: dip.blind_deblur(plain(), 3, **FAST))
    psf = np.asarray(result.learned["psf"])
    check(
        abs(float(psf.sum()) - 1) < 1e-3 and (psf >= 0).all(), f"sum {psf.sum()}, least {psf.min()}"
    )
    pickle.loads(pickle.dumps(result))


# --- callbacks


class OwnError(Exception):
    """A user's own."""


def raising_progress(error: BaseException, _: Path) -> None:
    """Raise in a callback: that very error comes out, and the next run is as ever."""
    wanted = fit().image

    def progress(event: Any) -> None:
        raise error

    try:
        dip.denoise(plain(), progress=progress, **FAST)
    except BaseException as raised:
        check(raised is error, f"{type(raised).__name__} came out: {raised}")
    else:
        check(False, "the error was swallowed")
    same(fit().image, wanted, "the next run")


def odd_progress(progress: Any, _: Path) -> None:
    """Call back to anything callable."""
    same(restored(lambda: dip.denoise(plain(), progress=progress, **FAST)).image, fit().image)


def uncallable(_: Path) -> None:
    """Hand over a callback that is none: said, and before the work."""
    try:
        dip.denoise(plain(), progress=5, **FAST)
    except (TypeError, dip.RefusedError):
        return
    check(False, "nobody minded")


def nested(_: Path) -> None:
    """Run another fit in a callback: both as if alone."""
    wanted, other = fit().image, fit(seed=9).image
    inner = []

    def progress(event: Any) -> None:
        if not inner:
            inner.append(fit(seed=9).image)

    result = restored(lambda: dip.denoise(plain(), progress=progress, **FAST)).image
    same(result, wanted, "the outer run")
    same(inner[0], other, "the inner run")


def events_kept(_: Path) -> None:
    """Keep all events of a run: they are not overwritten later."""
    events: list[Any] = []
    copies: list[Any] = []

    def progress(event: Any) -> None:
        events.append(event)
        copies.append(copy.deepcopy(event))

    restored(lambda: dip.denoise(plain(), progress=progress, preset="fast", max_iterations=30))
    for event, kept in zip(events, copies, strict=True):
        for name in ("image", "preview", "picture"):
            if getattr(event, name, None) is not None:
                same(getattr(event, name), getattr(kept, name), f"{name} of an event")


def events_spoilt(_: Path) -> None:
    """Write into the preview that a callback is shown: the result is as ever."""
    wanted = fit(max_iterations=30).image

    def progress(event: Any) -> None:
        for name in ("image", "preview", "picture"):
            array = getattr(event, name, None)
            if isinstance(array, np.ndarray) and array.flags.writeable:
                array[...] = 1e9

    same(
        restored(
            lambda: dip.denoise(plain(), progress=progress, preset="fast", max_iterations=30)
        ).image,
        wanted,
        "the result",
    )


# --- generators


def running(**how: Any) -> Any:
    """Begin a run as the dock does, step by step."""
    from napari_dip.pipeline.api import open_input
    from napari_dip.pipeline.execute.runner import run
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.plan.preflight import preflight

    spec, pixels = open_input("image", plain(), None)
    recipe = dip.make_recipe("denoise", **{**FAST, "max_iterations": 60, **how})
    return run(preflight(recipe, spec, detect_machine(), {}), {"image": pixels()})


def drain(steps: Any) -> Any:
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


def interleaved(_: Path) -> None:
    """Step through two runs in turn, in one thread: each as if alone."""
    alone = [drain(running(seed=seed)).image for seed in (1, 2)]
    running_fits = {0: running(seed=1), 1: running(seed=2)}
    results = {}
    while running_fits:
        for key, steps in list(running_fits.items()):
            try:
                next(steps)
            except StopIteration as stop:
                results[key] = stop.value.image
                del running_fits[key]
    for key in (0, 1):
        same(results[key], alone[key], f"run {key + 1}")


def closed_early(steps_before: int, _: Path) -> None:
    """Close a run at some step: no error, and the next is as ever."""
    wanted = drain(running()).image
    steps = running()
    for _number in range(steps_before):
        next(steps, None)
    steps.close()
    check(not list(steps), "a closed run goes on")
    same(drain(running()).image, wanted, "the next run")


def thrown_into(error: BaseException, _: Path) -> None:
    """Throw an error into a run: it comes out, and the next is as ever."""
    wanted = drain(running()).image
    steps = running()
    for _number in range(6):
        next(steps)
    try:
        steps.throw(error)
    except BaseException as raised:
        check(raised is error, f"{type(raised).__name__} came out: {raised}")
    else:
        check(False, "the error was swallowed")
    same(drain(running()).image, wanted, "the next run")


def dropped(_: Path) -> None:
    """Drop a run in its midst: it is collected, and threads and memory with it."""
    before = threading.active_count()
    for _number in range(5):
        steps = running()
        for _step in range(5):
            next(steps)
        del steps
    gc.collect()
    check(threading.active_count() <= before, f"{threading.enumerate()}")
    same(drain(running()).image, drain(running()).image, "the next run")


def beside_a_thread(_: Path) -> None:
    """Run in a thread while another runs: each as if alone."""
    wanted = [fit(seed=seed).image for seed in (1, 2)]
    results: dict[int, Any] = {}
    thread = threading.Thread(target=lambda: results.update({1: fit(seed=2).image}))
    thread.start()
    results[0] = fit(seed=1).image
    thread.join()
    for key in (0, 1):
        same(results[key], wanted[key], f"run {key + 1}")


def float_path(_: Path) -> None:
    """Save results of Python's door by a path object, into bytes and back."""
    saved("in.tif", plain())
    first = fit("in.tif").image
    same(fit(Path("in.tif")).image, first, "by a Path")


def bytes_path(_: Path) -> None:
    """Name a file in bytes: read, or refused in words that a path is text."""
    saved("in.tif", plain())
    try:
        result = dip.denoise(b"in.tif", **FAST)
    except dip.RefusedError as no:
        check(
            "in.tif" in no.reason.message or "path" in no.reason.message,
            no.reason.message,
            End.UNCLEAR,
        )
    else:
        same(result.image, fit("in.tif").image, "by bytes")


def keyword(how: dict[str, Any], pattern: str, _: Path) -> None:
    """Misspell a keyword: refused by its name."""
    refused(lambda: dip.denoise(plain(), **how, **FAST), pattern)


def axes_no(axes: Any, pattern: str, _: Path) -> None:
    refused(lambda: dip.denoise(plain(), axes=axes, **FAST), pattern)


def settings_alike(how: dict[str, Any], other: dict[str, Any], _: Path) -> None:
    """Write a setting in two ways: the same run."""
    same(fit(**how).image, fit(**other).image, f"{how} and {other}")


def batch_call(_: Path) -> None:
    """Run a batch in Python: generators and paths as inputs, a result for each."""
    for number in range(3):
        saved(f"{number}.tif", picture(24, 24, seed=number))
    recipe = dip.make_recipe("denoise", **FAST)
    result = dip.batch(recipe, (Path(f"{number}.tif") for number in range(3)), "results")
    check(result.count("restored") == 3, f"{[outcome.state for outcome in result.outcomes]}")
    check(
        [outcome.source.name for outcome in result.outcomes] == ["0.tif", "1.tif", "2.tif"], "order"
    )
    pickle.loads(pickle.dumps(result))


def batch_raising(_: Path) -> None:
    """Raise in a batch's callback, and go on: what was done stays as it is."""
    for number in range(2):
        saved(f"{number}.tif", picture(24, 24, seed=number))
    recipe = dip.make_recipe("denoise", **FAST)

    def progress(event: Any) -> None:
        if event.outcome is not None:
            raise OwnError

    try:
        dip.batch(recipe, ["0.tif", "1.tif"], "results", progress=progress)
    except OwnError:
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


def batch_inputs_no(inputs: Any, pattern: str, _: Path) -> None:
    refused(lambda: dip.batch({"schema": 1, "task": "denoise"}, inputs, "results"), pattern)
