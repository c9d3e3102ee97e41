"""`napari-dip noise IN`: print what an image tells of its noise; nothing is restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.cli.words import tell
from napari_dip.io.outputs import JSON_SUFFIXES, check_output
from napari_dip.io.reading import read_spec
from napari_dip.io.writing import write_text
from napari_dip.run.measuring import interval, measure_noise
from napari_dip.run.results import json_text

if TYPE_CHECKING:
    from napari_dip.run.measuring import NoiseReport


def noise(
    image: str,
    *,
    axes: str | None = None,
    dark: str | None = None,
    flat: str | None = None,
    as_json: bool = False,
    report: str | None = None,
    overwrite: bool = False,
) -> int:
    """Measure and print; 0 if it could be done.

    Parameters
    ----------
    image : str
        Path of the image.
    axes : str or None
        Names of its axes, if not those that the file says.
    dark, flat : str or None
        Paths of the detector's own frames: without light, and of one even light.
    as_json : bool
        Print figures instead of sentences.
    report : str or None
        Where to write the figures as JSON.
    overwrite : bool
        Whether an earlier report may be replaced.

    Raises
    ------
    Refused
        If the image or the report's name cannot be used.
    """
    read_spec(image, axes)  # says no to the image before it looks at the report's name
    if report is not None:
        inputs = [one for one in (image, dark, flat) if one is not None]
        place = check_output(report, inputs, overwrite, suffixes=JSON_SUFFIXES)
    found = measure_noise(image, axes, dark=dark, flat=flat)
    text = json_text(found.to_dict())
    if report is not None:
        write_text(place, text, overwrite=overwrite)
    for line in [text.rstrip("\n")] if as_json else _lines(found):
        tell(line, saved=report is not None)
    return 0


def _lines(found: NoiseReport) -> list[str]:
    several = len(found.channels) > 1
    rows = []
    for number, one in enumerate(found.channels, 1):
        begin = f"Channel {number}   " if several else ""
        gain = "cannot tell" if one.doubt else interval(one.gain, one.gain_error)
        rows.append(
            f"{begin}Gain {gain}   Noise in the dark {one.noise_in_dark:.4g}   "
            f"Read noise {_told(one.read_noise, one.read_noise_error)}   "
            f"Offset {_told(one.offset, one.offset_error)}"
        )
    return [*rows, *found.sentences]


def _told(figure: float | None, error: float) -> str:
    if figure is None:
        return "cannot tell"
    return interval(figure, error) if error == 0 else f"at most {interval(figure, error)}"
