"""Run a restoration: from a file or an array and a recipe to a result.

Folders, in the order of their imports: plan, calibrate, assess, store, execute, reproduce. The
modules here hold the recipe, events, the machine and the Python functions. `scale`, `explore`,
`cli` and `qt` import this package.
"""
