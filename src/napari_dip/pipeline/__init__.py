"""Run a restoration: from a file or an array and a recipe to a result.

Folders, in the order of their imports: plan, calibrate, assess, store, execute, measure. The
modules here hold recipe, machine, progress, events, result, Python functions and repetition.
`scale`, `explore`, `cli` and `qt` import this package.
"""
