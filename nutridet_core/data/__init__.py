"""Photos and boxes: from a source, through validation and splitting, to one sealed dataset.

Belongs here: sources, the image loader, validation, deduplication, splits, the dataset artefact.
Does not belong here: prompts and model input (`prompts`), scoring (`evaluation.scores`).

Order of reading: `photos`, `examples`, `sources`, `validate`, `split`, `fingerprint`, `save`, `dataset`.
"""
