"""The loop. It exists once: every task, prior and door goes through `fit`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import isfinite, isnan
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_dip.engine.control import Control
from napari_dip.engine.problem import Estimate, Problem, judged
from napari_dip.engine.progress import Checkpoint, Progress, Result
from napari_dip.engine.step import EagerStep, State, Step
from napari_dip.engine.stopping import Judgement, StopRule

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.schedule import Schedule

#: Rollbacks in a row before a fit gives up; by then the rate is a 64th.
MOST_ROLLBACKS = 6
#: A mean loss this many times the usual one is no fluctuation of a mini-batch but a breakdown.
JUMP = 10.0
#: Why a fit ended that a person ended.
KEPT = "you kept the picture"


@dataclass(slots=True, eq=False)
class _Course:
    """Where a fit stands; what a checkpoint is made of."""

    step: Step
    best: State
    rollback: State
    best_iteration: int = 0
    history: list[Judgement] = field(default_factory=list)
    rollbacks: int = 0
    notes: list[str] = field(default_factory=list)
    seen: tuple[int, Estimate] | None = None  # last judged picture: a person who keeps waits less

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.step.state(),
            self.rollback,
            self.best,
            self.best_iteration,
            tuple(self.history),
            self.rollbacks,
            tuple(self.notes),
        )


def fit(
    problem: Problem,
    prior: Prior,
    schedule: Schedule,
    stop: StopRule,
    *,
    seed: int,
    resume: Checkpoint | None = None,
    warm_start: Mapping[str, Tensor] | None = None,
    control: Callable[[], Control] = lambda: Control.GO,
    preview_due: Callable[[], bool] = lambda: False,
    keep_checkpoint: Callable[[Checkpoint], None] | None = None,
) -> Generator[Progress, None, Result | None]:
    """Fit the prior to the problem until the stop rule, the schedule or a person ends it.

    Parameters
    ----------
    problem, prior, schedule, stop
        What to explain, with what, how fast, and until when.
    seed : int
        Of the draws.
    resume : Checkpoint or None
        Go on exactly where it was taken.
    warm_start : mapping of str to Tensor or None
        Weights to begin from, as `prior.net.state_dict()` names them.
    control, preview_due : callable
        Polled before, and asked after, every iteration; a preview only reads.
    keep_checkpoint : callable or None
        Handed a checkpoint after each judgement.

    Yields
    ------
    Progress
        After each judgement, for a preview, and during the last look.

    Returns
    -------
    Result or None
        None if discarded, or if asked to keep before the first iteration.
    """
    course = _begin(problem, prior, schedule, seed, resume, warm_start)
    # a fit that had ended already must not go on when it is resumed
    step, reason = course.step, _ending(course, stop) if resume else ""
    while step.iteration < schedule.stop_at and not reason:
        wish = _wait(control)
        if wish is Control.DISCARD or (wish is Control.KEEP and step.iteration == 0):
            return None
        if wish is Control.KEEP:
            reason = _keep(problem, course)
            break
        step.advance()
        if step.iteration % schedule.report_every == 0 or step.iteration == schedule.stop_at:
            note, reason = _report(problem, course, stop, keep_checkpoint)
            yield _progress(course, note=note)
        if preview_due():
            yield _progress(course, estimate=problem.finish(_look(course)))
    reason = reason or f"all {schedule.stop_at} iterations were used"
    if (yield from _release(problem, course, schedule, reason, control, preview_due)):
        return None
    return (yield from _finish(problem, course, reason, control))


def _release(
    problem: Problem,
    course: _Course,
    schedule: Schedule,
    reason: str,
    control: Callable[[], Control],
    preview_due: Callable[[], bool],
) -> Generator[Progress, None, bool]:
    """Let the held-out pixels drive the fit as well, now that they have judged.

    Only where the best picture does not lie behind. Tells whether the run was discarded.
    """
    step = course.step
    late = step.iteration - course.best_iteration > 2 * schedule.report_every
    if reason == KEPT or late or not schedule.release:
        return False
    step.released = True
    for _ in range(schedule.release):
        wish = _wait(control)
        if wish is not Control.GO:
            return wish is Control.DISCARD
        step.advance()
        if step.iteration % schedule.report_every == 0:
            yield _progress(course)
        if preview_due():
            yield _progress(course, estimate=problem.finish(step.glance()))
    if isfinite(step.read()):
        course.best, course.seen = step.average_state(), None
    return False


def _begin(
    problem: Problem,
    prior: Prior,
    schedule: Schedule,
    seed: int,
    resume: Checkpoint | None,
    warm_start: Mapping[str, Tensor] | None,
) -> _Course:
    if warm_start is not None:
        prior.net.load_state_dict(dict(warm_start))
    step = EagerStep(problem, prior, schedule, seed=seed)
    if resume is None:
        return _Course(step, step.average_state(), step.state())
    step.load(resume.step)
    history = list(resume.history)
    return _Course(
        step,
        resume.best,
        resume.rollback,
        resume.best_iteration,
        history,
        resume.rollbacks,
        list(resume.notes),
    )


def _keep(problem: Problem, course: _Course) -> str:
    """Judge the last iterations, too: by a preview where there is one, as a look takes time."""
    judged_at = course.history[-1].iteration if course.history else 0
    if course.seen is not None and course.seen[0] > judged_at > 0:
        if float(judged(problem, course.seen[1])) <= min(one.held_out for one in course.history):
            course.best_iteration = course.seen[0]
    elif judged_at < course.step.iteration:
        _judge(problem, course)
    return KEPT


def _look(course: _Course) -> Estimate:
    course.seen = (course.step.iteration, course.step.glance())
    return course.seen[1]


def _wait(control: Callable[[], Control]) -> Control:
    """Ask what to do; while it is to pause, wait without computing."""
    while (wish := control()) is Control.PAUSE:
        time.sleep(0.02)
    return wish


def _report(
    problem: Problem,
    course: _Course,
    stop: StopRule,
    keep_checkpoint: Callable[[Checkpoint], None] | None,
) -> tuple[str, str]:
    """Judge, ask the rule, leave a checkpoint; a note for the user and why to stop, if any."""
    note = _judge(problem, course)
    reason = _ending(course, stop)
    if keep_checkpoint is not None:
        keep_checkpoint(course.checkpoint())
    return note, reason


def _judge(problem: Problem, course: _Course) -> str:
    """Read the losses, remember the best average, or go back if the fit broke down."""
    step = course.step
    fitted = step.read()
    with torch.no_grad():
        estimate = step.glance()
        held_out = float(judged(problem, estimate))
    course.seen = (step.iteration, estimate)
    usual = sorted(entry.fitted for entry in course.history[-5:])
    broken = not isfinite(fitted) or (len(usual) == 5 and fitted > JUMP * (1 + abs(usual[2])))
    if broken or (
        not isfinite(held_out) and course.history and isfinite(course.history[-1].held_out)
    ):
        return _roll_back(course)
    course.history.append(Judgement(step.iteration, fitted, held_out))
    losses = [entry.held_out for entry in course.history if not isnan(entry.held_out)]
    if isnan(held_out) or held_out <= min(losses):
        course.best, course.best_iteration = step.average_state(), step.iteration
    course.rollback = step.state()
    course.rollbacks = 0
    return ""


def _roll_back(course: _Course) -> str:
    step = course.step
    broke_at = step.iteration
    factor = step.rate_factor / 2
    step.load(course.rollback)
    step.rate_factor = factor
    course.rollbacks += 1
    note = (
        f"The fit broke down at iteration {broke_at}; it went back to iteration "
        f"{step.iteration} and goes on half as fast."
    )
    course.notes.append(note)
    return note


def _ending(course: _Course, stop: StopRule) -> str:
    if course.rollbacks >= MOST_ROLLBACKS:
        return f"the fit broke down {course.rollbacks} times in a row"
    return stop(course.history) or ""


def _progress(
    course: _Course, *, estimate: Estimate | None = None, note: str = "", swept: float = 0.0
) -> Progress:
    last = course.history[-1] if course.history else Judgement(0, float("nan"), float("nan"))
    return Progress(last, course.step.iteration, course.best_iteration, swept, estimate, note)


def _finish(
    problem: Problem, course: _Course, reason: str, control: Callable[[], Control]
) -> Generator[Progress, None, Result | None]:
    """Take the best average, look at it as closely as time allows, and hand it over."""
    step = course.step
    iteration, kept = step.iteration, reason == KEPT
    if course.best_iteration:
        step.load_average(course.best)
    blind = None
    for part in () if kept else step.sweep():
        if isinstance(part, Estimate):
            blind = part
            break
        wish = _wait(control)
        if wish is Control.DISCARD:
            return None
        if wish is Control.KEEP:  # one look has to do
            kept = True
            break
        yield _progress(course, swept=part)
    if blind is None:
        seen_at, seen = course.seen or (0, None)
        blind = seen if seen is not None and seen_at == course.best_iteration else step.glance()
    return Result(
        problem.finish(blind),
        blind,
        reason,
        kept,
        course.rollbacks >= MOST_ROLLBACKS,
        course.best_iteration,
        iteration,
        tuple(course.history),
        step.learned(),
        step.weights(),
        tuple(course.notes),
    )
