"""What an experiment leaves behind: page, figures, tables.

Decided here: words and looks of the reports. It imports the experiments; they do not import it.
"""
