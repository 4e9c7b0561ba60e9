"""nutridet_core: find nutrition tables with a vision-language model, and measure it honestly.

A plain library: data, boxes, prompts, training, evaluation, merge, FP8, engines, tracking and the
command line. It never imports dagster; the orchestration lives in `nutridet_assets`.

Reading order for a newcomer: `boxes`, `prompts`, `experiments`, `training.train`, `pipeline`.
"""

__version__ = "0.1.0"
