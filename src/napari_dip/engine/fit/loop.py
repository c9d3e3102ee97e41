"""Run the fit loop, the only one: every task and every prior uses `fit`."""

from __future__ import annotations

import time
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

from napari_dip.engine.fit.state import MAX_ROLLBACKS, FitResult, FitState
from napari_dip.engine.fit.stopping import Control
from napari_dip.engine.fit.trainer import Trainer
from napari_dip.engine.prior import pad_input_weights
from napari_dip.engine.problem import Estimate
from napari_dip.errors.notes import StopReason, make_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from torch import Tensor

    from napari_dip.engine.fit.optimizers import Schedule
    from napari_dip.engine.fit.state import Checkpoint, FitProgress
    from napari_dip.engine.fit.stopping import PollControl, StopRule
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors.notes import Stop


def fit(
    problem: Problem,
    prior: Prior,
    schedule: Schedule,
    stop_rule: StopRule,
    *,
    seed: int,
    resume: Checkpoint | None = None,
    warm_start: Mapping[str, Tensor] | None = None,
    poll_control: PollControl = lambda: Control.GO,
    is_preview_due: Callable[[bool], bool] = lambda _: False,
    save_checkpoint: Callable[[Checkpoint], None] | None = None,
    postprocesses: bool = True,
) -> Generator[FitProgress, None, FitResult | None]:
    """Fit the prior to the problem until the stop rule, the schedule or the user ends it.

    Parameters
    ----------
    problem : Problem
    prior : Prior
    schedule : Schedule
    stop_rule : StopRule
    seed : int
        Seed of the samples.
    resume : Checkpoint or None
        State from which the fit continues exactly.
    warm_start : mapping of str to Tensor or None
        Initial weights, by the names of `prior.network.state_dict()`.
    poll_control : callable
        Returns the user's control; called before every iteration.
    is_preview_due : callable
        Whether to yield a preview; called after every iteration. Its argument is true if
        the image has just been computed for the validation loss. A preview does not affect the
        fit.
    save_checkpoint : callable or None
        Receives a checkpoint after each validation.
    postprocesses : bool
        Whether the result is postprocessed. If another fit may be chosen instead, that is left to
        `postprocess_result`, for the chosen one alone.

    Yields
    ------
    FitProgress
        After each validation, at the end of the refit, for each preview, and during the final
        inference.

    Returns
    -------
    FitResult or None
        None if the user discards the fit, or keeps it before the first iteration.
    """
    state = _make_fit_state(problem, prior, schedule, seed, resume, warm_start)
    trainer = state.trainer
    # a checkpoint of a fit that had ended must not continue
    stop = _apply_stop_rule(state, stop_rule) if resume else None
    while trainer.iteration < schedule.last_iteration and stop is None:
        control = _wait_while_paused(poll_control)
        if control is Control.DISCARD or (control is Control.KEEP and trainer.iteration == 0):
            return None
        if control is Control.KEEP:
            stop = state.choose_result_at_user_stop()
            break
        trainer.advance()
        is_last = trainer.iteration == schedule.last_iteration
        if is_validation := is_last or trainer.iteration % schedule.validation_interval == 0:
            note = state.validate()
            stop = _apply_stop_rule(state, stop_rule)
            if save_checkpoint is not None:
                save_checkpoint(state.make_checkpoint())
            yield state.make_progress(note=note)
        if is_preview_due(is_validation and not trainer.has_validation_input):
            yield state.make_progress(estimate=problem.make_preview(state.make_preview()))
    control = yield from _refit_on_all_pixels(state, stop, poll_control, is_preview_due)
    if control is Control.DISCARD:
        return None
    stop = _complete_stop_reason(stop, state)
    result = yield from _make_result(state, stop, poll_control)
    if result is None or not postprocesses:
        return result
    return postprocess_result(problem, result, poll_control)


def postprocess_result(
    problem: Problem, result: FitResult, poll_control: PollControl
) -> FitResult | None:
    """Return a result after postprocessing; None if the user discards it meanwhile.

    A fit that the user ended, also in the meantime, has the quick postprocessing only.
    """
    inferred, finished = result.uncropped_estimate, None
    if not result.is_ended_by_user:
        finished = _postprocess(problem, inferred, poll_control)
    if finished is Control.DISCARD:
        return None
    if isinstance(finished, Control):
        result = replace(result, is_ended_by_user=True, stop=make_stop(StopReason.USER))
    if not isinstance(finished, Estimate):
        finished = problem.postprocess(inferred)
    return replace(result, estimate=problem.crop(finished), uncropped_estimate=finished)


def _complete_stop_reason(stop: Stop | None, state: FitState) -> Stop:
    """Return the reason of the stop rule, or the number of iterations at the end of the schedule.

    If the rule stops at the very last iteration, the schedule is the reason. The number includes
    the iterations of the refit, as the progress does.
    """
    schedule, iteration = state.trainer.schedule, state.trainer.iteration
    if stop is not None and state.last_validation_iteration < schedule.last_iteration:
        return stop
    return make_stop(StopReason.ITERATIONS, count=iteration, several=False)


def _refit_on_all_pixels(
    state: FitState,
    stop: Stop | None,
    poll_control: PollControl,
    is_preview_due: Callable[[bool], bool],
) -> Generator[FitProgress, None, Control]:
    """Refit on training and validation pixels; return GO, or how the user ended it.

    There is no refit if the user ended the fit, or if the best image is not a recent one.
    """
    trainer, schedule = state.trainer, state.trainer.schedule
    is_best_old = trainer.iteration - state.best_iteration > 2 * schedule.validation_interval
    is_ended_by_user = stop is not None and stop.reason is StopReason.USER
    if is_ended_by_user or is_best_old or not schedule.refit_iterations:
        return Control.GO
    state.validated_estimate = state.make_preview()
    trainer.uses_validation_pixels = True
    last_iteration = trainer.iteration + schedule.refit_iterations
    while trainer.iteration < last_iteration:
        control = _wait_while_paused(poll_control)
        if control is not Control.GO:
            return control
        trainer.advance()
        is_last = trainer.iteration == last_iteration
        if is_last or trainer.iteration % schedule.validation_interval == 0:
            yield state.make_progress()
        if is_preview_due(False):
            yield state.make_progress(estimate=trainer.problem.make_preview(trainer.predict()))
    if isfinite(trainer.pop_losses()[0]):
        state.best_average, state.last_prediction = trainer.average.state_dict(), None
    return Control.GO


def _make_fit_state(
    problem: Problem,
    prior: Prior,
    schedule: Schedule,
    seed: int,
    resume: Checkpoint | None,
    warm_start: Mapping[str, Tensor] | None,
) -> FitState:
    if warm_start is not None:
        prior.network.load_state_dict(pad_input_weights(warm_start, prior.network))
    trainer = Trainer(problem, prior, schedule, seed=seed)
    if resume is None:
        return FitState(
            trainer=trainer,
            rollback_state=trainer.state_dict(),
            best_average=trainer.average.state_dict(),
        )
    trainer.load_state_dict(resume.trainer_state)
    return FitState(
        trainer=trainer,
        rollback_state=resume.rollback_state,
        best_average=resume.best_average,
        lowest_losses=resume.lowest_losses,
        best_iteration=resume.best_iteration,
        history=list(resume.history),
        rollback_count=resume.rollback_count,
        notes=list(resume.notes),
    )


def _wait_while_paused(poll_control: PollControl) -> Control:
    """Return the user's control, after waiting for as long as it is to pause."""
    while (control := poll_control()) is Control.PAUSE:
        time.sleep(0.02)
    return control


def _postprocess(
    problem: Problem, estimate: Estimate, poll_control: PollControl
) -> Estimate | Control:
    """Return the estimate after all postprocessing, or how the user ended it."""
    if problem.full_postprocess is None:
        return problem.postprocess(estimate)
    steps = problem.full_postprocess(estimate)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            finished: Estimate = end.value
            return finished
        control = _wait_while_paused(poll_control)
        if control is not Control.GO:
            return control


def _apply_stop_rule(state: FitState, stop_rule: StopRule) -> Stop | None:
    if state.rollback_count >= MAX_ROLLBACKS:
        return make_stop(StopReason.BREAKDOWN, count=state.rollback_count)
    return stop_rule(state.history)


def _make_result(
    state: FitState, stop: Stop, poll_control: PollControl
) -> Generator[FitProgress, None, FitResult | None]:
    """Return the result of the best average before postprocessing.

    The final inference is left out if the user ended it.
    """
    trainer, problem = state.trainer, state.trainer.problem
    iteration, is_ended_by_user = trainer.iteration, stop.reason is StopReason.USER
    if state.best_iteration:
        trainer.average.load_state_dict(state.best_average)
    final_estimate = None
    runs_final_inference = trainer.schedule.has_final_inference and not is_ended_by_user
    for progress in trainer.run_final_inference() if runs_final_inference else ():
        if isinstance(progress, Estimate):
            final_estimate = progress
            break
        control = _wait_while_paused(poll_control)
        if control is Control.DISCARD:
            return None
        if control is Control.KEEP:  # the estimate of a single pass is used
            is_ended_by_user = True
            break
        yield state.make_progress(inference_fraction=progress)
    best_estimate = final_estimate
    if best_estimate is None or trainer.prior.reveals_validation:
        best_estimate = state.predict_best()
    last_estimate = best_estimate if final_estimate is None else final_estimate
    return FitResult(
        estimate=problem.crop(last_estimate),
        uncropped_estimate=last_estimate,
        network_estimate=best_estimate,
        validated_estimate=state.validated_estimate or best_estimate,
        stop=stop,
        is_ended_by_user=is_ended_by_user,
        is_broken_down=state.rollback_count >= MAX_ROLLBACKS,
        best_iteration=state.best_iteration,
        iterations=iteration,
        history=tuple(state.history),
        learned_parameters=trainer.get_learned_parameters(),
        weights=trainer.get_network_state_dict(),
        notes=tuple(state.notes),
    )
