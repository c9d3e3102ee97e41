"""What a finished restoration is worth.

Decided here: metrics, quality checks, the report, the methods text, merging units into a result.
It imports `plan` and `calibrate`. `store` and `execute` import it.
"""
