"""The pipeline's verbs, one per asset: `dataset`, `baseline`, `training`, `comparison`, `release`, `monitoring`.

Belongs here: which artefact is made from which, where it lies, what its manifest says, and what
MLflow hears. Does not belong here: how anything is computed (the modules above this package do
that), or Dagster (`nutridet_assets` calls these verbs, as the command line does).

Every verb is idempotent: an artefact that is complete and was made from the same inputs is kept.
"""
