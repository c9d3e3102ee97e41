"""Run the fit of each work unit, select between priors, and pass the results to the merger."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from napari_dip.engine.control import Control
from napari_dip.errors import FailedError
from napari_dip.errors.notes import StopReason, make_note, make_stop
from napari_dip.pipeline.execute.device_recovery import RecoveryState, copy_state_to_cpu, retry_fit
from napari_dip.pipeline.execute.neighbour_frames import Movie
from napari_dip.pipeline.plan.joint_training import (
    apply_probe_outcome,
    compute_fine_tune_gain,
    make_sharing_note,
)
from napari_dip.pipeline.plan.types import FINE_TUNE_PROBE, INDEPENDENT, INFERENCE, JOINT
from napari_dip.pipeline.store.unit_results import UnitResult

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_dip.engine.fit.state import Checkpoint, FitResult
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.execute.clock import RunClock
    from napari_dip.pipeline.execute.joint_training import RunningFit
    from napari_dip.pipeline.plan.types import WorkUnit
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.pipeline.store.unit_results import ResultStore


def drop_constant_channels(unit: WorkUnit, constant: tuple[int, ...]) -> WorkUnit:
    """Return the work unit without the channels whose pixels are all equal."""
    return replace(unit, channels=tuple(c for c in unit.channels if c not in constant))


def is_inference_only(unit: WorkUnit) -> bool:
    """Return whether a unit only applies a jointly trained network to a whole plane or frame.

    Such units are fast, so they all run even after the user has asked to keep the result.
    """
    return unit.role == INFERENCE and unit.tile is None


class UnitExecutor:
    """Fit the work units of one run, one after another.

    Parameters
    ----------
    merger : ResultMerger
        Holds the image, and receives the result of each fit.
    clock : RunClock
    store : CheckpointStore or None
        Writes checkpoints; None: there are none.
    results : ResultStore, optional
        Saves the result of each finished fit, so that another process can merge it.

    Attributes
    ----------
    weights : mapping of str to Tensor, or None
        Network weights of the previous fit, from which the next one may start.
    """

    def __init__(
        self,
        merger: ResultMerger,
        clock: RunClock,
        store: CheckpointStore | None,
        results: ResultStore | None = None,
    ) -> None:
        self._image = merger.image
        self._plan, self._calibration = merger.image.plan, merger.image.calibration
        self._clock = clock
        self._merger = merger
        self._store = store
        self._results = results
        self._movie = Movie(merger)
        self._control = Control.GO
        self._is_selecting = False
        self._recovery = RecoveryState()
        self.weights = None if store is None else store.weights

    def fit_unit(
        self, unit: WorkUnit, number: int, resume: Checkpoint | None
    ) -> Generator[Event, None, Control]:
        """Fit one work unit, and repeat the fit if memory runs out or the GPU fails.

        Parameters
        ----------
        unit : WorkUnit
        number : int
            Position of the unit in the run, 1-based.
        resume : Checkpoint or None
            Checkpoint of this unit to continue from.

        Yields
        ------
        Event

        Returns
        -------
        Control
            GO to continue with the next unit; otherwise how the user or a limit ended the run.

        Notes
        -----
        After a request to keep the result, units that use a jointly trained network are not fitted
        further. They still get a result, from one inference pass.
        """
        unit = apply_probe_outcome(unit, self._merger.outcomes)
        if unit.role == INFERENCE and unit.iterations and self._poll_control() is Control.KEEP:
            unit = replace(unit, iterations=0)
        attempt = partial(self._attempt, unit, number)
        sides = self._plan.fit_config.window, max(self._image.stack.shape[2:])
        return (
            yield from retry_fit(attempt, resume, self._recovery, *sides, self._merger.outcomes)
        )

    def _attempt(
        self, unit: WorkUnit, number: int, resume: Checkpoint | None
    ) -> Generator[Event, None, Control]:
        """Fit one unit once with each candidate prior, and record the best result."""
        priors = self._list_candidates(unit)
        first_iteration = 0 if resume is None else resume.history[-1].iteration
        if unit.role == INFERENCE:
            self._clock.expect_fine_tuning(unit.series, is_worthwhile=unit.iterations > 0)
        # a checkpoint written during prior selection could belong to a rejected prior
        self._is_selecting = len(priors) > 1
        running_fits = []
        for index, prior in enumerate(priors):
            candidate = index if self._is_selecting else None
            self._clock.begin(number, first_iteration, candidate)
            running_fits.append(self._start_fit(unit, prior, resume))
            yield from self._iter_events(unit, running_fits[-1])
            if running_fits[-1].is_ended_by_user:
                break
        return self._finish_unit(unit, running_fits)

    def _finish_unit(self, unit: WorkUnit, running: list[RunningFit]) -> Control:
        """Select and record one of a unit's fits.

        A fit that the user ended is only used if no other fit has a result.
        """
        from napari_dip.pipeline.execute.joint_training import select_best_fit

        ended_by_user = running[-1].is_ended_by_user
        if ended_by_user and self._control is Control.DISCARD:
            return self._control
        completed_fits = [
            fit for fit in running if fit.result is not None and not fit.result.is_ended_by_user
        ]
        candidates = completed_fits or [fit for fit in running if fit.result is not None]
        if unit.role == FINE_TUNE_PROBE and ended_by_user:
            return Control.GO  # the jointly trained network still gives all units a result
        if not candidates:
            return self._control
        if not unit.has_estimate:
            return self._record_network(unit, candidates[0])
        control = self._record_result(unit, select_best_fit(candidates))
        return Control.KEEP if ended_by_user and not is_inference_only(unit) else control

    def _list_candidates(self, unit: WorkUnit) -> tuple[str, ...]:
        """Return the names of the priors to fit; a restart uses the prior of the first fit."""
        fit_config = self._plan.fit_config
        if self._recovery.prior:
            return (self._recovery.prior,)
        if unit.restart and fit_config.other_candidates:
            prior_by_unit = {outcome.unit: outcome.prior for outcome in self._merger.outcomes}
            return (prior_by_unit.get(unit.first_unit_id, fit_config.prior),)
        return (fit_config.prior, *fit_config.other_candidates)

    def _start_fit(self, unit: WorkUnit, prior: str, resume: Checkpoint | None) -> RunningFit:
        """Set up one fit, which offers checkpoints to the store unless priors are compared."""
        from napari_dip.engine.fit.loop import fit
        from napari_dip.pipeline.execute.fit_setup import make_fit
        from napari_dip.pipeline.execute.joint_training import RunningFit, make_joint_fit

        recovery, movie = self._recovery, self._movie
        if unit.has_estimate:
            frames = movie.get_neighbour_frames(unit, prior)
            setup = make_fit(self._image, unit, prior, frames, recovery)
        else:
            setup = make_joint_fit(self._image, unit, prior, movie, recovery)

        def keep_checkpoint(checkpoint: Checkpoint) -> None:
            recorded = recovery.record_checkpoint(checkpoint, prior if self._is_selecting else "")
            if recorded is not None and self._store is not None:
                self._store.offer(recorded, unit.id)

        loop = fit(
            setup.problem,
            setup.prior,
            setup.schedule,
            setup.stop_rule,
            seed=setup.seed,
            resume=resume,
            warm_start=self.weights if unit.is_warm_start else None,
            control=self._poll_control,
            preview_due=self._clock.is_preview_due,
            keep_checkpoint=keep_checkpoint,
        )
        return RunningFit(setup, loop)

    def _iter_events(self, unit: WorkUnit, fit: RunningFit) -> Generator[Event, None, None]:
        """Run a fit, and convert its progress reports to events with previews."""
        from napari_dip.pipeline.calibrate.clipping import correct_clipping
        from napari_dip.pipeline.execute.fit_setup import convert_to_image_units

        for progress in fit.iter_progress():
            preview = None
            if progress.estimate is not None:
                picture = convert_to_image_units(self._calibration, unit, progress.estimate.mean)
                picture, _ = correct_clipping(self._plan, self._calibration, unit, picture)
                if picture.shape[1:] == self._image.stack.shape[2:] or unit.has_estimate:
                    preview = self._merger.make_preview(unit, picture)
                self._clock.record_preview_cost()
            event = self._clock.make_event(progress, preview)
            self._recovery.last_event = replace(event, preview=None)
            yield event

    def _poll_control(self) -> Control:
        """Return the current request, and store it: a fit without a result does not report it."""
        self._control = Control.KEEP if self._recovery.is_exhausted else self._clock.poll_control()
        return self._control

    def _record_result(self, unit: WorkUnit, fit: RunningFit) -> Control:
        """Pass the result of a fit to the merger, the result store and the checkpoint store."""
        from napari_dip.pipeline.calibrate.clipping import correct_clipping
        from napari_dip.pipeline.execute.fit_setup import (
            compute_uncertainty,
            convert_to_image_units,
            make_unit_outcome,
            predict_measurement,
        )

        setup, result = fit.setup, fit.result
        assert result is not None
        self._check_convergence(result)
        if result.is_ended_by_user and self._store is not None:
            self._store.write_after_user_stop()  # before the unfinished result is merged
        learned = {
            name: parameter.cpu().numpy() for name, parameter in result.learned_parameters.items()
        }
        learned_notes = self._plan.recipe.task.spec.describe_learned(learned)
        outcome = make_unit_outcome(unit, setup, result, learned_notes, self._recovery)
        if unit.role == INFERENCE and not unit.iterations:
            reason = StopReason.USER if result.is_ended_by_user else StopReason.SHARED_NETWORK
            outcome = replace(outcome, stop=make_stop(reason))
        picture = convert_to_image_units(self._calibration, unit, result.estimate.mean)
        picture, growth = correct_clipping(self._plan, self._calibration, unit, picture)
        deviation = growth * compute_uncertainty(setup, self._calibration, result)
        prediction = predict_measurement(
            setup, self._calibration, result.network_estimate, result.estimate
        )
        self._merger.add(unit, picture, deviation, prediction, outcome, learned)
        if result.is_ended_by_user:
            return Control.GO if is_inference_only(unit) else Control.KEEP
        if self._results is not None:
            self._results.save(
                unit.id,
                UnitResult(
                    outcomes=(outcome,),
                    estimates=(picture, deviation, prediction),
                    learned=learned,
                ),
            )
        if unit.role == INDEPENDENT:
            self.weights = copy_state_to_cpu(result.weights)
        if self._store is not None and self.weights is not None:
            self._store.record_finished_unit(self._merger, self.weights)
            if not unit.iterations:  # other fits have offered checkpoints as they ran
                self._store.write_if_due()
        return Control.GO

    def _record_network(self, unit: WorkUnit, fit: RunningFit) -> Control:
        """Record a jointly trained network, or the gain of a fine-tuning probe."""
        from napari_dip.pipeline.execute.fit_setup import make_unit_outcome
        from napari_dip.pipeline.execute.joint_training import compute_validation_gain

        setup, result = fit.setup, fit.result
        assert result is not None
        self._check_convergence(result)
        outcome = replace(make_unit_outcome(unit, setup, result, (), self._recovery), evidence=())
        if unit.role == JOINT:
            note = make_note("shared-network", members=len(unit.members))
            outcome = replace(outcome, notes=(note, *outcome.notes))
            self.weights = copy_state_to_cpu(result.weights)
        else:
            assert self.weights is not None
            outcome = replace(outcome, gain=compute_validation_gain(setup, self.weights, result))
            gain = compute_fine_tune_gain((*self._merger.outcomes, outcome), unit.series)
            is_worthwhile = gain is not None and gain.is_worthwhile
            self._clock.expect_fine_tuning(unit.series, is_worthwhile=is_worthwhile)
            if gain is not None and gain.probes == unit.probe_count:
                outcome = replace(outcome, notes=(*outcome.notes, make_sharing_note(gain)))
        if result.is_ended_by_user and self._store is not None:
            self._store.write_after_user_stop()
        self._merger.outcomes.append(outcome)
        if self._results is not None and not result.is_ended_by_user:
            if unit.role == JOINT and self.weights is not None:
                self._results.save_weights(unit.series, self.weights)
            self._results.save(unit.id, UnitResult(outcomes=(outcome,)))
        if self._store is not None and self.weights is not None and not result.is_ended_by_user:
            self._store.record_finished_unit(self._merger, self.weights)
        return Control.GO

    def _check_convergence(self, result: FitResult) -> None:
        """Raise FailedError if a fit never improved or its result is not finite."""
        never_improved = result.iterations > 0 and result.best_iteration == 0
        if never_improved or not bool(result.estimate.mean.isfinite().all()):
            facts = {"name": self._image.source.name, "count": len(result.notes)}
            raise FailedError("diverged", **facts)
