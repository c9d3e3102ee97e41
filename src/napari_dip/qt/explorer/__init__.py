"""The dock of the prior explorer: experiments, their settings, curves and results.

Only the manifest of the plugin refers to this package.
"""
