"""A dry run says what the run says, because the same code judges both; and it leaves everything as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from imgtool.digest import Digest
from imgtool.disk import DiskStore
from imgtool.errors import AlreadyExists, ImgtoolError, NotFound, Unavailable
from imgtool.model import ContentInfo, Image, Lease, Namespace
from imgtool.names import EXPIRE
from imgtool.stores import Put, Records, Store

from .test_against_a_model import Machine
from .things import ABSENT, NS, OTHER, add, begin, each_raises, image, records

X = Digest.of(b"x")
Change = Callable[[Records], object]


def each(*changes: Change) -> Change:
    """One change after the other."""
    return lambda r: [change(r) for change in changes]


def twice(change: Change) -> Change:
    return each(change, change)


EACH_CHANGE: dict[str, Change] = {
    "image-create": lambda r: r.images(NS).create(image("new", labels={"k": "v", "gone": ""})),
    "image-create-first": lambda r: r.images("new").create(image("new")),
    "image-create-taken": lambda r: r.images(NS).create(image("a")),
    "image-create-needs": lambda r: r.images(NS).create(image("new"), needs=[ABSENT]),
    "image-create-malformed": lambda r: r.images(NS).create(image("new", labels={"k": "v" * 4097})),
    "image-create-too-large": lambda r: r.images(NS).create(
        image("new", annotations={f"k{i}": "v" * 4000 for i in range(5000)})
    ),
    "image-update": lambda r: r.images(NS).update(image("a", labels={"k": "w"}), "labels"),
    "image-update-absent": lambda r: r.images(NS).update(image("none")),
    "image-update-other": lambda r: r.images(NS).update(image("a"), if_target=ABSENT),
    "image-update-needs": lambda r: r.images(NS).update(image("a"), needs=[ABSENT]),
    "image-rename": lambda r: r.images(NS).rename("a", "new"),
    "image-rename-taken": lambda r: r.images(NS).rename("a", "b"),
    "image-rename-over-its-like": lambda r: r.images(NS).rename("a", "a2"),
    "image-rename-again": lambda r: r.images(NS).rename("none", "b"),
    "image-delete": lambda r: r.images(NS).delete("a", target=X),
    "image-delete-absent": lambda r: r.images(NS).delete("none"),
    "image-delete-other": lambda r: r.images(NS).delete("a", target=ABSENT),
    "image-delete-twice": twice(lambda r: r.images(NS).delete("a")),
    "image-delete-held": lambda r: r.images(NS).delete("a", unless_held=True),
    "content-update": lambda r: r.content(NS).update(ContentInfo(X, 0, {"k": "w"}), "labels.k"),
    "content-update-absent": lambda r: r.content(NS).update(ContentInfo(ABSENT, 0)),
    "content-delete": lambda r: r.content(NS).delete(X),
    "content-delete-twice": twice(lambda r: r.content(NS).delete(X)),
    "content-delete-absent": lambda r: r.content(NS).delete(ABSENT),
    "ingest-abort": lambda r: r.content(NS).abort("ref"),
    "ingest-abort-twice": twice(lambda r: r.content(NS).abort("ref")),
    "ingest-abort-elsewhere": each(
        lambda r: r.content(NS).abort("ref"), lambda r: r.content("empty").abort("ref")
    ),
    "ingest-abort-absent": lambda r: r.content(NS).abort("none"),
    "lease-create": lambda r: r.leases(NS).create(Lease("new", {"k": "v", "gone": ""})),
    "lease-create-taken": lambda r: r.leases(NS).create(Lease("l")),
    "lease-update": lambda r: r.leases(NS).update(Lease("l", {"k": "w"}), "labels.k"),
    "lease-update-absent": lambda r: r.leases(NS).update(Lease("none")),
    "lease-add": lambda r: r.leases(NS).add("l", "content", X, needs=[X]),
    "lease-add-past": lambda r: r.leases(NS).add("past", "content", X),
    "lease-add-needs": lambda r: r.leases(NS).add("l", "content", ABSENT, needs=[ABSENT]),
    "lease-add-type": lambda r: r.leases(NS).add("l", "nothing", "x"),
    "lease-remove": lambda r: r.leases(NS).remove("l", "images", "a"),
    "lease-delete": lambda r: r.leases(NS).delete("l"),
    "lease-delete-twice": twice(lambda r: r.leases(NS).delete("l")),
    "lease-delete-absent": lambda r: r.leases(NS).delete("none"),
    "namespace-create": lambda r: r.namespaces.create(Namespace("new", {"k": "v", "gone": ""})),
    "namespace-create-taken": lambda r: r.namespaces.create(Namespace(NS)),
    "namespace-update": lambda r: r.namespaces.update(Namespace(NS, {"k": "v"})),
    "namespace-update-absent": lambda r: r.namespaces.update(Namespace("new", {"k": "v"})),
    "namespace-delete": lambda r: r.namespaces.delete("empty"),
    "namespace-delete-twice": twice(lambda r: r.namespaces.delete("empty")),
    "namespace-delete-with-its-ingests": each(
        lambda r: r.namespaces.delete("empty"), lambda r: r.content("empty").abort("ref")
    ),
    "namespace-delete-with-its-leases": each(
        lambda r: r.namespaces.delete("empty"), lambda r: r.leases("empty").get("l")
    ),
    "namespace-delete-full": lambda r: r.namespaces.delete(NS),
    "namespace-delete-absent": lambda r: r.namespaces.delete("none"),
    "publish": lambda r: r.publish(
        NS,
        puts=[
            Put(image("new", labels={EXPIRE: "2100-01-01T00:00:00Z"}), needs=frozenset([X])),
            Put(image("new")),
            Put(image("b")),
            Put(image("b"), replace=True),
            Put(image("c"), needs=frozenset([ABSENT])),
        ],
        lease="l",
    ),
    "publish-no-lease": lambda r: r.publish(NS, puts=[Put(image("new"))], lease="none"),
}


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the times in records are the same the second time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture
def full(store: Store) -> Store:
    """With something of each kind."""
    add(store, b"x", k="v")
    for name, data in (("a", b"x"), ("a2", b"x"), ("b", b"y")):
        store.images(NS).create(image(name, data, labels={"k": "v"}))
    store.leases(NS).create(Lease("l", {"k": "v"}, {"images": ("a",)}))
    store.leases(NS).create(Lease("past", {EXPIRE: "2020-01-01T00:00:00Z"}))
    store.leases("empty").create(Lease("l"))
    begin(store.content(NS), "ref", b"abc")
    begin(store.content("empty"), "ref", b"abc")
    return store


@pytest.mark.parametrize("change", EACH_CHANGE.values(), ids=EACH_CHANGE)
def test_a_dry_run_says_what_the_run_says_and_changes_nothing(full: Store, change: Change) -> None:
    """Outcomes and refusals, down to the message."""
    with nothing_happens(full):
        said = outcome(change, full.dry_run())
    assert outcome(change, full) == said


def test_changes_tried_one_after_the_other_see_each_other(full: Store) -> None:
    """What takes two steps, such as new labels and a new name, is tried in two steps."""
    with nothing_happens(full):
        tried = full.dry_run()
        tried.images(NS).update(image("a", b"new"))
        renamed = tried.images(NS).rename("a", "new", if_target=Digest.of(b"new"))
        assert renamed == tried.images(NS).get("new")
        tried.content(NS).delete(X)
        each_raises(
            NotFound,
            lambda: tried.images(NS).get("a"),
            lambda: tried.images(NS).delete("a"),
            lambda: tried.images(NS).create(image("c"), needs=[X]),
        )
        with pytest.raises(AlreadyExists):
            tried.images(NS).create(image("new"))


def test_a_dry_run_makes_no_store(store: Store) -> None:
    """Nor a namespace."""
    with nothing_happens(store):
        store.dry_run().images(NS).create(image("a"))
        store.dry_run().namespaces.create(Namespace(OTHER))
        store.dry_run().publish(NS, puts=[Put(image("a"))])
    if isinstance(store, DiskStore):
        assert not os.path.lexists(store.engine.layout.root)


def test_a_dry_run_sees_that_a_write_is_under_way(store: Store) -> None:
    """Which cannot be aborted."""
    with store.content(NS).writer("ref") as writer:
        writer.write(b"abc")
        with pytest.raises(Unavailable):
            store.dry_run().content(NS).abort("ref")
    store.dry_run().content(NS).abort("ref")
    assert store.content(NS).status("ref").offset == 3


def test_random_changes_are_told_before_they_are_made(make_store: Callable[[], Store]) -> None:
    """Whatever order, and whatever state that leads to."""

    class Asking(Machine):
        def __init__(self) -> None:
            super().__init__(cast(Store, Asked(make_store())))

    run_state_machine_as_test(
        Asking,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )


class Asked:
    """A store, or one of its parts, of which each change is tried first."""

    _PARTS = ("images", "content", "leases")
    _CHANGES = ("create", "update", "rename", "delete", "abort")

    def __init__(self, store: Store, part: Callable[[Any], Any] = lambda store: store) -> None:
        self._store = store
        self._part = part

    def __getattr__(self, name: str) -> Any:
        if name == "namespaces":
            return Asked(self._store, lambda store: store.namespaces)
        if name in self._PARTS:
            return lambda namespace: Asked(self._store, lambda store: getattr(store, name)(namespace))
        if name in self._CHANGES:
            return lambda *args, **options: self._ask(name, args, options)
        return getattr(self._part(self._store), name)

    def _ask(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> object:
        def change(records: Records) -> object:
            return getattr(self._part(records), name)(*args, **options)

        with nothing_happens(self._store):
            said = outcome(change, self._store.dry_run())
        assert outcome(change, self._store) == said
        if isinstance(said, Refused):
            raise said.error
        return said


class Refused:
    def __init__(self, error: ImgtoolError) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused) and repr(self) == repr(other)

    def __repr__(self) -> str:
        return f"{type(self.error).__name__}: {self.error.message}"


def outcome(change: Change, store: Records) -> object:
    try:
        done: Any = change(store)
    except ImgtoolError as error:
        return Refused(error)
    if hasattr(done, "images"):
        return [image if isinstance(image, Image) else Refused(image) for image in done.images]
    return done


@contextmanager
def nothing_happens(store: Store) -> Iterator[None]:
    """Neither to what the store says nor, on disk, to any file, its times among it."""
    before = everything(store)
    yield
    assert everything(store) == before


def everything(store: Store) -> list[Any]:
    namespaces = [NS, OTHER, "empty", "new", "k8s.io"]
    said: list[Any] = [records(store, namespace) for namespace in namespaces]
    said += [list(store.content(namespace).statuses()) for namespace in namespaces]
    said += [list(store.since_gc()), list(store.objects())]
    if isinstance(store, DiskStore):
        for directory, _, files in os.walk(store.engine.layout.root):
            paths = [directory, *(os.path.join(directory, name) for name in files)]
            said += [(path, os.lstat(path).st_mtime_ns, os.lstat(path).st_size) for path in paths]
    return said
