"""Unpacks the archives beside this file (made by ``make.py``)."""

from __future__ import annotations

import gzip
import tarfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def names(archive: str) -> tuple[str, ...]:
    """The cases of an archive: its top directories."""
    with tarfile.open(HERE / f"{archive}.tar.xz") as tar:
        return tuple(sorted({name.split("/", 1)[0] for name in tar.getnames()}))


def unpack(archive: str, directory: Path) -> Path:
    """Unpack an archive into a directory and return that."""
    with tarfile.open(HERE / f"{archive}.tar.xz") as tar:
        # Not the argument ``filter``: Debian 12's Python 3.11.2 does not know it yet, and has no warning to avoid.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
        tar.extractall(directory)
    for path in sorted(directory.rglob("*.unzipped")):
        path.with_suffix("").write_bytes(gzip.compress(path.read_bytes(), 1, mtime=0))
        path.unlink()
    return directory
