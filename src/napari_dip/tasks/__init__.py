"""The tasks, by name. A new task adds its line here."""

from __future__ import annotations

from napari_dip.tasks.base import IMAGE, Input, Setting, Task
from napari_dip.tasks.blind_deblur import BlindDeblur
from napari_dip.tasks.deblur import Deblur
from napari_dip.tasks.denoise import Denoise
from napari_dip.tasks.guide import Guide
from napari_dip.tasks.inpaint import Inpaint
from napari_dip.tasks.invert_features import InvertFeatures
from napari_dip.tasks.super_resolve import SuperResolve

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (Denoise, Inpaint, SuperResolve, Deblur, BlindDeblur, Guide, InvertFeatures)
}

__all__ = [
    "IMAGE",
    "TASKS",
    "BlindDeblur",
    "Deblur",
    "Denoise",
    "Guide",
    "Inpaint",
    "Input",
    "InvertFeatures",
    "Setting",
    "SuperResolve",
    "Task",
]
