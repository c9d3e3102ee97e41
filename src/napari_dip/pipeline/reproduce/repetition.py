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
from napari_dip.pipeline.store.shared_network import SHARED_NETWORK_INPUT
from napari_dip.tasks.deblur import Deblur
from napari_dip.tasks.noise_models.jpeg import RECOMPRESSION
from napari_dip.tasks.priors.zssr import ZSSR_PRIOR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.pipeline.recipe import Recipe

#: What it takes beside the image, where that was shown a network of its series.
MISSING_NETWORK_NOTE = (
    "It was shown the network '{name}' (SHA-256 {digest}): write where that file lies, since "
    "without it other pixels come out."
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
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
        if (
            self.kept_iteration is not None
        ):  # the clock may have ended it, which is faster elsewhere
            recipe = recipe.replace_run_settings(time_limit=None)
        return _apply_layer_scale(recipe, self.report)

    @property
    def files(self) -> dict[str, str]:
        """Files that its task takes, by name; without a path, the network of a series by its own.

        Names that the task does not have are left out: they would become arguments of a call.
        """
        facts = self.report.get("fit", {}).get("joint_training", {})
        network = (
            {SHARED_NETWORK_INPUT: str(facts["network_file"])} if "network_file" in facts else {}
        )
        names = {SHARED_NETWORK_INPUT, *(item.name for item in self.recipe.task.inputs)}
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
    def kept_iteration(self) -> int | None:
        """Iteration whose picture was kept by hand; None if the run ended by itself."""
        if not self.report.get("fit", {}).get("kept"):
            return None
        return max(1, int(self.report["best_iteration"]))

    @property
    def unreliable_reason(self) -> str:
        """Why other pixels may come out; empty if there is no reason."""
        fit = self.report.get("fit", {})
        if (
            "network_file" in (facts := fit.get("joint_training", {}))
            and SHARED_NETWORK_INPUT not in self.paths
        ):
            return MISSING_NETWORK_NOTE.format(name=facts["network_file"], digest=facts["sha256"])
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


def collect_settings(recipe: Recipe) -> dict[str, Any]:
    """Give the settings that differ from their defaults, the preset and the seed always."""
    common = recipe.run_settings
    always = {"preset": common.preset, "seed": common.seed}
    return {**recipe.task.to_dict(), **always, **common.model_dump(exclude_defaults=True)}


def _apply_layer_scale(recipe: Recipe, report: Mapping[str, Any]) -> Recipe:
    """Put into the recipe what a layer's scale said: the file may say another, or nothing."""
    fit, axes = report.get("fit", {}), report["axes"]
    scale, units = fit.get("scale"), fit.get("units")
    if not scale or not units:
        return recipe
    sizes = {size for axis, size in zip(axes, scale, strict=True) if axis in "ZYX"}
    if recipe.run_settings.stacks == "auto" and "Z" in axes and len(sizes) > 1:
        recipe = recipe.replace_run_settings(stacks="volume" if len(fit["axes"]) > 2 else "planes")
    task = recipe.task
    if isinstance(task, Deblur) and task.model != "none":
        shape = tuple(report["shape"])
        source = ImageSpec(
            name="", shape=shape, dtype="float32", axes=axes, scale=tuple(scale), units=tuple(units)
        )
        optics = task.psf_source.optics
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
    command = build_command(run)
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def build_command(run: Repetition) -> list[str]:
    """Give the command word by word."""
    recipe = run.recipe
    text = ["napari-dip", recipe.task.name, run.paths["image"], "--output", run.result]
    text += ["--axes", run.axes]
    for name, path in run.files.items():
        if name != "image":
            text += [_format_option(name), path]
    for name, value in collect_settings(recipe).items():
        text += _format_setting(name, value)
    if run.kept_iteration is not None:
        text += ["--keep-after", str(run.kept_iteration)]
    return text


def _format_setting(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [_format_option(name if value else f"no_{name}")]
    return [_format_option(name), str(value)]


def _format_option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


#: Longest line that a call stands on.
_MAX_LINE_LENGTH = 100
_CHECK_TEMPLATE = """\
before = {before}
after = {after}
if result.report["input_sha256"] != before:
    print("This is another image than the one that was restored then.")
elif result.report["output_sha256"] == after:
    print("The same pixels as then.")
else:
    print("Other pixels than then: by another version, device or number of threads.")
"""


def write_python_script(run: Repetition) -> str:
    """Write a script that reads the files, restores with the same settings and saves a TIFF.

    It then says whether the pixels are the same. A report may come from a stranger: whatever it
    holds is a literal or one line of a comment here, never a command.

    Parameters
    ----------
    run : Repetition
    """
    report, recipe = run.report, run.recipe
    settings = [
        f"{name}={_format_literal(value)}" for name, value in collect_settings(recipe).items()
    ]
    paths = {name: path for name, path in run.files.items() if name != "image"}
    inputs = [_format_literal(run.paths["image"]), "recipe", f"axes={_format_literal(run.axes)}"]
    inputs += [f"{name}={_format_literal(path)}" for name, path in paths.items()]
    if run.kept_iteration is not None:
        inputs.append(f"keep_after={run.kept_iteration}")
    colours = "rgb" if "S" in run.axes else "minisblack"
    saved = [_format_literal(run.result), "result.image", f"photometric={_format_literal(colours)}"]
    saved.append(f'metadata={{"axes": {_format_literal(run.axes)}}}')
    threads = "1 thread" if report["threads"] == 1 else f"{report['threads']} threads"
    computed = f"{report['device']} with {threads} and PyTorch {report['torch']}"
    remarks = [
        f"Makes {run.result!r} again, as napari-dip {report['version']} did.",
        f"Computed then on {computed}.",
        *([run.unreliable_reason] if run.unreliable_reason else []),
    ]
    digests = {"before": report["input_sha256"], "after": report["output_sha256"]}
    lines = [
        *(f"# {make_printable(remark)}" for remark in remarks),  # printable: on one line each
        "",
        "import tifffile",
        "",
        "import napari_dip as dip",
        "",
        _format_call("recipe = dip.make_recipe", [_format_literal(recipe.task.name), *settings]),
        _format_call("result = dip.restore", inputs),
        _format_call("tifffile.imwrite", saved),
        "",
        _CHECK_TEMPLATE.format(
            **{name: _format_literal(str(digest)) for name, digest in digests.items()}
        ),
    ]
    return "\n".join(lines)


def _format_literal(value: object) -> str:
    """Write a value in Python, text in the quotes that people use."""
    text = repr(value)
    plain = isinstance(value, str) and text[0] == "'" and '"' not in text
    return f'"{text[1:-1]}"' if plain else text


def _format_call(function: str, arguments: list[str]) -> str:
    """Write a call on one line, or one line for each argument."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= _MAX_LINE_LENGTH:
        return line
    return "\n".join([f"{function}(", *(f"    {argument}," for argument in arguments), ")"])
