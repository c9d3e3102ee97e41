"""Run one recipe on many files, in this process or on the workers of a dask cluster.

The package decides how batches, joint training for a series of files, and workers proceed. It
imports the pipeline. `cli` and `qt` import it.
"""
