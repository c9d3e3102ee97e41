"""The fits of one run, one after another: begun, told of, judged, and handed on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from napari_dip.engine.control import Control
from napari_dip.errors import Failed, refusal
from napari_dip.pipeline.execute.frames import Movie
from napari_dip.pipeline.execute.memory import Bites, copy_state_to_cpu, enduring
from napari_dip.pipeline.plan.sharing import gain_of, settled_by, sharing_words
from napari_dip.pipeline.plan.types import OWN, SHARED, SHOWN, TRIAL
from napari_dip.pipeline.store.units import Fitted

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_dip.engine.fit.state import Checkpoint, FitResult
    from napari_dip.pipeline.assess.merge import Merge
    from napari_dip.pipeline.calibrate.types import Calibration, Planes
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.execute.clock import Clock
    from napari_dip.pipeline.execute.series_fit import Runner
    from napari_dip.pipeline.plan.types import Plan, WorkUnit
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.pipeline.store.units import UnitShelf

#: Why a fit ended that was none: the network of all was enough.
SHARED_NETWORK_REASON = "the network that was fitted to all was enough"
#: A note on a run.
JOINT_TRAINING_NOTE = "One network was fitted to {members} parts of the data, and shown all of it."


def drop_constant_channels(unit: WorkUnit, constant: tuple[int, ...]) -> WorkUnit:
    """Take the channels out of a unit that hold one value only."""
    return replace(unit, channels=tuple(c for c in unit.channels if c not in constant))


def is_inference_only(unit: WorkUnit) -> bool:
    """Whether a unit gives a picture within a look, so that a person who keeps waits for all."""
    return unit.role == SHOWN and unit.tile is None


class UnitExecutor:
    """What the fits of one run share.

    Parameters
    ----------
    plan, calibration, planes, clock, merge
        Of the run.
    store : Store or None
        Where checkpoints go.
    shelf : UnitShelf, optional
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
        clock: Clock,
        merge: Merge,
        store: CheckpointStore | None,
        shelf: UnitShelf | None = None,
    ) -> None:
        self._plan = plan
        self._calibration = calibration
        self._planes = planes
        self._clock = clock
        self._merge = merge
        self._store = store
        self._shelf = shelf
        self._movie = Movie(plan.recipe.task, calibration, planes, merge)
        self._wish = Control.GO
        self._racing = False
        self._bites = Bites()
        self.weights = None if store is None else store.weights

    def fit_unit(
        self, unit: WorkUnit, number: int, resume: Checkpoint | None
    ) -> Generator[Event, None, Control]:
        """Fit one unit; whether to go on, or how the run was ended.

        A person who keeps what there is gets all frames that share a network by one quick look.
        """
        unit = settled_by(unit, self._merge.outcomes)
        if unit.role == SHOWN and unit.iterations and self._ask() is Control.KEEP:
            unit = replace(unit, iterations=0)
        attempt = partial(self._attempt, unit, number)
        sides = self._plan.budget.window, max(self._planes.shape[2:])
        return (yield from enduring(attempt, resume, self._bites, *sides, self._merge.outcomes))

    def _attempt(
        self, unit: WorkUnit, number: int, resume: Checkpoint | None
    ) -> Generator[Event, None, Control]:
        """Fit one unit, unless the memory runs out."""
        names = self._contenders(unit)
        done = 0 if resume is None else resume.history[-1].iteration
        self._clock.begin(number, done, unit.iterations if unit.role == SHOWN else 0)
        # no checkpoint is kept while priors race, so that none can be of the wrong one
        self._racing = len(names) > 1
        running = []
        for place, name in enumerate(names):
            self._clock.race(place if self._racing else None)
            running.append(self._start(unit, name, resume))
            yield from self._events(unit, running[-1])
            if running[-1].ended_by_hand:
                break
        return self._settle(unit, running)

    def _settle(self, unit: WorkUnit, running: list[Runner]) -> Control:
        """Choose between a unit's fits; one that a person ended counts if there is no other."""
        from napari_dip.pipeline.execute.series_fit import winner

        by_hand = running[-1].ended_by_hand
        if by_hand and self._wish is Control.DISCARD:
            return self._wish
        whole = [one for one in running if one.result is not None and not one.result.kept]
        left = whole or [one for one in running if one.result is not None]
        if unit.role == TRIAL and by_hand:
            return Control.GO  # there is a network, so there will be pictures
        if not left:
            return self._wish
        if not unit.pictured:
            return self._learned(unit, left[0])
        control = self._take(unit, winner(left))
        return Control.KEEP if by_hand and not is_inference_only(unit) else control

    def _contenders(self, unit: WorkUnit) -> tuple[str, ...]:
        """Priors to begin with: repeats take the one that their first fit was left with."""
        budget = self._plan.budget
        if self._bites.prior:
            return (self._bites.prior,)
        if unit.restart and budget.rivals:
            first = {one.unit: one.prior for one in self._merge.outcomes}
            return (first.get(unit.first, budget.prior),)
        return (budget.prior, *budget.rivals)

    def _start(self, unit: WorkUnit, prior: str, resume: Checkpoint | None) -> Runner:
        """Make one fit ready to go; checkpoints are kept once it is the only one."""
        from napari_dip.engine.fit.loop import fit
        from napari_dip.pipeline.execute.fitting import make_fit
        from napari_dip.pipeline.execute.series_fit import Runner, make_series_fit

        bites, movie = self._bites, self._movie
        told = bites.placed(self._plan), self._calibration, self._planes, unit, prior
        if unit.pictured:
            ready = make_fit(*told, movie.around(unit, prior), bites)
        else:
            ready = make_series_fit(*told, movie, bites)

        def keep(point: Checkpoint) -> None:
            kept = bites.keep(point, prior if self._racing else "")
            if kept is not None and self._store is not None:
                self._store.offer(kept, unit.id)

        loop = fit(
            ready.problem,
            ready.prior,
            ready.schedule,
            ready.stop,
            seed=ready.seed,
            resume=resume,
            warm_start=self.weights if unit.warm else None,
            control=self._ask,
            preview_due=self._clock.preview_due,
            keep_checkpoint=keep,
        )
        return Runner(ready, loop)

    def _events(self, unit: WorkUnit, one: Runner) -> Generator[Event, None, None]:
        """Put a fit's reports into words and pictures."""
        from napari_dip.pipeline.calibrate.clipping import correct_clipping
        from napari_dip.pipeline.execute.fitting import convert_to_image_units

        for progress in one.reports():
            preview = None
            if progress.estimate is not None:
                picture = convert_to_image_units(self._calibration, unit, progress.estimate.mean)
                picture, _ = correct_clipping(self._plan, self._calibration, unit, picture)
                if picture.shape[1:] == self._planes.shape[2:] or unit.pictured:
                    preview = self._merge.preview(unit, picture)
                self._clock.previewed()
            event = self._clock.event(progress, preview)
            self._bites.shown = replace(event, preview=None)
            yield event

    def _ask(self) -> Control:
        """Ask what to do, and remember: a fit that ends with nothing does not say why."""
        self._wish = Control.KEEP if self._bites.spent else self._clock.control()
        return self._wish

    def _take(self, unit: WorkUnit, one: Runner) -> Control:
        """Hand a fit's answer to the merge and the store."""
        from napari_dip.engine.fit.state import USER_STOP_REASON
        from napari_dip.pipeline.calibrate.clipping import correct_clipping
        from napari_dip.pipeline.execute.fitting import (
            compute_uncertainty,
            convert_to_image_units,
            outcome_of,
            predict_measurement,
        )

        ready, result = one.ready, one.result
        assert result is not None
        self._check(result)
        if result.kept and self._store is not None:
            self._store.ended_by_hand()  # before the merge takes in an unfinished picture
        learned = {name: one.cpu().numpy() for name, one in result.learned.items()}
        found = tuple(self._plan.recipe.task.found(learned))
        outcome = outcome_of(unit, ready, result, found, self._bites)
        if unit.role == SHOWN and not unit.iterations:
            outcome = replace(
                outcome, stop_reason=USER_STOP_REASON if result.kept else SHARED_NETWORK_REASON
            )
        picture = convert_to_image_units(self._calibration, unit, result.estimate.mean)
        picture, growth = correct_clipping(self._plan, self._calibration, unit, picture)
        deviation = growth * compute_uncertainty(ready, self._calibration, result)
        prediction = predict_measurement(ready, self._calibration, result.blind, result.estimate)
        self._merge.add(unit, picture, deviation, prediction, outcome, learned)
        if result.kept:
            return Control.GO if is_inference_only(unit) else Control.KEEP
        if self._shelf is not None:
            self._shelf.put(unit, Fitted(outcome, (picture, deviation, prediction), learned))
        if unit.role == OWN:
            self.weights = copy_state_to_cpu(result.weights)
        if self._store is not None and self.weights is not None:
            self._store.finished(self._merge, self.weights)
            if not unit.iterations:  # or it was offered on the way
                self._store.write_if_due()
        return Control.GO

    def _learned(self, unit: WorkUnit, one: Runner) -> Control:
        """Take note of a network that others are shown, or of what going on from it gains."""
        from napari_dip.pipeline.execute.fitting import outcome_of
        from napari_dip.pipeline.execute.series_fit import held_out_gain

        ready, result = one.ready, one.result
        assert result is not None
        self._check(result)
        outcome = replace(outcome_of(unit, ready, result, (), self._bites), evidence=())
        if unit.role == SHARED:
            told = JOINT_TRAINING_NOTE.format(members=len(unit.members))
            outcome = replace(outcome, notes=(told, *outcome.notes))
            self.weights = copy_state_to_cpu(result.weights)
        else:
            assert self.weights is not None
            outcome = replace(outcome, gain=held_out_gain(ready, self.weights, result))
            gain = gain_of((*self._merge.outcomes, outcome), unit.series)
            if gain is not None and gain.trials == unit.trials:
                outcome = replace(outcome, notes=(*outcome.notes, sharing_words(gain)))
        if result.kept and self._store is not None:
            self._store.ended_by_hand()
        self._merge.outcomes.append(outcome)
        if self._shelf is not None and not result.kept:
            if unit.role == SHARED and self.weights is not None:
                self._shelf.put_weights(unit.series, self.weights)
            self._shelf.put(unit, Fitted(outcome))
        if self._store is not None and self.weights is not None and not result.kept:
            self._store.finished(self._merge, self.weights)
        return Control.GO

    def _check(self, result: FitResult) -> None:
        """Refuse to go on with a fit that came to nothing."""
        nothing = result.iterations > 0 and result.best_iteration == 0
        if nothing or not bool(result.estimate.mean.isfinite().all()):
            facts = {"name": self._plan.source.name, "count": len(result.notes)}
            raise Failed(refusal("diverged", **facts))
