"""Slurm's `srun --kill-on-bad-exit=1` with every node on this machine: the command once per node, and where one fails
the others are killed, as a cluster's control groups do. Process ids of the nodes are written to the folder $NODES.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def kill_tree(process: int) -> None:
    """Kill a process and all that it has started, which torchrun puts into sessions of their own.

    Args:
        process: Its id; it may be gone.
    """
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it has just ended
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    family = [process]
    for member in family:
        family += children.get(member, [])
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def main(command: list[str]) -> int:
    """Run the nodes, and give 0 where all of them ended well.

    Args:
        command: What each runs.
    """
    nodes = [subprocess.Popen(command) for _ in range(int(os.environ["SLURM_NNODES"]))]
    for number, node in enumerate(nodes):
        Path(os.environ["NODES"], str(number)).write_text(str(node.pid))
    codes = [None]
    while None in codes and not any(codes):
        time.sleep(0.05)
        codes = [node.poll() for node in nodes]
    for node in nodes:
        kill_tree(node.pid)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main([argument for argument in sys.argv[1:] if not argument.startswith(("--kill-on", "--cpus-per"))]))
