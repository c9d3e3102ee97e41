"""The tasks, by name. A new task adds its line here."""

from __future__ import annotations

from napari_dip.tasks.base import IMAGE, Input, Setting, Task
from napari_dip.tasks.denoise import Denoise

TASKS: dict[str, type[Task]] = {task.name: task for task in (Denoise,)}

__all__ = ["IMAGE", "TASKS", "Denoise", "Input", "Setting", "Task"]
