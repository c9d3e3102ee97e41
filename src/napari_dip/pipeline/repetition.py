"""Repeat a run: collect its recipe and files, and write a command line or a Python script."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_dip.errors.templates import make_printable, render_text
from napari_dip.io import ImageHeader
from napari_dip.pipeline.plan.costs import list_candidates
from napari_dip.pipeline.recipe import recipe_from_dict
from napari_dip.pipeline.store.network_files import NETWORK_FILE_INPUT
from napari_dip.tasks.priors.registry import get_prior_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.pipeline.recipe import Recipe

#: Maximum length of a line with a call.
_MAX_LINE_LENGTH = 100


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Repetition:
    """What is needed to repeat a run.

    Attributes
    ----------
    report : mapping
        Report of the run, as in `Restoration.report`.
    paths : mapping of str to str
        Files of the task's inputs, by input name, including "image".
    name : str
        Name of the image, from which the name of the result is derived.
    """

    report: Mapping[str, Any]
    paths: Mapping[str, str]
    name: str

    @property
    def recipe(self) -> Recipe:
        """Recipe, with settings that the run took from the scale of a layer."""
        recipe = recipe_from_dict(self.report["recipe"])
        if self.kept_iteration is not None:
            # a time limit would end the run at another iteration on another computer
            recipe = recipe.replace_run_settings(time_limit=None)
        return _apply_layer_scale(recipe, self.report)

    @property
    def files(self) -> dict[str, str]:
        """Files of the task's inputs, by input name.

        A network file without a path has the name from the report. Unknown input names are left
        out, since they would become arguments of a call.
        """
        joint_training = self.report.get("fit", {}).get("joint_training", {})
        paths = dict(self.paths)
        if "network_file" in joint_training:
            paths = {NETWORK_FILE_INPUT: str(joint_training["network_file"]), **paths}
        names = {task_input.name for task_input in self.recipe.task.spec.inputs}
        names.add(NETWORK_FILE_INPUT)
        return {name: path for name, path in paths.items() if name in names}

    @property
    def axes(self) -> str:
        """Axes of the image, one letter each."""
        return str(self.report["axes"])

    @property
    def result(self) -> str:
        """File name of the result."""
        stem = self.name.replace("/", "-").replace("\\", "-").strip(" .") or "image"
        return f"{stem} {self.recipe.task.spec.result_suffix}.tif"

    @property
    def kept_iteration(self) -> int | None:
        """Iteration that the user kept; None if the run ended by itself."""
        if not self.report.get("fit", {}).get("stopped_fit_count"):
            return None
        return max(1, int(self.report["best_iteration"]))

    @property
    def unreliable_reason(self) -> str:
        """Why the repetition may give other pixels; "" if there is no reason."""
        fit = self.report.get("fit", {})
        network = fit.get("joint_training", {})
        if "network_file" in network and NETWORK_FILE_INPUT not in self.paths:
            name, digest = network["network_file"], network["sha256"]
            return render_text("repeat-network", name=name, digest=digest)
        if not fit.get("stopped_fit_count"):
            return ""
        fit_count = fit["finished_fit_count"] + fit["stopped_fit_count"]
        if fit_count > 1 or list_candidates(self.recipe.task):
            return render_text("repeat-several")
        if not get_prior_spec(self.report["prior"]["key"]).is_repeatable_after_stop:
            return render_text("repeat-stopped")
        return ""


def collect_settings(recipe: Recipe) -> dict[str, Any]:
    """Return preset, seed, and all other settings that differ from their defaults."""
    run_settings = recipe.run_settings
    return {
        **recipe.task.to_dict(),
        **run_settings.model_dump(include={"preset", "seed"}),
        **run_settings.model_dump(exclude_defaults=True),
    }


def _apply_layer_scale(recipe: Recipe, report: Mapping[str, Any]) -> Recipe:
    """Return the recipe with settings from the layer's scale, which the file may lack."""
    fit, axes = report.get("fit", {}), report["axes"]
    scale, units = fit.get("scale"), fit.get("units")
    if not scale or not units:
        return recipe
    pixel_sizes = {size for axis, size in zip(axes, scale, strict=True) if axis in "ZYX"}
    if recipe.run_settings.stacks == "auto" and "Z" in axes and len(pixel_sizes) > 1:
        recipe = recipe.replace_run_settings(stacks="volume" if len(fit["axes"]) > 2 else "planes")
    shape = tuple(report["shape"])
    header = ImageHeader(
        name="", shape=shape, dtype="float32", axes=axes, scale=tuple(scale), units=tuple(units)
    )
    return replace(recipe, task=recipe.task.spec.complete_settings(recipe.task, header))


def format_command_line(repetition: Repetition) -> str:
    """Return the command line, quoted for the shell of this computer."""
    command = build_command(repetition)
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def build_command(repetition: Repetition) -> list[str]:
    """Return the command as a list of arguments."""
    recipe = repetition.recipe
    arguments = ["napari-dip", recipe.task.spec.name, repetition.paths["image"]]
    arguments += ["--output", repetition.result, "--axes", repetition.axes]
    for name, path in repetition.files.items():
        if name != "image":
            arguments += [_format_option(name), path]
    for name, value in collect_settings(recipe).items():
        if isinstance(value, bool):
            arguments.append(_format_option(name if value else f"no_{name}"))
        else:
            arguments += [_format_option(name), str(value)]
    if repetition.kept_iteration is not None:
        arguments += ["--keep-after", str(repetition.kept_iteration)]
    return arguments


def _format_option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def write_python_script(repetition: Repetition) -> str:
    """Return a script that repeats a run, saves a TIFF, and reports whether the pixels are equal.

    A report may come from an untrusted source. Its content is therefore only written as literals or
    as one-line comments, never as code.
    """
    report, recipe = repetition.report, repetition.recipe
    settings = [_format_literal(recipe.task.spec.name)]
    for name, value in collect_settings(recipe).items():
        settings.append(f"{name}={_format_literal(value)}")
    axes = _format_literal(repetition.axes)
    restore_arguments = [_format_literal(repetition.paths["image"]), "recipe", f"axes={axes}"]
    for name, path in repetition.files.items():
        if name != "image":
            restore_arguments.append(f"{name}={_format_literal(path)}")
    if repetition.kept_iteration is not None:
        restore_arguments.append(f"keep_after={repetition.kept_iteration}")
    photometric = "rgb" if "S" in repetition.axes else "minisblack"
    write_arguments = [_format_literal(repetition.result), "result.image"]
    write_arguments += [f'photometric="{photometric}"', f'metadata={{"axes": {axes}}}']
    threads = "1 thread" if report["threads"] == 1 else f"{report['threads']} threads"
    environment = f"{report['device']} with {threads} and PyTorch {report['torch']}"
    remarks = [
        f"Makes {repetition.result!r} again, as napari-dip {report['version']} did.",
        f"Computed then on {environment}.",
        *([repetition.unreliable_reason] if repetition.unreliable_reason else []),
    ]
    extra = report.get("extra_inputs_sha256", {})  # reports of earlier versions have none
    before = {name: str(extra[name]) for name in repetition.files if name in extra}
    return render_text(
        "repeat-script",
        remarks="\n".join(f"# {make_printable(remark)}" for remark in remarks),  # one line each
        recipe=_format_call("recipe = dip.make_recipe", settings),
        result=_format_call("result = dip.restore", restore_arguments),
        save=_format_call("tifffile.imwrite", write_arguments),
        before=_format_literal({"image": str(report["input_sha256"]), **before}),
        after=_format_literal(str(report["output_sha256"])),
    )


def _format_literal(value: object) -> str:
    """Format a value as a Python literal, with text in double quotes if possible."""
    literal = repr(value)
    has_plain_text = isinstance(value, str) and literal[0] == "'" and '"' not in literal
    return f'"{literal[1:-1]}"' if has_plain_text else literal


def _format_call(function: str, arguments: list[str]) -> str:
    """Format a call on one line, or with one line per argument."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= _MAX_LINE_LENGTH:
        return line
    return "\n".join([f"{function}(", *(f"    {argument}," for argument in arguments), ")"])
