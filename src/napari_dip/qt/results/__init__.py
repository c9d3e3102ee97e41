"""Views of a result: fading, line profiles, uncertainty and residual.

The docks of tasks import this package; it depends on layers and not on running fits.
"""
