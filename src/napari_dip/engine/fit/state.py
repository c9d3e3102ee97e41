"""Where a fit stands: its judgements, its best average, and the way back when it breaks down.

What a fit says while it runs, what it needs to go on, and what it leaves behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite, isnan
from statistics import median
from typing import TYPE_CHECKING

import torch

from napari_dip.engine.fit.early_stopping import ValidationRecord
from napari_dip.engine.problem import Estimate, Problem, compute_validation_loss
from napari_dip.errors.notes import StopReason, make_note, make_stop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_dip.engine.fit.trainer import TensorState, Trainer
    from napari_dip.errors.notes import Note, Stop


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitProgress:
    """One report of a running fit.

    Attributes
    ----------
    judgement : ValidationRecord
        Losses at the last judgement; NaN before the first.
    iteration, best_iteration : int
    swept : float
        Share of the last look that is done, 0 until it begins.
    estimate : Estimate or None
        Finished picture so far, only when a preview is due.
    note : Note or None
        Something the user should know, once.
    """

    judgement: ValidationRecord
    iteration: int
    best_iteration: int
    swept: float = 0.0
    estimate: Estimate | None = None
    note: Note | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Checkpoint:
    """All that the next step depends on, as tensors and plain numbers."""

    step: TensorState
    rollback: TensorState
    best: TensorState
    best_iteration: int
    history: tuple[ValidationRecord, ...]
    rollbacks: int
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitResult:
    """The answer of one fit.

    Attributes
    ----------
    estimate : Estimate
        Finished picture at `best_iteration`.
    blind : Estimate
        The same before the finish: what the network says without the pixel's own word.
    stop : Stop
    kept, broke_down : bool
        Whether a person ended it, or breakdowns in a row did.
    best_iteration, iterations : int
        Best is 0 if no judgement ever succeeded.
    history : tuple of ValidationRecord
    learned : mapping of str to Tensor
    weights : mapping of str to Tensor
        Of the network that the picture came from: where a fit of the next plane may begin.
    notes : tuple of Note
    """

    estimate: Estimate
    blind: Estimate
    stop: Stop
    kept: bool
    broke_down: bool
    best_iteration: int
    iterations: int
    history: tuple[ValidationRecord, ...]
    learned: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    notes: tuple[Note, ...]


#: A mean loss this many times the usual one is no fluctuation of a mini-batch but a breakdown.
BREAKDOWN_LOSS_FACTOR = 10.0
#: Where a trial is judged, which is not the picture itself, or held-out pixels are filled in that
#: the last look shows, losses count as equal within this share of what has been gained since the
#: first report. On bird of Set5, made coarse by 4, they lay within 5 % from step 75 on, while the
#: picture went on gaining 0.6 dB; on FMD WideField_BPAE_R, 10,000 judges took step 50 for better
#: than 250 by 5 % with one seed and for worse with another: 35.22 and 35.55 dB.
LOSS_TOLERANCE_SHARE = 0.1
#: In the second case no more counts as equal than so many times what two reports in a row differ
#: by, in the median. With the share alone, balanced fits of Confocal_BPAE_R (FMD, captures 1 to 4)
#: were kept after 550 to 600 steps, with up to 0.46 dB less than after 300; with 1 instead of 2,
#: fits of WideField_BPAE_R would be kept at step 75 of 250.
MAX_FLUCTUATION_FACTOR = 2.0


@dataclass(slots=True, eq=False)
class FitState:
    """What a checkpoint is made of."""

    step: Trainer
    best: TensorState
    rollback: TensorState
    best_iteration: int = 0
    history: list[ValidationRecord] = field(default_factory=list)
    rollbacks: int = 0
    notes: list[Note] = field(default_factory=list)
    best_estimate: tuple[int, Estimate] | None = None  # last picture: a person who keeps waits less

    def checkpoint(self) -> Checkpoint:
        """Freeze all that it takes to go on from here."""
        return Checkpoint(
            step=self.step.state(),
            rollback=self.rollback,
            best=self.best,
            best_iteration=self.best_iteration,
            history=tuple(self.history),
            rollbacks=self.rollbacks,
            notes=tuple(self.notes),
        )

    def progress(
        self, *, estimate: Estimate | None = None, note: Note | None = None, swept: float = 0.0
    ) -> FitProgress:
        """Freeze what a person may want to know now."""
        last = (
            self.history[-1]
            if self.history
            else ValidationRecord(iteration=0, fitted=float("nan"), held_out=float("nan"))
        )
        return FitProgress(
            judgement=last,
            iteration=self.step.iteration,
            best_iteration=self.best_iteration,
            swept=swept,
            estimate=estimate,
            note=note,
        )

    def look(self) -> Estimate:
        """Picture of the average as it is now; costs a pass through the network."""
        estimate = self.step.glance()
        self.best_estimate = (self.step.iteration, estimate)
        return estimate

    def make_preview(self) -> Estimate:
        """Picture of the average as it is now, looked at unless it has just been."""
        if self.best_estimate is not None and self.best_estimate[0] == self.step.iteration:
            return self.best_estimate[1]
        return self.look()

    def judge(self, problem: Problem) -> Note | None:
        """Read the losses, remember the best average, or go back if the fit broke down."""
        step = self.step
        fitted = step.read()
        estimate = step.trial() if step.tried else self.look()
        held_out = self._held_out(problem, estimate, direct=step.tried)
        usual = sorted(entry.fitted for entry in self.history[-5:])
        broken = not isfinite(fitted) or (
            len(usual) == 5 and fitted > BREAKDOWN_LOSS_FACTOR * (1 + abs(usual[2]))
        )
        if broken or (
            not isfinite(held_out) and self.history and isfinite(self.history[-1].held_out)
        ):
            return self._roll_back()
        if self._no_worse(held_out, self._slack(held_out)):
            self.best, self.best_iteration = step.average_state(), step.iteration
        self.history.append(
            ValidationRecord(iteration=step.iteration, fitted=fitted, held_out=held_out)
        )
        self.rollback = step.state()
        self.rollbacks = 0
        return None

    def kept(self, problem: Problem) -> Stop:
        """Judge what came after the last report, too, by a preview if there is one; the reason."""
        judged_at = self.history[-1].iteration if self.history else 0
        if self.best_estimate is not None and self.step.tried:
            self.best_iteration = self.best_estimate[
                0
            ]  # what was shown; another look may take long
        elif self.best_estimate is not None and self.best_estimate[0] > judged_at > 0:
            # the weights of that preview are gone; the picture itself is what is handed over
            if self._no_worse(self._held_out(problem, self.best_estimate[1])):
                self.best_iteration = self.best_estimate[0]
        elif judged_at < self.step.iteration:
            self.judge(problem)
        return make_stop(StopReason.USER)

    def best_look(self) -> Estimate:
        """Picture of the best average, seen already or looked at now."""
        if self.best_estimate is not None and self.best_estimate[0] == self.best_iteration:
            return self.best_estimate[1]
        return self.step.glance()

    @torch.no_grad()
    def _held_out(self, problem: Problem, estimate: Estimate, *, direct: bool = False) -> float:
        return float(compute_validation_loss(problem, estimate, direct=direct))

    def _no_worse(self, held_out: float, slack: float = 0.0) -> bool:
        """Equal counts: of equals the later has averaged more; nothing held out: the last."""
        earlier = self._losses()
        return isnan(held_out) or not earlier or held_out <= min(earlier) + slack

    def _slack(self, held_out: float) -> float:
        """How much worse than the least loss counts as equal."""
        losses = [*self._losses(), held_out]
        if len(losses) < 2 or not (self.step.tried or self.step.reveals):
            return 0.0
        share = LOSS_TOLERANCE_SHARE * (losses[0] - min(losses[:-1]))
        if self.step.tried:
            return share
        changes = [abs(after - before) for before, after in pairwise(losses)]
        return min(share, MAX_FLUCTUATION_FACTOR * median(changes))

    def _losses(self) -> list[float]:
        return [entry.held_out for entry in self.history if not isnan(entry.held_out)]

    def _roll_back(self) -> Note:
        step = self.step
        broke_at = step.iteration
        factor = step.rate_factor / 2
        step.load(self.rollback)
        self.best_estimate = None  # of iterations that will be gone through anew
        step.rate_factor = factor
        self.rollbacks += 1
        note = make_note("breakdown", broke_at=broke_at, iteration=step.iteration)
        self.notes.append(note)
        return note
