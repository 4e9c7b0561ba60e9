"""What serving costs on one GPU: vLLM with the shapes of Qwen2-VL-7B, configuration by configuration.

    python -m benchmarks.serving --photos FOLDER --work FOLDER

Reading order: `wide` (the model: 7B shapes, the embedded model's answers), `photos`, `servers` (the configurations),
`load` (requests and their times), `measure` (what is measured on each), `report` (from times to
`benchmarks/results/serving.json`).
"""
