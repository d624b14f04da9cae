"""Files that are there whole, or not at all, whenever a process is killed."""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


__all__ = ["crc32_of", "write_json", "written_whole"]
