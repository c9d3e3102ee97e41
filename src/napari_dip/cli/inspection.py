"""Run the commands that restore nothing: `noise`, `doctor`, `camera-maps` and `methods`."""

from __future__ import annotations

import json
from math import floor
from typing import TYPE_CHECKING

from napari_dip.cli.terminal import print_message, print_result
from napari_dip.io.outputs import JSON_SUFFIXES, OutputLock, check_output
from napari_dip.io.reading import read_spec
from napari_dip.io.writing import write_text
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.camera_maps import camera_maps, check_camera_map_folder
from napari_dip.pipeline.doctor import examine_installation
from napari_dip.pipeline.machine import format_bytes
from napari_dip.pipeline.noise_report import format_interval, measure_noise
from napari_dip.pipeline.reproduce.report_lookup import read_run_report
from napari_dip.pipeline.store.results import format_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.pipeline.doctor import InstallationReport
    from napari_dip.pipeline.noise_report import NoiseReport


def run_noise_command(
    image: str,
    *,
    axes: str | None = None,
    dark: str | None = None,
    flat: str | None = None,
    as_json: bool = False,
    report: str | None = None,
    overwrite: bool = False,
) -> int:
    """Measure the noise of an image and print it; return 0.

    Parameters
    ----------
    image : str
        Path of the image.
    axes : str or None
        Axes that override those in the file.
    dark, flat : str or None
        Paths of camera frames: without light, and of even light.
    as_json : bool
        Whether to print JSON instead of sentences.
    report : str or None
        Path for the figures as JSON.
    overwrite : bool
        Whether an earlier report may be replaced.

    Raises
    ------
    Refused
        If the image, or the path of the report, cannot be used.
    """
    read_spec(image, axes)  # refuse the image before the path of the report
    if report is not None:
        inputs = [path for path in (image, dark, flat) if path is not None]
        report_path = check_output(report, inputs, overwrite, suffixes=JSON_SUFFIXES)
    noise = measure_noise(image, axes, dark=dark, flat=flat)
    json_text = format_json(noise.to_dict())
    if report is not None:
        write_text(report_path, json_text, overwrite=overwrite)
    for line in [json_text.rstrip("\n")] if as_json else _noise_lines(noise):
        print_result(line, saved=report is not None)
    return 0


def _noise_lines(report: NoiseReport) -> list[str]:
    has_channels = len(report.channels) > 1
    lines = []
    for number, channel in enumerate(report.channels, 1):
        prefix = f"Channel {number}   " if has_channels else ""
        gain = "cannot tell" if channel.doubt else format_interval(channel.gain, channel.gain_error)
        lines.append(
            f"{prefix}Gain {gain}   Noise in the dark {channel.noise_in_dark:.4g}   "
            f"Read noise {_format_noise_value(channel.read_noise, channel.read_noise_error)}   "
            f"Offset {_format_noise_value(channel.offset, channel.offset_error)}"
        )
    return [*lines, *report.sentences]


def _format_noise_value(figure: float | None, error: float) -> str:
    if figure is None:
        return "cannot tell"
    return (
        format_interval(figure, error)
        if error == 0
        else f"at most {format_interval(figure, error)}"
    )


def run_doctor_command(*, as_json: bool = False) -> int:
    """Examine the installation and print it; return 1 if nothing can be restored here, else 0."""
    if not as_json:
        print_message("Trying PyTorch; this takes some seconds.")
    report = examine_installation()
    if as_json:
        print_result(json.dumps(report.to_dict(), indent=2))
    else:
        for line in _computer_lines(report):
            print_result(line)
    return 0 if report.works else 1


def _computer_lines(report: InstallationReport) -> list[str]:
    torch = f"{report.torch} ({report.build or 'no CUDA'})" if report.torch else "not working"
    cards = f" ({', '.join(report.cards)})" if report.cards else ""
    lines = [
        f"napari-dip   {report.version}",
        f"Python       {report.python}",
        f"System       {report.system}",
        f"PyTorch      {torch}",
        f"Devices      {', '.join(report.devices) or 'none'}{cards}",
    ]
    if report.bridge:
        lines.append(report.bridge)
    if report.no_card:
        lines.append(f"No GPU: {report.no_card}.")
    lines += [
        f"Cores        {report.cores}",
        f"Free memory  {format_bytes(report.memory_bytes, floor)}",
        f"napari       {report.napari or 'not installed'}",
        f"Qt           {report.qt or 'not installed'}",
    ]
    if not report.mends:
        return [*lines, "All that is needed is there."]
    for mend in report.mends:
        lines += ["", f"{mend.trouble}. To mend it:", f"    {mend.command}"]
    return lines


def make_maps(
    dark: Sequence[str], flat: Sequence[str], *, output: str, overwrite: bool, quiet: bool
) -> int:
    """Make the maps of a camera and save them; return 0.

    Parameters
    ----------
    dark, flat : sequence of str
        Paths of the frames without light, and of those with even light.
    output : str
        Folder of the maps.
    overwrite, quiet : bool

    Raises
    ------
    Refused, Failed
        As `napari_dip.pipeline.camera_maps`.
    """
    inputs = (*dark, *flat)
    check_camera_map_folder(output, inputs, overwrite=overwrite)  # refuse before any work
    with OutputLock(output):
        report = camera_maps(list(dark), list(flat), progress=None if quiet else print_message)
        check_camera_map_folder(
            output, inputs, overwrite=overwrite
        )  # another run may have ended just now
        saved_path = report.save(output, overwrite=overwrite)
    if not quiet:
        for line in report.sentences:
            print_message(line)
        print_result(str(saved_path), saved=True)
    return 0


def run_methods_command(result: str) -> int:
    """Print the methods section of a result with its references; return 0.

    Parameters
    ----------
    result : str
        Path of a TIFF that napari-dip saved, or of the report of a run.

    Raises
    ------
    Refused
        If the file cannot be read, or holds no provenance.
    """
    print_result(write_methods_section(read_run_report(result)).rstrip("\n"))
    return 0
