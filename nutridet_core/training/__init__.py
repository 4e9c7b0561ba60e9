"""From an experiment to sealed checkpoints, in one process or several.

Belongs here: the loop, what it keeps in memory, what it watches, and what a run will need (`plan`). Does not belong
here: loading models (`models`), which experiments there are (`experiments`).

Order of reading: `train`, `trainer`, `activations`, `ranks`.
"""
