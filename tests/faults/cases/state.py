"""Arrays, results and interpreters as programs hand them over: answered, left as they were."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from faults.cases import (
    Row,
    make_picture,
    rows_to_trials,
    save_tiff,
)
from faults.cases.interpreter_acts import (
    argv_odd,
    debugging_collection,
    decimal_comma,
    few_digits,
    foreign_json,
    hooked,
    no_collection,
    no_streams,
    numpy_raises,
    numpy_seeded,
    path_emptied,
    printing_wide,
    python_seeded,
    small_integers,
    switch_often,
    torch_anomaly,
    torch_deterministic,
    torch_flush,
    torch_matmul_medium,
    torch_seeded,
    torch_threads,
    warnings_raise,
    within,
)
from faults.cases.state_acts import (
    ArrayInterfaceObject,
    ArraySubclass,
    CallbackError,
    LabelledArray,
    RaisingArray,
    UfuncRefusingArray,
    backwards,
    buffered,
    check_array_refused,
    check_axes_refused,
    check_batch,
    check_batch_inputs_refused,
    check_bytes_path,
    check_callable_progress,
    check_changed_previews,
    check_closed_run,
    check_concurrent_threads,
    check_copied_result,
    check_dropped_run,
    check_error_of_batch_callback,
    check_error_of_callback,
    check_error_thrown_into_run,
    check_events_stay,
    check_input_changed_by_callback,
    check_inputs_unchanged,
    check_interleaved_runs,
    check_keyword_refused,
    check_learned_psf,
    check_mapping_unchanged,
    check_mask_refused,
    check_nested_run,
    check_path_object,
    check_recipe_is_immutable,
    check_recipes_are_equal,
    check_report_is_not_shared,
    check_results_share_no_memory,
    check_same_result,
    check_same_run,
    check_uncallable_progress,
    dask_array,
    make_plain_picture,
    memmapped,
    read_only,
    report_plain,
    short_repr,
    strided,
    swapped,
    torch_tensor,
    torch_with_gradient,
    unaligned,
    with_records,
    zarr_array,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every thirtieth."""
    yield from rows_to_trials(ROWS, small=small, step=30)


ALIKE: dict[str, Callable[[], Any]] = {
    "a subclass": lambda: make_plain_picture().view(ArraySubclass),
    "a subclass without arithmetic": lambda: make_plain_picture().view(UfuncRefusingArray),
    "numpy's matrix": lambda: np.matrix(make_plain_picture()),
    "a masked array without a mask": lambda: np.ma.array(make_plain_picture()),
    "a masked array of a mask of nothing": lambda: np.ma.array(
        make_plain_picture(), mask=np.zeros((24, 24), bool)
    ),
    "a read-only array": read_only,
    "columns first": lambda: np.asfortranarray(make_plain_picture()),
    "every second row and third column": strided,
    "negative strides": backwards,
    "unaligned bytes": unaligned,
    "the other byte order": swapped,
    "a memmap to read": lambda: memmapped("r"),
    "a memmap to write": lambda: memmapped("r+"),
    "a memmap of its own copy": lambda: memmapped("c"),
    "lists": lambda: make_plain_picture().tolist(),
    "tuples": lambda: tuple(map(tuple, make_plain_picture().tolist())),
    "a buffer": buffered,
    "an array by its interface": lambda: ArrayInterfaceObject(make_plain_picture()),
    "an array with names": lambda: LabelledArray(make_plain_picture()),
    "a tensor": torch_tensor,
    "a dask array": dask_array,
    "a zarr array": zarr_array,
    "rows of arrays": lambda: list(make_plain_picture()),
}
NOT_TAKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "not an array"),
    "an ellipsis": (lambda: ..., "number|image|array"),
    "a set": (lambda: {1, 2}, "number|array|image"),
    "a function": (lambda: make_plain_picture, "number|array|image"),
    "a class": (lambda: np.ndarray, "number|array|image"),
    "ragged lists": (lambda: [[1, 2], [3]], "length|array|number"),
    "lists of nothing": (lambda: [[], []], "no pixels|empty"),
    "lists with a text": (lambda: [["1", "2"]] * 24, "number"),
    "lists with a None": (lambda: [[None] * 24] * 24, "number"),
    "decimal numbers": (lambda: np.full((24, 24), Decimal(3)), "number"),
    "fractions": (lambda: np.full((24, 24), Fraction(1, 3)), "number"),
    "records": (with_records, "number|type"),
    "an open file": (
        lambda: save_tiff("in.tif", make_plain_picture()).open("rb"),
        "path|file|array|number",
    ),
    "a gradient": (torch_with_gradient, "array|grad|number"),
    "an array that raises": (lambda: RaisingArray(ValueError("mine")), "array|mine"),
    "an array that raises nothing in words": (lambda: RaisingArray(ValueError()), "array"),
    "an array that raises two lines": (lambda: RaisingArray(RuntimeError("a\nb")), "array|a"),
    "an array that has gone": (lambda: RaisingArray(MemoryError("gone")), "memory|array"),
    "a masked array": (lambda: np.ma.masked_greater(make_plain_picture(), 500), "masked"),
    "a masked array of all": (lambda: np.ma.array(make_plain_picture(), mask=True), "masked"),
    "repeated rows": (lambda: np.broadcast_to(np.float32(3), (24, 24)), "nothing to restore"),
    "a huge view of one value": (lambda: np.broadcast_to(np.float32(3), (10**6, 10**6)), "memory"),
    "a list that holds itself": (
        lambda: (lambda cycle: cycle.append(cycle) or cycle)([]),
        "array|number|deep",
    ),
}
STATES = {
    "numpy that raises": numpy_raises,
    "warnings that raise": warnings_raise,
    "wide printing": printing_wide,
    "numpy's seed": numpy_seeded,
    "Python's seed": python_seeded,
    "torch's seed": torch_seeded,
    "torch's settings": torch_threads,
    "coarse products in torch": torch_matmul_medium,
    "torch's deterministic mode": torch_deterministic,
    "torch looking for anomalies": torch_anomaly,
    "torch flushing subnormals": torch_flush,
    "no collection of garbage": no_collection,
    "constant collection of garbage": debugging_collection,
    "a decimal comma": decimal_comma,
    "two decimal digits": few_digits,
    "short integers as text": small_integers,
    "threads that switch often": switch_often,
    "no streams": no_streams,
    "json that writes otherwise": foreign_json,
    "hooks of one's own": hooked,
    "an empty path of modules": path_emptied,
    "no argv": argv_odd,
}
ROWS = [
    *(
        Row(
            f"picture as {what}",
            partial(check_same_result, make),
            "the same answer, nothing written",
        )
        for what, make in ALIKE.items()
    ),
    *(
        Row(f"{what} as a picture", partial(check_array_refused, make, message), "refused in words")
        for what, (make, message) in NOT_TAKEN.items()
    ),
    *(
        Row(f"mask that is {what}", partial(check_mask_refused, make, message), "refused in words")
        for what, make, message in (
            ("text", lambda: "none.tif", "none.tif"),
            ("a number", lambda: 1, "mask"),
            ("a list of lists too short", lambda: [[1]], "mask"),
            ("records", with_records, "mask|number|type"),
            ("complex", lambda: make_picture() * 1j, "complex|mask|number"),
            ("texts", lambda: make_picture().astype("U3"), "number|mask"),
            ("a masked array", lambda: np.ma.masked_greater(make_picture(), 500), "masked"),
        )
    ),
    Row("picture changed by a callback", check_input_changed_by_callback, "fitted as handed over"),
    *(
        Row(
            f"result of {task} written into",
            partial(check_results_share_no_memory, task),
            "inputs and others stay",
        )
        for task in ("denoise", "inpaint", "deblur", "super_resolve", "guide")
    ),
    *(
        Row(f"read-only inputs of {task}", partial(check_inputs_unchanged, task), "restored")
        for task in ("denoise", "inpaint", "deblur", "super_resolve", "guide", "blind_deblur")
    ),
    *(
        Row(f"result {what}", partial(check_copied_result, options), "the same")
        for what, options in (
            ("pickled", lambda loaded: pickle.loads(pickle.dumps(loaded))),
            ("copied", copy.copy),
            ("copied deeply", copy.deepcopy),
        )
    ),
    Row("result looked at", short_repr, "some lines"),
    Row("report as JSON", report_plain, "strict JSON"),
    Row("recipe changed", check_recipe_is_immutable, "not in place"),
    Row("recipe in four ways", check_recipes_are_equal, "the same"),
    Row("recipe as a mapping", check_mapping_unchanged, "as before"),
    Row("report changed", check_report_is_not_shared, "the next is its own"),
    Row("PSF that was found", check_learned_psf, "of sum one, not negative"),
    *(
        Row(
            f"callback that raises {type(error).__name__}",
            partial(check_error_of_callback, error),
            "that very error",
        )
        for error in (
            CallbackError("mine"),
            KeyboardInterrupt(),
            SystemExit(3),
            StopIteration(),
            GeneratorExit(),
            MemoryError(),
            OSError(28, "full"),
            RecursionError("deep"),
        )
    ),
    *(
        Row(
            f"callback that is {what}",
            partial(check_callable_progress, settings),
            "the same answer",
        )
        for what, settings in (
            ("a builtin", id),
            ("a method", [].append),
            ("a class", list.__class__),
            ("a partial", partial(max, 1, key=str)),
        )
    ),
    Row("callback that is a number", check_uncallable_progress, "said"),
    Row("fit within a callback", check_nested_run, "each as if alone"),
    Row("events kept", check_events_stay, "not overwritten"),
    Row("events spoilt", check_changed_previews, "the same answer"),
    Row("two runs in turn", check_interleaved_runs, "each as if alone"),
    *(
        Row(f"run closed after {count} steps", partial(check_closed_run, count), "no error")
        for count in (0, 1, 5, 12)
    ),
    *(
        Row(
            f"{type(error).__name__} thrown into a run",
            partial(check_error_thrown_into_run, error),
            "it comes out",
        )
        for error in (
            CallbackError("mine"),
            KeyboardInterrupt(),
            RuntimeError("mine"),
        )
    ),
    Row("run dropped", check_dropped_run, "collected"),
    Row("run beside a thread", check_concurrent_threads, "each as if alone"),
    *(
        Row(f"with {what}", partial(within, enter), "the same answer, the state as it was")
        for what, enter in STATES.items()
    ),
    Row("file by a path object", check_path_object, "the same"),
    Row("file by bytes", check_bytes_path, "the same, or refused"),
    *(
        Row(
            f"keyword {next(iter(options))}",
            partial(check_keyword_refused, options, message),
            "refused by its name",
        )
        for options, message in (
            ({"sed": 1}, "sed"),
            ({"Seed": 1}, "Seed"),
            ({"mask": 1}, "mask"),
            ({"psf": 1}, "psf"),
            ({"maxIterations": 2}, "maxIterations"),
            ({"prior": b"noise"}, "prior"),
            ({"noise": ["auto"]}, "noise"),
            ({"": 1}, "setting"),
            ({"é": 1}, "é"),
            ({"repeated_exposure": 3}, "second"),
        )
    ),
    *(
        Row(f"axes of {axes!r}", partial(check_axes_refused, axes, message), "refused in words")
        for axes, message in (
            ("", "axes"),
            ("XYZ", "axes"),
            ("YY", "axes"),
            ("QX", "axes"),
            ("y x", "axes"),
            ("ＹＸ", "axes"),
            ("TX", "axes"),
        )
    ),
    *(
        Row(f"{options} and {other}", partial(check_same_run, options, other), "the same run")
        for options, other in (
            ({"seed": "5"}, {"seed": 5}),
            ({"seed": np.int64(5)}, {"seed": 5}),
            ({"smoothing": 1}, {"smoothing": 1.0}),
            ({"smoothing": "0.5"}, {"smoothing": 0.5}),
            ({"prior": "auto"}, {}),
            ({"axes": "yx"}, {"axes": "YX"}),
        )
    ),
    Row("batch of a generator", check_batch, "a result for each, in order"),
    Row("batch whose callback raises", check_error_of_batch_callback, "what was done stays"),
    *(
        Row(
            f"batch of {what}",
            partial(check_batch_inputs_refused, inputs, message),
            "refused in words",
        )
        for what, inputs, message in (
            ("nothing", [], "no input"),
            ("an empty name", [""], "empty|name"),
            ("a file that is not there", ["none.tif"], "none.tif"),
            ("an empty pattern", ["*.tif"], r"\*\.tif"),
        )
    ),
]
