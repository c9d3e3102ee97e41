"""A picture's making as a Python script that makes it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.errors.printable import printable
from napari_dip.run.repeating import settings_of

if TYPE_CHECKING:
    from napari_dip.run.repeating import Repetition

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
        *(f"# {printable(one)}" for one in remarks),  # printable: on one line each
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
