"""Many files by one recipe: each restored, refused or failed by itself, and none twice.

Decided here: plan, records and table of a batch, one network for its files.
`scale.cluster` and `scale.batch_run` import this folder.
"""
