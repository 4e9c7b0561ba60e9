"""Torture: faults at random moments of every verb, and what was lost by them; a gateway kept over capacity.

    python -m benchmarks.torture [--seed N] [--injections N] [--soak MINUTES]

Belongs here: breaking things on purpose and judging what is left. Does not belong here: inputs that are wrong
from the start (`tests/test_security.py` and the fuzzers).

`homes` makes a home before and after each verb, `faults` break one, `processes` runs the verb in a child that
can be broken, `inspection` reads what is left, `campaign` judges it, `soak` keeps a gateway busy.
"""
