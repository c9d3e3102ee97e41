"""The loop. It exists once: every task, prior and door goes through `fit`."""

from __future__ import annotations

import time
from math import isfinite
from typing import TYPE_CHECKING

from napari_dip.engine.control import Control
from napari_dip.engine.fit.state import FitResult, FitState
from napari_dip.engine.fit.trainer import EagerTrainer
from napari_dip.engine.problem import Estimate
from napari_dip.errors.notes import StopReason, make_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from torch import Tensor

    from napari_dip.engine.fit.early_stopping import StopRule
    from napari_dip.engine.fit.schedule import Schedule
    from napari_dip.engine.fit.state import Checkpoint, FitProgress
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors.notes import Note, Stop

#: Rollbacks in a row before a fit gives up; by then the rate is a 64th.
MAX_ROLLBACKS = 6


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
    preview_due: Callable[[bool], bool] = lambda _: False,
    keep_checkpoint: Callable[[Checkpoint], None] | None = None,
) -> Generator[FitProgress, None, FitResult | None]:
    """Fit the prior to the problem until the stop rule, the schedule or a person ends it.

    Parameters
    ----------
    problem, prior, schedule, stop, seed
        What to explain, with what, how fast, until when; and what the draws begin with.
    resume : Checkpoint or None
        Go on exactly where it was taken.
    warm_start : mapping of str to Tensor or None
        Weights to begin from, as `prior.net.state_dict()` names them.
    control, preview_due : callable
        Polled before, and asked after, every iteration; asked whether to show a picture, told
        whether it is at hand, just judged. A preview only reads.
    keep_checkpoint : callable or None
        Handed a checkpoint after each judgement.

    Yields
    ------
    FitProgress
        After each judgement, for a preview, and during the last look.

    Returns
    -------
    FitResult or None
        None if discarded, or if asked to keep before the first iteration.
    """
    course = _begin(problem, prior, schedule, seed, resume, warm_start)
    step = course.step
    # ended already: must not go on when resumed
    reason = _ask_stop_rule(course, stop) if resume else None
    while step.iteration < schedule.stop_at and reason is None:
        wanted = _wait_while_paused(control)
        if wanted is Control.DISCARD or (wanted is Control.KEEP and step.iteration == 0):
            return None
        if wanted is Control.KEEP:
            reason = course.kept(problem)
            break
        step.advance()
        if judged := _is_report_due(step.iteration, schedule):
            note, reason = _report(problem, course, stop, keep_checkpoint)
            yield course.progress(note=note)
        if preview_due(judged and not step.tried):
            yield course.progress(estimate=problem.finish(course.make_preview()))
    if (yield from _refit_on_all_pixels(problem, course, schedule, reason, control, preview_due)):
        return None
    ended = _complete_stop_reason(reason, course, schedule)
    closely = schedule.last_look and ended.reason is not StopReason.USER
    return (yield from _finish(problem, course, ended, control, closely=closely))


def _is_report_due(iteration: int, schedule: Schedule) -> bool:
    return iteration % schedule.report_every == 0 or iteration == schedule.stop_at


def _complete_stop_reason(reason: Stop | None, course: FitState, schedule: Schedule) -> Stop:
    """Say why a fit ended: at the very last iteration the rule may have enough as well.

    Iterations are counted with those of the last phase, as whoever watches has seen them counted.
    """
    judged = course.history[-1].iteration if course.history else 0
    if reason is not None and judged < schedule.stop_at:
        return reason
    taken = course.step.iteration
    refitted = taken == judged and bool(schedule.release)
    return make_stop(StopReason.ITERATIONS, count=taken, refitted=refitted)


def _refit_on_all_pixels(
    problem: Problem,
    course: FitState,
    schedule: Schedule,
    reason: Stop | None,
    control: Callable[[], Control],
    preview_due: Callable[[bool], bool],
) -> Generator[FitProgress, None, bool]:
    """Let the held-out pixels drive the fit as well, now that they have judged.

    Only where the best picture does not lie behind. Tells whether the run was discarded.
    """
    step = course.step
    late = step.iteration - course.best_iteration > 2 * schedule.report_every
    by_hand = reason is not None and reason.reason is StopReason.USER
    if by_hand or late or not schedule.release:
        return False
    step.released = True
    for _ in range(schedule.release):
        wanted = _wait_while_paused(control)
        if wanted is not Control.GO:
            return wanted is Control.DISCARD
        step.advance()
        if step.iteration % schedule.report_every == 0:
            yield course.progress()
        if preview_due(False):
            yield course.progress(estimate=problem.finish(step.glance()))
    if isfinite(step.read()):
        course.best, course.best_estimate = step.average_state(), None
    return False


def _begin(
    problem: Problem,
    prior: Prior,
    schedule: Schedule,
    seed: int,
    resume: Checkpoint | None,
    warm_start: Mapping[str, Tensor] | None,
) -> FitState:
    if warm_start is not None:
        prior.net.load_state_dict(dict(warm_start))
    step = EagerTrainer(problem, prior, schedule, seed=seed)
    if resume is None:
        return FitState(step, step.average_state(), step.state())
    step.load(resume.step)
    history = list(resume.history)
    return FitState(
        step,
        resume.best,
        resume.rollback,
        resume.best_iteration,
        history,
        resume.rollbacks,
        list(resume.notes),
    )


def _wait_while_paused(control: Callable[[], Control]) -> Control:
    """Ask what to do; while it is to pause, wait without computing."""
    while (wanted := control()) is Control.PAUSE:
        time.sleep(0.02)
    return wanted


def _report(
    problem: Problem,
    course: FitState,
    stop: StopRule,
    keep_checkpoint: Callable[[Checkpoint], None] | None,
) -> tuple[Note | None, Stop | None]:
    """Judge, ask the rule, leave a checkpoint; a note for the user and why to stop, if any."""
    note = course.judge(problem)
    if (said := course.step.note) and said not in course.notes:
        course.notes.append(said)
        note = note or said
    reason = _ask_stop_rule(course, stop)
    if keep_checkpoint is not None:
        keep_checkpoint(course.checkpoint())
    return note, reason


def _ask_stop_rule(course: FitState, stop: StopRule) -> Stop | None:
    if course.rollbacks >= MAX_ROLLBACKS:
        return make_stop(StopReason.BREAKDOWN, count=course.rollbacks)
    return stop(course.history)


def _finish(
    problem: Problem,
    course: FitState,
    reason: Stop,
    control: Callable[[], Control],
    *,
    closely: bool,
) -> Generator[FitProgress, None, FitResult | None]:
    """Take the best average, look at it as closely as time allows, and hand it over."""
    step = course.step
    iteration, kept = step.iteration, reason.reason is StopReason.USER
    if course.best_iteration:
        step.load_average(course.best)
    blind = None
    for part in step.sweep() if closely else ():
        if isinstance(part, Estimate):
            blind = part
            break
        wanted = _wait_while_paused(control)
        if wanted is Control.DISCARD:
            return None
        if wanted is Control.KEEP:  # one look has to do
            kept = True
            break
        yield course.progress(swept=part)
    final_look = course.best_look() if blind is None or step.reveals else blind
    last = problem.finish if kept or problem.refine is None else problem.refine
    return FitResult(
        estimate=last(final_look if blind is None else blind),
        blind=problem.on_grid(final_look),
        stop=reason,
        kept=kept,
        broke_down=course.rollbacks >= MAX_ROLLBACKS,
        best_iteration=course.best_iteration,
        iterations=iteration,
        history=tuple(course.history),
        learned=step.learned(),
        weights=step.weights(),
        notes=tuple(course.notes),
    )
