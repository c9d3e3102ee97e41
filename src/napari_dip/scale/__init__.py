"""Many files and many machines, by the same recipe.

Decided here: batches, one network for a series of files, workers of a dask cluster.
It imports the pipeline. `cli` and `qt` import it.
"""
