"""The dock of a task, from the choice of an image to its result.

Decided here: requests, crop previews, history, recovery, repetition. Only `qt.demo` and the
manifest open it.
"""
