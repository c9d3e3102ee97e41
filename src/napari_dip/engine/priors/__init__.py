"""One module for each prior: what the network is fed with, and which pixels it learns from.

Decided here: masked input, R2R, ZSSR, guided input, JPEG, feature inversion, deep decoder.
The base class is `engine.prior`. Tasks choose among them; the loop knows none of them.
"""
