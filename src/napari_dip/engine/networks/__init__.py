"""Networks whose structure is the prior.

Decided here: layers at the border, up- and downsampling, the hourglass, bounded layers.
A network knows neither measurement nor loss. Priors import this folder.
"""
