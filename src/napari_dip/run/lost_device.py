"""A graphics card that stops answering: what was copied off it in time is what is left.

A card that was pulled, reset, or put to sleep fails every call from then on, also those that only
read. So a checkpoint is copied to the main memory now and then, and the fit that was on the card
is ended from that copy on the processor, as if a person had pressed Stop and keep.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, refusal
from napari_dip.run.machine import is_memory_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_dip.engine.progress import Checkpoint
    from napari_dip.engine.step import State

#: Why a fit was ended whose device was lost.
NO_DEVICE = "the graphics card stopped answering"
#: What torch says when a card or its driver no longer answers, or never did, in small letters.
_DEVICE_WORDS = (
    "cuda error",
    "cuda driver",
    "no cuda gpus",
    "nvidia driver",
    "cudnn error",
    "cudnn_status",
    "cublas_status",
    "cufft error",
    "hip error",
    "mps device",
    "command buffer",
)


def is_device_error(error: BaseException) -> bool:
    """Tell a card that no longer answers from other errors, by what torch raises.

    By name and text, as `is_memory_error`, which goes first: a card's full memory is no lost card.
    """
    if is_memory_error(error) or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return type(error).__name__ == "AcceleratorError" or any(one in text for one in _DEVICE_WORDS)


def refused_by_machine(error: BaseException, name: str) -> Refusal | None:
    """Put a full memory or a lost card into a sentence; None for other errors.

    Parameters
    ----------
    error : Exception
    name : str
        Of what was being restored.
    """
    if is_memory_error(error):
        return refusal("memory-out", name=name)
    if is_device_error(error):
        first = str(error).strip().splitlines()[0].rstrip(".")
        return refusal("device-lost", name=name, why=first)
    return None


def in_memory(point: Checkpoint) -> Checkpoint:
    """Copy a checkpoint off its device."""
    return replace(
        point,
        step=state_in_memory(point.step),
        rollback=state_in_memory(point.rollback),
        best=state_in_memory(point.best),
    )


def on_device(point: Checkpoint) -> bool:
    """Whether a checkpoint lies elsewhere than in the main memory."""
    return any(value.device.type != "cpu" for value in point.step.values())


def without_draws(point: Checkpoint) -> Checkpoint:
    """Give a checkpoint the processor's own random numbers, to which a card's mean nothing.

    It then serves to end a fit, which draws nothing more.
    """
    import torch

    fresh = torch.Generator().get_state()

    def drawn(state: State) -> State:
        return {**state, "rng": fresh} if "rng" in state else state

    return replace(point, step=drawn(point.step), rollback=drawn(point.rollback))


def state_in_memory(state: Mapping[str, Tensor]) -> State:
    """Copy weights and what goes with them off their device."""
    return {name: value.cpu() for name, value in state.items()}
