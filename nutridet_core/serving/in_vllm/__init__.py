"""What runs inside vLLM's own process, which may be another environment: nothing here imports the rest of nutridet.

Belongs here: modules that vLLM loads by name, from this folder on its path. Does not belong here: starting
vLLM (`serving.vllm`).
"""
