"""Files and shares of files, restored by workers in other processes.

Decided here: who takes which file, how a share comes back, what a lost worker costs.
`cluster` is the one module that knows dask.distributed. `scale.batch_run` imports this folder.
"""
