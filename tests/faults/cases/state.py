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
    Case,
    cases_to_trials,
    make_image,
    save_tiff,
)
from faults.cases.interpreter_checks import (
    check_interpreter_state,
    collect_garbage_often,
    detect_anomalies,
    disable_garbage_collection,
    empty_argv,
    empty_import_path,
    flush_denormals,
    limit_integer_digits,
    lower_decimal_precision,
    lower_matmul_precision,
    raise_numpy_errors,
    raise_warnings,
    read_torch_settings,
    remove_streams,
    replace_exception_hooks,
    replace_json_dumps,
    seed_numpy,
    seed_python,
    seed_torch,
    set_decimal_comma,
    set_deterministic_torch,
    set_numpy_printing,
    switch_threads_often,
)
from faults.cases.state_checks import (
    ArrayInterfaceObject,
    ArraySubclass,
    CallbackError,
    LabelledArray,
    RaisingArray,
    UfuncRefusingArray,
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
    check_report_is_json,
    check_report_is_not_shared,
    check_results_share_no_memory,
    check_same_result,
    check_same_run,
    check_short_repr,
    check_uncallable_progress,
    make_buffer,
    make_byte_swapped,
    make_dask_array,
    make_memmap,
    make_plain_image,
    make_read_only,
    make_record_field,
    make_reversed,
    make_strided,
    make_torch_tensor,
    make_torch_tensor_with_gradient,
    make_unaligned,
    make_zarr_array,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every thirtieth."""
    yield from cases_to_trials(CASES, small=small, step=30)


ALIKE: dict[str, Callable[[], Any]] = {
    "a subclass": lambda: make_plain_image().view(ArraySubclass),
    "a subclass without arithmetic": lambda: make_plain_image().view(UfuncRefusingArray),
    "numpy's matrix": lambda: np.matrix(make_plain_image()),
    "a masked array without a mask": lambda: np.ma.array(make_plain_image()),
    "a masked array of a mask of nothing": lambda: np.ma.array(
        make_plain_image(), mask=np.zeros((24, 24), bool)
    ),
    "a read-only array": make_read_only,
    "columns first": lambda: np.asfortranarray(make_plain_image()),
    "every second row and third column": make_strided,
    "negative strides": make_reversed,
    "unaligned bytes": make_unaligned,
    "the other byte order": make_byte_swapped,
    "a memmap to read": lambda: make_memmap("r"),
    "a memmap to write": lambda: make_memmap("r+"),
    "a memmap of its own copy": lambda: make_memmap("c"),
    "lists": lambda: make_plain_image().tolist(),
    "tuples": lambda: tuple(map(tuple, make_plain_image().tolist())),
    "a buffer": make_buffer,
    "an array by its interface": lambda: ArrayInterfaceObject(make_plain_image()),
    "an array with names": lambda: LabelledArray(make_plain_image()),
    "a tensor": make_torch_tensor,
    "a tensor with a gradient": make_torch_tensor_with_gradient,
    "a dask array": make_dask_array,
    "a zarr array": make_zarr_array,
    "rows of arrays": lambda: list(make_plain_image()),
}
NOT_TAKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "not an array"),
    "an ellipsis": (lambda: ..., "number|image|array"),
    "a set": (lambda: {1, 2}, "number|array|image"),
    "a function": (lambda: make_plain_image, "number|array|image"),
    "a class": (lambda: np.ndarray, "number|array|image"),
    "ragged lists": (lambda: [[1, 2], [3]], "length|array|number"),
    "lists of nothing": (lambda: [[], []], "no pixels|empty"),
    "lists with a text": (lambda: [["1", "2"]] * 24, "number"),
    "lists with a None": (lambda: [[None] * 24] * 24, "number"),
    "decimal numbers": (lambda: np.full((24, 24), Decimal(3)), "number"),
    "fractions": (lambda: np.full((24, 24), Fraction(1, 3)), "number"),
    "records": (make_record_field, "number|type"),
    "an open file": (
        lambda: save_tiff("in.tif", make_plain_image()).open("rb"),
        "path|file|array|number",
    ),
    "an array that raises": (lambda: RaisingArray(ValueError("mine")), "array|mine"),
    "an array that raises nothing in words": (lambda: RaisingArray(ValueError()), "array"),
    "an array that raises two lines": (lambda: RaisingArray(RuntimeError("a\nb")), "array|a"),
    "an array that has gone": (lambda: RaisingArray(MemoryError("gone")), "memory|array"),
    "a masked array": (lambda: np.ma.masked_greater(make_plain_image(), 500), "masked"),
    "a masked array of all": (lambda: np.ma.array(make_plain_image(), mask=True), "masked"),
    "repeated rows": (lambda: np.broadcast_to(np.float32(3), (24, 24)), "nothing to restore"),
    "a huge view of one value": (lambda: np.broadcast_to(np.float32(3), (10**6, 10**6)), "memory"),
    "a list that holds itself": (
        lambda: (lambda cycle: cycle.append(cycle) or cycle)([]),
        "array|number|deep",
    ),
}
STATES = {
    "numpy that raises": raise_numpy_errors,
    "warnings that raise": raise_warnings,
    "wide printing": set_numpy_printing,
    "numpy's seed": seed_numpy,
    "Python's seed": seed_python,
    "torch's seed": seed_torch,
    "torch's settings": read_torch_settings,
    "coarse products in torch": lower_matmul_precision,
    "torch's deterministic mode": set_deterministic_torch,
    "torch looking for anomalies": detect_anomalies,
    "torch flushing subnormals": flush_denormals,
    "no collection of garbage": disable_garbage_collection,
    "constant collection of garbage": collect_garbage_often,
    "a decimal comma": set_decimal_comma,
    "two decimal digits": lower_decimal_precision,
    "short integers as text": limit_integer_digits,
    "threads that switch often": switch_threads_often,
    "no streams": remove_streams,
    "json that writes otherwise": replace_json_dumps,
    "hooks of one's own": replace_exception_hooks,
    "an empty path of modules": empty_import_path,
    "no argv": empty_argv,
}
CASES = [
    *(
        Case(
            f"image as {what}",
            partial(check_same_result, make),
            "the same answer, nothing written",
        )
        for what, make in ALIKE.items()
    ),
    *(
        Case(f"{what} as an image", partial(check_array_refused, make, message), "refused in words")
        for what, (make, message) in NOT_TAKEN.items()
    ),
    *(
        Case(f"mask that is {what}", partial(check_mask_refused, make, message), "refused in words")
        for what, make, message in (
            ("text", lambda: "none.tif", "none.tif"),
            ("a number", lambda: 1, "mask"),
            ("a list of lists too short", lambda: [[1]], "mask"),
            ("records", make_record_field, "mask|number|type"),
            ("complex", lambda: make_image() * 1j, "complex|mask|number"),
            ("texts", lambda: make_image().astype("U3"), "number|mask"),
            ("a masked array", lambda: np.ma.masked_greater(make_image(), 500), "masked"),
        )
    ),
    Case("image changed by a callback", check_input_changed_by_callback, "fitted as handed over"),
    *(
        Case(
            f"result of {task} written into",
            partial(check_results_share_no_memory, task),
            "inputs and others stay",
        )
        for task in ("denoise", "inpaint", "deblur", "super_resolve", "guide")
    ),
    *(
        Case(f"read-only inputs of {task}", partial(check_inputs_unchanged, task), "restored")
        for task in ("denoise", "inpaint", "deblur", "super_resolve", "guide", "blind_deblur")
    ),
    *(
        Case(f"result {what}", partial(check_copied_result, options), "the same")
        for what, options in (
            ("pickled", lambda loaded: pickle.loads(pickle.dumps(loaded))),
            ("copied", copy.copy),
            ("copied deeply", copy.deepcopy),
        )
    ),
    Case("result looked at", check_short_repr, "some lines"),
    Case("report as JSON", check_report_is_json, "strict JSON"),
    Case("recipe changed", check_recipe_is_immutable, "not in place"),
    Case("recipe in four ways", check_recipes_are_equal, "the same"),
    Case("recipe as a mapping", check_mapping_unchanged, "as before"),
    Case("report changed", check_report_is_not_shared, "the next is its own"),
    Case("PSF that was found", check_learned_psf, "of sum one, not negative"),
    *(
        Case(
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
        Case(
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
    Case("callback that is a number", check_uncallable_progress, "said"),
    Case("fit within a callback", check_nested_run, "each as if alone"),
    Case("events kept", check_events_stay, "not overwritten"),
    Case("events spoilt", check_changed_previews, "the same answer"),
    Case("two runs in turn", check_interleaved_runs, "each as if alone"),
    *(
        Case(f"run closed after {count} steps", partial(check_closed_run, count), "no error")
        for count in (0, 1, 5, 12)
    ),
    *(
        Case(
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
    Case("run dropped", check_dropped_run, "collected"),
    Case("run beside a thread", check_concurrent_threads, "each as if alone"),
    *(
        Case(
            f"with {what}",
            partial(check_interpreter_state, enter),
            "the same answer, the state as it was",
        )
        for what, enter in STATES.items()
    ),
    Case("file by a path object", check_path_object, "the same"),
    Case("file by bytes", check_bytes_path, "the same, or refused"),
    *(
        Case(
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
            ({"repeated_exposure": 3}, "repeated_exposure"),
        )
    ),
    *(
        Case(f"axes of {axes!r}", partial(check_axes_refused, axes, message), "refused in words")
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
        Case(f"{options} and {other}", partial(check_same_run, options, other), "the same run")
        for options, other in (
            ({"seed": "5"}, {"seed": 5}),
            ({"seed": np.int64(5)}, {"seed": 5}),
            ({"smoothing": 1}, {"smoothing": 1.0}),
            ({"smoothing": "0.5"}, {"smoothing": 0.5}),
            ({"prior": "auto"}, {}),
            ({"axes": "yx"}, {"axes": "YX"}),
        )
    ),
    Case("batch of a generator", check_batch, "a result for each, in order"),
    Case("batch whose callback raises", check_error_of_batch_callback, "what was done stays"),
    *(
        Case(
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
