"""What can go wrong with files."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

FILE_FAULTS = {
    "path-empty": Fault("A file name is empty.", "Name the file, with its folder if needed."),
    "path-wrong": Fault(
        "No file can be called '{path}': {why}.", "Check the name and shorten it if it is long."
    ),
    "path-url": Fault(
        "'{path}' is an address (URL), not the path of a file on this computer.", "{hint}"
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
    "file-long": Fault(
        "'{path}' holds {size}, far more than {kind} does.",
        "Check that it is the right file.",
    ),
    "file-elsewhere": Fault(
        "'{path}' says that a part of it lies in '{other}', which is outside its own folder.",
        "Put all its files into one folder, or save it as one file.",
    ),
    "file-codec": Fault(
        "'{path}' is compressed with {codec}, which cannot be read here.",
        "Save the image without compression, or with LZW or Deflate.",
    ),
    "file-colours": Fault(
        "'{path}' holds its colours as {coded}, not as red, green and blue.",
        "Convert it to RGB or to grey values, and save it as TIFF or PNG.",
    ),
    "extra-missing": Fault(
        "'{path}' is {kind}, and what reads and writes that is not installed.",
        'Install it with: pip install "napari-dip[{extra}]"; or save the image as TIFF.',
    ),
    "zarr-none": Fault(
        "'{path}' holds no OME-Zarr image: {why}.",
        "Name the folder of one image, in which .zattrs or zarr.json speaks of multiscales.",
    ),
    "zarr-version": Fault(
        "'{path}' is an OME-Zarr of version {version}; versions 0.4 and 0.5 are read.",
        "Convert it to one of these, or save the image as TIFF.",
    ),
    "zarr-gaps": Fault(
        "'{path}' lacks {count} of {total} chunks of its pixels, which would be read as {fill}.",
        "Copy it again from its source; if it is meant to be empty there, save it with all chunks.",
    ),
    "zarr-foreign": Fault(
        "'{path}' is a folder that holds no Zarr, and would be lost.",
        "Move it away, or choose another name for the result.",
    ),
    "zarr-shared": Fault(
        "'{path}' holds '{other}' beside its image, and that would be lost with it.",
        "Move it away, or choose another name for the result.",
    ),
    "result-untold": Fault(
        "'{path}' does not say how it was made: {why}.",
        "Choose a TIFF that napari-dip saved, or the report of its run (--report).",
    ),
    "folder-gone": Fault(
        "The folder that this program was started in does not exist any more.",
        "Change to a folder that exists, and try again.",
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
        "Results are saved as TIFF or OME-Zarr, but '{path}' ends in '{suffix}'.",
        "Let the name end in .tif, .tiff or .ome.zarr.",
    ),
    "output-nameless": Fault(
        "'{path}' is an ending only: the name before it is missing.",
        "Write a name before the ending, such as out{suffix}.",
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
        "Choose a folder that you may write to.",
    ),
    "output-full": Fault(
        "'{folder}' has no room for the result: {why}.",
        "Free some space, or choose a folder on another disk.",
    ),
    "output-failed": Fault(
        "'{folder}' does not take files: {why}.",
        "Choose another folder, and see to that disk or connection.",
    ),
    "output-moved": Fault(
        "'{path}' leads elsewhere than when the run was begun.",
        "See who has replaced that folder; nothing was written through it.",
    ),
    "output-unprinted": Fault(
        "What was found could not be printed: {why}.",
        "Let the output go to a terminal, or to a file on a disk with room.",
    ),
    "output-busy": Fault(
        "Another run is at work on '{path}' (process {process} on '{host}').",
        "Wait for its end, or choose another name for the result.",
    ),
    "output-twice": Fault(
        "Two results of this run would go to '{path}'.", "Give each result its own name."
    ),
    # --- many files at once
    "folder-is-file": Fault(
        "'{path}' is a file, so no results can be saved in it.", "Name a folder for the results."
    ),
    "batch-none": Fault(
        "No input is given.", "Name files, folders or patterns such as 'data/*.tif'."
    ),
    "batch-paths": Fault(
        "{what} must be named by a path, but {found} was given.",
        "Name files, folders or patterns such as 'data/*.tif' as text; arrays are taken by "
        "napari_dip.restore.",
    ),
    "batch-empty": Fault(
        "No image file is found for '{pattern}'.",
        "Check the spelling; a folder stands for the images in it, not for those further below.",
    ),
    "batch-among": Fault(
        "The results would lie among their inputs in '{folder}'.",
        "Choose another folder for the results.",
    ),
    "batch-names": Fault(
        "The results of '{first}' and '{second}' would both be called '{name}'.",
        "Rename one of them, or give each its own folder of results.",
    ),
    "batch-exists": Fault(
        "'{path}' already exists and would be lost.",
        "Add --resume (resume=True) to go on with the batch in that folder, or choose another one.",
    ),
    "batch-foreign": Fault(
        "'{path}' already exists, does not come from this batch, and would be lost.",
        "Move it away, or choose another folder for the results.",
    ),
    "output-linked": Fault(
        "'{path}' is a link, so what belongs to this result would be written elsewhere.",
        "Remove that link, or choose another place for the result.",
    ),
    "batch-recipe": Fault(
        "The results in '{folder}' come from another recipe.",
        "Give the recipe that they come from, or choose another folder for the results.",
    ),
    "batch-broken": Fault(
        "The list of the batch in '{path}' cannot be read: {why}.",
        "Choose another folder for the results, or remove that list and the results with it.",
    ),
    "batch-refused": Fault(
        "No file of the {count} can be restored; the first: {sentence}", "{remedy}"
    ),
}
