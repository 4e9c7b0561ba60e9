"""Dagster wiring: which verb of `nutridet_core.pipeline` makes which asset, when, and what blocks what.

Belongs here: assets, checks, partitions, jobs, schedules, sensors, and the worker process that runs
the verbs. Does not belong here: anything that computes (`nutridet_core`). No module here imports
torch, transformers, datasets or mlflow at its top: definitions must load in a second.

Order of reading: `assets` (one module per group of the graph), `launch` and `worker` (the process that
does the work), `jobs`, `schedules`, `sensors`, `definitions`.
"""
