"""What can go wrong while a run is on."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

RUNS = {
    "memory-out": Fault(
        "The memory ran out while restoring '{name}'.",
        "Crop the image, close other programs, or choose the device 'cpu'.",
    ),
    "device-lost": Fault(
        "The graphics card stopped answering while restoring '{name}': {why}.",
        "Restart the computer if it goes on so, or choose the device 'cpu'.",
    ),
    "time-over": Fault(
        "The time limit of {limit} s was over before '{name}' had gone one iteration.",
        "Allow more time, or take a smaller crop.",
    ),
    "diverged": Fault(
        "The fit of '{name}' broke down {count} times in a row.",
        "Try another seed, or another prior.",
    ),
    "program-ends": Fault(
        "PyTorch cannot be loaded any more, since the program is ending.",
        "Call from the main thread first, or let that wait for this one (`thread.join()`).",
    ),
    "disk-full": Fault(
        "'{path}' could not be saved: {why}.",
        "Free some space or choose another folder; earlier files are untouched.",
    ),
    "save-readonly": Fault(
        "'{path}' could not be saved: {why}.",
        "Choose a folder that you may write to; earlier files are untouched.",
    ),
    "save-gone": Fault(
        "'{path}' could not be saved: {why}.",
        "Create its folder again, or choose another one.",
    ),
    "save-taken": Fault(
        "'{path}' could not be saved: {why}.",
        "Move away what is there, or choose another name; nothing of it was touched.",
    ),
    "save-name": Fault(
        "'{path}' could not be saved: {why}.",
        "Choose a shorter name; earlier files are untouched.",
    ),
    "save-large": Fault(
        "'{path}' could not be saved: {why}.",
        "Choose a disk that takes larger files, or raise the limit; earlier files are untouched.",
    ),
    "save-failed": Fault(
        "'{path}' could not be saved: {why}.",
        "Choose another folder, and see to that disk or connection; earlier files are untouched.",
    ),
    "save-unexpected": Fault(
        "'{path}' could not be saved: {why}.",
        "Report this as a fault of napari-dip; earlier files are untouched.",
    ),
    "tiles-moved": Fault(
        "'{path}' takes no more ({why}): what is done from here on is kept {where} until the run "
        "ends.",
        "Make it take files again before the next run; earlier files are untouched.",
    ),
    "tiles-gone": Fault(
        "Tiles that were done are gone from '{path}'.",
        "Bring that folder back, or let nothing remove it while a run is on.",
    ),
    "run-twice": Fault(
        "Another run keeps its tiles in '{path}', and they would be lost.",
        "Wait for its end, or choose another name for the result.",
    ),
    "repeat-other-task": Fault(
        "'{layer}' was made by the task '{task}'.",
        "Open that one from Layers › Filter › Deep Image Prior, and repeat it there.",
    ),
    "repeat-layer-gone": Fault(
        "The settings of '{result}' are back, but there is no layer '{layer}' any more.",
        "Open it again, and choose it above.",
    ),
    "repeat-unsaved": Fault(
        "'{layer}', which '{result}' was made from, is not in napari any more and lies in no file.",
        "Open it again under that name.",
    ),
    "repeat-changed": Fault(
        "'{layer}' holds other pixels than when '{result}' was made from it.",
        "Open the first one again under that name.",
    ),
    "unfinished-gone": Fault(
        "The pixels of '{layer}' in the unfinished run cannot be read from '{path}' any more.",
        "Bring that file back, or discard the unfinished run.",
    ),
    "unfinished-changed": Fault(
        "'{path}' holds other pixels than '{layer}' had when the unfinished run was begun.",
        "Bring the first file back, or discard the unfinished run.",
    ),
    "unexpected": Fault(
        "Something unexpected happened: {why}.",
        "Please report it with the text in the log, and try another image in the meantime.",
    ),
}
