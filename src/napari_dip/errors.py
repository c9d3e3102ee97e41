"""Everything that can go wrong for a user: one table of faults, and the values that carry them.

    DipError                 anything this package raises for a user's eyes
    ├── Refused              said no before any work began; holds a `Refusal`
    └── Failed               work began and could not end well; holds a `Refusal` as well

A message is two sentences: what is wrong and where, then what to do. Both live in `FAULTS`,
which the tests walk and the documentation prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble: templates for what is wrong and for what to do about it."""

    sentence: str
    remedy: str


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        # --- files
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
        # --- recipes and settings
        "recipe-broken": Fault(
            "The recipe '{path}' is not valid JSON: {why}.",
            "Save it again from the dock or with --recipe.",
        ),
        "recipe-newer": Fault(
            "The recipe has schema version {found}, but this program reads up to {known}.",
            "Update napari-dip, or save the recipe with this version.",
        ),
        "recipe-task": Fault(
            "The recipe '{path}' is for '{found}', not for '{wanted}'.",
            "Run it with 'napari-dip {found}', or name another recipe.",
        ),
        "setting-wrong": Fault("The setting '{field}' cannot be {value}: {why}.", "{hint}"),
        "setting-unknown": Fault(
            "There is no setting called '{field}' here.",
            "Remove it, or check its spelling: {known}.",
        ),
        "command-unknown": Fault(
            "There is no command called '{found}'.", "Choose one of: {known}."
        ),
        "option-unknown": Fault(
            "There is no option called '{found}' here.",
            "Check its spelling, or list the options with '{help}'.",
        ),
        "option-value": Fault(
            "The option '{option}' lacks its value.",
            "Write the value after it, or see '{help}'.",
        ),
        "option-twice": Fault("The option '{option}' is given twice.", "Leave one of the two out."),
        "window-missing": Fault(
            "napari cannot be opened here: {why}.",
            "Add --no-window to save the pictures instead, or run 'napari-dip doctor'.",
        ),
        "argument-missing": Fault(
            "The command line lacks {argument}.", "Add it as '{help}' shows."
        ),
        "argument-extra": Fault(
            "'{found}' is one name too many here.",
            "Put quotes around names with spaces, or see '{help}'.",
        ),
        "command-line": Fault("The command line cannot be understood: {why}.", "See '{help}'."),
        "axes-wrong": Fault(
            "The axes '{axes}' do not fit '{name}', which has {count} axes of sizes {shape}.",
            "Give one letter for each axis out of T, C, Z, Y, X and S (S = red, green, blue).",
        ),
        "axes-missing": Fault(
            "The axes '{axes}' of '{name}' lack Y or X.",
            "Name the two axes of the picture plane Y and X.",
        ),
        "device-missing": Fault(
            "The device '{device}' was asked for, but {why}.",
            "Choose 'auto' or 'cpu', or run 'napari-dip doctor' to see what is missing.",
        ),
        # --- pixels, known from the header
        "image-none": Fault("No image is chosen.", "Open an image and choose it as the input."),
        "image-not-array": Fault(
            "'{name}' is no array of numbers: {why}.",
            "Give a NumPy array, a dask array, lists of equal length or the path of an image file.",
        ),
        "image-masked": Fault(
            "{count} of the {total} pixels of '{name}' are masked out.",
            "Fill them in first, with image.filled(...), or crop to the part without them.",
        ),
        "layer-type": Fault(
            "'{name}' is a {kind} layer, not an image.", "Choose an Image layer as the input."
        ),
        "image-scalar": Fault(
            "'{name}' is a single number, not an image.", "Choose an image with two axes."
        ),
        "image-line": Fault(
            "'{name}' has one axis of {count} values, so it is a line and not an image.",
            "Choose an image with two axes.",
        ),
        "image-empty": Fault(
            "'{name}' holds no pixels (its shape is {shape}).", "Choose another image."
        ),
        "image-small": Fault(
            "'{name}' is {height} × {width} pixels, but at least {least} × {least} are needed.",
            "Choose a larger image or a larger crop.",
        ),
        "image-stack": Fault(
            "'{name}' is a stack (axes {axes}, sizes {shape}), but this restores single images.",
            "Choose one slice or frame (in napari, right-click the layer and split the stack)"
            "{hint}.",
        ),
        "image-large": Fault(
            "'{name}' needs about {need} of memory, and {have} may be used.",
            "Crop the image, or close other programs.",
        ),
        "image-complex": Fault(
            "'{name}' holds complex numbers.",
            "Restore its magnitude, or its real and imaginary parts.",
        ),
        "image-bool": Fault(
            "'{name}' holds only true and false, so it is a mask and not an image.",
            "Choose the image itself as the input.",
        ),
        "image-text": Fault(
            "'{name}' holds values of type {dtype}, which are not numbers.",
            "Choose an image of numbers.",
        ),
        "image-channels": Fault(
            "'{name}' has {count} colour samples, but red, green and blue are three.",
            "Give the axes with C for channels instead of S, or drop the alpha channel.",
        ),
        # --- pixels, known after reading
        "pixels-nan": Fault(
            "{count} of the {total} pixels of '{name}' are not a number (NaN).",
            "Fill them in first, or crop to the part without them.",
        ),
        "pixels-infinite": Fault(
            "{count} of the {total} pixels of '{name}' are infinite.",
            "Replace them first, or crop to the part without them.",
        ),
        "pixels-constant": Fault(
            "All {total} pixels of '{name}' are {value}, so there is nothing to restore.",
            "Check that the right image and channel are chosen.",
        ),
        "pixels-range": Fault(
            "'{name}' spans {low} to {high}, which single precision cannot hold apart.",
            "Subtract its offset or rescale it first.",
        ),
        "resume-other": Fault(
            "The unfinished run in '{path}' is of another image, recipe or computer.",
            "Run without --resume to start anew, or give the same image and settings.",
        ),
        "resume-broken": Fault(
            "The unfinished run in '{path}' cannot be read: {why}.",
            "Run without --resume to start anew.",
        ),
        # --- while running
        "memory-out": Fault(
            "The memory ran out while restoring '{name}'.",
            "Crop the image, close other programs, or choose the device 'cpu'.",
        ),
        "time-over": Fault(
            "The time limit of {limit} s was over before '{name}' had gone one iteration.",
            "Allow more time, or take a smaller crop.",
        ),
        "diverged": Fault(
            "The fit of '{name}' broke down {count} times in a row.",
            "Try another seed, or another prior.",
        ),
        "disk-full": Fault(
            "'{path}' could not be saved: {why}.",
            "Free some space or choose another folder; earlier files are untouched.",
        ),
        "unexpected": Fault(
            "Something unexpected happened: {why}.",
            "Please report it with the text in the log, and try another image in the meantime.",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 'no' with its reason.

    Attributes
    ----------
    code : str
        Key in `FAULTS`.
    sentence, remedy : str
        What is wrong and where; what to do.
    """

    code: str
    sentence: str
    remedy: str

    @property
    def message(self) -> str:
        """Both sentences, as people read them."""
        return f"{self.sentence} {self.remedy}"


def refusal(code: str, **facts: object) -> Refusal:
    """Fill the fault `code` with the facts of this case.

    Raises
    ------
    KeyError
        If the code is not in `FAULTS`, or a fact is missing.
    """
    fault = FAULTS[code]
    return Refusal(code, fault.sentence.format(**facts), fault.remedy.format(**facts))


class DipError(Exception):
    """Base of all errors that are meant for a user's eyes."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal

    def __reduce__(self) -> tuple[type[DipError], tuple[Refusal]]:
        """Travel between processes with the refusal, not only with its text."""
        return type(self), (self.refusal,)


class Refused(DipError):
    """Said no before any work began."""


class Failed(DipError):
    """Work began and could not end well."""
