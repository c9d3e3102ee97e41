"""Tasks: what a user can do with an image; each has settings, a prior and a problem.

`TASKS` lists the tasks in the order of the menus; a new task is added there. The subfolders hold
priors, noise models and imported networks. Tasks use the engine and know nothing of runs.
"""

from __future__ import annotations

from napari_dip.tasks.base import IMAGE_INPUT, Setting, Task, TaskInput
from napari_dip.tasks.blind_deblur import BlindDeblur
from napari_dip.tasks.deblur import Deblur
from napari_dip.tasks.denoise import Denoise
from napari_dip.tasks.guide import Guide
from napari_dip.tasks.inpaint import Inpaint
from napari_dip.tasks.invert_features import InvertFeatures
from napari_dip.tasks.super_resolve import SuperResolve

TASKS: dict[str, type[Task]] = {
    task.spec.name: task
    for task in (Denoise, Inpaint, SuperResolve, Deblur, BlindDeblur, Guide, InvertFeatures)
}

__all__ = [
    "IMAGE_INPUT",
    "TASKS",
    "BlindDeblur",
    "Deblur",
    "Denoise",
    "Guide",
    "Inpaint",
    "InvertFeatures",
    "Setting",
    "SuperResolve",
    "Task",
    "TaskInput",
]
