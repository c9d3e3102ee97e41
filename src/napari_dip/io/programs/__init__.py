"""Networks saved by torch.export, read without running anything of them.

Decided here: which archives and steps are taken. `tasks.network_import` imports this folder.
"""
