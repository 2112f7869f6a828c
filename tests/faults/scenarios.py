"""Changes to a store, each with what must be there before it, and what a store says of itself.

A change is repeated after every fault, so it is written to be repeated: `again` names the errors by
which a store may tell that it has happened already.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from imgtool.digest import Digest
from imgtool.disk import DiskStore, log, open_store, read
from imgtool.errors import AlreadyExists, ImgtoolError, NotFound
from imgtool.model import ContentInfo, Descriptor, Image, Lease, Namespace
from imgtool.ops import gc
from imgtool.stores import Commit, Put

NS = "default"
OTHER = "other"
REF = "containerd.io/gc.ref.content."

LEAVES = [b"first leaf\n" * 99, b"second leaf\n" * 99]
TOP = b"the top of them\n"
LONE = b"all alone\n"

State = Mapping[tuple[str, ...], Any]
EMPTY: State = {}


class Scenario(NamedTuple):
    """One change.

    Args:
        change: what is done; it raises what the store raises.
        before: what was done before, undisturbed.
        again: how the store may refuse to do it twice.
        between: records that may be there for a while.
    """

    name: str
    change: Callable[[DiskStore], object]
    before: Callable[[DiskStore], object] = lambda store: None
    again: tuple[type[ImgtoolError], ...] = ()
    between: State = EMPTY


def opened(root: str) -> DiskStore:
    """The store, which does not wait for locks that a fault has left behind."""
    return open_store(root, lock_timeout=0)


def digest(data: bytes) -> Digest:
    return Digest.of(data)


def image(name: str, data: bytes, **labels: str) -> Image:
    return Image(name, Descriptor("application/octet-stream", digest(data), len(data)), labels)


def publish(
    store: DiskStore,
    name: str,
    ns: str = NS,
    *,
    top: bytes = TOP,
    leaves: list[bytes] = LEAVES,
    lease: str | None = None,
) -> None:
    """Publish `top`, which refers to `leaves`, as an image, with a lease that holds it too; and under one
    that is there, if it is named.
    """
    content = store.content(ns)
    references = {f"{REF}{i}": str(digest(leaf)) for i, leaf in enumerate(leaves)}
    with ExitStack() as writers:
        commits = []
        for data in (*leaves, top):
            writer = writers.enter_context(content.stage(algorithm="sha256"))
            writer.write(data)
            commits.append(Commit(writer, len(data), digest(data), references if data is top else {}))
        put = Put(image(name, top), needs=frozenset(map(digest, (top, *leaves))))
        hold = Lease(f"of-{name}", {}, {"content": (digest(top),)})
        for outcome in store.publish(ns, commits, [put], hold=hold, lease=lease).images:
            if isinstance(outcome, ImgtoolError):
                raise outcome


def add(store: DiskStore, data: bytes, ref: str = "ref", ns: str = NS, lease: str | None = None) -> None:
    """Commit `data` by a named writer, which goes on where the one before it ended."""
    with store.content(ns).writer(ref, size=len(data), expected=digest(data), lease=lease) as writer:
        writer.replay()
        writer.write(data[: len(data) // 2])
        writer.write(data[len(data) // 2 :])
        writer.commit(size=len(data), expected=digest(data), labels={"kind": "lone"})


def begin(store: DiskStore, ns: str = NS) -> None:
    """Begin to write `LONE`, and leave it."""
    with store.content(ns).writer("ref") as writer:
        writer.write(LONE[:4])


def borrow(store: DiskStore, more: bytes = b"") -> None:
    """Commit `LONE`, which another namespace has, without sending it; or with `more` behind it."""
    with store.content(OTHER).writer("ref", expected=digest(LONE)) as writer:
        if writer.digest() != digest(LONE):
            assert more, "what had no bytes of its own is lent again"
            writer.replay()
            writer.write(LONE)
        writer.write(more)
        writer.commit(size=len(LONE + more), expected=digest(LONE + more), labels={"kind": "lent"})


def copy(store: DiskStore) -> None:
    """Commit a file, copied by the kernel."""
    fd = os.memfd_create("source")
    try:
        os.write(fd, LONE)
        os.lseek(fd, 0, os.SEEK_SET)
        with store.content(NS).stage(algorithm="blake3") as writer:
            writer.copy_from(fd, len(LONE))
            writer.commit(labels={"kind": "copy"})
    finally:
        os.close(fd)


def damage(store: DiskStore) -> None:
    """Publish an image, of which one object then rots."""
    publish(store, "app")
    path = store.engine.layout.object(digest(LEAVES[0]))
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.write(b"\0")


def _both(*steps: Callable[[DiskStore], object]) -> Callable[[DiskStore], None]:
    def all_steps(store: DiskStore) -> None:
        for step in steps:
            step(store)

    return all_steps


def _app(store: DiskStore) -> None:
    publish(store, "app")


def _garbage(store: DiskStore) -> None:
    """Content that nothing holds any more, a lease whose time is up, and an object without a record."""
    publish(store, "app")
    publish(store, "kept", top=b"kept\n", leaves=[LEAVES[1]])
    add(store, LONE)
    store.images(NS).delete("app")
    store.leases(NS).delete("of-app")
    store.leases(NS).create(Lease("old", {"containerd.io/gc.expire": "2001-01-01T00:00:00Z"}))
    store.content(NS).delete(digest(LONE))


def _outlived(store: DiskStore) -> None:
    """Images past their time: one with content of its own, one that shares all of it."""
    for name in ("mine", "alias"):
        publish(store, name)
        outlived = Image(
            name, store.images(NS).get(name).target, {"containerd.io/gc.expire": "2001-01-01T00:00:00Z"}
        )
        store.images(NS).update(outlived, "labels")
    publish(store, "kept", top=b"kept\n", leaves=[LEAVES[1]])
    for lease in list(store.leases(NS).list()):
        store.leases(NS).delete(lease.id)


_LABELS = {"tier": "gold"}

SCENARIOS = [
    Scenario("make a store", _app),
    Scenario("publish", lambda s: publish(s, "new"), lambda s: add(s, LONE)),
    Scenario("publish what is there", _app, _app),
    Scenario("publish under another name", lambda s: publish(s, "alias"), _app),
    Scenario(
        "publish under a lease",
        lambda s: publish(s, "new", lease="l"),
        lambda s: s.leases(NS).create(Lease("l", _LABELS, {"ingests": ("ref",)})),
    ),
    Scenario("heal", _app, damage),
    Scenario("resume and commit", lambda s: add(s, LONE), _both(_app, begin), (AlreadyExists,)),
    Scenario(
        "commit under a lease",
        lambda s: add(s, LONE, lease="l"),
        lambda s: s.leases(NS).create(Lease("l")),
        (AlreadyExists,),
        {("lease", NS, "l"): ({}, {"ingests": ("ref",)})},
    ),
    Scenario("borrow and commit", borrow, lambda s: add(s, LONE), (AlreadyExists,)),
    Scenario("borrow and append", lambda s: borrow(s, TOP), lambda s: add(s, LONE), (AlreadyExists,)),
    Scenario("copy and commit", copy, again=(AlreadyExists,)),
    Scenario("begin an ingest", begin, _app),
    Scenario("abort an ingest", lambda s: s.content(NS).abort("ref"), _both(_app, begin), (NotFound,)),
    Scenario("create", lambda s: s.images(NS).create(image("new", TOP)), _app, (AlreadyExists,)),
    Scenario(
        "create with needs",
        lambda s: s.images(NS).create(image("new", TOP), needs=[digest(TOP)]),
        _app,
        (AlreadyExists,),
    ),
    Scenario("label", lambda s: s.images(NS).update(image("app", TOP, **_LABELS), "labels"), _app),
    Scenario(
        "retarget",
        lambda s: s.images(NS).update(image("app", LONE), "target", needs=[digest(LONE)]),
        _both(_app, lambda s: add(s, LONE)),
    ),
    Scenario("rename", lambda s: s.images(NS).rename("app", "moved"), _app),
    Scenario("delete", lambda s: s.images(NS).delete("app"), _app, (NotFound,)),
    Scenario(
        "label content",
        lambda s: s.content(NS).update(ContentInfo(digest(TOP), 0, _LABELS), "labels.tier"),
        _app,
    ),
    Scenario(
        "delete content",
        lambda s: s.content(NS).delete(digest(LONE)),
        _both(_app, lambda s: add(s, LONE)),
        (NotFound,),
    ),
    Scenario("create a lease", lambda s: s.leases(NS).create(Lease("l", _LABELS)), _app, (AlreadyExists,)),
    Scenario("hold", lambda s: s.leases(NS).add("of-app", "content", digest(LONE)), _app),
    Scenario("let go", lambda s: s.leases(NS).remove("of-app", "content", digest(TOP)), _app),
    Scenario("delete a lease", lambda s: s.leases(NS).delete("of-app"), _app, (NotFound,)),
    Scenario(
        "create a namespace", lambda s: s.namespaces.create(Namespace(OTHER, _LABELS)), _app, (AlreadyExists,)
    ),
    Scenario("label a namespace", lambda s: s.namespaces.update(Namespace(NS, _LABELS), "labels.tier"), _app),
    Scenario(
        "delete a namespace",
        lambda s: s.namespaces.delete(OTHER),
        _both(
            _app,
            lambda s: s.leases(OTHER).create(Lease("one", _LABELS)),
            lambda s: s.leases(OTHER).create(Lease("two", _LABELS)),
            lambda s: begin(s, OTHER),
        ),
        (NotFound,),
    ),
    Scenario("gc", gc.collect, _garbage),
    Scenario("gc of images past their time", gc.collect, _outlived),
]
MORE = [
    Scenario(
        "delete the last root",
        lambda s: s.images(NS).delete("app"),
        _both(_app, lambda s: s.leases(NS).delete("of-app")),
    ),
    Scenario("gc of a namespace", gc.collect, _both(_app, lambda s: add(s, LONE, ns=OTHER))),
]


def state(store: DiskStore) -> State:
    """All that the store says, times apart. An image and content are said to be whole or not."""
    found: dict[tuple[str, ...], Any] = {}
    for namespace in store.namespaces.list():
        ns = namespace.name
        found["namespace", ns] = (dict(namespace.labels),)
        whole = {}
        records = list(store.content(ns).list())
        for info in records:
            whole[info.digest] = is_whole(store, ns, info.digest)
            found["content", ns, info.digest] = dict(info.labels), whole[info.digest]
        labels = {info.digest: info.labels for info in records}
        for one in store.images(ns).list():
            complete = all(whole.get(part, False) for part in closure(one.target.digest, labels))
            found["image", ns, one.name] = one.target.digest, dict(one.labels), complete
        for lease in store.leases(ns).list():
            found["lease", ns, lease.id] = dict(lease.labels), dict(lease.resources)
    return found


def logged(store: DiskStore) -> Counter[tuple[str, ...]]:
    """How often the logs tell of a change of each record."""
    found = Counter[tuple[str, ...]]()
    for ns in read.entries(store.engine.layout.namespaces):
        for entry in log.entries(store.engine.layout.log(ns)):
            if entry and "kind" in entry:
                kind, name = entry["kind"], entry["name"]
                found[(kind, ns) if kind == "namespace" else (kind, ns, name)] += 1
            for kind, names in entry.get("gc", {}).items() if entry else ():
                found.update((kind.removesuffix("s"), ns, name) for name in names)
    return found


def is_whole(store: DiskStore, ns: str, what: Digest) -> bool:
    try:
        with store.content(ns).reader(what) as reader:
            return Digest.of(reader.read(), what.algorithm) == what
    except ImgtoolError:
        return False


def closure(top: Digest, labels: Mapping[Digest, Mapping[str, str]]) -> set[Digest]:
    """`top` and what it refers to, by the labels."""
    found, todo = set[Digest](), [top]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += [Digest.parse(value) for key, value in labels.get(one, {}).items() if key.startswith(REF)]
    return found


def check_between(found: State, states: Sequence[State], where: str) -> None:
    """Each record is what one of `states` says."""
    for key in found.keys() | {key for state in states for key in state}:
        allowed = [state.get(key) for state in states]
        assert found.get(key) in allowed, f"{where}: {key} is {found.get(key)}, expected one of {allowed}"


def check_logged(store: DiskStore, found: State, old: State, before: Counter[tuple[str, ...]]) -> None:
    """Whatever changed has its line in the log, which was written first."""
    lines = logged(store) - before
    for key in found.keys() | old.keys():
        records = [state[key][:2] if key in state else None for state in (found, old)]
        if key[0] == "content":  # whether it is whole is not in its record
            records = [record and record[0] for record in records]
        assert records[0] == records[1] or lines[key], f"{key} changed without a line in the log"


def check_usable(root: str, scenario: Scenario, new: State, where: str) -> None:
    """What failed succeeds when it is repeated, and so does everything else."""
    with opened(root) as store:
        repeat(store, scenario)
        found = state(store)
        assert found == new, f"{where}, then repeated"
        store.images(NS).create(image("afterwards", TOP))
        store.images(NS).delete("afterwards")
        if scenario.name == "delete a namespace":
            store.namespaces.create(Namespace(OTHER))
            assert not list(store.leases(OTHER).list()), f"{where}, then made anew"
            store.namespaces.delete(OTHER)
        gc.collect(store)
        litter = store.litter(frozenset())
        assert not litter, f"{where}: {litter}"
        after = state(store)
        for key, value in after.items():
            assert value == found[key] or key == ("namespace", NS), f"{where}, then gc: {key}"
        for key in found.keys() - after.keys():
            assert key[0] in ("content", "lease"), f"{where}, then gc: lost {key}"


def repeat(store: DiskStore, scenario: Scenario) -> None:
    with suppress(*scenario.again):
        scenario.change(store)
