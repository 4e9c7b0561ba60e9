"""A Ray cluster of two raylets on this machine, as a program: prints its address, loses a node at a line of input.

A process of its own, because Ray reads its environment once, when it is imported.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")


NODE = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80 * 2**20}


def start() -> Any:
    """The head alone; tried again, since a raylet gives its agent no more than 15 s."""
    from ray.cluster_utils import Cluster

    for attempt in range(3):
        try:
            return Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        except Exception:
            if attempt == 2:
                raise
    raise AssertionError


def main() -> None:
    cluster = start()
    second = cluster.add_node(**NODE)
    print(cluster.address, flush=True)
    sys.stdin.readline()
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
    sys.stdin.readline()
    cluster.shutdown()


if __name__ == "__main__":
    main()
