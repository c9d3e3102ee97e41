"""What can go wrong with recipes, settings and the command line.

What can be wrong with a network whose activations are to be inverted.
"""

from __future__ import annotations

from napari_dip.errors.fault import Fault

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
#: How a network becomes a file that holds no code; ends several remedies.
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
