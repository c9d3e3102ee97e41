"""What will be done, from headers alone, or why it cannot be done.

Decided here: layout of axes, work units, tiles, costs, sharing of networks, refusals before a run.
No pixel is read here. All other folders of the pipeline import this one.
"""
