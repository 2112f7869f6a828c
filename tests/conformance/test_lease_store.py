"""What `stores.LeaseStore` promises, by every store."""

from __future__ import annotations

import pytest

from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, InvalidArgument, NotFound
from imgtool.model import Lease, replace
from imgtool.names import EXPIRE
from imgtool.stores import LeaseStore, Store

from .things import ABSENT, NS, OTHER, add, begin, each_raises, each_way_to_be_no_name, ticking, unchanged


def held(lease: Lease) -> dict[str, set[str]]:
    """What a lease holds, by type; none twice, no type for nothing."""
    for ids in lease.resources.values():
        assert len(ids) == len(set(ids)) > 0
    return {type: set(ids) for type, ids in lease.resources.items()}


def test_a_lease_reads_back_as_it_was_created(leases: LeaseStore) -> None:
    """Its time is set here; an empty label is none."""
    with ticking() as times:
        made = leases.create(
            Lease("l", {"k": "v", "gone": ""}, {"content": (ABSENT,), "ingests": ("r",)}, created=5)
        )
    assert leases.get("l") == made
    assert (made.id, made.labels) == ("l", {"k": "v"})
    assert held(made) == {"content": {ABSENT}, "ingests": {"r"}}
    assert times[0] <= made.created <= times[1]


@pytest.mark.parametrize("id", ["a/b", "../x", "a b", ".", "é", "x" * 5000])
def test_an_id_is_any_text(leases: LeaseStore, id: str) -> None:
    """containerd checks none; clients make them of times and random numbers."""
    leases.create(Lease(id))
    assert [lease.id for lease in leases.list()] == [id]
    leases.delete(id)
    assert list(leases.list()) == []


@each_way_to_be_no_name
def test_what_cannot_be_an_id_is_refused(store: Store, leases: LeaseStore, name: str) -> None:
    """In every call."""
    leases.create(Lease("l"))
    with unchanged(store):
        each_raises(
            InvalidArgument,
            lambda: leases.create(Lease(name)),
            lambda: leases.get(name),
            lambda: leases.update(Lease(name)),
            lambda: leases.delete(name),
            lambda: leases.add(name, "content", ABSENT),
            lambda: leases.remove(name, "content", ABSENT),
        )


def test_create_over_a_lease_fails(store: Store, leases: LeaseStore) -> None:
    """And leaves it as it is."""
    leases.create(Lease("l", {"k": "v"}))
    with unchanged(store), pytest.raises(AlreadyExists):
        leases.create(Lease("l"))


def test_labels_are_text_of_any_length(store: Store, leases: LeaseStore) -> None:
    """containerd looks at those of leases not at all; a record holds text without NUL."""
    long = {"k": "v" * 5000}
    assert leases.create(Lease("l", long)).labels == long
    assert leases.update(Lease("l", {"l": "w" * 5000}), "labels.l").labels == {**long, "l": "w" * 5000}
    with unchanged(store):
        each_raises(
            InvalidArgument,
            lambda: leases.create(Lease("m", {"k": "\udcff"})),
            lambda: leases.create(Lease("m", {"a\0b": "v"})),
            lambda: leases.update(Lease("l", {"k": "\udcff"})),
            lambda: leases.update(Lease("l", {"a\0b": "v"})),
        )


def test_an_absent_lease_is_not_found(store: Store, leases: LeaseStore) -> None:
    """By any call; no call but create makes one."""
    leases.create(Lease("other"))
    with unchanged(store):
        each_raises(
            NotFound,
            lambda: leases.get("l"),
            lambda: leases.update(Lease("l", {"k": "v"})),
            lambda: leases.delete("l"),
            lambda: leases.add("l", "content", ABSENT),
            lambda: leases.remove("l", "content", ABSENT),
        )


def test_namespaces_do_not_see_each_others_leases(store: Store) -> None:
    """A lease protects within its namespace."""
    store.leases(NS).create(Lease("l", {"k": "v"}))
    assert list(store.leases(OTHER).list()) == []
    with pytest.raises(NotFound):
        store.leases(OTHER).delete("l")
    assert store.leases(OTHER).create(Lease("l")).labels == {}


def test_list_is_in_byte_order_and_filtered(leases: LeaseStore) -> None:
    """Fields: id and labels."""
    for id, labels in (("b", {"k": "v"}), ("a/b", {}), ("a-b", {"k": "w"}), ("a", {}), ("B", {})):
        leases.create(Lease(id, labels))

    def ids(*filters: str) -> list[str]:
        return [lease.id for lease in leases.list(*filters)]

    assert ids() == ["B", "a", "a-b", "a/b", "b"]
    assert ids("labels.k") == ["a-b", "b"]
    assert ids("id==a", "labels.k==v") == ["a", "b"]
    with pytest.raises(InvalidArgument, match="filters"):
        ids("id=a")


def test_update_replaces_labels_and_nothing_else(leases: LeaseStore) -> None:
    """Paths as everywhere; what the lease holds stays."""
    made = leases.create(Lease("l", {"k": "v", "l": "w"}, {"content": (ABSENT,)}))
    assert leases.update(Lease("l", {"k": "new", "m": "x"}), "labels.k").labels == {"k": "new", "l": "w"}
    assert leases.update(Lease("l", {"k": ""}), "labels.k").labels == {"l": "w"}
    whole = leases.update(Lease("l", {"m": "x"}, {"content": ()}))
    assert whole == leases.get("l")
    assert (whole.labels, whole.resources, whole.created) == ({"m": "x"}, made.resources, made.created)


def test_update_by_any_other_path_is_refused(store: Store, leases: LeaseStore) -> None:
    """And changes nothing."""
    leases.create(Lease("l", {"k": "v"}))
    for path in ("id", "", "resources"):
        with unchanged(store), pytest.raises(InvalidArgument):
            leases.update(Lease("l", {"k": "w"}), "labels", path)


def test_resources_are_added_and_let_go_one_by_one(leases: LeaseStore) -> None:
    """They need not exist; adding again and letting go of what is not held change nothing."""
    a, b, c = (Digest.of(data) for data in (b"a", b"b", b"c"))
    leases.create(Lease("l", {"k": "v"}))
    leases.add("l", "content", a, b)
    leases.add("l", "content", b, c, c)
    leases.add("l", "content")
    leases.add("l", "ingests", "a")
    leases.add("l", "images", "a")
    leases.add("l", "snapshots/overlayfs", "s")
    assert held(leases.get("l")) == {
        "content": {a, b, c},
        "ingests": {"a"},
        "images": {"a"},
        "snapshots/overlayfs": {"s"},
    }
    leases.remove("l", "content", a, "none")
    leases.remove("l", "none", "a")
    leases.remove("l", "images", "a")
    leases.remove("l", "snapshots/overlayfs", "s")
    assert held(leases.get("l")) == {"content": {b, c}, "ingests": {"a"}}
    assert leases.get("l").labels == {"k": "v"}


@pytest.mark.parametrize(
    ("type", "id"),
    [
        ("content", "a"),
        ("content", ABSENT[:-1]),
        ("content", "\udcff"),
        ("ingests", ""),
        ("ingests", "\udcff"),
        ("images", ""),
        ("snapshots/overlayfs", ""),
        ("content/a", ABSENT),
        ("ingests/a", "a"),
        ("images/", "a"),
        ("snapshots", "s"),
        ("snapshots/", "s"),
        ("snapshots/overlayfs/a", "s"),
        ("containers", "a"),
        ("Content", ABSENT),
        ("", "a"),
        ("\udcff", "a"),
    ],
)
def test_what_no_lease_holds_is_refused(store: Store, leases: LeaseStore, type: str, id: str) -> None:
    """As by containerd, lest a client believes that it has saved something. All of a call or nothing."""
    leases.create(Lease("l"))
    with unchanged(store), pytest.raises(InvalidArgument):
        leases.add("l", type, id)
    with unchanged(store), pytest.raises(InvalidArgument):
        leases.add("l", type, ABSENT, id)


def test_resources_that_are_needed_must_be_there(store: Store, leases: LeaseStore) -> None:
    """In this namespace; of what a gc has taken meanwhile a lease would save nothing."""
    leases.create(Lease("l"))
    here, elsewhere = add(store, b"here"), add(store, b"elsewhere", OTHER)
    with unchanged(store):
        each_raises(
            NotFound,
            lambda: leases.add("l", "content", here, ABSENT, needs=[here, ABSENT]),
            lambda: leases.add("l", "content", elsewhere, needs=[elsewhere]),
            lambda: leases.add("absent", "content", here, needs=[here]),
        )
    with pytest.raises(NotFound, match=f"^content '{ABSENT}' not found in namespace '{NS}'$"):
        leases.add("l", "content", here, needs=[ABSENT])
    leases.add("l", "content", here, ABSENT, needs=[here])
    assert held(leases.get("l")) == {"content": {here, ABSENT}}


def test_resources_are_text(store: Store, leases: LeaseStore) -> None:
    """What cannot be written as UTF-8 cannot be held."""
    with unchanged(store):
        each_raises(
            InvalidArgument,
            lambda: leases.create(Lease("m", {}, {"content": ("\udcff",)})),
        )


def test_a_lease_past_its_time_is_there_until_gc(leases: LeaseStore) -> None:
    """Reading removes nothing."""
    leases.create(Lease("l", {"containerd.io/gc.expire": "2001-01-01T00:00:00Z"}))
    assert [lease.id for lease in leases.list()] == ["l"]


def test_a_lease_past_its_time_takes_nothing_more(store: Store, leases: LeaseStore) -> None:
    """The next gc removes it with what it holds. It can let go, and be given more time."""
    past = leases.create(
        Lease("l", {EXPIRE: "2001-01-01T00:00:00Z"}, {"content": (ABSENT,), "ingests": ("r",)})
    )
    with unchanged(store):
        each_raises(
            NotFound,
            lambda: leases.add("l", "content", ABSENT),
            lambda: leases.add("l", "images", "a"),
            lambda: begin(store.content(NS), "ref", lease="l"),
            lambda: begin(store.content(NS), "ref", expected=ABSENT, lease="l"),
        )
    assert list(store.content(NS).statuses()) == []
    leases.remove("l", "ingests", "r")
    leases.update(replace(past, labels={EXPIRE: "2201-01-01T00:00:00Z"}))
    leases.add("l", "images", "a")
    assert held(leases.get("l")) == {"content": {ABSENT}, "images": {"a"}}


def test_a_deleted_id_can_be_created_again(leases: LeaseStore) -> None:
    """And holds nothing of what it held."""
    leases.create(Lease("l", {"k": "v"}, {"content": ("a",)}))
    leases.delete("l")
    again = leases.create(Lease("l"))
    assert (again.labels, held(again)) == ({}, {})
