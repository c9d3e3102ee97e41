"""The dock of a task: run requests, crop previews, history, interrupted runs and repetition.

Only `qt.demo` and the manifest of the plugin import the dock.
"""
