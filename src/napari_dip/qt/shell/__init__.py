"""What all docks share: threads, forms, layers, the bar with Run and Stop.

Decided here: how work leaves the GUI thread, how settings become widgets, how results become
layers. The other folders of `qt` import this one, and it imports none of them.
"""
