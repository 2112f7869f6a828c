"""What was worked out once and is kept below `cache/`, which anybody may empty at any time.

Only for what can be checked to be right still, or can never be wrong. A value is kept for the very
version of imgtool that worked it out.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from imgtool import __version__
from imgtool.digest import SHA256, Digest
from imgtool.disk import atomic, read
from imgtool.errors import ImgtoolError

if TYPE_CHECKING:
    from imgtool.disk.layout import Layout
    from imgtool.disk.workspace import Workspace

_SIZE_MAX = 1 << 28
_FEW = 64


def load(layout: Layout, name: str) -> Any:
    """The value that was saved under `name`; None where it is gone, damaged or of another version."""
    import json

    try:
        head, _, body = read.read_regular(layout.cached(name), _SIZE_MAX).partition(b"\n")
        return json.loads(body) if head == _head(body) else None
    except (FileNotFoundError, ImgtoolError, ValueError, RecursionError):
        return None


def save(layout: Layout, workspace: Workspace, name: str, value: Any) -> None:
    """Keep a value that JSON can hold. Where that fails it is not kept; nor is it durable."""
    import json

    body = json.dumps(value, separators=(",", ":"), check_circular=False).encode()
    with suppress(ImgtoolError):
        batch = atomic.Batch()
        new = workspace.new_path()
        batch.mkdirs(layout.cache)
        atomic.write_new(new, _head(body) + b"\n" + body)
        batch.rename(new, layout.cached(name))


def is_worth(new: int, all: int) -> bool:
    """Whether to save a value again, of whose `all` parts so many are new."""
    return new > max(_FEW, all // 16)


def _head(body: bytes) -> bytes:
    return f"imgtool {__version__} {Digest.of(body, SHA256)}".encode()
