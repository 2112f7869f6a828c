"""Removing: the files of garbage, under the store's exclusive lock. Which it is, `imgtool.ops.gc` says."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from imgtool import clock
from imgtool.digest import Digest
from imgtool.disk import atomic, gc_log, ingests, log, read, scan
from imgtool.disk.engine import Engine, new_id
from imgtool.disk.freeing import Freeing
from imgtool.disk.layout import SUFFIX, base, inside, parent
from imgtool.errors import ImgtoolError, ResourceExhausted
from imgtool.stores import Garbage, Litter


def objects(engine: Engine) -> Iterator[tuple[Digest, int]]:
    """See `stores.Store.objects`. What is not named as an object is left out; fsck reports it."""
    return scan.objects(engine.layout.objects, engine.directories)


def litter(engine: Engine, held: frozenset[tuple[str, str]]) -> Sequence[Litter]:
    """See `stores.Store.litter`."""
    if not engine.exists():
        return []  # somebody may be making the store, or died of it; whoever makes it does so again
    found = []
    for path, ns, ref in ingests.abandoned(engine, held):
        found.append(Litter("ingest", ns, ref or os.path.basename(path), _size(path)))
    layout = engine.layout
    for name in engine.workspace.abandoned():
        found.append(Litter("temporary", "", name, _size(inside(layout.tmp, name))))
    return found


@contextmanager
def removing(engine: Engine, about: int) -> Iterator[Callable[[Garbage], None]]:
    """See `stores.Store.removing`."""
    engine.ready()
    batch = atomic.Batch()
    if about >= atomic.SYNCFS_FROM:
        atomic.sync_all(engine.layout.root)
    freeing = Freeing(engine.layout.root)
    try:
        with engine.locks.removing() as held:

            def remove(garbage: Garbage) -> None:
                with held.writing():
                    _remove(engine, garbage, batch, freeing)
                    gc_log.ended(engine)

            yield remove
        # For this nobody need wait: an object that a power cut brings back is garbage.
        batch.sync()
    finally:
        freeing.begin()
        engine.at_end(freeing.wait)


def _remove(engine: Engine, garbage: Garbage, batch: atomic.Batch, freeing: Freeing) -> None:
    """Remove it; that the objects are gone is durable with the next sync of `batch`."""
    layout = engine.layout
    # A power cut must not bring back a record that somebody removed and did not live to sync, once
    # what it names is gone.
    for ns in read.entries(layout.namespaces):
        for directory in (layout.namespace(ns), layout.images(ns), layout.leases(ns)):
            batch.touched(directory)
        for digest in garbage.objects.keys() - set(garbage.content.get(ns, ())):
            batch.touched(_nearest(parent(layout.content_record(ns, digest))))
    batch.sync()
    for ns, names in garbage.images.items():
        _remove_images(engine, ns, names)
    for ns in sorted({*garbage.content, *garbage.leases}):
        _log(engine, ns, garbage)
        for id in garbage.leases.get(ns, ()):
            batch.unlink(layout.lease(ns, id))
        records = [layout.content_record(ns, digest) for digest in garbage.content.get(ns, ())]
        _unlink(engine, batch, freeing, records)
    batch.sync()
    _unlink(engine, batch, freeing, [layout.object(digest) for digest in garbage.objects])
    for item in garbage.litter:
        if item.kind == "ingest":
            ingests.collect(engine, item.namespace, item.name)
        else:
            engine.workspace.collect(item.name)


def _remove_images(engine: Engine, ns: str, names: Sequence[str]) -> None:
    """Delete images as their owner would: lines in the log, then the records, durable."""
    layout, batch = engine.layout, atomic.Batch()
    found = [(name, engine.current(ns, "image", name)) for name in names]
    changes: list[log.Change] = [("image", name, old, None) for name, old in found if old is not None]
    if not changes:
        return
    try:
        log.append(layout.log(ns), new_id(), clock.now(), changes, partial(engine.current, ns))
    except ResourceExhausted as error:
        log.mark_gap(layout.log(ns))
        engine.warn(f"removed without a line in the log: {error.message}")
    for _, name, _, _ in changes:
        batch.unlink(layout.image(ns, name))
    atomic.stamp(layout.images(ns), clock.wall())
    batch.sync()


def _nearest(directory: str) -> str:
    """`directory`, or what is left of the path to it."""
    while not os.path.isdir(directory):
        directory = parent(directory)
    return directory


def _unlink(engine: Engine, batch: atomic.Batch, freeing: Freeing, paths: Sequence[str]) -> None:
    """Remove files of the fan-out, and the directories above them if nothing is left there."""
    gone: dict[str, set[str]] = {}
    for path in paths:
        gone.setdefault(parent(path), set()).add(base(path).removesuffix(SUFFIX))
    memory = engine.directories
    unchanged = memory.unchanged(gone) if memory else set()
    for path in paths:
        freeing.hold(path)
        batch.unlink(path)
    for directory, rests in gone.items():
        if memory and directory in unchanged and memory.count(directory) > len(rests):
            # What is left is known, and need not be read again by the next gc.
            with suppress(ImgtoolError):
                atomic.stamp(directory, clock.wall())
                memory.removed(directory, rests)
        elif batch.rmdir(directory):
            batch.rmdir(parent(directory))


def _log(engine: Engine, ns: str, garbage: Garbage) -> None:
    removed = {
        "content": [str(digest) for digest in garbage.content.get(ns, ())],
        "leases": list(garbage.leases.get(ns, ())),
    }
    try:
        path = engine.layout.log(ns)
        log.append_gc(path, new_id(), clock.now(), removed, partial(engine.current, ns))
    except ResourceExhausted as error:
        log.mark_gap(engine.layout.log(ns))
        engine.warn(f"gc goes on without a line in the log: {error.message}")


def _size(path: str) -> int:
    """Bytes in a file, or in the files of a directory; of what vanishes meanwhile, none."""
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size
        return sum(_size(inside(path, name)) for name in os.listdir(path))
    except OSError:
        return 0
