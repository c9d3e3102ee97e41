"""A GPU that is simulated in main memory, to see on any computer what fits do with one.

Tensors on "mps" stay in main memory but are marked, as is all that is computed from them; only
`cpu()` and `to("cpu")` make unmarked copies. (Not "cuda", whose steps are CUDA graphs.) An
operation on tensors of two devices is an error; as on Apple GPUs, so is double precision. Calls
that would wait for the GPU are counted.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Iterator

GPU, CPU = torch.device("mps"), torch.device("cpu")
#: Calls that read no values.
_METADATA_CALLS = {
    "size",
    "dim",
    "numel",
    "stride",
    "is_contiguous",
    "__len__",
    "element_size",
    "requires_grad_",
}
#: Calls whose result Python reads, or whose size depends on values.
_READING_CALLS = {
    "__array__",
    "__bool__",
    "__contains__",
    "__float__",
    "__index__",
    "__int__",
    "allclose",
    "argwhere",
    "cpu",
    "equal",
    "item",
    "masked_select",
    "nonzero",
    "numpy",
    "tolist",
    "unique",
}
#: Random draws that Apple GPUs lack, and that their fall-back to the CPU has no generator for.
_MISSING_CALLS = {"bernoulli", "binomial", "multinomial", "poisson"}
#: Calls that take tensors of two devices.
_COPYING_CALLS = {
    "__deepcopy__",
    "__getitem__",
    "__set__",
    "__setitem__",
    "_has_compatible_shallow_copy_type",
    "copy_",
    "cpu",
    "to",
}


class SimulatedGpu(TorchFunctionMode):
    """Marks tensors on the GPU, and counts calls.

    Attributes
    ----------
    touched : int
        Number of calls with a tensor on the GPU.
    waits : int
        Number of those that wait for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.touched = self.waits = 0
        self._storages: dict[int, Any] = {}

    def check(self, *, has_tensor: bool) -> None:
        """Called before each call with a tensor on the GPU or a result on it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Execute a call, and mark its result if it is on the GPU."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction():
            tensors = list_tensors((args, kwargs))
            on_gpu = [tensor for tensor in tensors if self.is_marked(tensor)]
            if func == torch.Tensor.device.__get__:
                return GPU if on_gpu else CPU
            # what a module is moved to is read from its arguments, and must stay the GPU
            if name in ("device", "_parse_to") or (on_gpu and name in _METADATA_CALLS):
                return func(*args, **kwargs)
            device = _find_device((args, kwargs), name)
            if on_gpu:
                self.touched += 1
                self.check(has_tensor=True)
                self.waits += name in _READING_CALLS or (name == "to" and device == CPU)
                self._refuse_mixed_devices(name, tensors)
            output = func(*_move_to_cpu(args), **_move_to_cpu(kwargs))
            return self._mark_output(name, device, bool(on_gpu), output)

    def is_marked(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is on the GPU."""
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        return storage is not None and not storage.expired()

    def _refuse_mixed_devices(self, name: str, tensors: list[torch.Tensor]) -> None:
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert mps device type tensor to numpy.")
        if name in _MISSING_CALLS:
            raise NotImplementedError(f"The operator 'aten::{name}' is not there on MPS.")
        elsewhere = [tensor for tensor in tensors if tensor.ndim and not self.is_marked(tensor)]
        if elsewhere and name not in _COPYING_CALLS:
            shapes = [tuple(tensor.shape) for tensor in elsewhere]
            raise RuntimeError(f"Expected all tensors of {name} on the GPU; not there: {shapes}")

    def _mark_output(
        self, name: str, device: torch.device | None, on_gpu: bool, output: Any
    ) -> Any:
        """Mark results on the GPU; copy those that are moved to the CPU."""
        if name == "cpu" or (name == "to" and device == CPU):
            return output.clone() if on_gpu else output
        if name == "copy_":  # stays where it was
            return output
        if device == GPU:
            self.check(has_tensor=False)
        if device == GPU and name == "to" and not on_gpu:
            output = output.clone(memory_format=torch.preserve_format)
        if device == GPU or (on_gpu and device is None):
            for part in list_tensors(output):
                if part.dtype in (torch.float64, torch.complex128):
                    raise TypeError(f"The result of {name} is float64, which Apple GPUs lack.")
                self._mark(part)
        return output

    def _mark(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        # held weakly, so that no other storage is taken for it
        from torch.multiprocessing.reductions import StorageWeakRef

        self._storages[storage._cdata] = StorageWeakRef(storage)


@contextmanager
def simulate_gpu(gpu: SimulatedGpu) -> Iterator[None]:
    """Let the program detect the GPU and use it."""
    from napari_dip.pipeline import machine

    group_tensors = clip_grad._group_tensors_by_device_and_dtype

    def group_by_device(tensor_lists: Any) -> Any:
        """Return groups as torch does; it would take the device from memory, where all lie."""
        return {
            (GPU if gpu.is_marked(lists[0][0]) else CPU, dtype): (lists, indices)
            for (_, dtype), (lists, indices) in group_tensors(tensor_lists).items()
        }

    with pytest.MonkeyPatch.context() as patch, gpu:
        generator = torch.Generator
        patch.setattr(torch, "Generator", lambda device=None: generator())
        patch.setattr(machine, "_detect_devices", lambda version: (("mps", "cpu"), ""))
        patch.setattr(clip_grad, "_group_tensors_by_device_and_dtype", group_by_device)
        yield


def list_tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors of nested arguments."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in list_tensors(part)]
    return []


def _find_device(value: Any, name: str) -> torch.device | None:
    """Find the device among the arguments of a call."""
    args, kwargs = value
    named = [kwargs.get("device"), *(args[1:] if name in ("to", "new_zeros", "new_ones") else args)]
    for part in named:
        if isinstance(part, torch.device) or (isinstance(part, str) and part in ("mps", "cpu")):
            return GPU if torch.device(part).type == "mps" else CPU
    return None


def _move_to_cpu(value: Any) -> Any:
    """Replace the device by the CPU."""
    if isinstance(value, torch.device):
        return CPU
    if isinstance(value, str) and value == "mps":
        return "cpu"
    if isinstance(value, dict):
        return {name: _move_to_cpu(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_move_to_cpu(part) for part in value)
    return value
