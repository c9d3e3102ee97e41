"""Assess a finished restoration: metrics, traces, checks, report and methods section.

This package also merges the results of work units into one image.
"""
