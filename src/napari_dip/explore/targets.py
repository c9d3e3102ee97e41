"""What a network is fitted to in an impedance experiment, by name; loads nothing else."""

from __future__ import annotations

#: Standard deviation of the noise that is added to the image, in its own.
ADDED_NOISE = 0.5
#: The targets by their names in tables, and in words.
TARGETS = {
    "image": "image",
    "image_and_noise": "image + noise",
    "shuffled": "shuffled pixels",
    "noise": "noise",
}
#: Iterations whose energies are told, as far as the fit has gone, beside the last.
TOLD = (10, 50, 100)
