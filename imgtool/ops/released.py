"""What let go of garbage, and when: from the history, from what has expired, else from its record.

The history says what a record was and what it became. A change let go of content if what the record said
before leads there, through what is still recorded, and what it says afterwards does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from imgtool.digest import Digest
from imgtool.errors import NotFound
from imgtool.model import EMPTY, ContentInfo, Image, Lease, Namespace
from imgtool.names import expiry
from imgtool.ops.documents import UNKNOWN
from imgtool.ops.labels import BACK, BACK_IMAGE, FLAT_LABEL, IMAGE, REF, REF_IMAGE, ROOT, labelled, referred
from imgtool.ops.mark import FLAT, FLAT_IMAGE, Node, Space
from imgtool.stores import Entry, Store

_Record = Image | ContentInfo | Lease
_RECORDED = "recorded, and nothing has led to it since"


class Released(NamedTuple):
    """What let go, for a person; and when, in nanoseconds since the epoch, if anything tells."""

    by: str
    time: int | None


def of_content(store: Store, space: Space, digest: Digest) -> Released:
    """The last change after which nothing kept `digest`, which is garbage in `space`."""
    above = _above(space, digest)
    told = _from_history(store, space.name, digest, above)
    recorded = Released(_RECORDED, store.content(space.name).info(digest).created)
    return max([*_expired(store, space, above), *(told or [recorded])], key=_when)


def of_object(store: Store, namespaces: Iterable[str], digest: Digest) -> Released:
    """The last time that a record of `digest`, which no namespace has any more, was removed."""
    last = Released("no namespace has a record of it", None)
    for namespace in namespaces:
        for entry in store.history(namespace):
            if entry.kind == "content" and entry.name == digest and entry.new is None:
                gone = Released(f"its record in namespace '{namespace}' removed", entry.time)
                last = max(gone, last, key=_when)
                break
    return last


def _from_history(store: Store, namespace: str, digest: Digest, above: set[Node]) -> list[Released]:
    """The last change that let go, or the making of the record if that came later; before it each lease
    that a later gc has removed: of those there are the ids, and what they held further back.
    """
    told: list[Released] = []
    removed: dict[str, int] = {}
    change: Released | None = None
    for entry in store.history(namespace):
        new = entry.new
        if entry.by_gc:
            if change is None and entry.kind == "lease":
                removed.setdefault(entry.name, entry.time)
            continue
        if isinstance(new, Lease) and new.id in removed:
            time = removed.pop(new.id)
            told += [_gone(new, time)] if above & _leads_to(new) else []
        if change is None:
            change = _let_go(entry, digest, above)
        if change and not removed:
            break
    return [*told, change] if change else told


def _let_go(entry: Entry, digest: Digest, above: set[Node]) -> Released | None:
    """What an entry tells, if it is about the end, or the beginning, of `digest`."""
    old, new, time = entry.old, entry.new, entry.time
    if isinstance(old, Namespace) or isinstance(new, Namespace):
        return None
    if old is None:
        begins = isinstance(new, ContentInfo) and new.digest == digest
        return Released(_RECORDED, time) if begins else None
    if not above & _leads_to(old) or (new and above & _leads_to(new)):
        return None
    return _gone(old, time) if new is None else Released(_change(old, new), time)


def _when(gone: Released) -> int:
    return gone.time or 0


def _above(space: Space, digest: Digest) -> set[Node]:
    """What would keep `digest` if it were reached: itself, and what leads to it and nothing follows."""
    parents: dict[str, list[str]] = {}
    for parent in space.recorded.sizes.keys() - space.followed():
        for part in space.recorded.parts(parent):
            parents.setdefault(part, []).append(parent)
    found: set[Node] = {(digest, FLAT)}
    todo: list[Node] = [(digest, UNKNOWN)]
    while todo:
        node = todo.pop()
        if node in found:
            continue
        found.add(node)
        name, kind = node
        todo += ((above, UNKNOWN) for above in parents.get(name, ()))
        if kind != IMAGE and name in space.recorded.sizes:
            todo += ((subject, UNKNOWN) for subject in space.recorded.subjects(name))
            todo += (
                (image, IMAGE)
                for _, image in labelled(space.recorded.labels.get(Digest(name), EMPTY), BACK_IMAGE)
            )
    return found


def _leads_to(record: _Record) -> set[Node]:
    """What a record leads to by what it says; itself, if it is a root or lives with something."""
    if isinstance(record, Lease):
        flat = FLAT_LABEL in record.labels
        held = {(name, FLAT if flat else UNKNOWN) for name in record.resources.get("content", ())}
        return held | {(name, FLAT_IMAGE if flat else IMAGE) for name in record.resources.get("images", ())}
    found = {node for _, node in referred(record.labels, REF, REF_IMAGE)}
    if isinstance(record, Image):
        return found | {(record.name, IMAGE), (record.target.digest, UNKNOWN)}
    if any(any(labelled(record.labels, key)) for key in (ROOT, BACK, BACK_IMAGE)):
        found.add((record.digest, UNKNOWN))
    return found


def _expired(store: Store, space: Space, above: set[Node]) -> Iterator[Released]:
    """What led there, and is still there though its time is up. Before it was made, it kept nothing. Of what
    another gc has removed meanwhile the history tells.
    """
    images, leases = store.images(space.name), store.leases(space.name)
    looks: list[Callable[[], Image | Lease]] = [
        *(partial(images.get, name) for name, target in space.images.items() if target.labels),
        *(partial(leases.get, id) for id in space.expired_leases),
    ]
    for look in looks:
        with suppress(NotFound):
            record = look()
            if above & _leads_to(record):
                yield _gone(record, max(_until(record) or 0, record.created))
    for status in store.content(space.name).statuses():
        if status.expires is not None and status.expected and (status.expected, UNKNOWN) in above:
            yield Released(f"ingest '{status.ref}' expired", status.expires)


def _gone(record: _Record, time: int) -> Released:
    """A record that is no more, or no root any more, since `time` at the latest."""
    until = _until(record)
    if until is not None and until <= time:
        return Released(f"{_called(record)} expired", max(until, record.created))
    return Released(f"{_called(record)} {'removed' if isinstance(record, ContentInfo) else 'deleted'}", time)


def _change(old: _Record, new: _Record) -> str:
    """What was changed that let go, from `old` to `new`."""
    if isinstance(old, Image) and isinstance(new, Image) and old.target.digest != new.target.digest:
        return f"{_called(old)} given another target"
    if isinstance(old, Lease) and isinstance(new, Lease) and old.resources != new.resources:
        return f"resource removed from {_called(old)}"
    keys = [key for key, value in old.labels.items() if new.labels.get(key) != value]
    keys += [key for key in new.labels if key not in old.labels]
    return f"label '{keys[0]}' of {_called(old)} changed" if keys else f"{_called(old)} changed"


def _called(record: _Record) -> str:
    if isinstance(record, Lease):
        return f"lease '{record.id}'"
    return f"image '{record.name}'" if isinstance(record, Image) else f"content '{record.digest}'"


def _until(record: _Record) -> int | None:
    """When an image or lease expires."""
    return None if isinstance(record, ContentInfo) else expiry(record.labels)
