"""What a user wants: the tasks by name, their settings, and how they become a problem.

Decided here: which tasks there are, in the order of menus; a new task adds its line. The folders
below hold priors, noise models, PSFs and imported networks. The pipeline and the doors import this
package; it knows the engine, and no run.
"""

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
