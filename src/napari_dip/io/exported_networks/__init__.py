"""Read networks saved by torch.export without running any code from the file.

The modules decide which archives and which operations are accepted. `tasks.network_import` imports
this package.
"""
