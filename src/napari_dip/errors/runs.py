"""List the faults of settings, runs, imported networks, joint training and workers, by code."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

RUN_FAULTS = {
    "memory-out": Fault(
        "The memory ran out while restoring '{name}'.",
        "Crop the image, close other programs, or choose the device 'cpu'.",
    ),
    "device-lost": Fault(
        "The GPU stopped answering while restoring '{name}': {why}.",
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
        "Choose another folder, or check that disk or connection; earlier files are untouched.",
    ),
    "save-unexpected": Fault(
        "'{path}' could not be saved: {why}.",
        "Report this as a fault of napari-dip; earlier files are untouched.",
    ),
    "tiles-moved": Fault(
        "No more files can be written to '{path}' ({why}); what is done from here on is kept "
        "{where} until the run ends.",
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
#: Command that fits one network to a series; ends several remedies.
_JOINT_TRAINING_COMMAND = "napari-dip batch RECIPE IN... -o FOLDER --joint-training"
SERIES_FAULTS = {
    "series-alone": Fault(
        "No network of other files can serve '{name}': with these settings it is not shown the "
        "image, or what it is to learn is this file's own.",
        "Denoise with 'Noisier input (R2R)', 'Blind spot' or 'Automatic' under 'Prior' and with a "
        "detector's noise, or restore each file by itself.",
    ),
    "series-few": Fault(
        "One network for all files takes {least} of them or more, but only {count} here can share "
        "one.",
        "Add files of the same series, or restore each by itself (without 'Joint training', "
        "--joint-training).",
    ),
    "series-unlike": Fault(
        "Only {count} of the {total} files for one network have similar noise and intensity range.",
        "Restore each by itself (without 'Joint training', --joint-training), or put files "
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
        "A network for all files is to be fitted (--joint-training), and one is named "
        "(--network-file).",
        "Leave one of the two out.",
    ),
    "series-late": Fault(
        "The batch in '{folder}' was begun without joint training.",
        "Continue without it, or choose another folder for the results.",
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
        "(--network-file), or take the device 'cpu'.",
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
        "The same command with --resume continues from there, with other workers or without.",
    ),
}
SETTING_FAULTS = {
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
    "preset-name": Fault(
        "A preset cannot be called '{name}': {why}.",
        "Choose a short name of letters, digits, spaces, dots, hyphens and underscores.",
    ),
    "preset-exists": Fault(
        "There is a preset called '{name}' already.",
        "Choose another name, or delete that one first.",
    ),
    "preset-missing": Fault(
        "There is no preset called '{name}'.", "Choose one from the list, or save one first."
    ),
    "preset-homeless": Fault(
        "No preset can be kept, since napari has no folder for settings here.",
        "Save the recipe as a file of your own instead.",
    ),
    "setting-wrong": Fault("The setting '{field}' cannot be {value}: {why}.", "{hint}"),
    "tile-impossible": Fault(
        "'{name}' cannot be restored in tiles: with these settings each part of it depends on the "
        "whole.",
        "Leave 'Tile' (--tile) empty.",
    ),
    "setting-unknown": Fault(
        "There is no setting called '{field}' here.",
        "Remove it, or check its spelling: {known}.",
    ),
    "command-unknown": Fault("There is no command called '{found}'.", "Choose one of: {known}."),
    "option-unknown": Fault(
        "There is no option called '{found}' here.",
        "Check its spelling, or list the options with '{help}'.",
    ),
    "option-misspelt": Fault(
        "There is no option called '{found}' here.",
        "Did you mean '{near}'? All options are listed by '{help}'.",
    ),
    "command-misspelt": Fault(
        "There is no command called '{found}'.",
        "Did you mean '{near}'? All commands are listed by '{help}'.",
    ),
    "input-dash": Fault(
        "'{found}' begins with a dash, so it is read as an option.",
        "Write './{found}' if it is a file, or list the options with '{help}'.",
    ),
    "value-dash": Fault(
        "'{found}' begins with a dash, so it is not read as the value of '{option}'.",
        "Write '{option}={found}' if it is the value, or see '{help}'.",
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
    "argument-missing": Fault("The command line lacks {argument}.", "Add it as '{help}' shows."),
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
}
#: Instruction for saving a network without code; ends several remedies.
_EXPORT_HINT = (
    "torch.export.save(torch.export.export(network.eval(), (example,)), 'network.pt2') in a Python "
    "of yours, with an example of the image's size"
)
NETWORK_FAULTS = {
    "network-missing": Fault(
        "No network is named, so there are no activations to restore the image from.",
        "Name a program of torch.export (.pt2), or an architecture of torchvision and its weights.",
    ),
    "network-type": Fault(
        "'{path}' is {kind}, which can run code when it is opened, so it was not opened.",
        f"If you trust it, make a program of it: {_EXPORT_HINT}.",
    ),
    "network-foreign": Fault(
        "'{path}' is no program of torch.export: {why}.",
        f"Make one of the network: {_EXPORT_HINT}.",
    ),
    "network-broken": Fault(
        "'{path}' cannot be used as a program of torch.export: {why}.",
        f"Make it again: {_EXPORT_HINT}.",
    ),
    "network-operator": Fault(
        "Up to that layer '{path}' uses the operator '{operator}', which is not carried out here.",
        "Choose an earlier layer, or export the network with run_decompositions().",
    ),
    "network-training": Fault(
        "'{path}' was exported while it was being trained: '{operator}' draws at random or learns.",
        f"Export it in the state for use: {_EXPORT_HINT}.",
    ),
    "network-size": Fault(
        "Up to that layer the network in '{path}' does not take an image of {height} × {width} "
        "pixels: {why}.",
        "Crop or resample the image to the size that it was exported for ({expected}), or choose "
        "an earlier layer.",
    ),
    "network-channels": Fault(
        "The network takes {wanted} channels, but '{name}' has {count}.",
        "Choose one channel, which is repeated, or name the axes YXS if these are colours.",
    ),
    "network-constant": Fault(
        "Channel {channel} of '{name}' holds one value only, and the network looks at all at once.",
        "Choose another channel, or make a grey picture of the others.",
    ),
    "network-limits": Fault(
        "To read '{path}' and to look at one image through it took more than {limit}.",
        "Choose an earlier layer, a smaller image or a smaller network.",
    ),
    "layer-missing": Fault(
        "No layer is named.", "Name one, or 'list' to see those that the network has."
    ),
    "layer-unknown": Fault(
        "'{path}' has no layer called '{layer}'.",
        "Choose one of the nearest, {near}, or 'list' to see all.",
    ),
    "layer-list": Fault("'{path}' has {count} layers.", "Choose one of: {layers}."),
    "layer-silent": Fault(
        "The layer '{layer}' answers {name} with zeros only, or with what is no number.",
        "Choose an earlier layer, or check the normalisation.",
    ),
    "architecture-unknown": Fault(
        "'{name}' is neither a file that ends in .pt2 nor an architecture of torchvision.",
        "Check its spelling; the nearest are: {near}.",
    ),
    "torchvision-missing": Fault(
        "'{name}' would be an architecture of torchvision, which cannot be loaded here: {why}.",
        "Install the one that fits torch with 'pip install napari-dip[networks]', or name a "
        "program of torch.export (.pt2).",
    ),
    "weights-missing": Fault(
        "The architecture '{name}' comes without weights.",
        "Name a file of its weights in safetensors (--weights).",
    ),
    "weights-extra": Fault(
        "'{path}' is a program with weights of its own, but '{weights}' is given as well.",
        "Leave the weights out.",
    ),
    "weights-unfit": Fault(
        "'{path}' does not hold the weights of '{name}': {why}.",
        "Save the state of that architecture again: safetensors.torch.save_file("
        "network.state_dict(), 'weights.safetensors').",
    ),
}
