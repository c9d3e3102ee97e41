"""What can be wrong with one network for the files of a series."""

from __future__ import annotations

from napari_dip.errors.fault import Fault

#: How such a network is made; ends several remedies.
_MAKE = "napari-dip batch RECIPE IN... -o FOLDER --one-network"

SERIES = {
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
        f"Ask for the same, or fit another network: {_MAKE}.",
    ),
    "series-repeats": Fault(
        "The network '{path}' was fitted {found} times over, but {wanted} repeats are asked for.",
        f"Ask for no more, or fit another network: {_MAKE}.",
    ),
    "series-version": Fault(
        "The network '{path}' was fitted by napari-dip {found}, and this is {here}.",
        f"Install that version, or fit another network: {_MAKE}.",
    ),
    "series-broken": Fault(
        "'{path}' cannot be used as the network of a series: {why}.",
        f"Copy it again from where it was made, or fit another one: {_MAKE}.",
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
