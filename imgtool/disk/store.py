"""Where the parts are joined: the one place that makes a store of files.

What a look at the images does not need is imported where it is called: a tenth of its time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from imgtool.disk.engine import Engine
from imgtool.disk.images import DiskImages
from imgtool.disk.namespaces import DiskNamespaces
from imgtool.errors import ImgtoolError
from imgtool.names import check_namespace

if TYPE_CHECKING:
    from typing import Self

    from imgtool.digest import Digest
    from imgtool.disk.content import DiskContent
    from imgtool.disk.leases import DiskLeases
    from imgtool.disk.settings import Setup
    from imgtool.model import Happening, Lease, Settings
    from imgtool.stores import Commit, Entry, Garbage, Litter, Published, Put


class DiskRecords:
    """Records on files; see `imgtool.stores`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.namespaces = DiskNamespaces(engine)

    def images(self, namespace: str) -> DiskImages:
        return DiskImages(self.engine, check_namespace(namespace))

    def content(self, namespace: str) -> DiskContent:
        from imgtool.disk.content import DiskContent

        return DiskContent(self.engine, check_namespace(namespace))

    def leases(self, namespace: str) -> DiskLeases:
        from imgtool.disk.leases import DiskLeases

        return DiskLeases(self.engine, check_namespace(namespace))

    def publish(
        self,
        namespace: str,
        commits: Sequence[Commit] = (),
        puts: Sequence[Put] = (),
        *,
        hold: Lease | None = None,
        lease: str | None = None,
    ) -> Published:
        from imgtool.disk.publish import publish

        return publish(self.engine, check_namespace(namespace), commits, puts, hold, lease).published


class DiskStore(DiskRecords):
    """Store on files; see `imgtool.stores`. Close it, or use it in `with`: temporary files go then."""

    @property
    def setup(self) -> Setup:
        """What its imgtool.toml says, the format too."""
        return self.engine.setup

    @property
    def settings(self) -> Settings:
        return self.engine.setup.settings

    def dry_run(self) -> DiskRecords:
        from imgtool.disk.dry import DryEngine

        return DiskRecords(DryEngine(self.engine))

    def history(self, namespace: str) -> Iterator[Entry]:
        from imgtool.disk.history import history

        return history(self.engine, check_namespace(namespace))

    def object_size(self, digest: Digest) -> int | None:
        return self.engine.object_size(digest)

    def objects(self) -> Iterator[tuple[Digest, int]]:
        from imgtool.disk import sweep

        return sweep.objects(self.engine)

    def litter(self, held: frozenset[tuple[str, str]]) -> Sequence[Litter]:
        from imgtool.disk import sweep

        return sweep.litter(self.engine, held)

    def remembering(self, *, keep: bool = False) -> AbstractContextManager[None]:
        return self.engine.remembering(keep=keep)

    def recall(self, name: str) -> Any:
        from imgtool.disk import cache

        return cache.load(self.engine.layout, name)

    def keep(self, name: str, value: Any) -> None:
        from imgtool.disk import cache

        with suppress(ImgtoolError):  # what must not be written is not
            self.engine.check_writable()
            cache.save(self.engine.layout, self.engine.workspace, name, value)

    def since_gc(self) -> Iterator[Happening]:
        from imgtool.disk import gc_log

        return gc_log.since_gc(self.engine)

    def looking(self) -> Callable[[], None]:
        from imgtool.disk import gc_log

        return gc_log.looking(self.engine)

    def removing(self, about: int = 0) -> AbstractContextManager[Callable[[Garbage], None]]:
        from imgtool.disk import sweep

        return sweep.removing(self.engine, about)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(
    root: str, *, lock_timeout: float = 30.0, warn: Callable[[str], None] = lambda _line: None
) -> DiskStore:
    """The store in the directory `root`. An absent one reads as empty, and is made by the first change.

    Args:
        root: the directory.
        lock_timeout: seconds that a change waits for a lock.
        warn: called with a line for what the user should know though nothing failed.

    Raises:
        FailedPrecondition: its format is newer than this imgtool reads.
        DataLoss: its settings cannot be read.
        PermissionDenied: it belongs to somebody else, or everybody may write there.
    """
    return DiskStore(Engine(os.path.realpath(root), lock_timeout, warn))
