"""Restore files, or shards of files, on workers in other processes.

The package decides which worker gets which file, how shards are merged, and what a lost worker
means. Only `dask_cluster` imports dask.distributed. `scale.batch_run` imports this package.
"""
