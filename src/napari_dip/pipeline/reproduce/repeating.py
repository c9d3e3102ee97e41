"""What it takes to make a picture again: the recipe, the files, and where the run was ended.

A picture's making as the command line that makes it again.

A picture's making as a Python script that makes it again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_dip.errors.fault import make_printable
from napari_dip.io import ImageSpec
from napari_dip.pipeline.recipe import recipe_from_dict
from napari_dip.pipeline.store.shared_network import KEY
from napari_dip.tasks.deblur import Deblur
from napari_dip.tasks.noise_models.jpeg import RECOMPRESSION
from napari_dip.tasks.priors.zssr import ZSSR_PRIOR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.pipeline.recipe import Recipe

#: What it takes beside the image, where that was shown a network of its series.
NETWORK_WANTED = (
    "It was shown the network '{name}' (SHA-256 {digest}): write where that file lies, since "
    "without it other pixels come out."
)


@dataclass(frozen=True, slots=True, eq=False)
class Repetition:
    """A run to be repeated.

    Attributes
    ----------
    report : mapping
        Of the run, as `Restoration.report` has it.
    paths : mapping of str to str
        Files of the task's inputs, by their names; "image" among them.
    name : str
        Of the image, as the result is named after it.
    """

    report: Mapping[str, Any]
    paths: Mapping[str, str]
    name: str

    @property
    def recipe(self) -> Recipe:
        """The recipe, with what else the run took from the header of a layer."""
        recipe = recipe_from_dict(self.report["recipe"])
        if self.keep_after is not None:  # the clock may have ended it, which is faster elsewhere
            recipe = recipe.with_common(time_limit=None)
        return _without_header(recipe, self.report)

    @property
    def files(self) -> dict[str, str]:
        """Files that its task takes, by name; without a path, the network of a series by its own.

        Names that the task does not have are left out: they would become arguments of a call.
        """
        told = self.report.get("fit", {}).get("shared", {})
        network = {KEY: str(told["file"])} if "file" in told else {}
        names = {KEY, *(one.name for one in self.recipe.task.inputs)}
        return {name: path for name, path in {**network, **self.paths}.items() if name in names}

    @property
    def axes(self) -> str:
        """One letter for each axis of the image."""
        return str(self.report["axes"])

    @property
    def result(self) -> str:
        """File name of the result."""
        stem = self.name.replace("/", "-").replace("\\", "-").strip(" .") or "image"
        return f"{stem} {self.recipe.task.done}.tif"

    @property
    def keep_after(self) -> int | None:
        """Iteration whose picture was kept by hand; None if the run ended by itself."""
        if not self.report.get("fit", {}).get("kept"):
            return None
        return max(1, int(self.report["best_iteration"]))

    @property
    def doubt(self) -> str:
        """Why other pixels may come out; empty if there is no reason."""
        fit = self.report.get("fit", {})
        if "file" in (told := fit.get("shared", {})) and KEY not in self.paths:
            return NETWORK_WANTED.format(name=told["file"], digest=told["sha256"])
        if not fit.get("kept"):
            return ""
        if fit["finished"] + fit["kept"] > 1 or self.recipe.task.contenders():
            return (
                "The run had several fits and was ended by hand, which only a run of one fit "
                "repeats to the pixel."
            )
        if self.report["prior"]["chosen"] in (ZSSR_PRIOR, RECOMPRESSION):
            return (
                "The run was ended by hand, and with this prior that is repeated to the pixel "
                "only if the last preview was the best picture."
            )
        return ""


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Give the settings that differ from their defaults, the preset and the seed always."""
    common = recipe.common
    always = {"preset": common.preset, "seed": common.seed}
    return {**recipe.task.to_dict(), **always, **common.model_dump(exclude_defaults=True)}


def _without_header(recipe: Recipe, report: Mapping[str, Any]) -> Recipe:
    """Put into the recipe what a layer's scale said: the file may say another, or nothing."""
    fit, axes = report.get("fit", {}), report["axes"]
    scale, units = fit.get("scale"), fit.get("units")
    if not scale or not units:
        return recipe
    sizes = {size for axis, size in zip(axes, scale, strict=True) if axis in "ZYX"}
    if recipe.common.stacks == "auto" and "Z" in axes and len(sizes) > 1:
        recipe = recipe.with_common(stacks="volume" if len(fit["axes"]) > 2 else "planes")
    task = recipe.task
    if isinstance(task, Deblur) and task.model != "none":
        shape = tuple(report["shape"])
        source = ImageSpec("", shape, "float32", axes, scale=tuple(scale), units=tuple(units))
        optics = task.known.optics
        across, down = optics.pixels(source, "XY")
        if across is not None and across == down:
            task = replace(task, pixel_size=across)
        if "Z" in axes and (apart := optics.pixels(source, "Z")[0]) is not None:
            task = replace(task, z_step=apart)
    return replace(recipe, task=task)


def format_command_line(run: Repetition) -> str:
    """Write the command, quoted for the shell of this computer.

    Parameters
    ----------
    run : Repetition
    """
    words = build_command(run)
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def build_command(run: Repetition) -> list[str]:
    """Give the command word by word."""
    recipe = run.recipe
    words = ["napari-dip", recipe.task.name, run.paths["image"], "--output", run.result]
    words += ["--axes", run.axes]
    for name, path in run.files.items():
        if name != "image":
            words += [_format_option(name), path]
    for name, value in settings_of(recipe).items():
        words += _format_setting(name, value)
    if run.keep_after is not None:
        words += ["--keep-after", str(run.keep_after)]
    return words


def _format_setting(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [_format_option(name if value else f"no_{name}")]
    return [_format_option(name), str(value)]


def _format_option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


#: Longest line that a call stands on.
_WIDTH = 100
_CHECK = """\
before = {before}
after = {after}
if result.report["input_sha256"] != before:
    print("This is another image than the one that was restored then.")
elif result.report["output_sha256"] == after:
    print("The same pixels as then.")
else:
    print("Other pixels than then: by another version, device or number of threads.")
"""


def python_script(run: Repetition) -> str:
    """Write a script that reads the files, restores with the same settings and saves a TIFF.

    It then says whether the pixels are the same. A report may come from a stranger: whatever it
    holds is a literal or one line of a comment here, never a command.

    Parameters
    ----------
    run : Repetition
    """
    report, recipe = run.report, run.recipe
    settings = [f"{name}={_literal(value)}" for name, value in settings_of(recipe).items()]
    paths = {name: path for name, path in run.files.items() if name != "image"}
    inputs = [_literal(run.paths["image"]), "recipe", f"axes={_literal(run.axes)}"]
    inputs += [f"{name}={_literal(path)}" for name, path in paths.items()]
    if run.keep_after is not None:
        inputs.append(f"keep_after={run.keep_after}")
    colours = "rgb" if "S" in run.axes else "minisblack"
    saved = [_literal(run.result), "result.image", f"photometric={_literal(colours)}"]
    saved.append(f'metadata={{"axes": {_literal(run.axes)}}}')
    threads = "1 thread" if report["threads"] == 1 else f"{report['threads']} threads"
    computed = f"{report['device']} with {threads} and PyTorch {report['torch']}"
    remarks = [
        f"Makes {run.result!r} again, as napari-dip {report['version']} did.",
        f"Computed then on {computed}.",
        *([run.doubt] if run.doubt else []),
    ]
    digests = {"before": report["input_sha256"], "after": report["output_sha256"]}
    lines = [
        *(f"# {make_printable(one)}" for one in remarks),  # printable: on one line each
        "",
        "import tifffile",
        "",
        "import napari_dip as dip",
        "",
        _call("recipe = dip.make_recipe", [_literal(recipe.task.name), *settings]),
        _call("result = dip.restore", inputs),
        _call("tifffile.imwrite", saved),
        "",
        _CHECK.format(**{name: _literal(str(digest)) for name, digest in digests.items()}),
    ]
    return "\n".join(lines)


def _literal(value: object) -> str:
    """Write a value in Python, text in the quotes that people use."""
    text = repr(value)
    plain = isinstance(value, str) and text[0] == "'" and '"' not in text
    return f'"{text[1:-1]}"' if plain else text


def _call(function: str, arguments: list[str]) -> str:
    """Write a call on one line, or one line for each argument."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{function}(", *(f"    {one}," for one in arguments), ")"])
