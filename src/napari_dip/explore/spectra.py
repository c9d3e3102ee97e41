"""Spectrum: which frequencies a network learns when, and where that says to stop."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.explore.bands import (
    BAND_NAMES,
    LEVELS,
    Correspondence,
    edges,
    radial_power,
    reached,
)
from napari_dip.explore.course import held_out_stop, readings
from napari_dip.explore.outcome import Outcome
from napari_dip.explore.seen import LEAST_KEPT, Seen, ended_after, until_whole
from napari_dip.explore.sharpness import settled_at, sight
from napari_dip.explore.subject import hidden_block, psnr_of, standardised
from napari_dip.run.events import Event
from napari_dip.run.machine import load_torch
from napari_dip.run.outliers import ROBUST
from napari_dip.run.torch_state import in_own_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy.typing as npt

    from napari_dip.explore.course import HeldOut, Reading
    from napari_dip.explore.subject import Picture, Subject

    Curve = npt.NDArray[np.float64]

#: Estimates whose power and pictures are shown, and those that are kept to be looked through:
#: evenly spread over the logarithm of the iteration, the former from a fiftieth of the fit on.
_SHOWN, _KEPT, _FIRST = 6, 24, 50


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum(Outcome):
    """What the frequencies of the output did while one network was fitted to one picture.

    Attributes
    ----------
    subject : Subject
    truth : ndarray (Y, X) float32 or None
    energy : ndarray (iterations,)
        Mean square of output minus target, in variances of the target.
    correspondence : ndarray (iterations, 5)
        With the target; lowest band first.
    blurriness, sharpness : ndarray (iterations,)
    psnr : ndarray (iterations,) or None
        Against the truth, in dB; the peak is the truth's range.
    pictures : mapping of int to ndarray (Y, X) float32
        Outputs by iteration, in the image's units: those of the report.
    evolution : mapping of int to ndarray (Y, X) float32
        These and more.
    frequency : ndarray (rings,)
        In cycles per pixel.
    power : mapping of str to ndarray (rings,)
        In squared units of the image; "target", "truth" if there is one, and iterations.
    ratio_stop : int
        Where the ratio of blurriness to sharpness has settled; 0 if it has not.
    held_out : HeldOut
        Where held-out pixels end a fit of the same network.
    held_out_psnr : float or None
        Of the picture that is taken there.
    """

    experiment: ClassVar[str] = "spectrum"
    subject: Subject
    truth: Picture | None
    energy: Curve
    correspondence: Curve
    blurriness: Curve
    sharpness: Curve
    psnr: Curve | None
    pictures: Mapping[int, Picture]
    evolution: Mapping[int, Picture]
    frequency: Curve
    power: Mapping[str, Curve]
    ratio_stop: int
    held_out: HeldOut
    held_out_psnr: float | None

    @property
    def ratio(self) -> Curve:
        """Blurriness over sharpness at each iteration."""
        return self.blurriness / np.maximum(self.sharpness, 1e-12)

    @property
    def best_iteration(self) -> int:
        """Iteration of the output nearest to the truth; 0 without a truth."""
        return 0 if self.psnr is None else int(np.argmax(self.psnr)) + 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """The outcome in words."""
        halves = (str(at or "never") for at in reached(self.correspondence, LEVELS[0]))
        stop = f"settles at iteration {self.ratio_stop}" if self.ratio_stop else "never settles"
        return (
            f"Half of each band, lowest first, is there at iteration {', '.join(halves)}.",
            f"Blurriness over sharpness {stop}; held-out pixels take iteration "
            f"{self.held_out.best_iteration}.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Give recipe and figures in plain JSON types."""
        stop = self.held_out
        return {
            "experiment": self.experiment,
            "recipe": dict(self.subject.recipe),
            "notes": list(self.subject.notes),
            "band_edges": edges().tolist(),
            "reached": {str(level): reached(self.correspondence, level) for level in LEVELS},
            "ratio_stop": self.ratio_stop,
            "held_out_stop": {
                "best_iteration": stop.best_iteration,
                "iterations": stop.iterations,
                "reason": stop.reason,
                "judged": [list(one) for one in stop.judged],
                "psnr": self.held_out_psnr,
            },
            "best_iteration": self.best_iteration,
        }


def explore_spectrum(
    subject: Subject,
    truth: Picture | None = None,
    *,
    control: Callable[[], Control] = lambda: Control.GO,
) -> Generator[Seen, None, Spectrum | None]:
    """Fit with nothing held out and look at each output; beside it once with pixels held out.

    Parameters
    ----------
    subject : Subject
    truth : ndarray (Y, X) or None
        What the picture should have been, in its units.
    control : callable
        Polled at each iteration. Keeping ends the experiment with what it has come to.

    Yields
    ------
    Seen
        After each iteration: the correspondences of the bands, and the output.

    Returns
    -------
    Spectrum or None
        None if it was discarded, or ended before there was anything to be seen.
    """
    load_torch()
    return (yield from in_own_state(_fitted(subject, truth, control), subject.plan.threads))


def _fitted(
    subject: Subject, truth: Picture | None, control: Callable[[], Control]
) -> Generator[Seen, None, Spectrum | None]:
    target, count = standardised(subject.picture), subject.iterations
    watch, block = _Watch(subject, truth), hidden_block(subject)
    fitted = readings(target, subject, control=until_whole(control), pictures=True)
    judged = held_out_stop(target, subject, block, control=control)
    with closing(fitted), closing(judged):
        judge = _Judge(judged)
        for at in range(1, count + 1):
            judge.follow(at)
            reading = None if control() is Control.KEEP else next(fitted, None)
            if reading is None:
                break
            points, picture = watch.see(reading)
            event = Event("Watching the frequencies", at / count, at, count)
            yield Seen(event, points, picture=picture)
        if control() is Control.DISCARD or watch.count < min(count, LEAST_KEPT):
            return None
        held_out = judge.last()
    if held_out is None:
        return None
    return watch.ended(held_out, ended_after(subject, watch.count))


class _Judge:
    """Runs the fit that is judged beside the one that is watched, never far ahead of it."""

    def __init__(self, fit: Generator[int, None, HeldOut | None]) -> None:
        self._fit = fit
        self._at, self._over = 0, False
        self._found: HeldOut | None = None

    def follow(self, at: int) -> None:
        """Go on to the next judgement behind an iteration."""
        while not self._over and self._at < at:
            self._go_on()

    def last(self) -> HeldOut | None:
        """Come to the end: by the rule, by the budget or, if someone asks for it, now."""
        while not self._over:
            self._go_on()
        return self._found

    def _go_on(self) -> None:
        try:
            self._at = next(self._fit)
        except StopIteration as end:
            self._found, self._over = end.value, True


class _Watch:
    """Gathers what each output shows."""

    def __init__(self, subject: Subject, truth: Picture | None) -> None:
        self._subject, self._truth = subject, truth
        picture = subject.picture
        self._offset, self._unit = float(picture.mean()), float(picture.std())
        self._low, high = np.percentile(picture, ROBUST)
        self._range = max(float(high - self._low), 1e-12)
        self._correspondence = Correspondence(standardised(picture))
        count = subject.iterations
        self._shown, self._kept = (
            {int(one) for one in np.round(np.geomspace(first, count, many))}
            for first, many in ((max(1, count // _FIRST), _SHOWN), (1, _KEPT))
        )
        self._last: Picture | None = None
        self._rows: list[tuple[float, ...]] = []
        self._bands: list[Curve] = []
        self._pictures: dict[int, Picture] = {}

    @property
    def count(self) -> int:
        """Iterations that were seen."""
        return len(self._rows)

    def see(self, one: Reading) -> tuple[dict[str, float], Picture]:
        """Measure the output of one iteration; its bands by their names, and the picture."""
        assert one.picture is not None
        picture = self._in_units(one.picture)
        seen = sight((picture - self._low) / self._range)
        psnr = self._psnr(picture)
        self._rows.append((one.energy, seen.blurriness, seen.sharpness, psnr))
        self._bands.append(self._correspondence.of(one.picture))
        if one.iteration in self._kept | self._shown:
            self._pictures[one.iteration] = picture
        self._last = picture
        return dict(zip(BAND_NAMES, self._bands[-1].tolist(), strict=True)), picture

    def ended(self, held_out: HeldOut, subject: Subject) -> Spectrum:
        """Put all together."""
        assert self._last is not None
        evolution = {**self._pictures, self.count: self._last}
        shown = {at: one for at, one in evolution.items() if at in self._shown | {self.count}}
        energy, blurriness, sharpness, psnr = np.array(self._rows).T
        frequency, target = radial_power(self._subject.picture)
        power = {"target": target}
        if self._truth is not None:
            power["truth"] = radial_power(self._truth)[1]
        power |= {str(at): radial_power(one)[1] for at, one in shown.items()}
        known = self._truth is not None
        return Spectrum(
            subject=subject,
            truth=self._truth,
            energy=energy,
            correspondence=np.array(self._bands),
            blurriness=blurriness,
            sharpness=sharpness,
            psnr=psnr if known else None,
            pictures=shown,
            evolution=evolution,
            frequency=frequency,
            power=power,
            ratio_stop=settled_at(blurriness / np.maximum(sharpness, 1e-12)),
            held_out=held_out,
            held_out_psnr=self._psnr(self._in_units(held_out.picture)) if known else None,
        )

    def _in_units(self, picture: Picture) -> Picture:
        return np.asarray(picture * self._unit + self._offset, np.float32)

    def _psnr(self, picture: Picture) -> float:
        return float("nan") if self._truth is None else psnr_of(picture, self._truth)
