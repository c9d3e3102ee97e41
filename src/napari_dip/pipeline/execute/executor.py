"""Fit work units one after another, select between priors, and pass results to the merger."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import FailedError
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.assess.merge import UnitResult
from napari_dip.pipeline.execute.device_recovery import RecoveryState, copy_state_to_cpu, retry_fit
from napari_dip.pipeline.execute.neighbour_frames import NeighbourFrameProvider
from napari_dip.pipeline.plan.joint_training import (
    apply_probe_outcome,
    compute_fine_tune_gain,
    make_fine_tuning_note,
    make_joint_unit_id,
)
from napari_dip.pipeline.plan.types import FINE_TUNE_PROBE, INDEPENDENT, INFERENCE, JOINT
from napari_dip.pipeline.progress import map_generator
from napari_dip.pipeline.store.network_files import RunNetwork
from napari_dip.tasks.priors.registry import PRIOR_SPECS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from torch import Tensor

    from napari_dip.engine.fit.state import Checkpoint, FitProgress, FitResult
    from napari_dip.engine.fit.trainer import FinalInference
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.execute.fit_setup import PreparedFit
    from napari_dip.pipeline.execute.neighbour_frames import NeighbourFrames
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.plan.types import WorkUnit
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.public_types import Report

    Weights = Mapping[str, Tensor]

#: Standard errors by which a fit of a plane must be better than that of a simpler prior, over
#: blind-spot predictions of all pixels; 1,500 validation pixels are too few (docs/constants.md).
MIN_SELECTION_STANDARD_ERRORS = 1.0
#: Standard errors by which a fit must be better than that of a simpler prior, for volumes, and for
#: frames, whose successors keep the prior. Wrong guides of 23 made frames and volumes reached 2.9;
#: right ones 1.8 to 6.1 at 48 x 48 pixels, 8.2 to 11.6 at more.
MIN_SERIES_STANDARD_ERRORS = 4.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FinishedFit:
    """One fit that has ended.

    Attributes
    ----------
    prepared_fit : PreparedFit
    result : FitResult or None
        Result of the fit; None if it was discarded.
    control : Control
        What the user asked for last: a fit without a result does not report it.
    """

    prepared_fit: PreparedFit
    result: FitResult | None
    control: Control

    @property
    def is_ended_by_user(self) -> bool:
        """Whether the user ended the fit."""
        return self.result is None or self.result.is_ended_by_user

    def check_convergence(self, name: str) -> None:
        """Raise FailedError if the fit never improved or its result is not finite.

        Parameters
        ----------
        name : str
            Name of the image.
        """
        assert self.result is not None
        has_never_improved = self.result.iterations > 0 and self.result.best_iteration == 0
        if has_never_improved or not bool(self.result.estimate.mean.isfinite().all()):
            raise FailedError("diverged", name=name, count=len(self.result.notes))

    def predict_measurement(self) -> Tensor:
        """Return the predicted measurement (1, C, *grid), before postprocessing.

        With a blind spot, the prediction of a pixel does not depend on its own measurement.
        """
        assert self.result is not None
        prediction: Tensor = self.prepared_fit.problem.main_term.operator(
            self.result.network_estimate.mean
        )
        return prediction


def select_best_fit(
    finished_fits: Sequence[FinishedFit], min_standard_errors: float
) -> FinishedFit:
    """Return the fit that predicts the measurement best; of equally good fits, the last.

    Squared residuals are compared pixel by pixel, relative to the noise variance. This is only
    valid if predictions are independent of the noise of their own pixel, as with a blind spot.

    Parameters
    ----------
    finished_fits : sequence of FinishedFit
        Fits with a result, of the same fit input; the one with the simplest prior comes last.
    min_standard_errors : float
        Standard errors by which a fit must be better than a simpler one.
    """
    *candidates, best = finished_fits
    for candidate in candidates:
        if _is_better_fit(candidate, best, min_standard_errors):
            best = candidate
    return best


def _is_better_fit(fit: FinishedFit, other: FinishedFit, min_standard_errors: float) -> bool:
    """Return whether `fit` predicts the measurement significantly better than `other`."""
    fit_input = fit.prepared_fit.fit_input
    prediction, other_prediction = fit.predict_measurement(), other.predict_measurement()
    noise = fit_input.noise.noise_variance.compute_variance((prediction + other_prediction) / 2)
    error, other_error = (
        (fit_input.measurement - predicted) ** 2 for predicted in (prediction, other_prediction)
    )
    difference = (other_error - error) / noise
    difference = difference[fit_input.masks.measured.expand_as(difference) > 0]
    min_difference = min_standard_errors * float(difference.std()) / sqrt(difference.numel())
    return float(difference.mean()) > min_difference


@dataclass(eq=False)
class Executor:
    """Fit work units of one image, one after another; the only loop over work units.

    The image is the whole, a tile, a crop, sample regions, or crops of several files.

    Attributes
    ----------
    merger : ResultMerger
        Holds the image, and receives the result of each fit.
    monitor : RunMonitor
    checkpoints : CheckpointStore or None
        Writes checkpoints; None: there are none.
    load_network : callable, optional
        Returns the weights of a network that another executor has fitted, by its name.
    save_network : callable, optional
        Saves the weights of a network that units of other executors start from, by its name.
    save_result : callable, optional
        Saves the result of each finished fit, so that another process can merge it.
    is_network_required : bool
        Whether the run ends if the user ends joint training. Otherwise, the unfinished network
        still gives all units a result.
    """

    merger: ResultMerger
    monitor: RunMonitor
    checkpoints: CheckpointStore | None = None
    _: KW_ONLY
    load_network: Callable[[str], Weights | None] = lambda name: None
    save_network: Callable[[str, Weights], None] | None = None
    save_result: Callable[[str, UnitResult], None] | None = None
    is_network_required: bool = False
    _is_selecting: bool = False
    _recovery: RecoveryState = field(default_factory=RecoveryState)
    # latest weights, and the id of the unit whose fit they are from
    _weights: Weights | None = None
    _weights_unit_id: str = ""

    def __post_init__(self) -> None:
        self._calibrated_image = self.merger.calibrated_image
        self._run_plan = self._calibrated_image.run_plan
        self._calibration = self._calibrated_image.calibration
        self._frame_provider = NeighbourFrameProvider(self.merger)
        if self.checkpoints is not None:
            self._weights = self.checkpoints.weights
        if self._weights is not None and self.merger.outcomes:  # the run is resumed
            last_outcome = self.merger.outcomes[-1]
            self._weights_unit_id = (
                last_outcome.unit_id
                if last_outcome.role == INDEPENDENT
                else make_joint_unit_id(last_outcome.joint_network_name)
            )

    def run(
        self,
        units: Sequence[WorkUnit],
        checkpoint: Checkpoint | None = None,
        *,
        first_number: int = 1,
        merge_stored: Callable[[WorkUnit], bool] = lambda _: False,
    ) -> Generator[Event, None, Control]:
        """Fit the units that have no outcome yet.

        Parameters
        ----------
        units : sequence of WorkUnit
            In their order. A unit comes after those that it starts from.
        checkpoint : Checkpoint or None
            Checkpoint of the unit whose id the store has read.
        first_number : int
            Position of the first unit in the run, 1-based.
        merge_stored : callable
            Merges the result of a unit that another process has fitted, and returns whether there
            is one.

        Yields
        ------
        Event

        Returns
        -------
        Control
            GO after the last unit; otherwise how the user or a limit ended the run.
        """
        finished_ids = {outcome.unit_id for outcome in self.merger.outcomes}
        unit_ids = {unit.id for unit in units}
        outside_start_ids = {
            other.start_unit_id for other in self._run_plan.units if other.id not in unit_ids
        }
        for number, unit in enumerate(units, first_number):
            fitted_unit = unit.drop_channels(self._calibration.constant_channels)
            is_finished = unit.id in finished_ids or not fitted_unit.channels
            if is_finished or merge_stored(unit):
                continue
            if unit.start_unit_id and unit.start_unit_id != self._weights_unit_id:
                self._weights_unit_id = unit.start_unit_id
                self._weights = self.load_network(unit.weights_name)
            is_resumed = self.checkpoints is not None and unit.id == self.checkpoints.unit_id
            control = yield from self._fit_unit(
                fitted_unit, number, checkpoint if is_resumed else None
            )
            if control is not Control.GO:
                return control
            is_start = unit.role == JOINT or unit.id in outside_start_ids
            if self.save_network and is_start and self._weights is not None:
                self.save_network(unit.weights_name, self._weights)
        return Control.GO

    def make_network(self, report: Report) -> RunNetwork | None:
        """Return the network of the last fit; None without one, or if another process has it.

        Parameters
        ----------
        report : Report
            Report of the run.
        """
        outcomes = {outcome.unit_id: outcome for outcome in self.merger.outcomes}
        units = [
            unit
            for unit in self._run_plan.units
            if unit.has_estimate
            and unit.id in outcomes
            and unit.uses_weights_of(self._weights_unit_id)
        ]
        if self._weights is None or not units:
            return None
        unit = units[-1].drop_channels(self._calibration.constant_channels)
        outcome, fit_calibration = outcomes[unit.id], self._calibration.get_fit_calibration()
        if not PRIOR_SPECS[outcome.prior_key].has_network:
            return None
        frames = self._frame_provider.get_neighbour_frames(unit, outcome.prior_key)
        return RunNetwork(
            run_plan=self._run_plan,
            unit=unit,
            outcome=outcome,
            weights=self._weights,
            report=report,
            offset=tuple(fit_calibration.intensity_offset[c] for c in unit.channels),
            scale=tuple(fit_calibration.intensity_scale[c] for c in unit.channels),
            build=partial(
                _build_network,
                self._calibrated_image,
                unit,
                outcome.prior_key,
                frames,
                self._weights,
            ),
        )

    def _fit_unit(
        self, unit: WorkUnit, number: int, checkpoint: Checkpoint | None
    ) -> Generator[Event, None, Control]:
        """Fit one work unit, and repeat the fit if memory runs out or the GPU fails.

        After a request to keep the result, units that use a jointly trained network are not fitted
        further. They still get a result, from one inference pass.
        """
        unit = apply_probe_outcome(unit, self.merger.outcomes)
        if unit.role == INFERENCE and unit.iterations and self._poll_control() is Control.KEEP:
            unit = replace(unit, iterations=0)
        control = yield from retry_fit(
            partial(self._fit_candidates, unit, number),
            checkpoint,
            self._recovery,
            planned_window_side=self._run_plan.fit_config.window_side,
            side=max(self._calibrated_image.stack.shape[2:]),
            outcomes=self.merger.outcomes,
        )
        return control

    def _fit_candidates(
        self, unit: WorkUnit, number: int, checkpoint: Checkpoint | None
    ) -> Generator[Event, None, Control]:
        """Fit one unit once with each candidate prior, and record the best result."""
        prior_keys = self._list_candidates(unit)
        first_iteration = 0 if checkpoint is None else checkpoint.history[-1].iteration
        if unit.role == INFERENCE:
            self.monitor.expect_fine_tuning(
                unit.joint_network_name, is_worthwhile=unit.iterations > 0
            )
        # a checkpoint written during prior selection could belong to a rejected prior
        self._is_selecting = len(prior_keys) > 1
        finished_fits = []
        for index, prior_key in enumerate(prior_keys):
            self.monitor.start_fit(number, first_iteration, index if self._is_selecting else None)
            finished_fits.append((yield from self._run_fit(unit, prior_key, checkpoint)))
            if finished_fits[-1].is_ended_by_user:
                break
        return self._finish_unit(unit, finished_fits)

    def _finish_unit(self, unit: WorkUnit, finished_fits: list[FinishedFit]) -> Control:
        """Select and record one of a unit's fits.

        A fit that the user ended is only used if no other fit has a result.
        """
        ended_by_user, control = finished_fits[-1].is_ended_by_user, finished_fits[-1].control
        if ended_by_user and control is Control.DISCARD:
            return control
        complete = [fit for fit in finished_fits if not fit.is_ended_by_user]
        candidates = complete or [fit for fit in finished_fits if fit.result is not None]
        if unit.role == FINE_TUNE_PROBE and ended_by_user:
            # the jointly trained network still gives all units a result
            return control if self.is_network_required else Control.GO
        if not candidates:
            return control
        image = self._calibrated_image
        is_plane = not image.layout.is_volume and len(image.stack) == 1
        finished_fit = select_best_fit(
            candidates, MIN_SELECTION_STANDARD_ERRORS if is_plane else MIN_SERIES_STANDARD_ERRORS
        )
        if self._is_selecting:
            finished_fit = self._postprocess_fit(finished_fit, keeps_all=ended_by_user)
            if finished_fit.result is None:
                return finished_fit.control
            ended_by_user |= finished_fit.is_ended_by_user
        finished_fit.check_convergence(image.header.name)
        if finished_fit.is_ended_by_user and self.checkpoints is not None:
            self.checkpoints.write_after_user_stop()  # before the unfinished result is merged
        if unit.has_estimate:
            self._record_result(unit, finished_fit)
            # inference of whole planes or frames is fast, so all of it runs even then
            is_kept = ended_by_user and (unit.role != INFERENCE or unit.tile is not None)
        else:
            self._record_network(unit, finished_fit)
            is_kept = finished_fit.is_ended_by_user and self.is_network_required
        return Control.KEEP if is_kept else Control.GO

    def _list_candidates(self, unit: WorkUnit) -> tuple[str, ...]:
        """Return the names of the priors to fit.

        A restart uses the prior of the first fit. A frame that starts from another keeps its prior,
        unless that is not the task's first choice.
        """
        fit_config = self._run_plan.fit_config
        if self._recovery.prior_key:
            return (self._recovery.prior_key,)
        candidates = (fit_config.prior_key, *fit_config.other_candidates)
        earlier_id = unit.first_restart_id if unit.restart else unit.start_unit_id
        if not fit_config.other_candidates or not earlier_id:
            return candidates
        prior_keys = {outcome.unit_id: outcome.prior_key for outcome in self.merger.outcomes}
        earlier_key = prior_keys.get(earlier_id, fit_config.prior_key)
        keeps_prior = unit.restart or earlier_key == fit_config.prior_key
        return (earlier_key,) if keeps_prior else candidates

    def _run_fit(
        self, unit: WorkUnit, prior_key: str, checkpoint: Checkpoint | None
    ) -> Generator[Event, None, FinishedFit]:
        """Run one fit, which offers checkpoints to the store unless priors are compared."""
        from napari_dip.engine.fit.loop import fit
        from napari_dip.pipeline.execute.fit_setup import prepare_fit
        from napari_dip.pipeline.execute.joint_fit_setup import prepare_joint_fit

        recovery, frame_provider = self._recovery, self._frame_provider
        if unit.has_estimate:
            frames = frame_provider.get_neighbour_frames(unit, prior_key)
            prepared_fit = prepare_fit(self._calibrated_image, unit, prior_key, frames, recovery)
        else:
            prepared_fit = prepare_joint_fit(
                self._calibrated_image, unit, prior_key, frame_provider, recovery
            )

        def save_checkpoint(latest: Checkpoint) -> None:
            recorded = recovery.record_checkpoint(latest, prior_key if self._is_selecting else "")
            if recorded is not None and self.checkpoints is not None:
                self.checkpoints.record_fit(recorded, unit.id)

        control = Control.GO

        def poll_control() -> Control:
            nonlocal control
            control = self._poll_control()
            return control

        loop = fit(
            prepared_fit.problem,
            prepared_fit.prior,
            prepared_fit.schedule,
            prepared_fit.stop_rule,
            seed=unit.seed,
            resume=checkpoint,
            warm_start=self._weights if unit.start_unit_id else None,
            poll_control=poll_control,
            is_preview_due=self.monitor.is_preview_due,
            save_checkpoint=save_checkpoint,
            postprocesses=not self._is_selecting,
        )
        result = yield from map_generator(loop, partial(self._make_event, unit))
        return FinishedFit(prepared_fit=prepared_fit, result=result, control=control)

    def _postprocess_fit(self, finished_fit: FinishedFit, *, keeps_all: bool) -> FinishedFit:
        """Return the chosen one of several fits after postprocessing.

        With `keeps_all` the user has ended another fit, and only discards this one.
        """
        from napari_dip.engine.fit.loop import postprocess_result

        control = finished_fit.control

        def poll_control() -> Control:
            nonlocal control
            control = self._poll_control()
            return Control.GO if keeps_all and control is Control.KEEP else control

        assert finished_fit.result is not None
        result = postprocess_result(
            finished_fit.prepared_fit.problem, finished_fit.result, poll_control
        )
        return replace(finished_fit, result=result, control=control)

    def _make_event(self, unit: WorkUnit, progress: FitProgress) -> Event:
        """Convert the progress of a fit to an event, with a preview if one is due."""
        from napari_dip.pipeline.calibrate.clipping import correct_clipping
        from napari_dip.pipeline.execute.fit_setup import convert_to_image_units

        preview = None
        if progress.estimate is not None:
            image = convert_to_image_units(self._calibration, unit, progress.estimate.mean)
            image, _ = correct_clipping(self._run_plan, self._calibration, unit, image)
            if image.shape[1:] == self._calibrated_image.stack.shape[2:] or unit.has_estimate:
                preview = self.merger.make_preview(unit, image)
            self.monitor.record_preview_cost()
        event = self.monitor.make_event(progress, preview)
        self._recovery.last_event = replace(event, preview=None)
        return event

    def _poll_control(self) -> Control:
        return Control.KEEP if self._recovery.is_exhausted else self.monitor.poll_control()

    def _record_result(self, unit: WorkUnit, finished_fit: FinishedFit) -> None:
        """Record the restored image of a unit."""
        from napari_dip.pipeline.execute.fit_setup import make_unit_result

        result = finished_fit.result
        assert result is not None
        unit_result = make_unit_result(
            self._calibrated_image, finished_fit.prepared_fit, result, self._recovery
        )
        self._record(unit, result, unit_result)

    def _record_network(self, unit: WorkUnit, finished_fit: FinishedFit) -> None:
        """Record a jointly trained network, or the gain of a fine-tuning probe."""
        from napari_dip.pipeline.execute.fit_setup import make_unit_outcome
        from napari_dip.pipeline.execute.joint_fit_setup import compute_validation_gain

        prepared_fit, result = finished_fit.prepared_fit, finished_fit.result
        assert result is not None
        outcome = replace(make_unit_outcome(prepared_fit, result, self._recovery), evidence=())
        if unit.role == JOINT:
            note = make_note("joint-network", members=len(unit.training_regions))
            outcome = replace(outcome, notes=(note, *outcome.notes))
        else:
            assert self._weights is not None
            gain = compute_validation_gain(prepared_fit, self._weights, result)
            outcome = replace(outcome, log_likelihood_gain=gain)
            name, outcomes = unit.joint_network_name, (*self.merger.outcomes, outcome)
            probe_gain = compute_fine_tune_gain(outcomes, name)
            is_worthwhile = probe_gain is not None and probe_gain.is_worthwhile
            self.monitor.expect_fine_tuning(name, is_worthwhile=is_worthwhile)
            if probe_gain is not None and probe_gain.probe_count == self._count_probes(name):
                notes = (*outcome.notes, make_fine_tuning_note(probe_gain))
                outcome = replace(outcome, notes=notes)
        self._record(unit, result, UnitResult(outcomes=(outcome,)))

    def _record(self, unit: WorkUnit, result: FitResult, unit_result: UnitResult) -> None:
        """Pass the result of a unit to the merger, the result store and the checkpoint store.

        The stores do not get a result that the user ended.
        """
        self.merger.add(unit, unit_result)
        if unit.role in (INDEPENDENT, JOINT):
            self._weights_unit_id, self._weights = unit.id, copy_state_to_cpu(result.weights)
        if result.is_ended_by_user:
            return
        if self.save_result is not None:
            self.save_result(unit.id, unit_result)
        if self.checkpoints is not None and self._weights is not None:
            self.checkpoints.record_finished_unit(self.merger, self._weights)
            if not unit.iterations:  # other fits have offered checkpoints as they ran
                self.checkpoints.write_if_due()

    def _count_probes(self, joint_network_name: str) -> int:
        """Return the number of fine-tuning probes of a jointly trained network."""
        return sum(
            unit.role == FINE_TUNE_PROBE and unit.joint_network_name == joint_network_name
            for unit in self._run_plan.units
        )


def _build_network(
    image: CalibratedImage,
    unit: WorkUnit,
    prior_key: str,
    frames: NeighbourFrames,
    weights: Weights,
) -> FinalInference:
    """Prepare the fit of a unit again on the CPU, and return its network with fitted weights."""
    from napari_dip.engine.fit.trainer import FinalInference
    from napari_dip.engine.prior import pad_input_weights
    from napari_dip.pipeline.execute.fit_setup import prepare_fit

    image = replace(image, run_plan=replace(image.run_plan, device="cpu"))
    prepared_fit = prepare_fit(image, unit, prior_key, frames)
    prior = prepared_fit.prior
    prior.network.load_state_dict(pad_input_weights(weights, prior.network))
    return FinalInference(prior, len(unit.channels))
