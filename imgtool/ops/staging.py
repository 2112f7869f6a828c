"""What ingest is asked for, and what a source has become before anything of it is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from imgtool.digest import BLAKE3, Digest
from imgtool.model import Image, Platform
from imgtool.oci.media import OCTETS
from imgtool.stores import Commit, Writer

_TOLD = 256 << 20  # bytes


@dataclass(frozen=True)
class Wanted:
    """What is asked for besides the sources; see imgtool-ingest(1)."""

    names: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    media_type: str = OCTETS
    expected_digest: Digest | None = None
    expected_size: int | None = None
    algorithm: str = BLAKE3
    ref: str | None = None
    lease: str | None = None
    platform: Platform | None = None
    if_absent: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Ingested:
    """One line of the result. `name` is `-` for content that only a lease holds."""

    digest: Digest
    name: str
    size: int


@dataclass
class Staged:
    """What one source becomes when it is published. With `nameless` it is content that no image has."""

    commits: list[Commit] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    nameless: bool = False
    notes: list[str] = field(default_factory=list)

    def size(self) -> int:
        return sum(commit.writer.status().offset for commit in self.commits)

    def close(self) -> None:
        for commit in self.commits:
            commit.writer.close()


def copy(writer: Writer, fd: int, progress: Callable[[int], None], limit: int | None = None) -> int:
    """`Writer.copy_from`, which tells every 256 MiB how many bytes have come."""
    size = 0
    while True:
        portion = _TOLD - 1 if limit is None else min(_TOLD - 1, limit - size)
        count = writer.copy_from(fd, portion)
        progress(count)
        size += count
        if count <= portion or (limit is not None and size > limit):
            return size
