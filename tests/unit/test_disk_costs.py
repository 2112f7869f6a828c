"""How many calls a change makes. Not how long it takes: a disk that turns syncs a hundred times a second,
so it is the syncs that count.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, open_store
from imgtool.model import ContentInfo, Descriptor, Image, Lease, Namespace
from imgtool.stores import Commit, Put

NS = "default"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    """A store that has an image, and a namespace that has a lease."""
    with open_store(str(tmp_path / "store")) as opened:
        publish(opened, [b"x"])
        opened.leases(NS).create(Lease("l"))
        yield opened


@pytest.fixture
def calls(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The calls that are made from now on, by name. None of them is a sync."""
    made: Counter[str] = Counter()
    do = atomic._do

    def counted(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        made[call.__name__] += 1
        return None if call.__name__ in ("fsync", "syncfs") else do(call, *args, **kwargs)

    monkeypatch.setattr(atomic, "_do", counted)
    return made


def image(name: str, data: bytes = b"x", **labels: str) -> Image:
    return Image(name, Descriptor("t", Digest.of(data), len(data)), labels)


def publish(store: DiskStore, all_data: list[bytes], name: str = "app") -> None:
    with ExitStack() as writers:
        commits = []
        for data in all_data:
            writer = writers.enter_context(store.content(NS).stage(algorithm="sha256"))
            writer.write(data)
            commits.append(Commit(writer))
        store.publish(NS, commits, [Put(image(name, all_data[0]))])


@pytest.mark.parametrize(
    ("change", "syncs"),
    [
        # the line of the log, the record, its directory
        (lambda s: s.images(NS).create(image("new"), needs=[Digest.of(b"x")]), 3),
        (lambda s: s.images(NS).update(image("app", k="v"), "labels"), 3),
        (lambda s: s.content(NS).update(s.content(NS).info(Digest.of(b"x"))._replace(labels={"k": "v"})), 3),
        (lambda s: s.leases(NS).add("l", "ingests", "x"), 3),
        (lambda s: s.namespaces.update(Namespace(NS, {"k": "v"})), 3),
        # the line of the log, the directory
        (lambda s: s.images(NS).delete("app"), 2),
        (lambda s: s.leases(NS).delete("l"), 2),
        (lambda s: s.content(NS).delete(Digest.of(b"x")), 2),
        # two changes
        (lambda s: s.images(NS).rename("app", "new"), 4),
        # nothing to do
        (lambda s: s.namespaces.update(Namespace(NS)), 0),
        (lambda s: s.leases(NS).remove("l", "content", "absent"), 0),
        (lambda s: s.publish(NS, puts=[Put(image("app"))]), 0),
    ],
    ids=[
        "tag",
        "label",
        "label-content",
        "hold",
        "label-namespace",
        "delete",
        "delete-lease",
        "delete-content",
        "rename",
        "label-namespace-alike",
        "let-go-of-nothing",
        "tag-again",
    ],
)
def test_a_change_syncs_no_more_than_it_must(
    store: DiskStore, calls: Counter[str], change: Callable[[DiskStore], object], syncs: int
) -> None:
    """And never the whole file system, which may be busy with other things."""
    change(store)
    assert calls["fsync"] == syncs
    assert calls["syncfs"] == 0


def test_one_file_is_published_with_few_syncs(store: DiskStore, calls: Counter[str]) -> None:
    """The bytes; the directory of the object and the three above it; the line of the log; content record
    and image, each with its directory, and what new directories lead to them.
    """
    publish(store, [b"another"], "new")
    assert calls["fsync"] <= 12
    assert calls["syncfs"] == 0


def test_a_thousand_files_are_published_with_a_handful_of_syncs(
    store: DiskStore, calls: Counter[str]
) -> None:
    """Not with three thousand: bytes, objects' directories, records and their directories, each at once."""
    publish(store, [b"%d" % i for i in range(1000)], "new")
    assert calls["syncfs"] == 4
    assert calls["fsync"] <= 4
    assert sum(calls.values()) < 16 * 1000


def test_what_is_written_is_written_once(store: DiskStore, calls: Counter[str]) -> None:
    """A staged file is created, written, made read-only, opened to be synced, and renamed."""
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"x" * 100)
        writer.finish()
        assert calls == Counter(open=1, write=1, fchmod=1)


def test_a_resumed_write_costs_one_sync(store: DiskStore, calls: Counter[str]) -> None:
    """ref.toml must not be torn; everything else may be lost in a power cut."""
    with store.content(NS).writer("ref") as writer:
        writer.write(b"x")
    with store.content(NS).writer("ref"):
        pass
    assert calls["fsync"] == 2


def test_a_directory_of_records_is_stamped_when_it_changes(store: DiskStore) -> None:
    """An index in cache/ is valid while the times are those stored with it, and the kernel's clock is
    too coarse to tell two changes apart.
    """
    layout = store.engine.layout
    record = Path(layout.content_record(NS, Digest.of(b"x")))
    for directory, change in (
        (layout.images(NS), lambda: store.images(NS).create(image("new"))),
        (layout.images(NS), lambda: store.images(NS).update(image("new", k="v"), "labels")),
        (layout.images(NS), lambda: store.images(NS).delete("new")),
        (layout.leases(NS), lambda: store.leases(NS).add("l", "ingests", "x")),
        (str(record.parent), lambda: store.content(NS).update(ContentInfo(Digest.of(b"x"), 1, {"k": "v"}))),
    ):
        before = time.time_ns()
        change()
        stamp = Path(directory).stat().st_mtime_ns
        assert stamp & 1
        assert before - 1 <= stamp <= time.time_ns() + 1


def test_reading_changes_nothing(store: DiskStore, calls: Counter[str]) -> None:
    """Not a byte, not a lock."""
    store.images(NS).get("app")
    list(store.images(NS).list("name==app"))
    list(store.content(NS).list())
    list(store.content(NS).statuses())
    list(store.leases(NS).list())
    list(store.namespaces.list())
    list(store.objects())
    store.litter(frozenset())
    with store.content(NS).reader(Digest.of(b"x")) as reader:
        reader.read()
    assert calls == Counter()
