"""Assess a finished restoration: metrics, quality checks, report and methods section.

This package also merges the results of work units into one image.
"""
