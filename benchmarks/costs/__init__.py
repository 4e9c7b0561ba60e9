"""How costs grow: seconds of training and scoring, photos over cores, memory of a dataset's preparation.

    python -m benchmarks.costs [--rounds 3] [--work FOLDER]

Everything that is measured is what the product runs (`train`, the scoring of checkpoints, `prepare_dataset`, the
generator), with the profile `tiny` on this machine's cores. Every point of every curve is measured once in each round,
the points of a round in an order of their own, so that what drifts on the machine is shared by all. Can be stopped and
continued: finished runs stay under --work.

Reading order: `fit` (what is claimed of a curve), `photos`, `seconds` (training, scoring), `cores`, `memory`, `curves`
(which points there are), `page` (table and plot).
"""
