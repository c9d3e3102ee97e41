"""Measure noise, PSFs and camera maps from files: what a run can be given. Nothing is restored.

No other module of the pipeline imports this folder. The public functions, `explore`, `cli` and `qt`
do.
"""
