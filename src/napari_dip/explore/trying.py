"""Fits one design to a picture and to noise, the same pixels held out of both."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.explore.bands import Correspondence
from napari_dip.explore.building import weights_of
from napari_dip.explore.course import held_out_pixels, readings
from napari_dip.explore.energies import targets_of
from napari_dip.explore.subject import psnr_of
from napari_dip.explore.trial_fit import TrialFit, stop_of
from napari_dip.run.draining import mapped
from napari_dip.run.judging import output_average

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import numpy.typing as npt

    from napari_dip.explore.course import Reading
    from napari_dip.explore.designs import Design
    from napari_dip.explore.subject import Picture, Subject

    Curve = npt.NDArray[np.float64]


class Going(NamedTuple):
    """How far the trial of a design is.

    Attributes
    ----------
    done : float
        Share of both fits.
    iteration : int
    target : str
        "image" or "noise".
    energy : float
        Of the target there.
    picture : ndarray (Y, X) float32 or None
        The running average, in the image's units.
    """

    done: float
    iteration: int
    target: str
    energy: float
    picture: Picture | None = None


def tried(
    design: Design,
    subject: Subject,
    truth: Picture | None,
    block: tuple[int, int],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    noise: Curve | None = None,
) -> Generator[Going, None, TrialFit | None]:
    """Fit a design to the picture, then to noise.

    Parameters
    ----------
    design : Design
    subject : Subject
    truth : ndarray (Y, X) or None
    block : tuple of int
        Size of the blocks around held-out pixels, which are the same for all designs.
    control : callable
    noise : ndarray (iterations,) or None
        Energies of noise, where they are known already: with the same seed, size and block they are
        the same for all pictures.

    Yields
    ------
    Going
        After each iteration.

    Returns
    -------
    TrialFit or None
        None if it was ended.

    Raises
    ------
    Failed
        If a fit broke down.
    """
    begun, count = time.process_time(), subject.iterations
    ways: dict[str, Any] = {"control": control, "design": design, "block": block}
    ways["average"] = output_average(count)
    targets = targets_of(subject.picture, subject.seed)
    image = targets["image"]
    watch = _Watch(subject, truth, image)

    def seen(one: Reading) -> Going:
        picture = watch.see(one)
        done = 0.5 * one.iteration / count
        return Going(done, one.iteration, "image", one.energy, picture)

    if not (yield from mapped(readings(image, subject, pictures=True, **ways), seen)):
        return None
    seconds = (time.process_time() - begun) / count
    if noise is None:
        noise = yield from _resistance(targets["noise"], subject, ways)
        if noise is None:
            return None
    judges = held_out_pixels(image.shape, subject, block)
    return watch.ended(design, weights_of(design, image.shape), noise, judges, seconds)


def _resistance(
    target: Picture, subject: Subject, ways: dict[str, Any]
) -> Generator[Going, None, Curve | None]:
    """Fit to noise: its energies, or None if it was ended."""
    energies: list[float] = []

    def resisted(one: Reading) -> Going:
        energies.append(one.energy)
        done = 0.5 + 0.5 * one.iteration / subject.iterations
        return Going(done, one.iteration, "noise", one.energy)

    whole = yield from mapped(readings(target, subject, **ways), resisted)
    return np.array(energies) if whole else None


class _Watch:
    """Gathers what each iteration shows."""

    def __init__(self, subject: Subject, truth: Picture | None, image: Picture) -> None:
        self._truth, self._image = truth, image
        self._offset, self._unit = float(subject.picture.mean()), float(subject.picture.std())
        self._correspondence = Correspondence(image)
        self._readings: list[Reading] = []
        self._bands: list[Curve] = []
        self._psnr: list[float] = []

    def see(self, one: Reading) -> Picture:
        """Measure the running average of one iteration; gives it in the image's units."""
        assert one.picture is not None
        self._readings.append(one)
        self._bands.append(self._correspondence.of(one.picture))
        picture = self._in_units(one.picture)
        if self._truth is not None:
            self._psnr.append(psnr_of(picture, self._truth))
        return picture

    def ended(
        self,
        design: Design,
        weights: int,
        noise: Curve,
        judges: npt.NDArray[np.bool_],
        seconds: float,
    ) -> TrialFit:
        """Put all together."""
        energy, held_out = (
            np.array([attrgetter(name)(one) for one in self._readings])
            for name in ("energy", "held_out")
        )
        stop = stop_of(held_out.tolist())
        picture = self._readings[stop.taken - 1].picture
        assert picture is not None
        return TrialFit(
            design=design,
            weights=weights,
            energy=energy,
            noise=noise,
            correspondence=np.array(self._bands),
            held_out=held_out,
            psnr=np.array(self._psnr) if self._psnr else None,
            stop=stop,
            picture=self._in_units(picture),
            errors=(picture - self._image)[judges].astype(np.float64) ** 2,
            seconds=seconds,
        )

    def _in_units(self, picture: Picture) -> Picture:
        return np.asarray(picture * self._unit + self._offset, np.float32)
