"""Everything that a verb imports, imported once: children are forked from a process that has it.

Belongs here: imports. Does not belong here: anything that computes, since torch's threads do not survive a fork.
"""

from __future__ import annotations

import compressed_tensors  # noqa: F401
import datasets  # noqa: F401
import mlflow.store.tracking.sqlalchemy_store
import mlflow.system_metrics.system_metrics_monitor  # noqa: F401

import nutridet_core.features
import nutridet_core.predict
import nutridet_core.release.merge
import nutridet_core.release.quantize
import nutridet_core.training.train  # noqa: F401
