"""What can go wrong with recipes, settings and the command line."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

SETTINGS = {
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
