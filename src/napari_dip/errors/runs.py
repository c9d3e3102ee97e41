"""What can go wrong while a run is on.

What can be wrong with one network for the files of a series.

What can go wrong with the processes and computers that share a batch.
"""

from __future__ import annotations

from napari_dip.errors.fault import Fault

RUN_FAULTS = {
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
#: How such a network is made; ends several remedies.
_JOINT_TRAINING_COMMAND = "napari-dip batch RECIPE IN... -o FOLDER --one-network"
SERIES_FAULTS = {
    "series-alone": Fault(
        "No network of other files can serve '{name}': with these settings it is not shown the "
        "image, or what it is to learn is this file's own.",
        "Denoise with 'More noise', 'Blind spot' or 'Automatic' under 'Prior' and with a "
        "detector's noise, or restore each file by itself.",
    ),
    "series-few": Fault(
        "One network for all files takes {least} of them or more, but only {count} here can share "
        "one.",
        "Add files of the same series, or restore each by itself (without 'One network for all "
        "files', --one-network).",
    ),
    "series-unlike": Fault(
        "Of {total} files that one network was to be fitted to, only {count} are alike in what "
        "their pixels ask for.",
        "Restore each by itself (without 'One network for all files', --one-network), or put files "
        "of one microscope and exposure into a batch of their own.",
    ),
    "series-channels": Fault(
        "'{name}' has {found}, but the network of the series was fitted to {wanted}.",
        "Restore it without that network, or in a batch with files like it.",
    ),
    "series-settings": Fault(
        "The network '{path}' was fitted with {found} as '{field}', but {wanted} is asked for.",
        f"Ask for the same, or fit another network: {_JOINT_TRAINING_COMMAND}.",
    ),
    "series-repeats": Fault(
        "The network '{path}' was fitted {found} times over, but {wanted} repeats are asked for.",
        f"Ask for no more, or fit another network: {_JOINT_TRAINING_COMMAND}.",
    ),
    "series-version": Fault(
        "The network '{path}' was fitted by napari-dip {found}, and this is {here}.",
        f"Install that version, or fit another network: {_JOINT_TRAINING_COMMAND}.",
    ),
    "series-broken": Fault(
        "'{path}' cannot be used as the network of a series: {why}.",
        f"Copy it again from where it was made, or fit another one: {_JOINT_TRAINING_COMMAND}.",
    ),
    "series-twice": Fault(
        "A network for all files is to be fitted (--one-network), and one is named "
        "(--shared-network).",
        "Leave one of the two out.",
    ),
    "series-late": Fault(
        "The batch in '{folder}' was begun without one network for all files.",
        "Go on without it, or choose another folder for the results.",
    ),
    "series-repeat": Fault(
        "'{layer}' was shown the network of its series, '{network}', and this dock fits one to the "
        "image alone.",
        "Repeat it by 'Copy as Python' or 'Copy as command', which name that network.",
    ),
    "series-device": Fault(
        "The network for all files is fitted where the batch is started, but the device '{device}' "
        "that it is planned for is missing there: {why}.",
        "Start the batch where there is one, name a network that was fitted before "
        "(--shared-network), or take the device 'cpu'.",
    ),
}
WORKER_FAULTS = {
    "cluster-missing": Fault(
        "Workers need the package 'distributed', which is not installed.",
        "Install it with: pip install 'napari-dip[cluster]'; or leave out --workers and "
        "--scheduler.",
    ),
    "cluster-main": Fault(
        "Each worker would run the script '{path}' anew, since line {line} starts them unguarded.",
        'Put that line below: if __name__ == "__main__":',
    ),
    "cluster-twice": Fault(
        "Workers to start here (--workers) and a running cluster (--scheduler) are both asked for.",
        "Leave one of the two out.",
    ),
    "cluster-unreachable": Fault(
        "The scheduler at '{address}' cannot be reached: {why}.",
        "Check the address that 'dask scheduler' has printed, and whether it still runs.",
    ),
    "cluster-empty": Fault(
        "The scheduler at '{address}' has no workers.",
        "Start some with: dask worker {address} --nthreads 1",
    ),
    "cluster-threads": Fault(
        "A worker of the scheduler at '{address}' runs {count} tasks at once, but each fit needs "
        "a process of its own.",
        "Start workers with: dask worker {address} --nthreads 1 --nworkers N",
    ),
    "cluster-package": Fault(
        "The workers of the scheduler at '{address}' cannot load napari-dip: {why}.",
        "Install the same version of it where they run, and start them again.",
    ),
    "cluster-versions": Fault(
        "A worker has {found}, but {here} is wanted, and other versions may give other pixels.",
        "Install the same versions where workers run, and start them again.",
    ),
    "cluster-unseen": Fault(
        "A worker does not see the file '{path}'.",
        "Put files and results where all computers see them under the same name.",
    ),
    "cluster-killed": Fault(
        "Restoring '{name}' has ended {count} workers, mostly for want of memory.",
        "Crop the image or take fewer workers; --resume tries it again.",
    ),
    "cluster-lost": Fault(
        "The connection to the scheduler at '{address}' is lost; all that is done is kept.",
        "The same command with --resume goes on from there, with other workers or without.",
    ),
}
