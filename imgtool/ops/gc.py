"""Garbage: what no root reaches any more, and removing it. What reaches what, `ops.mark` says.

Whatever cannot be read might be what something hangs on: then nothing at all is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from imgtool.digest import Digest
from imgtool.ops.documents import Documents
from imgtool.ops.mark import Space, spaces
from imgtool.stores import Garbage, Store


def find(store: Store, *, without: Collection[tuple[str, str]] = ()) -> Garbage:
    """What a gc of `store`, as it is now, removes. Takes no lock and writes nothing.

    Args:
        store: what to look at.
        without: namespace and name of images that are to count as deleted.

    Raises:
        DataLoss: a record, or a manifest that a root reaches, cannot be read; content is recorded
            whose object is missing or has another size.
    """
    return _look(store, Documents(store.settings.follow), without).garbage


def collect(store: Store, *, dry_run: bool = False) -> Garbage:
    """Remove the garbage of `store`, and return it: only what is garbage still when no other command
    can change the store. Where there is none, nothing is written but that a gc has looked, and
    nothing waited for.

    Args:
        dry_run: return what `find` does, and remove nothing.

    Raises:
        DataLoss: as `find`; nothing was removed.
        Unavailable: others do not stop changing the store; nothing was removed.
    """
    documents = Documents(store.settings.follow)
    with _no_cycles(), store.remembering(keep=not dry_run):
        documents.recall(store)
        looked = store.looking()
        found = _look(store, documents)
        if dry_run:
            return found.garbage
        if any(found.garbage):
            with store.removing(about=_count(found.garbage)) as remove:
                found = _look(store, documents, before=found)
                remove(found.garbage)
        else:
            looked()
    documents.keep(store)
    return found.garbage


@contextmanager
def _no_cycles() -> Iterator[None]:
    """What is read here has no cycles, and there may be much of it. Python's own collector would go
    through it again and again to find that out: a third of the time.
    """
    import gc

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Look(NamedTuple):
    """What was seen, and what of it is garbage."""

    spaces: Sequence[Space]
    objects: Mapping[Digest, int]
    garbage: Garbage


def _look(
    store: Store,
    documents: Documents,
    without: Collection[tuple[str, str]] = (),
    before: _Look | None = None,
) -> _Look:
    """
    Args:
        before: an earlier look at the same; if nothing is different, its answer still holds.
    """
    found = spaces(store, documents=documents, without=without)
    objects = dict(store.objects())
    for space in found:
        space.recorded.compare(objects)
    litter = store.litter(frozenset((space.name, ref) for space in found for ref in space.held))
    if before and objects == before.objects and _agree(found, before.spaces):
        return before._replace(garbage=before.garbage._replace(litter=litter))
    return _Look(found, objects, _garbage(found, objects)._replace(litter=litter))


def _agree(some: Sequence[Space], others: Sequence[Space]) -> bool:
    return len(some) == len(others) and all(a.agree(b) for a, b in zip(some, others, strict=True))


def _garbage(found: Sequence[Space], objects: Mapping[Digest, int]) -> Garbage:
    """All of it but the litter."""
    gone: AbstractSet[Digest] = objects.keys()
    content: dict[str, list[Digest]] = {}
    for space in found:
        dead = space.dead()
        recorded = space.recorded.sizes.keys()
        gone = gone - space.expected() - (recorded - dead if dead else recorded)
        if dead:
            ordered = [digest for digest in space.recorded.sizes if digest in dead]
            content[space.name] = _referrers_first(ordered, partial(_refers_to, space))
    return Garbage(
        content=content,
        leases={space.name: space.expired_leases for space in found if space.expired_leases},
        objects={digest: size for digest, size in objects.items() if digest in gone} if gone else {},
        litter=(),
        images={space.name: names for space in found if (names := space.dead_images())},
    )


def _count(garbage: Garbage) -> int:
    """Of records and objects."""
    return len(garbage.objects) + sum(map(len, garbage.content.values()))


def _refers_to(space: Space, digest: str) -> Iterator[str]:
    yield from space.recorded.parts(digest)
    yield from space.recorded.subjects(digest)


def _referrers_first(digests: list[Digest], references: Callable[[str], Iterable[str]]) -> list[Digest]:
    """`digests` so that each comes before those of them that it refers to; a cycle is cut somewhere."""
    order: list[Digest] = []
    unseen: dict[str, Digest] = {digest: digest for digest in digests}
    for start in reversed(digests):
        stack: list[tuple[Digest, Iterator[str]]] = []
        following = unseen.pop(start, None)
        while stack or following is not None:
            if following is not None:
                stack.append((following, iter(references(following))))
            following = next((unseen.pop(name) for name in stack[-1][1] if name in unseen), None)
            if following is None:
                order.append(stack.pop()[0])
    return order[::-1]
