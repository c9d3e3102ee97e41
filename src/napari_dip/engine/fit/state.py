"""Define the state of a running fit, its progress, its checkpoints and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite, isnan, nan, sqrt
from statistics import median
from typing import TYPE_CHECKING

import torch

from napari_dip.engine.fit.stopping import ValidationRecord
from napari_dip.engine.problem import Estimate, compute_pixel_deviances, compute_validation_loss
from napari_dip.errors.notes import StopReason, make_note, make_stop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_dip.engine.fit.trainer import StateDict, Trainer
    from napari_dip.errors.notes import Note, Stop

#: A fit has broken down if its training loss exceeds this factor times (1 + |median of the last
#: five training losses|). Before there are five, the loss of the first iteration is one of them,
#: and the validation loss must exceed the bound as well: the first steps of a good fit may have
#: large losses, and so may validation pixels. `FitState._is_broken_down` has the other cases.
BREAKDOWN_FACTOR = 10.0
#: Rollbacks in a row after which a fit ends. Each halves the learning rate, to 1/64 in the end.
MAX_ROLLBACKS = 6
#: Where validation pixels have a network input of their own, or are revealed to the network
#: (`Prior.reveals_validation`), losses count as equal if they differ by at most this share of the
#: decrease from the first validation loss to the lowest. On Set5 bird, the PSNR still rose while
#: losses differed by 5 % of that decrease (docs/constants.md).
LOSS_TOLERANCE_FRACTION = 0.1
#: With `reveals_validation`, a second condition for equal losses: they differ by at most this many
#: times the median change from one validation to the next. Without this bound, fits of
#: Confocal_BPAE_R lost up to 0.46 dB (docs/constants.md).
MAX_FLUCTUATION_FACTOR = 2.0
#: With `reveals_validation`, losses count as equal as well if they differ by less than this many
#: standard errors of the mean difference of the same pixels. Correlated noise leaves few validation
#: pixels, so an early loss can be the lowest by chance: 1 dB was lost (docs/adr/0039).
TOLERATED_STANDARD_ERRORS = 1.5


_NO_VALIDATION = ValidationRecord(iteration=0, training_loss=nan, validation_loss=nan)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitProgress:
    """Progress of a running fit.

    Attributes
    ----------
    validation_record : ValidationRecord
        Losses at the last validation; NaN before the first.
    iteration, best_iteration : int
    inference_fraction : float
        Completed share of the final inference; 0 until it begins.
    estimate : Estimate or None
        Current image after postprocessing, if a preview is due.
    note : Note or None
        New note for the user.
    """

    validation_record: ValidationRecord
    iteration: int
    best_iteration: int
    inference_fraction: float = 0.0
    estimate: Estimate | None = None
    note: Note | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Checkpoint:
    """All that a fit needs to continue exactly where it was, as tensors and plain numbers.

    Attributes
    ----------
    trainer_state : dict of str to Tensor
        State of the trainer now.
    rollback_state : dict of str to Tensor
        State of the trainer at the last validation, to which a fit that breaks down returns.
    best_average : dict of str to Tensor
        State of the running average at `best_iteration`.
    lowest_losses : dict of str to Tensor
        Deviance of each validation pixel at the lowest validation loss, as "by_pixel"; empty where
        they are not compared.
    best_iteration : int
    history : tuple of ValidationRecord
    rollback_count : int
        Number of rollbacks since the last validation that was not a breakdown.
    notes : tuple of Note
    """

    trainer_state: StateDict
    rollback_state: StateDict
    best_average: StateDict
    lowest_losses: StateDict
    best_iteration: int
    history: tuple[ValidationRecord, ...]
    rollback_count: int
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitResult:
    """Result of one fit.

    Attributes
    ----------
    estimate : Estimate
        Image at `best_iteration`, after postprocessing.
    uncropped_estimate : Estimate
        The same before `Problem.crop`.
    network_estimate : Estimate
        The network's own estimate, before postprocessing.
    validated_estimate : Estimate
        The same before the refit, which alone is trained on the validation pixels.
    stop : Stop
    is_ended_by_user, is_broken_down : bool
        Whether the user, or `MAX_ROLLBACKS` breakdowns in a row, ended the fit.
    best_iteration, iterations : int
        `best_iteration` is 0 if there was no validation.
    history : tuple of ValidationRecord
    learned_parameters : mapping of str to Tensor
    weights : mapping of str to Tensor
        Weights of the network that predicted the image, for a warm start of the next plane.
    notes : tuple of Note
    """

    estimate: Estimate
    uncropped_estimate: Estimate
    network_estimate: Estimate
    validated_estimate: Estimate
    stop: Stop
    is_ended_by_user: bool
    is_broken_down: bool
    best_iteration: int
    iterations: int
    history: tuple[ValidationRecord, ...]
    learned_parameters: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    notes: tuple[Note, ...]


@dataclass(slots=True, eq=False, kw_only=True)
class FitState:
    """State of a running fit, from which progress and checkpoints are made; see `Checkpoint`."""

    trainer: Trainer
    rollback_state: StateDict
    best_average: StateDict
    lowest_losses: StateDict = field(default_factory=dict)
    best_iteration: int = 0
    history: list[ValidationRecord] = field(default_factory=list)
    rollback_count: int = 0
    notes: list[Note] = field(default_factory=list)
    last_prediction: tuple[int, Estimate] | None = None  # last prediction and its iteration
    validated_estimate: Estimate | None = None  # estimate before the refit

    def make_checkpoint(self) -> Checkpoint:
        """Return a checkpoint of the current state."""
        return Checkpoint(
            trainer_state=self.trainer.state_dict(),
            rollback_state=self.rollback_state,
            best_average=self.best_average,
            lowest_losses=self.lowest_losses,
            best_iteration=self.best_iteration,
            history=tuple(self.history),
            rollback_count=self.rollback_count,
            notes=tuple(self.notes),
        )

    def make_progress(
        self,
        *,
        estimate: Estimate | None = None,
        note: Note | None = None,
        inference_fraction: float = 0.0,
    ) -> FitProgress:
        """Return the current progress."""
        return FitProgress(
            validation_record=self.history[-1] if self.history else _NO_VALIDATION,
            iteration=self.trainer.iteration,
            best_iteration=self.best_iteration,
            inference_fraction=inference_fraction,
            estimate=estimate,
            note=note,
        )

    def predict(self) -> Estimate:
        """Compute and remember the current estimate of the average."""
        estimate = self.trainer.predict()
        self.last_prediction = (self.trainer.iteration, estimate)
        return estimate

    def make_preview(self) -> Estimate:
        """Return the current estimate of the average, computed only if it has changed."""
        if self.last_prediction is not None and self.last_prediction[0] == self.trainer.iteration:
            return self.last_prediction[1]
        return self.predict()

    @property
    def last_validation_iteration(self) -> int:
        """Iteration of the last validation; 0 if there was none."""
        return self.history[-1].iteration if self.history else 0

    def validate(self) -> Note | None:
        """Validate, and return a note on a breakdown, or a new one of the trainer."""
        note = self._roll_back_or_record()
        if (trainer_note := self.trainer.note) and trainer_note not in self.notes:
            self.notes.append(trainer_note)
            note = note or trainer_note
        return note

    def _roll_back_or_record(self) -> Note | None:
        """Append the losses to the history and update the best average.

        If the fit has broken down, roll back instead and return a note on it.
        """
        trainer = self.trainer
        estimate = trainer.predict_validation() if trainer.has_validation_input else self.predict()
        pixel_losses = self._compute_pixel_losses(estimate)
        training_loss, validation_loss, initial_loss, standard_error = trainer.pop_losses(
            self._compute_validation_loss(estimate, bypasses_operator=trainer.has_validation_input)
            if pixel_losses is None
            else pixel_losses.mean(),
            trainer.initial_loss,
            self._compute_standard_error(pixel_losses),
        )
        if self._is_broken_down(training_loss, validation_loss, initial_loss):
            return self._roll_back()
        tolerance = self._compute_tolerance(validation_loss, standard_error)
        if self._is_improvement(validation_loss, tolerance):
            self.best_average, self.best_iteration = (
                trainer.average.state_dict(),
                trainer.iteration,
            )
        if pixel_losses is not None and self._is_improvement(validation_loss):
            self.lowest_losses = {"by_pixel": pixel_losses}
        self.history.append(
            ValidationRecord(
                iteration=trainer.iteration,
                training_loss=training_loss,
                validation_loss=validation_loss,
            )
        )
        self.rollback_state = trainer.state_dict()
        self.rollback_count = 0
        return None

    def _is_broken_down(
        self, training_loss: float, validation_loss: float, initial_loss: float
    ) -> bool:
        """Return whether the fit has broken down.

        Signs of it are a training loss that is not finite or exceeds the bound at
        `BREAKDOWN_FACTOR`, and a validation loss that is no longer finite.
        """
        losses = [initial_loss, *(entry.training_loss for entry in self.history)][-5:]
        bound = BREAKDOWN_FACTOR * (1 + abs(median(losses)))
        is_above = training_loss > bound and (len(self.history) >= 5 or validation_loss > bound)
        # A finite loss that is as large at 1/32 of the learning rate is the image's own. One bright
        # pixel on black has it: it cannot be predicted, and the first iteration may not hide it.
        is_lowest_rate = not self.history and self.rollback_count == MAX_ROLLBACKS - 1
        return (
            not isfinite(training_loss)
            or (is_above and not is_lowest_rate)
            or (
                not isfinite(validation_loss)
                and bool(self.history)
                and isfinite(self.history[-1].validation_loss)
            )
        )

    def choose_result_at_user_stop(self) -> Stop:
        """Choose the image of a fit that the user ended, and return that stop reason.

        With a separate validation input, it is the last preview. Otherwise the last preview, or the
        current average, replaces the best image so far if its validation loss is lower.
        """
        if self.last_prediction is not None and self.trainer.has_validation_input:
            # hand over the preview that exists, since another prediction may take long
            self.best_iteration = self.last_prediction[0]
        elif (
            self.last_prediction is not None
            and self.last_prediction[0] > self.last_validation_iteration > 0
        ):
            # the weights of that preview no longer exist, so its estimate becomes the result
            if self._is_improvement(float(self._compute_validation_loss(self.last_prediction[1]))):
                self.best_iteration = self.last_prediction[0]
        elif self.last_validation_iteration < self.trainer.iteration:
            self._roll_back_or_record()
        return make_stop(StopReason.USER)

    def predict_best(self) -> Estimate:
        """Return the estimate of the best average; predict it unless it is stored."""
        if self.last_prediction is not None and self.last_prediction[0] == self.best_iteration:
            return self.last_prediction[1]
        return self.trainer.predict()

    @torch.no_grad()
    def _compute_validation_loss(
        self, estimate: Estimate, *, bypasses_operator: bool = False
    ) -> Tensor:
        problem = self.trainer.problem
        return compute_validation_loss(problem, estimate, bypasses_operator=bypasses_operator)

    @torch.no_grad()
    def _compute_pixel_losses(self, estimate: Estimate) -> Tensor | None:
        """Return the deviance of each validation pixel; None where they are not compared."""
        pixels = self.trainer.compared_pixels
        return compute_pixel_deviances(self.trainer.problem, estimate, pixels) if pixels else None

    def _compute_standard_error(self, pixel_losses: Tensor | None) -> Tensor:
        """Return that of the mean difference from the lowest losses, a scalar; 0 without both."""
        lowest = self.lowest_losses.get("by_pixel")
        if pixel_losses is None or lowest is None or not len(lowest):
            return self.trainer.initial_loss.new_zeros(())
        differences = pixel_losses - lowest.to(pixel_losses)
        return differences.std(correction=0) / sqrt(len(differences))

    def _is_improvement(self, validation_loss: float, tolerance: float = 0.0) -> bool:
        """Return whether the loss is at most the lowest so far plus `tolerance`.

        A loss that is not a number (no validation pixels) counts as an improvement: the last
        average is then the best. Of equal losses the later one counts, since more iterations have
        been averaged.
        """
        earlier = self._list_validation_losses()
        return isnan(validation_loss) or not earlier or validation_loss <= min(earlier) + tolerance

    def _compute_tolerance(self, validation_loss: float, standard_error: float) -> float:
        """Return the difference from the lowest loss that counts as equal."""
        losses = [*self._list_validation_losses(), validation_loss]
        if len(losses) < 2 or not (
            self.trainer.has_validation_input or self.trainer.prior.reveals_validation
        ):
            return 0.0
        fraction = LOSS_TOLERANCE_FRACTION * (losses[0] - min(losses[:-1]))
        if self.trainer.has_validation_input:
            return fraction
        changes = [abs(loss - previous_loss) for previous_loss, loss in pairwise(losses)]
        fluctuation = min(fraction, MAX_FLUCTUATION_FACTOR * median(changes))
        return max(fluctuation, TOLERATED_STANDARD_ERRORS * standard_error)

    def _list_validation_losses(self) -> list[float]:
        return [entry.validation_loss for entry in self.history if not isnan(entry.validation_loss)]

    def _roll_back(self) -> Note:
        trainer = self.trainer
        broke_at = trainer.iteration
        factor = trainer.rate_factor / 2
        trainer.load_state_dict(self.rollback_state)
        self.last_prediction = None  # of iterations that will be repeated
        trainer.rate_factor = factor
        self.rollback_count += 1
        note = make_note("breakdown", broke_at=broke_at, iteration=trainer.iteration)
        self.notes.append(note)
        return note
