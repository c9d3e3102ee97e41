"""Run a restoration: from a file or an array and a recipe to a result.

Folders, in the order of their imports: plan, calibrate, assess, store, execute. The
modules here hold the recipe, events, the machine, the Python functions, and what repeats a run.
`scale`, `explore`, `cli` and `qt` import this package.
"""
