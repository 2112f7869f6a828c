"""What `stores.NamespaceStore` promises, by every store."""

from __future__ import annotations

import pytest

from imgtool.errors import AlreadyExists, FailedPrecondition, ImgtoolError, InvalidArgument, NotFound
from imgtool.model import Lease, Namespace
from imgtool.stores import Store

from .things import add, begin, each_raises, image, ticking, unchanged

GOOD = ["a", "A1", "k8s.io", "a_b-c.d", "9", "a" * 76]
BAD = [
    "",
    ".",
    "..",
    "a/b",
    "../a",
    "a..b",
    "a--b",
    ".a",
    "a.",
    "-a",
    "a-",
    "a b",
    "a\n",
    "é",
    "²",
    "a" * 77,
    "a\0b",
]


@pytest.mark.parametrize("name", GOOD)
def test_an_identifier_is_a_namespace(store: Store, name: str) -> None:
    """1 to 76 bytes, alphanumeric runs joined by one of `.`, `_`, `-`."""
    with ticking() as times:
        made = store.namespaces.create(Namespace(name, {"k": "v", "gone": ""}, created=5))
    assert store.namespaces.get(name) == made
    assert (made.name, made.labels) == (name, {"k": "v"})
    assert times[0] <= made.created <= times[1]


@pytest.mark.parametrize("name", BAD)
def test_nothing_else_is(store: Store, name: str) -> None:
    """It becomes a directory; a trailing newline is Python's trap."""
    each_raises(
        InvalidArgument,
        lambda: store.namespaces.create(Namespace(name)),
        lambda: store.namespaces.get(name),
        lambda: store.namespaces.update(Namespace(name)),
        lambda: store.namespaces.delete(name),
    )
    assert list(store.namespaces.list()) == []


def test_labels_of_more_than_4096_bytes_are_refused(store: Store) -> None:
    """The rule for all labels that containerd checks."""
    bad = Namespace("a", {"k": "v" * 4096})
    with pytest.raises(InvalidArgument):
        store.namespaces.create(bad)
    with pytest.raises(InvalidArgument):
        store.namespaces.update(bad)
    assert list(store.namespaces.list()) == []


def test_create_over_a_namespace_fails(store: Store) -> None:
    """Also over one that came into being by use."""
    store.namespaces.create(Namespace("a", {"k": "v"}))
    store.images("b").create(image("i"))
    with unchanged(store):
        for name in "ab":
            with pytest.raises(AlreadyExists):
                store.namespaces.create(Namespace(name))


def test_get_of_an_absent_namespace_is_not_found(store: Store) -> None:
    """containerd's API answers with no labels here; that is for the daemon's face to do."""
    store.namespaces.create(Namespace("a"))
    with pytest.raises(NotFound):
        store.namespaces.get("b")


def test_list_is_in_byte_order_and_filtered(store: Store) -> None:
    """Fields: name and labels."""
    for name, labels in (("b", {"k": "v"}), ("a.b", {}), ("a-b", {"k": "w"}), ("a", {}), ("B", {})):
        store.namespaces.create(Namespace(name, labels))

    def names(*filters: str) -> list[str]:
        errors: list[ImgtoolError] = []
        found = [n.name for n in store.namespaces.list(*filters, on_error=errors.append)]
        assert not errors
        return found

    assert names() == ["B", "a", "a-b", "a.b", "b"]
    assert names("labels.k") == ["a-b", "b"]
    assert names("name==a", "labels.k==v") == ["a", "b"]
    with pytest.raises(InvalidArgument, match="filters"):
        names("name=a")


def test_update_replaces_labels(store: Store) -> None:
    """All of them without paths, one by one with; the time of creation stays."""
    made = store.namespaces.create(Namespace("a", {"k": "v", "l": "w"}))
    one = store.namespaces.update(Namespace("a", {"k": "new", "m": "x"}), "labels.k")
    assert one.labels == {"k": "new", "l": "w"}
    assert store.namespaces.update(Namespace("a", {}), "labels.l").labels == {"k": "new"}
    whole = store.namespaces.update(Namespace("a", {"m": "x", "gone": ""}))
    assert whole.labels == {"m": "x"}
    assert whole.created == made.created
    assert store.namespaces.get("a") == whole
    assert store.namespaces.update(Namespace("a", {"n": "y"}), "labels").labels == {"n": "y"}


def test_update_by_any_other_path_is_refused(store: Store) -> None:
    """And changes nothing."""
    store.namespaces.create(Namespace("a", {"k": "v"}))
    for path in ("name", "", "label.k"):
        with unchanged(store), pytest.raises(InvalidArgument):
            store.namespaces.update(Namespace("a", {"k": "w"}), "labels", path)


def test_update_of_an_absent_namespace_creates_it(store: Store) -> None:
    """containerd's SetLabel does."""
    with ticking() as times:
        made = store.namespaces.update(Namespace("a", {"k": "v"}), "labels.k")
    assert made == store.namespaces.get("a")
    assert made.labels == {"k": "v"}
    assert times[0] <= made.created <= times[1]


def test_delete_of_an_absent_namespace_is_not_found(store: Store) -> None:
    """Whatever else is there."""
    store.namespaces.create(Namespace("a"))
    with unchanged(store), pytest.raises(NotFound):
        store.namespaces.delete("b")


def test_a_namespace_with_images_or_content_is_not_deleted(store: Store) -> None:
    """Each alone is enough."""
    store.images("a").create(image("i"))
    digest = add(store, b"x", "b")
    with unchanged(store, "a"), unchanged(store, "b"):
        for name in "ab":
            with pytest.raises(FailedPrecondition, match="must be empty"):
                store.namespaces.delete(name)
    store.images("a").delete("i")
    store.content("b").delete(digest)
    for name in "ab":
        store.namespaces.delete(name)
    assert list(store.namespaces.list()) == []


def test_leases_and_ingests_vanish_with_their_namespace(store: Store) -> None:
    """They do not block, and a namespace of the same name starts anew. The neighbour keeps its own."""
    for name in "ab":
        store.namespaces.create(Namespace(name, {"k": "v"}))
        store.leases(name).create(Lease("l"))
        begin(store.content(name), "ref", b"abc")
    store.namespaces.delete("a")
    with pytest.raises(NotFound):
        store.namespaces.get("a")
    assert [n.name for n in store.namespaces.list()] == ["b"]
    assert store.namespaces.create(Namespace("a")).labels == {}
    assert list(store.leases("a").list()) == []
    assert list(store.content("a").statuses()) == []
    assert store.leases("b").get("l").id == "l"
    assert store.content("b").status("ref").offset == 3


def test_every_first_record_brings_a_namespace_into_being(store: Store) -> None:
    """An image, content, a lease; and it stays when that is gone."""
    store.images("a").create(image("i"))
    add(store, b"x", "b")
    store.leases("c").create(Lease("l"))
    store.leases("c").delete("l")
    assert [n.name for n in store.namespaces.list()] == ["a", "b", "c"]
