"""What the pixels say before a fit: range, noise, clipping, blind spot.

Decided here: normalisation, the noise of each channel, the share of validation pixels.
It imports `plan`. `assess` and `execute` import it.
"""
