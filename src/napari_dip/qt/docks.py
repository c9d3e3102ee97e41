"""One dock for each task, made from the task: `napari_dip.qt.docks:super_resolve`, say."""

from __future__ import annotations

from functools import cache
from typing import Any

from napari_dip.qt.dock import TaskDock
from napari_dip.tasks import TASKS


@cache
def dock_of(task: str) -> type[TaskDock]:
    """Make the dock's class of a task; a class, so that napari hands it its own viewer.

    Parameters
    ----------
    task : str
        Key in `TASKS`.
    """
    kind = TASKS[task]
    name = f"{kind.__name__}Dock"
    return type(name, (TaskDock,), {"task": task, "__doc__": kind.__doc__, "__module__": __name__})


def __getattr__(name: str) -> Any:
    """Find a task's dock by the task's name, as `napari.yaml` gives it."""
    task = name.replace("_", "-")
    if task not in TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return dock_of(task)


DenoiseDock = dock_of("denoise")
