"""What `stores.Store` tells of the time since the last gc, by every store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imgtool.model import ContentInfo, Lease, Namespace
from imgtool.ops import gc
from imgtool.stores import Garbage, Store

from .things import NS, OTHER, add, begin, image

NOTHING = Garbage(content={}, leases={}, objects={}, litter=[])


def deletions(store: Store) -> int:
    assert not any(happening.doubt for happening in store.since_gc())
    return sum(happening.deletes for happening in store.since_gc())


def changes(store: Store, namespace: str = NS) -> int:
    return sum(happening.namespace == namespace for happening in store.since_gc())


def look(store: Store) -> None:
    """As a gc that finds nothing."""
    store.looking()()


def test_of_a_new_store_there_is_nothing_to_tell(store: Store) -> None:
    """And a gc of it leaves no trace."""
    look(store)
    assert list(store.since_gc()) == []
    assert list(store.namespaces.list()) == []


def test_every_change_counts_until_a_gc_has_looked(store: Store) -> None:
    """Adding and replacing are no deletions."""
    digest = add(store, b"x")
    before = changes(store)
    assert before >= 2  # the namespace, too
    store.content(NS).update(ContentInfo(digest, 1, {"k": "v"}))
    store.images(NS).create(image("a"))
    store.images(NS).update(image("a"), "labels")
    store.leases(NS).create(Lease("l"))
    assert changes(store) >= before + 3
    assert deletions(store) == 0
    look(store)
    assert list(store.since_gc()) == []


def test_namespaces_are_told_apart(store: Store) -> None:
    """Each has its own changes."""
    add(store, b"x")
    assert (changes(store) > 0, changes(store, OTHER)) == (True, 0)
    add(store, b"x", OTHER)
    assert changes(store, OTHER) > 0


def delete_image(store: Store) -> None:
    store.images(NS).delete("a")


def rename_image(store: Store) -> None:
    store.images(NS).rename("a", "b")


def delete_content(store: Store) -> None:
    (info,) = store.content(NS).list()
    store.content(NS).delete(info.digest)


def unroot_content(store: Store) -> None:
    (info,) = store.content(NS).list()
    store.content(NS).update(info._replace(labels={"containerd.io/gc.rooted": "1"}))


def delete_lease(store: Store) -> None:
    store.leases(NS).delete("l")


def let_go(store: Store) -> None:
    (info,) = store.content(NS).list()
    store.leases(NS).remove("l", "content", str(info.digest))


def let_go_of_an_ingest(store: Store) -> None:
    store.leases(NS).remove("l", "ingests", "ref")


def delete_namespace(store: Store) -> None:
    store.namespaces.delete(OTHER)


@pytest.mark.parametrize(
    "delete",
    [
        delete_image,
        rename_image,
        delete_content,
        unroot_content,
        delete_lease,
        let_go,
        let_go_of_an_ingest,
        delete_namespace,
    ],
)
def test_what_may_leave_garbage_is_a_deletion(store: Store, delete: Callable[[Store], None]) -> None:
    """As containerd counts them; a namespace takes its leases along, and a rename deletes the old name.
    Content that is no root any more counts too: so a daemon deletes from its content store.
    """
    digest = add(store, b"x")
    root = {"containerd.io/gc.root.backend": "1", "other": "1"}
    store.content(NS).update(ContentInfo(digest, 1, root))
    store.content(NS).update(ContentInfo(digest, 1), "labels.other")
    store.images(NS).create(image("a"))
    store.leases(NS).create(Lease("l", resources={"content": (str(digest),), "ingests": ("ref",)}))
    store.leases(OTHER).create(Lease("l"))
    look(store)
    delete(store)
    assert deletions(store) == 1


def test_an_ingest_that_ends_is_no_deletion(store: Store) -> None:
    """Its lease lets go of it, and holds its content instead."""
    store.leases(NS).create(Lease("l"))
    look(store)
    with store.content(NS).writer("ref", lease="l") as writer:
        writer.write(b"x")
        writer.commit()
    assert "ingests" not in store.leases(NS).get("l").resources
    assert (changes(store) > 0, deletions(store)) == (True, 0)


def test_the_log_of_a_namespace_that_is_gone_still_counts(store: Store) -> None:
    """The bytes of what was deleted in it are still there."""
    digest = add(store, b"x", OTHER)
    look(store)
    store.content(OTHER).delete(digest)
    store.namespaces.delete(OTHER)
    assert deletions(store) == 1
    look(store)
    assert list(store.since_gc()) == []


def test_what_changed_after_the_look_still_counts(store: Store) -> None:
    """The gc may not have seen it; another namespace is not concerned."""
    add(store, b"x")
    add(store, b"x", OTHER)
    looked = store.looking()
    store.images(NS).create(image("a"))
    looked()
    assert (changes(store) > 0, changes(store, OTHER)) == (True, 0)


def test_removing_ends_with_nothing_to_tell(store: Store) -> None:
    """Also where nothing was left to remove: changes are shut out while it looks again."""
    add(store, b"x")
    with store.removing() as remove:
        remove(NOTHING)
    assert list(store.since_gc()) == []


def test_after_a_gc_nothing_is_told_whatever_it_found(store: Store) -> None:
    """Else `gc --auto` would run for ever after a deletion that freed nothing."""
    digest = add(store, b"x")
    begin(store.content(NS), "ref")
    store.namespaces.create(Namespace(OTHER))
    gc.collect(store, dry_run=True)
    assert changes(store) > 0
    gc.collect(store)
    assert list(store.since_gc()) == []
    store.images(NS).create(image("a"))
    store.images(NS).delete("a")
    gc.collect(store)
    assert list(store.since_gc()) == []
    assert digest not in {info.digest for info in store.content(NS).list()}
