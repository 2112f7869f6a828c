"""Where writes lie until they are committed: named ones in `ingests/<key>/`, anonymous ones in the workspace.

A named ingest is a directory with `lock` (held by flock while it is written), `ref.toml` and `data`.
Its bytes become an object when the engine renames `data` into the objects tree.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import atomic, codec, read
from imgtool.disk.engine import Engine
from imgtool.disk.layout import ingest_key, inside
from imgtool.disk.locks import open_lock, still_there, try_lock
from imgtool.disk.records import SCHEMA, Fields
from imgtool.errors import DataLoss, NotFound, PermissionDenied, Unavailable, from_oserror
from imgtool.model import IngestStatus
from imgtool.names import is_past

EXPIRES_AFTER = clock.DAY

_KEY = re.compile(r"[0-9a-f]{64}")

# Another writer that is about to close holds the lock for an instant (containerd tries as often).
_TRIES = 10


class Anonymous:
    """A file of the workspace."""

    ref = ""
    total = 0
    expires: int | None = None
    expected: Digest | None = None
    lease: str | None = None

    def __init__(self, data: str) -> None:
        self.data = data
        self.started = clock.now()

    def open(self) -> int:
        """The file, made."""
        return atomic.create(self.data)

    def release(self) -> None:
        atomic.Batch().unlink(self.data)

    def discard(self) -> None:
        self.release()


class Named:
    """An ingest, locked. Made by `open_named`."""

    def __init__(self, path: str, lock: int, ref: str) -> None:
        self._path = path
        self._lock = lock
        self.data = inside(path, "data")
        self.ref = ref
        self.total = 0
        self.started = 0
        self.expires: int | None = None
        self.expected: Digest | None = None
        self.lease: str | None = None

    def release(self) -> None:
        os.close(self._lock)

    def discard(self) -> None:
        try:
            lock = inside(self._path, "lock")
            for entry in read.entries(self._path):
                if inside(self._path, entry) != lock:
                    atomic.remove_tree(inside(self._path, entry))
            # From here on the directory may be another writer's, which is then not empty.
            batch = atomic.Batch()
            batch.unlink(lock)
            batch.rmdir(self._path)
        finally:
            os.close(self._lock)


def open_named(
    engine: Engine, ns: str, ref: str, *, size: int | None, expected: Digest | None, lease: str | None
) -> tuple[Named, int]:
    """Start or resume an ingest; returns it with its data file, which starts over where `size` is another
    than remembered.

    Raises:
        Unavailable: another process is writing it.
    """
    path = engine.layout.ingest(ns, ref)
    place = Named(path, _lock(engine, path, ref, wait=True), ref)
    try:
        before = _load(path)
        if before is None:
            place.started = clock.now()
        else:
            place.started = before["started"]
        place.total = size if size is not None else before["total"] if before else 0
        place.lease = lease if lease is not None else before["lease"] if before else None
        place.expected = expected
        place.expires = clock.wall() + EXPIRES_AFTER if place.lease is None else None
        anew = before is None or (before["total"] and place.total and before["total"] != place.total)
        fd = _open_data(place.data)
        try:
            # First, lest a crash leaves the bytes of one stream under the description of another.
            if anew:
                atomic.truncate(fd, 0)
            _save(engine, ns, place, path)
        except BaseException:
            os.close(fd)
            raise
        return place, fd
    except BaseException:
        place.release()
        raise


def status(engine: Engine, ns: str, ref: str) -> IngestStatus:
    """
    Raises:
        NotFound: no such ingest.
    """
    found = read_status(engine.layout.ingest(ns, ref))
    if found is None:
        raise not_found(ref)
    return found[1]


def statuses(engine: Engine, ns: str | None = None) -> Iterator[tuple[str, IngestStatus]]:
    """Namespace and status of each ingest, of one namespace or of all, in byte order of the refs.
    What is no ingest, or not whole yet, is left out.
    """
    found = []
    for key in read.entries(engine.layout.ingests):
        try:
            one = read_status(inside(engine.layout.ingests, key))
        except DataLoss:
            continue
        if one is not None and ns in (None, one[0]) and ingest_key(one[0], one[1].ref) == key:
            found.append(one)
    yield from sorted(found, key=lambda pair: (pair[0], pair[1].ref.encode()))


def abort(engine: Engine, ns: str, ref: str) -> None:
    """Drop an ingest.

    Raises:
        NotFound: no such ingest.
        Unavailable: another process is writing it.
    """
    path = _there(engine, ns, ref)
    Named(path, _lock(engine, path, ref, wait=True), ref).discard()
    batch = atomic.Batch()
    batch.touched(engine.layout.ingests)
    batch.sync()


def check_abort(engine: Engine, ns: str, ref: str) -> None:
    """
    Raises:
        NotFound, Unavailable: as `abort` would.
    """
    if _is_written(engine, _there(engine, ns, ref)):
        raise _busy(ref)


def abandoned(engine: Engine, held: frozenset[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Path, namespace and ref of the ingests that nobody writes and nothing keeps: past their expiry,
    held by no lease, or never begun (namespace and ref are empty then). What is there but cannot be
    read, or lies where another one belongs, is kept for fsck.

    Args:
        held: namespace and ref of those that a lease holds.
    """
    found = []
    for key in read.entries(engine.layout.ingests):
        path = inside(engine.layout.ingests, key)
        try:
            one = read_status(path)
            is_ours = _KEY.fullmatch(key) is not None and read.is_directory(path)
        except DataLoss:
            continue
        if one is None:
            ns, ref, gone = "", "", is_ours
        else:
            ns, ref = one[0], one[1].ref
            gone = (ns, ref) not in held and (one[1].expires is None or is_past(one[1].expires, clock.wall()))
            gone = gone and ingest_key(ns, ref) == key
        if gone and not _is_written(engine, path):
            found.append((path, ns, ref))
    return found


def collect(engine: Engine, ns: str, name: str) -> None:
    """Remove an abandoned ingest, unless somebody has begun to write it since.

    Args:
        ns: its namespace; empty for one that was never begun.
        name: its ref, or then its directory's name.
    """
    path = engine.layout.ingest(ns, name) if ns else inside(engine.layout.ingests, name)
    try:
        place = Named(path, _lock(engine, path, name, wait=False), name)
    except Unavailable:
        return
    now = _load(path)
    if now is None or (ns and (now["expires"] is None or is_past(now["expires"], clock.wall()))):
        place.discard()
    else:
        place.release()


def _there(engine: Engine, ns: str, ref: str) -> str:
    """
    Raises:
        NotFound: no such ingest.
    """
    path = engine.layout.ingest(ns, ref)
    if not read.is_directory(path):
        raise not_found(ref)
    return path


def _lock(engine: Engine, path: str, ref: str, *, wait: bool) -> int:
    read.is_directory(path)  # or nothing yet, but no link
    lock = inside(path, "lock")
    for attempt in range(_TRIES if wait else 1):
        if attempt:
            import random

            time.sleep(random.uniform(0, 2**attempt / 1000 * 0.5))
        fd = open_lock(lock)
        try:
            if not engine.setup.locking or (try_lock(fd) and still_there(fd, lock)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise _busy(ref)


def _is_written(engine: Engine, path: str) -> bool:
    """Whether a living process has the ingest locked."""
    if not engine.setup.locking:
        return False
    try:
        fd = os.open(inside(path, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


def _open_data(path: str) -> int:
    try:
        fd = atomic.open_or_create(path)
    except PermissionDenied:
        # A commit that failed late has made it read-only.
        atomic.make_private(path)
        fd = atomic.open_or_create(path)
    if os.fstat(fd).st_nlink == 1:
        return fd
    # An object has the same bytes: a power cut kept both names of a rename. What is written here would
    # change that.
    os.close(fd)
    atomic.remove_tree(path)
    return atomic.open_or_create(path)


def _busy(ref: str) -> Unavailable:
    return Unavailable(f"ingest '{ref}' is being written by another process")


def not_found(ref: str) -> NotFound:
    return NotFound(f"ingest '{ref}' not found")


def _save(engine: Engine, ns: str, place: Named, path: str) -> None:
    record: dict[str, Any] = {"schema": SCHEMA, "ref": place.ref, "namespace": ns}
    record["started"] = clock.format_time(place.started)
    if place.expires is not None:
        record["expires"] = clock.format_time(place.expires)
    if place.total:
        record["total"] = place.total
    if place.expected is not None:
        record["expected"] = str(place.expected)
    if place.lease is not None:
        record["lease"] = place.lease
    temporary = engine.workspace.new_path()
    atomic.write_new(temporary, codec.dump(record, f"ingest '{place.ref}'"))
    # A power cut may lose it, but not tear it.
    atomic.sync_files([temporary])
    atomic.Batch().rename(temporary, inside(path, "ref.toml"))


def _load(path: str) -> Mapping[str, Any] | None:
    """What ref.toml says; None where it is absent or cannot be read: the ingest then starts over."""
    try:
        return _load_strict(path)
    except DataLoss:
        return None


def _load_strict(path: str) -> Mapping[str, Any] | None:
    file = inside(path, "ref.toml")
    try:
        data = read.read_regular(file, codec.RECORD_MAX)
    except FileNotFoundError:
        return None
    fields = Fields(codec.load(data, file), file)
    fields.schema()
    return {
        "ref": fields.text("ref"),
        "namespace": fields.text("namespace"),
        "started": fields.time("started"),
        "expires": fields.time("expires") if fields.has("expires") else None,
        "total": fields.integer("total", 0),
        "expected": fields.digest("expected") if fields.has("expected") else None,
        "lease": fields.text("lease") if fields.has("lease") else None,
    }


def read_status(path: str) -> tuple[str, IngestStatus] | None:
    """Namespace and status of the ingest in `path`; None where it is not begun.

    Raises:
        DataLoss: it cannot be read.
    """
    found = _load_strict(path)
    if found is None:
        return None
    try:
        data = os.stat(inside(path, "data"), follow_symlinks=False)
        offset, updated = data.st_size, data.st_mtime_ns
    except FileNotFoundError:
        offset, updated = 0, found["started"]
    except OSError as error:
        raise from_oserror(error, "cannot read") from error
    return found["namespace"], IngestStatus(
        found["ref"],
        offset=offset,
        total=found["total"],
        started=found["started"],
        updated=updated,
        expires=found["expires"],
        expected=found["expected"],
    )
