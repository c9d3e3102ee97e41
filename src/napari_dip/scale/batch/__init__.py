"""Plan a batch, restore its files one by one, and record the outcome of each.

The package also fits the joint network of a series. A file that is refused or fails never stops the
others. `scale.cluster` and `scale.batch_run` import this package.
"""
