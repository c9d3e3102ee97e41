"""Monitor a run: its progress, when previews are due, and its time limit; pauses do not count."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import FailedError
from napari_dip.pipeline.assess.report_fields import convert_nan_to_none
from napari_dip.pipeline.plan.types import INFERENCE
from napari_dip.pipeline.progress import Event, PausableClock, Progress, ProgressTracker, WorkStep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_dip.engine.fit.state import FitProgress
    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.io import Float32Array
    from napari_dip.pipeline.plan.types import Plan, WorkUnit

#: Iterations at the start of a fit that are not timed, while libraries select algorithms: otherwise
#: 140 s were estimated for 23 s (`benchmarks/time_left.py`).
WARM_UP_ITERATIONS = 10
#: Expected share of series whose images are fine-tuned, before any probe: three of five sets of
#: files were, which is taken for about a half.
FINE_TUNING_FRACTION = 0.5
#: Above this share, the final inference counts as complete: rounded shares may not add up to 1.
COMPLETE_FRACTION = 1 - 1e-4
#: Lower limit of planned seconds, as a divisor.
MIN_STEP_SECONDS = 1e-9
#: Maximum share of the run time for inference that only serves previews. Drawing them may take
#: another 4 %, so a run takes at most 5 % longer in napari than from the command line.
MAX_PREVIEW_FRACTION = 0.01


class FitSteps(NamedTuple):
    """Steps of one fit: iterations, final inference, and the refinement of its image."""

    iterations: WorkStep
    inference: WorkStep
    refinement: WorkStep


class RunMonitor:
    """Monitor one run: report its progress, decide when a preview is due, apply the time limit.

    Times do not influence the restored pixels, except through the time limit.

    Parameters
    ----------
    plan : Plan
    poll_control : callable
        Returns the current control of the user.
    preview_seconds : float or None
        Minimum time between two previews, in seconds; None: no previews.
    monotonic : callable, optional
        Returns the seconds of a monotonic clock.

    Attributes
    ----------
    is_timed_out : bool
        Whether the time limit was reached.
    is_ended : bool
        Whether the user or the time limit ended the run before all units were fitted.
    """

    def __init__(
        self,
        plan: Plan,
        poll_control: PollControl,
        preview_seconds: float | None,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._clock = PausableClock(poll_control, monotonic)
        self.is_timed_out = self.is_ended = False
        self._time_limit = plan.recipe.run_settings.time_limit
        self._preview_seconds = preview_seconds
        self._last_preview = self._preview_start = 0.0
        self._preview_cost, self._needs_preview_inference = 0.0, False
        self._tracker = ProgressTracker()
        self.set_expected_work(plan)

    def set_expected_work(self, plan: Plan, units: Sequence[WorkUnit] = ()) -> None:
        """Set the expected work to that of a plan, or of some of its units.

        Call it again when calibration has changed the plan. Work that was done before, with
        another estimate of the noise, still counts.

        Parameters
        ----------
        plan : Plan
        units : sequence of WorkUnit, optional
            Units that this run fits; all units of the plan by default.
        """
        now, tracker = self.seconds, self._tracker
        tracker.steps = [step for step in tracker.steps if step.is_started]
        for step in tracker.steps:
            if not step.is_finished:
                step.finish(None if step.fraction else now)
        self._units = tuple(units or plan.units)
        self._unit_names: dict[int, str] = {}
        self._plan = plan
        self._iterations = [
            unit.iterations + plan.fit_config.refit_iterations for unit in self._units
        ]
        self._fits = [self._add_fits(index) for index in range(len(self._units))]
        fits_whole_image = not units and any(unit.has_estimate for unit in self._units)
        self._assessment = tracker.add_step(
            "assessment", fits_whole_image * plan.costs.assessment_seconds, 0.0
        )
        self._repeatability_runs = [
            tracker.add_step("repeatability", plan.costs.total_seconds, stage=1)
            for _ in range(fits_whole_image * plan.repeatability_run_count)
        ]
        self._unit_number, self._current_fit = 1, self._fits[0][-1]
        self._candidate_index: int | None = None
        self._best_iteration = 0

    def _add_fits(self, index: int) -> list[FitSteps]:
        """Add the steps of a unit's fits, one for each candidate prior."""
        unit, costs, fit_config = self._units[index], self._plan.costs, self._plan.fit_config
        is_last = index == len(self._units) - 1
        inference_seconds = unit.has_estimate * costs.inference_seconds
        refinement_seconds = unit.has_estimate * costs.refinement_seconds
        fits = []
        add_step = self._tracker.add_step
        for rivals in range(len(fit_config.other_candidates), -1, -1):
            fit = FitSteps(
                add_step(f"fit {unit.role}", 0.0),
                add_step("inference", inference_seconds),
                add_step("ending", (not rivals) * refinement_seconds, 0.0 if is_last else None),
            )
            self._plan_iterations(fit, index)
            if unit.role == INFERENCE:  # probes decide whether it is fine-tuned
                fine_tuning = costs.estimate_fit(unit.fine_tune_iterations)
                fit.iterations.planned += FINE_TUNING_FRACTION * fine_tuning
            fits.append(fit)
        return fits

    @property
    def seconds(self) -> float:
        """Seconds since the start, without pauses."""
        return self._clock.seconds

    def expect_fine_tuning(self, joint_network_name: str, *, is_worthwhile: bool) -> None:
        """Set whether fine-tuning of a jointly trained network is expected.

        Parameters
        ----------
        joint_network_name : str
        is_worthwhile : bool
            Result of the probes so far.
        """
        for index, unit in enumerate(self._units):
            if unit.role == INFERENCE and unit.joint_network_name == joint_network_name:
                iterations = is_worthwhile * unit.fine_tune_iterations
                self._iterations[index] = iterations + self._plan.fit_config.refit_iterations
                for fit in self._fits[index]:
                    if not fit.iterations.is_started:
                        self._plan_iterations(fit, index)

    def _plan_iterations(self, fit: FitSteps, index: int) -> None:
        iterations = self._iterations[index]
        fit.iterations.planned = self._plan.costs.estimate_fit(
            iterations, len(self._units[index].training_regions)
        )
        fit.iterations.warm_up_fraction = WARM_UP_ITERATIONS / max(1, iterations)

    def start_fit(self, number: int, done: int, candidate: int | None = None) -> None:
        """Start timing a fit.

        Parameters
        ----------
        number : int
            Position of the work unit in the run, 1-based.
        done : int
            Iterations after which the fit resumes; 0 for a new fit.
        candidate : int or None
            Index of the prior that is fitted; None if only one prior is fitted.
        """
        if (number, candidate) != (self._unit_number, self._candidate_index):
            self._finish_fit()
        self._unit_number, self._candidate_index = number, candidate
        fits = self._fits[number - 1]
        self._current_fit = fits[-1 if candidate is None else candidate]
        skipped_fits = [fit for earlier in self._fits[: number - 1] for fit in earlier]
        for fit in (*skipped_fits, *(fits[:-1] if candidate is None else ())):
            for step in fit:
                step.finish()
        for step in self._current_fit:  # it may begin again, after an error of memory or GPU
            step.reset()
        total = self._iterations[number - 1]
        self._current_fit.iterations.start(self.seconds, done / total if total else 1.0)

    def start_assessment(self) -> None:
        """Start timing what follows all fits."""
        self._finish_fit()
        for step in self._tracker.steps:
            if step not in self._repeatability_runs:
                step.finish()
        self._assessment.reset()
        self._assessment.start(self.seconds)

    def report_repeatability_run(self, number: int, message: str, progress: Progress) -> Event:
        """Return an event with the progress of a repeatability run, folded into that of the run.

        Parameters
        ----------
        number : int
            0-based.
        message : str
        progress : Progress
        """
        self._assessment.finish(None if self._assessment.is_finished else self.seconds)
        for repeatability_run in self._repeatability_runs[:number]:
            repeatability_run.finish()
        self._repeatability_runs[number].report_progress(self.seconds, progress)
        return self.make_message_event(message)

    def _finish_fit(self) -> None:
        """Record how long the current fit took after its last progress."""
        iterations, inference, refinement = self._current_fit
        if not iterations.is_started:
            return
        now, last_update = self.seconds, max(step.last_update for step in self._current_fit)
        iterations.finish()
        if not refinement.is_started:
            if not inference.is_started:
                inference.start(last_update)
            remaining = (1 - inference.fraction) * inference.planned
            fraction = remaining / max(remaining + refinement.planned, MIN_STEP_SECONDS)
            inference_end = last_update + fraction * (now - last_update)
            inference.finish(inference_end)
            refinement.start(inference_end)
        refinement.finish(now)

    def poll_control(self) -> Control:
        """Return the control of the user; KEEP once the time limit is reached."""
        control, limit = self._clock.poll_control(), self._time_limit
        if limit is not None and control is Control.GO and self.seconds > limit:
            self.is_timed_out = True
            return Control.KEEP
        return control

    def raise_if_timed_out(self, name: str) -> None:
        """Raise an error if the time limit ended a run that has no result.

        Parameters
        ----------
        name : str
            Name of the image.

        Raises
        ------
        FailedError
            If the time limit was reached.
        """
        if self.is_timed_out:
            raise FailedError("time-over", limit=f"{self._time_limit:g}", name=name)

    def is_preview_due(self, has_prediction: bool) -> bool:
        """Return whether to show a preview now.

        Parameters
        ----------
        has_prediction : bool
            Whether a current prediction exists; otherwise a preview costs an inference pass.
        """
        if self._preview_seconds is None:
            return False
        now = self.seconds
        min_interval = 0.0 if has_prediction else self._preview_cost / MAX_PREVIEW_FRACTION
        if now - self._last_preview < max(self._preview_seconds, min_interval):
            return False
        self._preview_start, self._needs_preview_inference = now, not has_prediction
        return True

    def record_preview_cost(self) -> None:
        """Record how long the last preview took, after it was shown."""
        self._last_preview = self.seconds
        if self._needs_preview_inference:
            self._preview_cost = self._last_preview - self._preview_start

    def make_event(self, progress: FitProgress, preview: Float32Array | None) -> Event:
        """Convert the progress of a fit to an event.

        Parameters
        ----------
        progress : FitProgress
        preview : ndarray or None
            Preview to send along.
        """
        self._record(progress)
        training_loss = validation_loss = None
        if not self._candidate_index:  # the loss curve on display belongs to the first prior
            self._best_iteration = progress.best_iteration
            training_loss = convert_nan_to_none(progress.validation_record.training_loss)
            validation_loss = convert_nan_to_none(progress.validation_record.validation_loss)
        message = self._describe(progress) if progress.note is None else str(progress.note)
        return replace(
            self.make_message_event(message),
            iteration=progress.iteration,
            iterations=self._iterations[self._unit_number - 1],
            training_loss=training_loss,
            validation_loss=validation_loss,
            best_iteration=self._best_iteration,
            preview=preview,
            unit=self._unit_number,
            units=len(self._units),
            unit_name=self._unit_name,
        )

    def make_message_event(self, message: str) -> Event:
        """Return an event with the progress of the run.

        Parameters
        ----------
        message : str
            Current step, for the user.
        """
        seconds = self.seconds
        progress = self._tracker.compute_progress(seconds)
        if self._time_limit is not None:
            limits = [max(0.0, self._time_limit - seconds)]
            limits += [] if progress.seconds_left is None else [progress.seconds_left]
            progress = replace(progress, seconds_left=min(limits))
        return Event(message=message, progress=progress, seconds=seconds)

    def _record(self, progress: FitProgress) -> None:
        """Record the progress of a fit in its steps."""
        now, (iterations, inference, refinement) = self.seconds, self._current_fit
        total = self._iterations[self._unit_number - 1]
        if not progress.inference_fraction:
            if total:
                iterations.update(now, progress.iteration / total)
            if iterations.fraction < 1:
                return
        iterations.finish()
        if not inference.is_started:
            inference.start(iterations.last_update)
        if progress.inference_fraction:
            inference.update(now, progress.inference_fraction)
        if inference.fraction > COMPLETE_FRACTION or not inference.planned:
            inference.finish()
            if not refinement.is_started:
                refinement.start(now)

    def _describe(self, progress: FitProgress) -> str:
        """Describe the current step for the user."""
        if self._candidate_index:
            return "Finding out which prior suits"
        if not self._units[self._unit_number - 1].has_estimate:
            return "Learning from many at once"
        message = "Taking a last close look" if progress.inference_fraction else "Restoring"
        return ", ".join(filter(None, [message, self._unit_name]))

    @property
    def _unit_name(self) -> str:
        number = self._unit_number
        if number not in self._unit_names:
            self._unit_names = {number: self._plan.describe_unit(self._units[number - 1])}
        return self._unit_names[number]
