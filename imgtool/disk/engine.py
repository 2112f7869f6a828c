"""The files of a store: its kinds of records, how each is read, and the one way in which they change.

What only a change needs is in `imgtool.disk.apply`, which a look at the images does not import.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import codec, plain, read, records, settings
from imgtool.disk.layout import SUFFIX, Layout, inside, is_record, parent
from imgtool.disk.locks import Locks
from imgtool.disk.workspace import Workspace
from imgtool.errors import (
    DataLoss,
    FailedPrecondition,
    ImgtoolError,
    from_oserror,
)
from imgtool.model import ContentInfo, Image, Lease, Namespace, Target
from imgtool.names import file_name, name_of_file

if TYPE_CHECKING:
    from imgtool.disk.remembered import Remembered
    from imgtool.stores import Inventory, OnError

T = TypeVar("T", Image, ContentInfo, Lease, Namespace)
R = TypeVar("R")
Model = Image | ContentInfo | Lease | Namespace


class Kind(NamedTuple, Generic[T]):
    """A kind of record: where it lies and how it is read and written."""

    name: str
    path: Callable[[Layout, str, str], str]
    key: Callable[[T], str]
    load: Callable[[codec.Record, str], T]
    dump: Callable[[T], codec.Record]
    plain: Callable[[bytes], T | None]


IMAGE: Kind[Image] = Kind(
    "image",
    Layout.image,
    lambda image: image.name,
    records.image_from_record,
    records.image_to_record,
    plain.image,
)
CONTENT: Kind[ContentInfo] = Kind(
    "content",
    lambda layout, ns, digest: layout.content_record(ns, Digest.parse(digest)),
    lambda info: info.digest,
    records.content_from_record,
    records.content_to_record,
    plain.content,
)
LEASE: Kind[Lease] = Kind(
    "lease",
    Layout.lease,
    lambda lease: lease.id,
    records.lease_from_record,
    records.lease_to_record,
    plain.neither,
)
NAMESPACE: Kind[Namespace] = Kind(
    "namespace",
    lambda layout, ns, _name: layout.namespace_record(ns),
    lambda namespace: namespace.name,
    records.namespace_from_record,
    records.namespace_to_record,
    plain.neither,
)
KINDS: dict[str, Kind[Any]] = {kind.name: kind for kind in (IMAGE, CONTENT, LEASE, NAMESPACE)}


class Edit(NamedTuple, Generic[T]):
    """One change of one record.

    Args:
        kind: the kind of record.
        name: its name, id or digest.
        change: from what it is (None: absent) to what it shall be; the same value changes nothing.
        alone: an error of this edit is its outcome, and does not stop the others.
        heals: a record that cannot be read counts as absent, and is replaced or removed.
    """

    kind: Kind[T]
    name: str
    change: Callable[[T | None], T | None]
    alone: bool = False
    heals: bool = False


class Engine:
    """Reads and changes the files of one store.

    Args:
        root: the store's directory; it need not exist.
        lock_timeout: seconds to wait for a lock.
        warn: called with a line of text for what the user should know though nothing failed.
    """

    def __init__(self, root: str, lock_timeout: float, warn: Callable[[str], None]) -> None:
        self.layout = Layout(root)
        self.warn = warn
        self.setup = settings.load(self.layout)
        self.locks = Locks(self.layout, lock_timeout, enabled=self.setup.locking)
        self.workspace = Workspace(self.layout.tmp, locking=self.setup.locking)
        self._writable = False
        self._memory: dict[str, tuple[os.stat_result, int, Any]] | None = None
        self.directories: Remembered | None = None
        self._ends: ExitStack | None = None

    @contextmanager
    def remembering(self, *, keep: bool = False) -> Iterator[None]:
        """See `stores.Store.remembering`."""
        from imgtool.disk.remembered import Remembered

        directories = Remembered(self.layout)
        self._memory, self.directories = {}, directories
        try:
            with ExitStack() as self._ends:
                yield
                if keep and self.exists():
                    with suppress(ImgtoolError):  # what must not be written is not
                        self.check_writable()
                        directories.keep(self.workspace)
        finally:
            self._memory = self.directories = self._ends = None

    def at_end(self, call: Callable[[], None]) -> None:
        """Have `call` made when `remembering` ends; at once, if nothing is remembered."""
        if self._ends is None:
            call()
        else:
            self._ends.callback(call)

    def exists(self) -> bool:
        """Whether there is a store."""
        return self.setup.exists or os.path.lexists(self.layout.settings)

    def close(self) -> None:
        self.workspace.close()

    # Reading

    def load(self, kind: Kind[T], ns: str, name: str) -> T | None:
        """The record called `name`; None where there is none.

        Raises:
            DataLoss: it cannot be read, or holds another name.
        """
        return self._load_named(kind, name, kind.path(self.layout, ns, name))

    def _load_named(self, kind: Kind[T], name: str, path: str) -> T | None:
        found = self.load_path(kind, path)
        if found is not None and kind.key(found) != name:
            raise _misplaced(path, kind, found)
        return found

    def load_path(self, kind: Kind[T], path: str) -> T | None:
        """The record in the file `path`, wherever it belongs; None where there is none."""
        memory = None if kind.name == CONTENT.name else self._memory
        if memory is not None and path in memory:
            status, read_at, record = memory[path]
            identity = read.identified(status)
            # A file as young as the clock's step could change once more without looking different.
            if identity == read.identity(path) and read.is_settled(identity, read_at):
                return cast(T, record)
        now = clock.wall()
        try:
            data, status = read.read_with_status(path, codec.RECORD_MAX)
        except FileNotFoundError:
            return None
        record = kind.plain(data) or kind.load(codec.load(data, path), path)
        if memory is not None:
            memory[path] = status, now, record
        return record

    def named(self, kind: Kind[T], directory: str, on_error: OnError) -> list[tuple[str, str]]:
        """Names and paths of the records in a flat directory, in byte order of the names. Only the
        records whose file name is a hash, or no name's, are read for it.
        """
        found = []
        for entry in read.entries(directory):
            if not is_record(entry):
                continue
            name = name_of_file(entry[: -len(SUFFIX)])
            if name is None:
                record = collect(on_error, partial(self._placed, kind), inside(directory, entry))
                name = record and kind.key(record)
            if name is not None:
                found.append((name, inside(directory, entry)))
        return sorted(found, key=lambda pair: pair[0].encode())

    def _placed(self, kind: Kind[T], path: str) -> T | None:
        """The record in `path`, which must be called so."""
        record = self.load_path(kind, path)
        if record is not None and not path.endswith(f"/{file_name(kind.key(record))}{SUFFIX}"):
            raise _misplaced(path, kind, record)
        return record

    def scan(self, kind: Kind[T], ns: str, directory: str, on_error: OnError) -> Iterator[T]:
        """The records in a flat directory, in byte order of their names; one that vanishes meanwhile
        was deleted.
        """
        if self.directories:
            look = partial(self._listed, kind, directory, on_error)
            yield from self.directories.for_now(directory, "records", look)
            return
        for name, path in self.named(kind, directory, on_error):
            record = collect(on_error, partial(self._load_named, kind, name), path)
            if record is not None:
                yield record

    def _listed(self, kind: Kind[T], directory: str, on_error: OnError) -> tuple[list[T], bool]:
        """As `scan`, and whether all of them could be read."""
        named = self.named(kind, directory, on_error)
        loaded = [collect(on_error, partial(self._load_named, kind, name), path) for name, path in named]
        found = [record for record in loaded if record is not None]
        return found, len(found) == len(loaded)

    def scan_content(self, ns: str, on_error: OnError) -> Iterator[ContentInfo]:
        """The content records of a namespace, in byte order of the digests."""
        from imgtool.disk import scan

        return scan.content(self.layout.content(ns), partial(self.load, CONTENT, ns), on_error)

    def inventory(self, ns: str, on_error: OnError) -> Inventory:
        """See `stores.Manager.inventory`."""
        from imgtool.disk import scan

        def load(ns: str) -> scan.Load:
            return partial(self.load, CONTENT, ns)

        if self.directories:
            scan.read_ahead(self.layout, self.directories, load)
        return scan.inventory(self.layout.content(ns), self.directories, load(ns), on_error)

    def targets(self, ns: str, on_error: OnError) -> Mapping[str, Target]:
        """See `stores.ImageStore.targets`."""
        from imgtool.disk import scan

        load = partial(self._placed, IMAGE)
        return scan.targets(self.layout.images(ns), self.directories, load, on_error)

    def recorded_size(self, ns: str, digest: Digest) -> int | None:
        """The size that the content record says; None where there is none."""
        if self.directories:
            inventory = self.directories.seen(parent(self.layout.content_record(ns, digest)))
            if inventory:
                return cast("int | None", inventory.sizes.get(digest))
        info = self.load(CONTENT, ns, digest)
        return info and info.size

    def object_size(self, digest: Digest) -> int | None:
        """The size of the object in bytes; None where there is none."""
        try:
            status = os.lstat(self.layout.object(digest))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise from_oserror(error, "cannot look at object") from error
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def is_whole(self, ns: str, digest: Digest) -> bool:
        """Whether the digest has a record in `ns` and an object of the size it says. Bytes are not read."""
        info = self.load(CONTENT, ns, digest)
        return info is not None and self.object_size(digest) == info.size

    # Writing

    def ready(self) -> None:
        """Make the store if there is none; refuse where it must not be written.

        Raises:
            FailedPrecondition, DataLoss: as `check_writable`.
        """
        self.check_writable()
        if not self.setup.exists:
            settings.create(self.layout, self.workspace)
            self.setup = settings.load(self.layout)
            self._writable = False  # somebody else may have made it meanwhile
            self.check_writable()

    def check_writable(self) -> None:
        """Refuse where the store must not be written.

        Raises:
            FailedPrecondition: its format is newer than this imgtool writes, or locks are not reliable there.
            DataLoss: one of its directories is a link.
        """
        if self._writable:
            return
        for directory in self.layout.directories:
            read.is_directory(directory)
        if self.setup.locking:
            settings.check_file_system(self.layout.root)
        if self.setup.write > settings.FORMAT:
            raise FailedPrecondition(
                f"store '{self.layout.root}' has format {self.setup.write}, "
                f"this imgtool writes {settings.FORMAT}",
                hint="use a newer imgtool; reading works",
            )
        self._writable = True

    def change(self, ns: str, edit: Edit[T]) -> T | None:
        """Make one change; returns the record as it is then."""
        if not self.exists():
            edit.change(None)  # what needs a record fails here, and makes no store
        (outcome,) = self.apply(ns, [edit])
        return cast("T | None", outcome)

    def apply(
        self, ns: str, edits: Iterable[Edit[Any]], objects: Sequence[tuple[str, Digest]] = ()
    ) -> list[Model | ImgtoolError | None]:
        """Make many changes of one namespace in one step.

        Args:
            ns: the namespace.
            edits: in order; a later one sees what an earlier one leaves. They are asked for when no
                other process can change the namespace any more.
            objects: durable files of the workspace or of an ingest, and the digest of each. They
                take the place of whatever lies there. Or objects, which are to be durable by name.

        Returns:
            for each edit the record that it leaves, or its error.
        """
        from imgtool.disk import apply

        return apply.apply(self, ns, edits, objects)

    def abort(self, ns: str, ref: str) -> None:
        """See `stores.IngestManager.abort`."""
        from imgtool.disk import ingests

        ingests.abort(self, ns, ref)

    def current(self, ns: str, kind: str, name: str) -> codec.Record | None:
        """The record as the log would show it.

        Raises:
            ImgtoolError: it cannot be read, or no record has such a name.
        """
        if kind not in KINDS:
            return None
        found = self.load(KINDS[kind], ns, name)
        return None if found is None else KINDS[kind].dump(found)


def new_id() -> str:
    """A random id of 16 hexadecimal digits, for operations."""
    return os.urandom(8).hex()


def _misplaced(path: str, kind: Kind[Any], found: Any) -> DataLoss:
    return DataLoss(f"record '{path}' is of {kind.name} '{kind.key(found)}', whose file has another name")


def collect(on_error: OnError, load: Callable[[str], R | None], arg: str) -> R | None:
    """`load(arg)`; an unreadable record goes to `on_error`."""
    try:
        return load(arg)
    except DataLoss as error:
        if on_error is None:
            raise
        on_error(error)
        return None
