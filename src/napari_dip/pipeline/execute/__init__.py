"""Carry out a plan: fits one after another, memory that runs out, tiles, crops, shares.

Decided here: the order of fits and what each is told of the others. It imports everything else
in the pipeline but the Python functions.
"""
