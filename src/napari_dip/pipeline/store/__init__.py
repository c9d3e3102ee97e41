"""What a run keeps on the disk: checkpoints, tiles, fits, results, networks.

Decided here: formats, locks, what is whole and what is damaged. It imports `assess` and below.
`execute` imports it.
"""
