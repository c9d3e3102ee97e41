"""Plan a run from headers alone, or refuse it: layout, work units, tiles, costs, shared networks.

No pixel is read here. All other folders of the pipeline import this one.
"""
