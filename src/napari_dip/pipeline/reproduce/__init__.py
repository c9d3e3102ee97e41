"""Reproduce a result: scripts, command lines and saved settings.

Decided here: what a script needs to make a result again, and where saved settings lie. Nothing is
restored here.
"""
