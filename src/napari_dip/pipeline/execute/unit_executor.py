"""The fits of one run, one after another: begun, told of, judged, and handed on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from napari_dip.engine.control import Control
from napari_dip.errors import Failed, refusal
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
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.execute.clock import RunClock
    from napari_dip.pipeline.execute.joint_training import RunningFit
    from napari_dip.pipeline.plan.types import Plan, WorkUnit
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.pipeline.store.unit_results import UnitFolder


def drop_constant_channels(unit: WorkUnit, constant: tuple[int, ...]) -> WorkUnit:
    """Take the channels out of a unit that hold one value only."""
    return replace(unit, channels=tuple(c for c in unit.channels if c not in constant))


def is_inference_only(unit: WorkUnit) -> bool:
    """Whether a unit gives a picture within a look, so that a person who keeps waits for all."""
    return unit.role == INFERENCE and unit.tile is None


class UnitExecutor:
    """What the fits of one run share.

    Parameters
    ----------
    plan, calibration, planes, clock, merge
        Of the run.
    store : CheckpointStore or None
        Where checkpoints go.
    shelf : UnitFolder, optional
        Where each fit goes that is done, for another process to merge.

    Attributes
    ----------
    weights : mapping of str to Tensor, or None
        Of the fit before: the next one may begin with them.
    """

    def __init__(
        self,
        plan: Plan,
        calibration: Calibration,
        planes: Planes,
        clock: RunClock,
        merge: ResultMerger,
        store: CheckpointStore | None,
        shelf: UnitFolder | None = None,
    ) -> None:
        self._plan = plan
        self._calibration = calibration
        self._stack = planes
        self._clock = clock
        self._merge = merge
        self._store = store
        self._unit_folder = shelf
        self._movie = Movie(plan.recipe.task, calibration, planes, merge)
        self._control = Control.GO
        self._is_selecting = False
        self._recovery = RecoveryState()
        self.weights = None if store is None else store.weights

    def fit_unit(
        self, unit: WorkUnit, number: int, resume: Checkpoint | None
    ) -> Generator[Event, None, Control]:
        """Fit one unit; whether to go on, or how the run was ended.

        A person who keeps what there is gets all frames that share a network by one quick look.
        """
        unit = apply_probe_outcome(unit, self._merge.outcomes)
        if unit.role == INFERENCE and unit.iterations and self._poll_control() is Control.KEEP:
            unit = replace(unit, iterations=0)
        attempt = partial(self._attempt, unit, number)
        sides = self._plan.budget.window, max(self._stack.shape[2:])
        return (yield from retry_fit(attempt, resume, self._recovery, *sides, self._merge.outcomes))

    def _attempt(
        self, unit: WorkUnit, number: int, resume: Checkpoint | None
    ) -> Generator[Event, None, Control]:
        """Fit one unit, unless the memory runs out."""
        names = self._list_candidates(unit)
        done = 0 if resume is None else resume.history[-1].iteration
        self._clock.begin(number, done, unit.iterations if unit.role == INFERENCE else 0)
        # no checkpoint is kept while priors race, so that none can be of the wrong one
        self._is_selecting = len(names) > 1
        running = []
        for place, name in enumerate(names):
            self._clock.set_candidate(place if self._is_selecting else None)
            running.append(self._start_fit(unit, name, resume))
            yield from self._iter_events(unit, running[-1])
            if running[-1].is_ended_by_user:
                break
        return self._finish_unit(unit, running)

    def _finish_unit(self, unit: WorkUnit, running: list[RunningFit]) -> Control:
        """Choose between a unit's fits; one that a person ended counts if there is no other."""
        from napari_dip.pipeline.execute.joint_training import select_best_fit

        by_hand = running[-1].is_ended_by_user
        if by_hand and self._control is Control.DISCARD:
            return self._control
        whole = [item for item in running if item.result is not None and not item.result.kept]
        candidates = whole or [item for item in running if item.result is not None]
        if unit.role == FINE_TUNE_PROBE and by_hand:
            return Control.GO  # there is a network, so there will be pictures
        if not candidates:
            return self._control
        if not unit.has_estimate:
            return self._record_network(unit, candidates[0])
        control = self._record_result(unit, select_best_fit(candidates))
        return Control.KEEP if by_hand and not is_inference_only(unit) else control

    def _list_candidates(self, unit: WorkUnit) -> tuple[str, ...]:
        """Priors to begin with: repeats take the one that their first fit was left with."""
        budget = self._plan.budget
        if self._recovery.prior:
            return (self._recovery.prior,)
        if unit.restart and budget.rivals:
            first = {outcome.unit: outcome.prior for outcome in self._merge.outcomes}
            return (first.get(unit.first_unit_id, budget.prior),)
        return (budget.prior, *budget.rivals)

    def _start_fit(self, unit: WorkUnit, prior: str, resume: Checkpoint | None) -> RunningFit:
        """Make one fit ready to go; checkpoints are kept once it is the only one."""
        from napari_dip.engine.fit.loop import fit
        from napari_dip.pipeline.execute.fit_setup import make_fit
        from napari_dip.pipeline.execute.joint_training import RunningFit, make_series_fit

        bites, movie = self._recovery, self._movie
        arguments = bites.place_plan(self._plan), self._calibration, self._stack, unit, prior
        if unit.has_estimate:
            setup = make_fit(*arguments, movie.get_neighbour_frames(unit, prior), bites)
        else:
            setup = make_series_fit(*arguments, movie, bites)

        def keep(point: Checkpoint) -> None:
            kept = bites.record_checkpoint(point, prior if self._is_selecting else "")
            if kept is not None and self._store is not None:
                self._store.offer(kept, unit.id)

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
            keep_checkpoint=keep,
        )
        return RunningFit(setup, loop)

    def _iter_events(self, unit: WorkUnit, fit: RunningFit) -> Generator[Event, None, None]:
        """Put a fit's reports into words and pictures."""
        from napari_dip.pipeline.calibrate.clipping import correct_clipping
        from napari_dip.pipeline.execute.fit_setup import convert_to_image_units

        for progress in fit.iter_progress():
            preview = None
            if progress.estimate is not None:
                picture = convert_to_image_units(self._calibration, unit, progress.estimate.mean)
                picture, _ = correct_clipping(self._plan, self._calibration, unit, picture)
                if picture.shape[1:] == self._stack.shape[2:] or unit.has_estimate:
                    preview = self._merge.make_preview(unit, picture)
                self._clock.record_preview_cost()
            event = self._clock.make_event(progress, preview)
            self._recovery.last_event = replace(event, preview=None)
            yield event

    def _poll_control(self) -> Control:
        """Ask what to do, and remember: a fit that ends with nothing does not say why."""
        self._control = Control.KEEP if self._recovery.is_exhausted else self._clock.poll_control()
        return self._control

    def _record_result(self, unit: WorkUnit, fit: RunningFit) -> Control:
        """Hand a fit's answer to the merge and the store."""
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
        if result.kept and self._store is not None:
            self._store.write_after_user_stop()  # before the merge takes in an unfinished picture
        learned = {name: item.cpu().numpy() for name, item in result.learned.items()}
        learned_notes = tuple(self._plan.recipe.task.describe_learned(learned))
        outcome = make_unit_outcome(unit, setup, result, learned_notes, self._recovery)
        if unit.role == INFERENCE and not unit.iterations:
            reason = StopReason.USER if result.kept else StopReason.SHARED_NETWORK
            outcome = replace(outcome, stop=make_stop(reason))
        picture = convert_to_image_units(self._calibration, unit, result.estimate.mean)
        picture, growth = correct_clipping(self._plan, self._calibration, unit, picture)
        deviation = growth * compute_uncertainty(setup, self._calibration, result)
        prediction = predict_measurement(setup, self._calibration, result.blind, result.estimate)
        self._merge.add(unit, picture, deviation, prediction, outcome, learned)
        if result.kept:
            return Control.GO if is_inference_only(unit) else Control.KEEP
        if self._unit_folder is not None:
            self._unit_folder.save(
                unit,
                UnitResult(
                    outcome=outcome, estimates=(picture, deviation, prediction), learned=learned
                ),
            )
        if unit.role == INDEPENDENT:
            self.weights = copy_state_to_cpu(result.weights)
        if self._store is not None and self.weights is not None:
            self._store.record_finished_unit(self._merge, self.weights)
            if not unit.iterations:  # or it was offered on the way
                self._store.write_if_due()
        return Control.GO

    def _record_network(self, unit: WorkUnit, fit: RunningFit) -> Control:
        """Take note of a network that others are shown, or of what going on from it gains."""
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
            gain = compute_fine_tune_gain((*self._merge.outcomes, outcome), unit.series)
            if gain is not None and gain.trials == unit.probe_count:
                outcome = replace(outcome, notes=(*outcome.notes, make_sharing_note(gain)))
        if result.kept and self._store is not None:
            self._store.write_after_user_stop()
        self._merge.outcomes.append(outcome)
        if self._unit_folder is not None and not result.kept:
            if unit.role == JOINT and self.weights is not None:
                self._unit_folder.save_weights(unit.series, self.weights)
            self._unit_folder.save(unit, UnitResult(outcome=outcome))
        if self._store is not None and self.weights is not None and not result.kept:
            self._store.record_finished_unit(self._merge, self.weights)
        return Control.GO

    def _check_convergence(self, result: FitResult) -> None:
        """Refuse to go on with a fit that came to nothing."""
        nothing = result.iterations > 0 and result.best_iteration == 0
        if nothing or not bool(result.estimate.mean.isfinite().all()):
            facts = {"name": self._plan.source.name, "count": len(result.notes)}
            raise Failed(refusal("diverged", **facts))
