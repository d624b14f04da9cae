"""Files that are there whole, or not at all, whenever a process is killed; and folders that one run writes into."""

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

LOCK = ".lock"
PLAN = ".plan.json"  # of what fills a folder in parts: resumable.py
LOCK_PATIENCE = 10.0  # s, in which the workers of a killed run notice that it is gone


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` where the block ends without an exception.

    The content is on the disk before the name is: what is read under the name is never cut short, also after a power
    cut. The temporary name holds the process id, as a process that outlived its run may still write the same file.

    Args:
        path: The file; replaced where it exists.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(content: Any, path: Path) -> None:
    """Write a JSON file whole.

    Args:
        content: What JSON holds.
        path: The file.
    """
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def write_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write arrays as safetensors, for all who may read the folder: `save_file` makes the file its owner's alone.

    Args:
        arrays: The arrays by name.
        path: The file; what must be there whole or not at all is written within `written_whole`.
    """
    path.write_bytes(save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))


@contextmanager
def locked(folder: Path, other: str) -> Iterator[None]:
    """Keep other runs out of a folder; the lock goes with the process, however it ends.

    Where the system, or the file system, has no locks, nobody is kept out.

    Args:
        folder: The folder; made where it is absent.
        other: What else might hold the lock, for the message.

    Raises:
        ValueError: If it does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        deadline = time.monotonic() + LOCK_PATIENCE
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise ValueError(f"{other} writes into {folder}: wait for it, or pass another folder")
            time.sleep(LOCK_PATIENCE / 100)
        yield


def _try_lock(file: Any) -> bool:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; some file systems of clusters
        pass
    return True


def crc32_of(path: Path) -> int:
    """The CRC-32 of a file.

    Args:
        path: The file.
    """
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


__all__ = ["LOCK", "PLAN", "crc32_of", "locked", "write_arrays", "write_json", "written_whole"]
