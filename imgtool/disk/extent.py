"""How much lies on the disk beside the objects."""

from __future__ import annotations

import os
from typing import NamedTuple

from imgtool.disk.layout import Layout, inside


class Extent(NamedTuple):
    """Bytes in files, as `find -type f -printf %s` tells them."""

    records: int  # imgtool.toml, and all below namespaces/: records and logs
    unfinished: int  # below ingests/ and tmp/


def measure(layout: Layout) -> Extent:
    """What a store has now. What vanishes meanwhile, or may not be looked at, counts nothing."""
    return Extent(
        records=_size(layout.settings) + _below(layout.namespaces),
        unfinished=_below(layout.ingests) + _below(layout.tmp),
    )


def _below(directory: str) -> int:
    total, todo = 0, [directory]
    while todo:
        path = todo.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(inside(path, entry.name))
                    elif entry.is_file(follow_symlinks=False):
                        total += _size(entry.path)
        except OSError:
            continue
    return total


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
