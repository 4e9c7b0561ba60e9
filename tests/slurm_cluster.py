"""A Slurm cluster of one node for tests, with a controller, a node and an authentication of its own."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

MISSING = next((name for name in ("srun", "slurmctld", "slurmd", "munged") if shutil.which(name) is None), None)
"""A program that is not installed; Debian's packages slurm-wlm and munge have them."""
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """What leads to it; when the block ends, its programs have ended."""
    configuration, key = folder / "slurm.conf", folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    names = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": folder}
    configuration.write_text(_CONFIGURATION.format(**names, controller_port=_port(), node_port=_port()))
    variables = {"SLURM_CONF": str(configuration)}
    own = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in ("socket", "key-file", "pid-file")]
    others = [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    commands = (["munged", "--foreground", "--force", *own, *others], ["slurmctld", "-D"], ["slurmd", "-D"])
    with ExitStack() as stack:
        for command in commands:
            stack.callback(_end, _start(command, variables))
            time.sleep(0.5)  # the next one looks for it once
        idle = ["sinfo", "--noheader", "--states=idle"]
        while not subprocess.run(idle, env={**os.environ, **variables}, capture_output=True, check=False).stdout:
            time.sleep(0.2)
        yield variables


def _start(command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env={**os.environ, **variables}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
