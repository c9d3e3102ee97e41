"""Write the report of an experiment: page, figures and tables.

The package decides the wording and the look of the reports. It imports the experiments; they do not
import it.
"""
