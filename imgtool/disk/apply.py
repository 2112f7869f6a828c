"""How records and objects change: the protocol of imgtool-store(5), "Writing".

Objects durable, then content records and leases, then images; the log before the records; all
under the store's shared lock and the namespace's own, so that neither gc nor another writer comes
between the look and the change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import atomic, codec, log
from imgtool.disk.engine import NAMESPACE, Edit, Engine, Kind, Model, new_id
from imgtool.disk.layout import parent
from imgtool.errors import AlreadyExists, DataLoss, ImgtoolError, ResourceExhausted
from imgtool.model import Namespace
from imgtool.names import check_namespace

# Each durable before the next is begun; a record never names what is not there yet.
_PHASES = (("namespace",), ("content", "lease"), ("image",))


class Change(NamedTuple):
    """A record that is to become another one, to appear or to go."""

    kind: Kind[Any]
    name: str
    old: Any
    new: Any
    data: bytes | None = None  # the bytes of `new`, where it is another than `old`
    damaged: bool = False  # there is a file, and it cannot be read


def apply(
    engine: Engine, ns: str, edits: Iterable[Edit[Any]], objects: Sequence[tuple[str, Digest]]
) -> list[Model | ImgtoolError | None]:
    """See `Engine.apply`."""
    check_namespace(ns)
    engine.ready()
    with engine.locks.changing(ns) as held:
        outcomes, changes = judge(engine, ns, edits)
        if changes or objects:
            with held.writing():
                _publish(engine, ns, changes, objects)
    return outcomes


# Judging


def judge(
    engine: Engine, ns: str, edits: Iterable[Edit[Any]]
) -> tuple[list[Model | ImgtoolError | None], list[Change]]:
    """The outcome of each of `edits`, as `Engine.apply` returns it, and what must be written for that."""
    changes: dict[tuple[str, str], Change] = {}
    outcomes: list[Model | ImgtoolError | None] = []
    for edit in edits:
        key = edit.kind.name, edit.name
        try:
            change = changes.get(key) or _unchanged(engine, ns, edit)
            # Encoded here: what the reader would refuse is refused before anything is changed.
            changes[key] = change = _changed(change, edit.change(change.new))
        except ImgtoolError as error:
            if not edit.alone:
                raise
            outcomes.append(error)
        else:
            outcomes.append(change.new)
    pending = [change for change in changes.values() if change.old != change.new or change.damaged]
    _with_namespace(engine, ns, pending)
    return outcomes, pending


def _unchanged(engine: Engine, ns: str, edit: Edit[Any]) -> Change:
    damaged = False
    try:
        old = engine.load(edit.kind, ns, edit.name)
    except DataLoss:
        if not edit.heals:
            raise
        old, damaged = None, True
    return Change(edit.kind, edit.name, old, old, damaged=damaged)


def _changed(change: Change, new: Any) -> Change:
    if new is None or new == change.old:
        return change._replace(new=new, data=None)
    data = codec.dump(change.kind.dump(new), f"{change.kind.name} '{change.name[:80]}'")
    return change._replace(new=new, data=data)


def _with_namespace(engine: Engine, ns: str, changes: list[Change]) -> None:
    """A namespace comes into being with its first record."""
    adds = any(change.new is not None and change.kind is not NAMESPACE for change in changes)
    if adds and engine.load(NAMESPACE, ns, ns) is None:
        absent = Change(NAMESPACE, ns, None, None)
        changes.insert(0, _changed(absent, Namespace(ns, created=clock.now())))


# Writing


def _publish(
    engine: Engine, ns: str, changes: Sequence[Change], objects: Sequence[tuple[str, Digest]]
) -> None:
    batch = atomic.Batch()
    for source, digest in objects:
        path = engine.layout.object(digest)
        _mkdirs(engine, batch, parent(path))
        if source != path:
            batch.rename(source, path)
    batch.sync()
    if not changes:
        return
    if any(change.kind is NAMESPACE and change.old is None for change in changes):
        _mkdirs(engine, batch, engine.layout.namespace(ns))
    _log(engine, ns, changes)
    for phase in _PHASES:
        _add(engine, ns, batch, [c for c in changes if c.new is not None and c.kind.name in phase])
    for phase in reversed(_PHASES):
        _remove(engine, ns, batch, [c for c in changes if c.new is None and c.kind.name in phase])


def _mkdirs(engine: Engine, batch: atomic.Batch, directory: str) -> None:
    """Make a directory that changes of any namespace may make. It is synced with all above it, even
    if it is there: who made it a moment ago may not have come to that yet.
    """
    batch.mkdirs(directory)
    while directory != engine.layout.root:
        directory = parent(directory)
        batch.touched(directory)


def _add(engine: Engine, ns: str, batch: atomic.Batch, changes: Sequence[Change]) -> None:
    sources = [engine.workspace.new_path() for _ in changes]
    for source, change in zip(sources, changes, strict=True):
        atomic.write_new(source, change.data or b"")
    atomic.sync_files(sources)
    directories: dict[str, None] = {}
    for source, change in zip(sources, changes, strict=True):
        path = change.kind.path(engine.layout, ns, change.name)
        directories[parent(path)] = None
        batch.mkdirs(parent(path))
        if change.old is not None or change.damaged:
            batch.rename(source, path)
            continue
        try:
            batch.link(source, path)
        except FileExistsError:
            raise AlreadyExists(f"{change.kind.name} '{change.name}' already exists") from None
    _settle(batch, directories)


def _remove(engine: Engine, ns: str, batch: atomic.Batch, changes: Sequence[Change]) -> None:
    paths = [change.kind.path(engine.layout, ns, change.name) for change in changes]
    for path in paths:
        batch.unlink(path)
    _settle(batch, dict.fromkeys(map(parent, paths)))


def _settle(batch: atomic.Batch, directories: Iterable[str]) -> None:
    """Stamp the directories that have changed, and make the changes durable."""
    for directory in directories:
        if os.path.isdir(directory):
            atomic.stamp(directory, clock.wall())
    batch.sync()


def _log(engine: Engine, ns: str, changes: Sequence[Change]) -> None:
    path = engine.layout.log(ns)
    lines: list[log.Change] = [
        (c.kind.name, c.name, c.old and c.kind.dump(c.old), c.new and c.kind.dump(c.new)) for c in changes
    ]
    try:
        log.append(path, new_id(), clock.now(), lines, partial(engine.current, ns))
    except ResourceExhausted as error:
        if any(change.new is not None for change in changes):
            raise
        # Removing is the way out of a full disk.
        log.mark_gap(path)
        engine.warn(f"removed without a line in the log: {error.message}")
