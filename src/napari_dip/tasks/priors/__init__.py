"""The priors as tasks offer them: when each can be used, and how it is built.

Decided here: candidates, settings and reasons. Tasks import this folder; it imports
`tasks.base` and the engine.
"""
