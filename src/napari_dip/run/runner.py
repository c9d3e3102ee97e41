"""Drain a plan: calibrate, fit each unit, merge, and hand back a picture."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from napari_dip.engine.control import Control
from napari_dip.run.events import Event, Restoration
from napari_dip.run.plan import Plan


def run(
    plan: Plan,
    data: Mapping[str, Any],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    preview_seconds: float | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore one image; placeholder until the engine lands."""
    raise NotImplementedError
    yield Event("")
