"""Reproduce a result: scripts, command lines, saved settings and reports that are read back.

Decided here: what a script needs to make a result again, where saved settings lie, and how the
report of a result is found. Nothing is restored here.
"""
