"""From a file to a result: one run, whichever door asked for it.

Order of the folders: plan, calibrate, assess, store, execute, reproduce; beside them the recipe,
events, the machine, and the Python functions. `scale`, `explore`, `cli` and `qt` import this one.
"""
