"""The engine: fits an untrained network to one measurement. Knows torch and nothing above it."""
