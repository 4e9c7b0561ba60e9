"""The assets, one module per group of the graph.

Belongs here: which worker verb makes an asset, what it depends on, which checks it carries and what
the UI shows of it. Does not belong here: the work itself (`nutridet_core.pipeline`).

An asset's body has the same three steps everywhere: let a worker do the verb, read what now lies on
disk, and return it as metadata, data version and check results. What all definitions have in common is
in `declare`. Modules of the core that need pyarrow are imported inside the bodies, so that the code
location loads in seconds. No module here postpones its annotations (`from __future__`): Dagster wants
the annotation of `context` as a type.
"""
