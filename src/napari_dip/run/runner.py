"""Drain a plan: calibrate, fit each unit, merge, and hand back a picture."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors import Failed, Refusal, Refused, refusal
from napari_dip.run.events import Event, Restoration

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    import numpy.typing as npt

    from napari_dip.engine.fit import Result
    from napari_dip.run.fitting import Fit
    from napari_dip.run.plan import Plan, WorkUnit
    from napari_dip.run.prepare import Calibration, Planes

__all__ = ["Control", "run"]

#: Share of a unit's time that its iterations take; the last look takes the rest.
FIT_SHARE = 0.9


def run(
    plan: Plan,
    data: Mapping[str, Any],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    preview_seconds: float | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore one image.

    Parameters
    ----------
    plan : Plan
    data : mapping
        "image": array-like in the axes and shape of `plan.source`, read here and now.
    control : callable
        Polled at every step: go on, pause, keep, or discard.
    preview_seconds : float or None
        Least time between two previews; None for none.

    Yields
    ------
    Event

    Returns
    -------
    Restoration or None
        None if discarded.

    Raises
    ------
    Refused
        If the pixels cannot be restored (the content gate).
    Failed
        If work began and could not end well.
    """
    yield Event("Starting the engine")
    import torch

    started = time.monotonic()
    with _threads(torch, plan.threads):
        try:
            return (yield from _restore(plan, data, control, preview_seconds, started))
        except torch.OutOfMemoryError as error:
            raise Failed(refusal("memory-out", name=plan.source.name)) from error
        except RuntimeError as error:
            if "memory" in str(error).lower():
                raise Failed(refusal("memory-out", name=plan.source.name)) from error
            raise
        except MemoryError as error:
            raise Failed(refusal("memory-out", name=plan.source.name)) from error


def _restore(
    plan: Plan,
    data: Mapping[str, Any],
    control: Callable[[], Control],
    preview_seconds: float | None,
    started: float,
) -> Generator[Event, None, Restoration | None]:
    from napari_dip.run.prepare import prepare

    yield Event("Reading the image", seconds=time.monotonic() - started)
    array = np.asarray(data["image"])
    yield Event("Measuring the noise", seconds=time.monotonic() - started)
    ready = prepare(plan, array)
    if isinstance(ready, Refusal):
        raise Refused(ready)
    calibration, planes = ready
    merge = _Merge(plan, calibration, planes, array)
    clock = _Clock(plan, started, control, preview_seconds)
    for number, unit in enumerate(plan.units, 1):
        kept = yield from _fit_unit(plan, calibration, planes, unit, number, clock, merge)
        if kept is None:
            return None
        if kept:
            break
    return merge.restoration(time.monotonic() - started, clock)


def _fit_unit(
    plan: Plan,
    calibration: Calibration,
    planes: Planes,
    unit: WorkUnit,
    number: int,
    clock: _Clock,
    merge: _Merge,
) -> Generator[Event, None, bool | None]:
    """Fit one unit; whether a person or the clock ended the run, or None if discarded."""
    from napari_dip.engine.fit import fit
    from napari_dip.run.fitting import doubt, make_fit, to_units

    ready = make_fit(plan, calibration, planes, unit)
    clock.begin(number)
    loop = fit(
        ready.problem,
        ready.prior,
        ready.schedule,
        ready.stop,
        seed=ready.seed,
        control=clock.control,
        preview_due=clock.preview_due,
    )
    while True:
        try:
            progress = next(loop)
        except StopIteration as end:
            result: Result | None = end.value
            break
        preview = None
        if progress.estimate is not None:
            picture = to_units(calibration, unit, progress.estimate.mean)
            preview = merge.preview(unit, picture)
            clock.previewed()
        yield clock.event(progress, preview)
    if result is None:
        return None
    if not bool(result.estimate.mean.isfinite().all()):
        raise Failed(refusal("diverged", name=plan.source.name, count=len(result.notes)))
    picture = to_units(calibration, unit, result.estimate.mean)
    merge.add(
        unit, picture, doubt(ready, calibration, result.blind, result.estimate), result, ready
    )
    return result.kept


class _Clock:
    """Times a run: previews when due, an end when the limit is reached, seconds left."""

    def __init__(
        self,
        plan: Plan,
        started: float,
        control: Callable[[], Control],
        preview_seconds: float | None,
    ) -> None:
        self._plan = plan
        self._started = started
        self._ask = control
        self._preview_seconds = preview_seconds
        self._last_preview = started
        self._preview_cost = 0.0
        self._asked_preview = 0.0
        self._unit = 1
        self._unit_started = started
        self.timed_out = False

    def begin(self, number: int) -> None:
        """Start timing a unit."""
        self._unit = number
        self._unit_started = time.monotonic()

    def control(self) -> Control:
        """Ask what the person wants; KEEP once the time is up."""
        limit = self._plan.recipe.common.time_limit
        wish = self._ask()
        if limit is not None and wish is Control.GO and time.monotonic() - self._started > limit:
            self.timed_out = True
            return Control.KEEP
        return wish

    def preview_due(self) -> bool:
        """Whether to look; previews together take a tenth of the time at most."""
        if self._preview_seconds is None:
            return False
        now = time.monotonic()
        due = now - self._last_preview >= max(self._preview_seconds, 10 * self._preview_cost)
        if due:
            self._asked_preview = now
        return due

    def previewed(self) -> None:
        """Take note of what the preview cost."""
        self._last_preview = time.monotonic()
        self._preview_cost = self._last_preview - self._asked_preview

    def event(self, progress: Any, preview: npt.NDArray[np.float32] | None) -> Event:
        """Put the engine's report into words."""
        now = time.monotonic()
        judgement, iterations = progress.judgement, self._plan.budget.iterations
        share = progress.iteration / iterations * FIT_SHARE
        if progress.swept:
            share = FIT_SHARE + (1 - FIT_SHARE) * progress.swept
        units = len(self._plan.units)
        spent = now - self._unit_started
        left = (
            spent * (1 - share) / share + (units - self._unit) * spent / share
            if share > 0
            else None
        )
        limit = self._plan.recipe.common.time_limit
        if limit is not None:
            left = min(left if left is not None else limit, max(0.0, limit - (now - self._started)))
        words = "Taking a last close look" if progress.swept else "Restoring"
        if units > 1:
            words += f", part {self._unit} of {units}"
        return Event(
            progress.note or words,
            (self._unit - 1 + share) / units,
            progress.iteration,
            iterations,
            _number(judgement.fitted),
            _number(judgement.held_out),
            progress.best_iteration,
            now - self._started,
            left,
            preview,
            self._unit,
            units,
        )


class _Merge:
    """Streams the units' pictures into one: restarts averaged, channels side by side."""

    def __init__(
        self, plan: Plan, calibration: Calibration, planes: Planes, array: npt.NDArray[Any]
    ) -> None:
        self._plan = plan
        self._calibration = calibration
        self._planes = planes
        self._array = array
        self._sum = np.zeros(planes.shape, np.float64)
        self._squares = np.zeros(planes.shape, np.float64)
        self._variance = np.zeros(planes.shape, np.float64)
        self._count = np.zeros(len(planes), np.int64)
        self._results: list[Result] = []

    def add(
        self, unit: WorkUnit, picture: Planes, deviation: Planes, result: Result, ready: Fit
    ) -> None:
        """Take in one unit's answer."""
        for index, channel in enumerate(unit.channels):
            self._sum[channel] += picture[index]
            self._squares[channel] += picture[index].astype(np.float64) ** 2
            self._variance[channel] += deviation[index].astype(np.float64) ** 2
            self._count[channel] += 1
        self._results.append(result)

    def _mean(self) -> npt.NDArray[np.float64]:
        """Average so far; the input itself where nothing was restored yet."""
        count = np.maximum(self._count, 1)[:, None, None]
        return np.where(self._count[:, None, None] > 0, self._sum / count, self._planes)

    def preview(self, unit: WorkUnit, picture: Planes) -> npt.NDArray[np.float32]:
        """Whole image with one unit's picture so far in its place."""
        from napari_dip.run.prepare import from_planes

        mean = self._mean()
        for index, channel in enumerate(unit.channels):
            done = self._count[channel]
            mean[channel] = (
                (mean[channel] * done + picture[index]) / (done + 1) if done else picture[index]
            )
        source = self._plan.source
        return from_planes(mean.astype(np.float32), source.axes, source.shape)

    def restoration(self, seconds: float, clock: _Clock) -> Restoration:
        """Merge, put the mean back, and write the report."""
        from napari_dip.run.prepare import from_planes
        from napari_dip.run.receipt import receipt, residual_words, sha256

        mean = self._mean()
        shift = (self._planes - mean).mean((1, 2), keepdims=True)
        mean = (mean + shift).astype(np.float32)
        count = np.maximum(self._count, 1)[:, None, None]
        spread = np.maximum(self._squares / count - (self._sum / count) ** 2, 0)
        deviation = np.sqrt(self._variance / count + spread).astype(np.float32)
        source = self._plan.source
        image = _cast(from_planes(mean, source.axes, source.shape), self._array.dtype, self._plan)
        first = self._results[0]
        reason = first.stop_reason
        if clock.timed_out:
            reason = f"the time limit of {self._plan.recipe.common.time_limit:g} s was reached"
        history = tuple((entry.iteration, entry.fitted, entry.held_out) for entry in first.history)
        notes = [*self._plan.notes, *(note for result in self._results for note in result.notes)]
        if missing := [int(channel) for channel in np.flatnonzero(self._count == 0)]:
            notes.append(f"Channels {missing} were not restored before the run was ended.")
        facts = {
            "iterations": sum(result.iterations for result in self._results),
            "best_iteration": first.best_iteration,
            "stop_reason": reason,
            "seconds": round(seconds, 2),
            "held_out": [[iteration, _number(loss)] for iteration, _, loss in history],
            "residual": residual_words(self._planes, mean, self._calibration),
            "input_sha256": sha256(self._array),
            "output_sha256": sha256(image),
            "notes": notes,
        }
        report = receipt(self._plan, self._calibration, **facts)
        return Restoration(
            image,
            from_planes(deviation, source.axes, source.shape),
            reason,
            first.best_iteration,
            history,
            self._plan.recipe,
            {},
            report,
        )


def _cast(image: npt.NDArray[np.float32], dtype: np.dtype[Any], plan: Plan) -> npt.NDArray[Any]:
    """Round to the input's own type if the recipe asks for it."""
    if plan.recipe.common.dtype == "float32":
        return image
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(image.astype(np.float64)), limits.min, limits.max).astype(
            dtype.newbyteorder("=")
        )
    return image.astype(dtype.newbyteorder("="))


def _number(value: float) -> float | None:
    """None instead of NaN, which JSON does not have."""
    return value if np.isfinite(value) else None


@contextmanager
def _threads(torch: Any, count: int) -> Iterator[None]:
    """Set torch's threads for this run and put them back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
