"""From the best adapter to weights that others serve: merged, in FP8, registered, described.

Belongs here: what is written for use outside of this pipeline, and the registry's aliases. Does not belong here:
whether it is good enough (`evaluation.gate`), serving it (`serving`).
"""
