"""What can go wrong with files."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

FILES = {
    "path-empty": Fault("A file name is empty.", "Name the file, with its folder if needed."),
    "path-wrong": Fault(
        "No file can be called '{path}': {why}.", "Check the name and shorten it if it is long."
    ),
    "file-missing": Fault("There is no file '{path}'.", "Check the spelling and the folder."),
    "file-is-folder": Fault("'{path}' is a folder, not an image file.", "Name one file in it."),
    "file-unreadable": Fault(
        "'{path}' cannot be opened: {why}.",
        "Check its permissions, or copy it to a folder of yours.",
    ),
    "file-type": Fault(
        "'{path}' is not a kind of image file that can be read here ({why}).",
        "Save it as TIFF or PNG and try again.",
    ),
    "file-broken": Fault(
        "'{path}' is cut off or damaged: {why}.", "Copy or export it again from its source."
    ),
    "file-empty": Fault("'{path}' holds no bytes.", "Copy or export it again from its source."),
    "file-codec": Fault(
        "'{path}' is compressed with {codec}, which cannot be read here.",
        "Save the image without compression, or with LZW or Deflate.",
    ),
    "output-folder-missing": Fault(
        "The folder '{folder}' for the result does not exist.",
        "Create it, or name another one.",
    ),
    "output-exists": Fault(
        "'{path}' already exists and would be lost.",
        "Choose another name, or add --overwrite to replace it.",
    ),
    "output-is-input": Fault(
        "The result would replace its own input '{path}'.",
        "Choose another name for the result.",
    ),
    "output-is-folder": Fault(
        "'{path}' is a folder, so the result cannot be saved under that name.",
        "Add a file name that ends in .tif.",
    ),
    "output-type": Fault(
        "Results are saved as TIFF, but '{path}' ends in '{suffix}'.",
        "Let the name end in .tif or .tiff.",
    ),
    "output-json": Fault(
        "Recipes and reports are saved as JSON, but '{path}' ends in '{suffix}'.",
        "Let the name end in .json.",
    ),
    "output-special": Fault(
        "'{path}' is a pipe or a device, so nothing can be saved under that name.",
        "Choose another name for the result.",
    ),
    "output-readonly": Fault(
        "'{folder}' does not let files be written: {why}.",
        "Choose a folder that you may write to, or free some space.",
    ),
    "output-twice": Fault(
        "Two results of this run would go to '{path}'.", "Give each result its own name."
    ),
}
