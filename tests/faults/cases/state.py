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
    picture,
    rows_to_trials,
    saved,
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
    Labelled,
    Matrix,
    OldFashioned,
    OwnError,
    Raising,
    Stubborn,
    aliased,
    alike,
    axes_no,
    backwards,
    batch_call,
    batch_inputs_no,
    batch_raising,
    beside_a_thread,
    buffered,
    bytes_path,
    changed_in_a_run,
    closed_early,
    copied,
    dask_array,
    dropped,
    events_kept,
    events_spoilt,
    float_path,
    inputs_untouched,
    interleaved,
    keyword,
    learned_copy,
    mapping_untouched,
    mask_not_taken,
    memmapped,
    nested,
    not_taken,
    odd_progress,
    plain,
    raising_progress,
    read_only,
    recipe_equal,
    recipe_frozen,
    report_plain,
    report_untouched,
    settings_alike,
    short_repr,
    strided,
    swapped,
    thrown_into,
    torch_tensor,
    torch_with_gradient,
    unaligned,
    uncallable,
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
    "a subclass": lambda: plain().view(Matrix),
    "a subclass without arithmetic": lambda: plain().view(Stubborn),
    "numpy's matrix": lambda: np.matrix(plain()),
    "a masked array without a mask": lambda: np.ma.array(plain()),
    "a masked array of a mask of nothing": lambda: np.ma.array(
        plain(), mask=np.zeros((24, 24), bool)
    ),
    "a read-only array": read_only,
    "columns first": lambda: np.asfortranarray(plain()),
    "every second row and third column": strided,
    "negative strides": backwards,
    "unaligned bytes": unaligned,
    "the other byte order": swapped,
    "a memmap to read": lambda: memmapped("r"),
    "a memmap to write": lambda: memmapped("r+"),
    "a memmap of its own copy": lambda: memmapped("c"),
    "lists": lambda: plain().tolist(),
    "tuples": lambda: tuple(map(tuple, plain().tolist())),
    "a buffer": buffered,
    "an array by its interface": lambda: OldFashioned(plain()),
    "an array with names": lambda: Labelled(plain()),
    "a tensor": torch_tensor,
    "a dask array": dask_array,
    "a zarr array": zarr_array,
    "rows of arrays": lambda: list(plain()),
}
NOT_TAKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "not an array"),
    "an ellipsis": (lambda: ..., "number|image|array"),
    "a set": (lambda: {1, 2}, "number|array|image"),
    "a function": (lambda: plain, "number|array|image"),
    "a class": (lambda: np.ndarray, "number|array|image"),
    "ragged lists": (lambda: [[1, 2], [3]], "length|array|number"),
    "lists of nothing": (lambda: [[], []], "no pixels|empty"),
    "lists with a text": (lambda: [["1", "2"]] * 24, "number"),
    "lists with a None": (lambda: [[None] * 24] * 24, "number"),
    "decimal numbers": (lambda: np.full((24, 24), Decimal(3)), "number"),
    "fractions": (lambda: np.full((24, 24), Fraction(1, 3)), "number"),
    "records": (with_records, "number|type"),
    "an open file": (lambda: saved("in.tif", plain()).open("rb"), "path|file|array|number"),
    "a gradient": (torch_with_gradient, "array|grad|number"),
    "an array that raises": (lambda: Raising(ValueError("mine")), "array|mine"),
    "an array that raises nothing in words": (lambda: Raising(ValueError()), "array"),
    "an array that raises two lines": (lambda: Raising(RuntimeError("a\nb")), "array|a"),
    "an array that has gone": (lambda: Raising(MemoryError("gone")), "memory|array"),
    "a masked array": (lambda: np.ma.masked_greater(plain(), 500), "masked"),
    "a masked array of all": (lambda: np.ma.array(plain(), mask=True), "masked"),
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
        Row(f"picture as {what}", partial(alike, make), "the same answer, nothing written")
        for what, make in ALIKE.items()
    ),
    *(
        Row(f"{what} as a picture", partial(not_taken, make, message), "refused in words")
        for what, (make, message) in NOT_TAKEN.items()
    ),
    *(
        Row(f"mask that is {what}", partial(mask_not_taken, make, message), "refused in words")
        for what, make, message in (
            ("text", lambda: "none.tif", "none.tif"),
            ("a number", lambda: 1, "mask"),
            ("a list of lists too short", lambda: [[1]], "mask"),
            ("records", with_records, "mask|number|type"),
            ("complex", lambda: picture() * 1j, "complex|mask|number"),
            ("texts", lambda: picture().astype("U3"), "number|mask"),
            ("a masked array", lambda: np.ma.masked_greater(picture(), 500), "masked"),
        )
    ),
    Row("picture changed by a callback", changed_in_a_run, "fitted as handed over"),
    *(
        Row(f"result of {task} written into", partial(aliased, task), "inputs and others stay")
        for task in ("denoise", "inpaint", "deblur", "super_resolve", "guide")
    ),
    *(
        Row(f"read-only inputs of {task}", partial(inputs_untouched, task), "restored")
        for task in ("denoise", "inpaint", "deblur", "super_resolve", "guide", "blind_deblur")
    ),
    *(
        Row(f"result {what}", partial(copied, how), "the same")
        for what, how in (
            ("pickled", lambda loaded: pickle.loads(pickle.dumps(loaded))),
            ("copied", copy.copy),
            ("copied deeply", copy.deepcopy),
        )
    ),
    Row("result looked at", short_repr, "some lines"),
    Row("report as JSON", report_plain, "strict JSON"),
    Row("recipe changed", recipe_frozen, "not in place"),
    Row("recipe in four ways", recipe_equal, "the same"),
    Row("recipe as a mapping", mapping_untouched, "as before"),
    Row("report changed", report_untouched, "the next is its own"),
    Row("PSF that was found", learned_copy, "of sum one, not negative"),
    *(
        Row(
            f"callback that raises {type(error).__name__}",
            partial(raising_progress, error),
            "that very error",
        )
        for error in (
            OwnError("mine"),
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
        Row(f"callback that is {what}", partial(odd_progress, settings), "the same answer")
        for what, settings in (
            ("a builtin", id),
            ("a method", [].append),
            ("a class", list.__class__),
            ("a partial", partial(max, 1, key=str)),
        )
    ),
    Row("callback that is a number", uncallable, "said"),
    Row("fit within a callback", nested, "each as if alone"),
    Row("events kept", events_kept, "not overwritten"),
    Row("events spoilt", events_spoilt, "the same answer"),
    Row("two runs in turn", interleaved, "each as if alone"),
    *(
        Row(f"run closed after {count} steps", partial(closed_early, count), "no error")
        for count in (0, 1, 5, 12)
    ),
    *(
        Row(
            f"{type(error).__name__} thrown into a run", partial(thrown_into, error), "it comes out"
        )
        for error in (
            OwnError("mine"),
            KeyboardInterrupt(),
            RuntimeError("mine"),
        )
    ),
    Row("run dropped", dropped, "collected"),
    Row("run beside a thread", beside_a_thread, "each as if alone"),
    *(
        Row(f"with {what}", partial(within, enter), "the same answer, the state as it was")
        for what, enter in STATES.items()
    ),
    Row("file by a path object", float_path, "the same"),
    Row("file by bytes", bytes_path, "the same, or refused"),
    *(
        Row(f"keyword {next(iter(how))}", partial(keyword, how, message), "refused by its name")
        for how, message in (
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
        Row(f"axes of {axes!r}", partial(axes_no, axes, message), "refused in words")
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
        Row(f"{how} and {other}", partial(settings_alike, how, other), "the same run")
        for how, other in (
            ({"seed": "5"}, {"seed": 5}),
            ({"seed": np.int64(5)}, {"seed": 5}),
            ({"smoothing": 1}, {"smoothing": 1.0}),
            ({"smoothing": "0.5"}, {"smoothing": 0.5}),
            ({"prior": "auto"}, {}),
            ({"axes": "yx"}, {"axes": "YX"}),
        )
    ),
    Row("batch of a generator", batch_call, "a result for each, in order"),
    Row("batch whose callback raises", batch_raising, "what was done stays"),
    *(
        Row(f"batch of {what}", partial(batch_inputs_no, inputs, message), "refused in words")
        for what, inputs, message in (
            ("nothing", [], "no input"),
            ("an empty name", [""], "empty|name"),
            ("a file that is not there", ["none.tif"], "none.tif"),
            ("an empty pattern", ["*.tif"], r"\*\.tif"),
        )
    ),
]
