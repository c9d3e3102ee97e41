"""What it takes to make a result again.

Decided here: scripts, commands, saved settings, reading a report back. Doors import this folder.
"""
