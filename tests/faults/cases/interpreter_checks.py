"""The interpreter's own state: what a program may have changed before it calls."""

from __future__ import annotations

import gc
import json
import locale
import sys
import threading
import warnings
from decimal import getcontext
from typing import TYPE_CHECKING

import numpy as np

from faults.cases import (
    check,
    check_same_pixels,
)
from faults.cases.state_checks import fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def check_interpreter_state(enter: Callable[[], Callable[[], object]], _: Path) -> None:
    """Change the interpreter's state: the same answer, and the state is as it was left."""
    wanted = fit().image
    read_state = enter()
    before = read_state()
    check_same_pixels(fit().image, wanted, "the answer", 1e-5)
    check(read_state() == before, f"the state was {before}, it is {read_state()}")


def raise_numpy_errors() -> Callable[[], object]:
    np.seterr(all="raise")
    return np.geterr


def raise_warnings() -> Callable[[], object]:
    warnings.simplefilter("error")
    return lambda: list(warnings.filters)


def set_numpy_printing() -> Callable[[], object]:
    np.set_printoptions(threshold=10**6, precision=2)
    return np.get_printoptions


def seed_numpy() -> Callable[[], object]:
    np.random.seed(7)
    return lambda: np.random.get_state()[1].tobytes()  # type: ignore[index, union-attr]


def seed_python() -> Callable[[], object]:
    import random

    random.seed(7)
    return random.getstate


def seed_torch() -> Callable[[], object]:
    import torch

    torch.manual_seed(7)
    return lambda: torch.get_rng_state().numpy().tobytes()


def read_torch_settings() -> Callable[[], object]:
    import torch

    return lambda: (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.backends.mkldnn.enabled,
        torch.get_float32_matmul_precision(),
    )


def lower_matmul_precision() -> Callable[[], object]:
    import torch

    torch.set_float32_matmul_precision("medium")
    return torch.get_float32_matmul_precision


def set_deterministic_torch() -> Callable[[], object]:
    import torch

    torch.use_deterministic_algorithms(True)
    return torch.are_deterministic_algorithms_enabled


def detect_anomalies() -> Callable[[], object]:
    import torch

    torch.autograd.set_detect_anomaly(True)
    return torch.is_anomaly_enabled


def flush_denormals() -> Callable[[], object]:
    import torch

    torch.set_flush_denormal(True)
    return lambda: float(torch.tensor([1e-310], dtype=torch.float64)[0])


def disable_garbage_collection() -> Callable[[], object]:
    gc.disable()
    return gc.isenabled


def collect_garbage_often() -> Callable[[], object]:
    gc.set_threshold(1)
    return gc.get_threshold


def set_decimal_comma() -> Callable[[], object]:
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "de_DE"):
        try:
            locale.setlocale(locale.LC_ALL, name)
            break
        except locale.Error:
            continue
    return lambda: locale.setlocale(locale.LC_ALL)


def lower_decimal_precision() -> Callable[[], object]:
    getcontext().prec = 2
    return lambda: getcontext().prec


def limit_integer_digits() -> Callable[[], object]:
    sys.set_int_max_str_digits(640)
    return sys.get_int_max_str_digits


def switch_threads_often() -> Callable[[], object]:
    sys.setswitchinterval(1e-6)
    return sys.getswitchinterval


def remove_streams() -> Callable[[], object]:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    return lambda: (sys.stdout, sys.stderr)


def replace_json_dumps() -> Callable[[], object]:
    real = json.dumps
    json.dumps = lambda *rest, **more: real(*rest, **{**more, "indent": 7})  # type: ignore[assignment]
    return lambda: 0


def replace_exception_hooks() -> Callable[[], object]:
    sys.excepthook = lambda *rest: None
    threading.excepthook = lambda *rest: None
    return lambda: (sys.excepthook, threading.excepthook)


def empty_import_path() -> Callable[[], object]:
    fit()
    sys.path[:] = []
    return lambda: list(sys.path)


def empty_argv() -> Callable[[], object]:
    sys.argv = []
    return lambda: sys.argv
