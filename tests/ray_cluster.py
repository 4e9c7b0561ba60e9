"""A Ray cluster of two raylets on this machine, as a program: prints its address, loses a node at a line of input.

A process of its own, because Ray reads its environment once, when it is imported.
"""

from __future__ import annotations

import os
import sys

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")


def main() -> None:
    from ray.cluster_utils import Cluster

    node = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    print(cluster.address, flush=True)
    sys.stdin.readline()
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
    sys.stdin.readline()
    cluster.shutdown()


if __name__ == "__main__":
    main()
