"""Reading the logs as they grow: `imgtool.disk.follow`. Crashes are in tests/faults/test_events.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.disk import DiskStore, follow, log, open_store
from imgtool.disk.follow import Follower
from imgtool.errors import ImgtoolError
from imgtool.model import Image, Namespace
from tests.conformance.things import image, target

NS, OTHER = "default", "other"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store")) as store:
        yield store


def path(store: DiskStore, ns: str = NS) -> Path:
    return Path(store.engine.layout.log(ns))


def add(store: DiskStore, *names: str, ns: str = NS) -> None:
    for name in names:
        store.images(ns).create(image(name))


def told(follower: Follower, **options: Any) -> list[str]:
    """The images that the follower tells of now."""
    return [
        change.name
        for operation in follower.poll(**options)
        for change in operation.changes
        if change.kind == "image"
    ]


def append(store: DiskStore, data: bytes, ns: str = NS) -> None:
    with path(store, ns).open("ab") as file:
        file.write(data)


def test_what_is_there_is_told_once(store: DiskStore) -> None:
    add(store, "a", "b")
    follower = Follower(store.engine)
    assert (told(follower), told(follower)) == (["a", "b"], [])
    add(store, "c")
    assert (told(follower), told(follower)) == (["c"], [])


def test_an_absent_store_may_come_into_being(store: DiskStore) -> None:
    """`events --follow` may be started before the first command."""
    follower = Follower(store.engine)
    follower.skip()
    assert told(follower) == []
    with open_store(store.engine.layout.root) as another:
        add(another, "a")
    assert told(follower) == ["a"]


def test_a_namespace_that_comes_later_is_told_from_its_first_line(store: DiskStore) -> None:
    add(store, "a")
    follower = Follower(store.engine)
    follower.skip()
    add(store, "b", ns=OTHER)
    add(store, "c")
    assert told(follower) == ["b", "c"]


def test_a_deleted_namespace_is_told_too(store: DiskStore) -> None:
    """Its log stays."""
    store.namespaces.create(Namespace(OTHER))
    store.namespaces.delete(OTHER)
    kinds = [change.new is None for o in Follower(store.engine).poll() for change in o.changes]
    assert kinds == [False, True]


def test_only_the_namespaces_that_are_wanted_are_told(store: DiskStore) -> None:
    add(store, "a")
    add(store, "b", ns=OTHER)
    assert told(Follower(store.engine, namespaces={OTHER, "none"})) == ["b"]


def test_namespaces_are_merged_by_time(store: DiskStore) -> None:
    for name, ns in [("a", NS), ("b", OTHER), ("c", NS), ("d", OTHER)]:
        add(store, name, ns=ns)
    assert told(Follower(store.engine)) == ["a", "b", "c", "d"]


def test_a_clock_that_was_set_back_does_not_change_the_order(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log knows what came first."""
    add(store, "a")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    add(store, "b")
    assert told(Follower(store.engine)) == ["a", "b"]


def test_one_namespace_can_be_looked_at(store: DiskStore) -> None:
    add(store, "a")
    add(store, "b", ns=OTHER)
    follower = Follower(store.engine)
    assert told(follower, namespace=OTHER) == ["b"]
    assert told(follower) == ["a"]


@pytest.mark.parametrize("names", [("a",), ("a", "b"), tuple(f"n{i}" for i in range(60))])
def test_skipping_goes_behind_all_that_is_settled(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """However long the log and its last operation are."""
    monkeypatch.setattr(follow, "_BLOCK", 300)
    follower = Follower(store.engine)
    add(store, *names)
    store.images(NS).rename(names[-1], "last")
    follower.skip()
    assert told(follower) == []
    add(store, "z")
    assert told(follower) == ["z"]


def test_only_the_end_of_a_long_log_is_read_to_skip_it(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Following begins at once."""
    add(store, *(f"n{i}" for i in range(100)))
    monkeypatch.setattr(follow, "_BLOCK", 500)
    read = [0]
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        read[0] += count
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    Follower(store.engine).skip()
    assert 0 < read[0] < path(store).stat().st_size / 5


@pytest.mark.parametrize("block", [1, 2, 3, 64, 1000])
def test_lines_are_the_same_whatever_the_blocks_are(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(follow, "_BLOCK", block)
    add(store, "a", "b", "é")
    append(store, b'{"op":')
    follower = Follower(store.engine)
    assert (told(follower), told(follower)) == (["a", "b", "é"], [])


def test_a_log_is_not_read_again_while_it_is_as_it_was(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking ten times a second must cost nothing."""
    add(store, "a")
    follower = Follower(store.engine)
    assert told(follower) == ["a"]
    assert told(follower) == []

    def read(*args: object) -> None:
        raise AssertionError("the log was read")

    monkeypatch.setattr(os, "pread", read)
    assert told(follower) == []


def test_who_stops_listening_in_between_loses_nothing(store: DiskStore) -> None:
    """Operations of other namespaces have been read ahead by then."""
    add(store, "a")
    add(store, "b", ns=OTHER)
    add(store, "c", "d")
    follower = Follower(store.engine)
    polled = follower.poll()
    first = next(polled)
    polled.close()  # type: ignore[attr-defined]  # a generator
    assert [change.name for change in first.changes][-1] == "a"
    assert told(follower) == ["b", "c", "d"]


# What is under way


def unfinished(store: DiskStore, *names: str, lock: str = f"ns-{NS}") -> None:
    """A writer has written its lines, and nothing else yet."""
    Path(store.engine.layout.lock(lock)).write_bytes(b"\1")
    record = {"schema": 1}
    changes: list[log.Change] = [("image", name, None, record) for name in names]
    log.append(
        str(path(store)), "0" * 16, 0, changes, lambda kind, name: store.engine.current(NS, kind, name)
    )


def finish(store: DiskStore) -> None:
    Path(store.engine.layout.lock(f"ns-{NS}")).write_bytes(b"")


@pytest.mark.parametrize("lock", [f"ns-{NS}", "store"])
def test_a_line_is_not_told_before_its_record_is_there(store: DiskStore, lock: str) -> None:
    """gc, which removes images whose time is up, has the lock of the store alone."""
    add(store, "b")
    follower = Follower(store.engine)
    assert told(follower) == ["b"]
    there = Path(store.engine.layout.image(NS, "b"))
    aside = there.rename(there.with_suffix(".aside"))
    unfinished(store, "b", lock=lock)
    assert told(follower) == []
    there.write_bytes(b"rotten, so that it may be as the log says")
    Path(store.engine.layout.lock(lock)).write_bytes(b"")
    assert told(follower) == ["b"]
    aside.unlink()


def test_what_was_under_way_at_the_start_is_told_when_it_happens(store: DiskStore) -> None:
    """It is not history."""
    add(store, "a")
    Path(store.engine.layout.lock(f"ns-{NS}")).write_bytes(b"\1")
    there = Path(store.engine.layout.image(NS, "a"))
    aside = there.rename(there.with_suffix(".aside"))
    follower = Follower(store.engine)
    follower.skip()
    assert told(follower) == []
    aside.rename(there)
    assert told(follower) == ["a"]


def test_a_change_that_ends_without_its_record_did_not_happen(store: DiskStore) -> None:
    """Nothing is under way any more, so it will not come."""
    add(store, "a")
    follower = Follower(store.engine)
    unfinished(store, "b")
    assert told(follower) == ["a"]
    finish(store)
    assert told(follower) == []
    add(store, "b")
    assert told(follower) == ["b"]


def test_the_last_look_tells_what_holds_of_what_is_under_way(store: DiskStore) -> None:
    """`events` without `--follow` will not look again."""
    add(store, "a")
    unfinished(store, "b", "c")
    Path(store.engine.layout.image(NS, "b")).write_bytes(b"schema = 1\n")
    follower = Follower(store.engine)
    assert told(follower) == ["a"]
    assert told(follower, last=True) == ["b"]


def test_records_that_change_while_they_are_judged_are_judged_again(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is seen then may be the next writer's doing: the same change, after one that did not happen."""
    add(store, "z")
    unfinished(store, "a")
    follower = Follower(store.engine)
    finish(store)
    real = store.engine.current
    calls: list[str] = []

    def current(ns: str, kind: str, name: str) -> Any:
        if name == "a" and not calls:
            calls.append(name)
            with open_store(store.engine.layout.root) as another:
                add(another, "a")
            return {"schema": 1}  # as the line says that did not happen
        return real(ns, kind, name)

    monkeypatch.setattr(store.engine, "current", current)
    assert told(follower) == ["z"]
    assert told(follower) == ["a"]
    assert told(follower) == []


def test_a_log_that_grows_while_it_is_read_is_read_again(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what was appended would wait for the next change."""
    add(store, "a")
    follower = Follower(store.engine)
    polled = follower.poll()
    next(polled)
    add(store, "b")
    assert list(polled) == []
    assert told(follower) == ["b"]


# Logs that are replaced or damaged


def position_after(store: DiskStore, *names: str) -> follow.Position:
    follower = Follower(store.engine)
    assert told(follower) == list(names)
    return dict(follower.position)


def test_a_position_is_gone_on_from(store: DiskStore) -> None:
    add(store, "a")
    position = position_after(store, "a")
    add(store, "b")
    assert told(Follower(store.engine, position)) == ["b"]


def test_a_copy_of_the_log_is_the_log(store: DiskStore) -> None:
    add(store, "a")
    follower = Follower(store.engine)
    assert told(follower) == ["a"]
    shutil.copy(path(store), copy := path(store).with_suffix(".copy"))
    copy.rename(path(store))
    assert told(follower) == []
    add(store, "b")
    assert told(follower) == ["b"]


def test_in_a_log_whose_beginning_was_cut_off_the_last_that_was_told_is_found(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its seal, for times may be all the same."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    add(store, "a", "b")
    position = position_after(store, "a", "b")
    add(store, "c")
    *_, b, c = path(store).read_bytes().splitlines(keepends=True)
    path(store).write_bytes(b + c)
    assert told(Follower(store.engine, position)) == ["c"]


def test_in_an_older_log_only_what_is_younger_is_new(store: DiskStore) -> None:
    """A backup was restored: what it tells has been told, and from then on it goes on."""
    add(store, "a")
    backup = path(store).read_bytes()
    add(store, "b")
    follower = Follower(store.engine)
    assert told(follower) == ["a", "b"]
    path(store).write_bytes(backup)
    assert told(follower) == []
    add(store, "c")
    assert (told(follower), told(follower)) == (["c"], [])


def test_a_log_that_was_removed_begins_anew(store: DiskStore) -> None:
    add(store, "a")
    follower = Follower(store.engine)
    assert told(follower) == ["a"]
    shutil.rmtree(path(store).parent)
    assert told(follower) == []
    add(store, "b", "c")
    assert (told(follower), told(follower)) == (["b", "c"], [])


def test_a_line_that_cannot_be_read_is_reported_once(store: DiskStore) -> None:
    """The others are told; nobody looks away."""
    errors: list[ImgtoolError] = []
    add(store, "a", "b", "c")
    lines = path(store).read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"b"', b'"x"', 1)
    path(store).write_bytes(b"".join(lines))
    follower = Follower(store.engine, on_error=errors.append)
    assert told(follower) == ["a", "c"]
    add(store, "d")
    assert told(follower) == ["d"]
    assert [error.exit_code for error in errors] == [6]


def test_a_line_that_cannot_be_read_at_the_end_is_reported_once(store: DiskStore) -> None:
    """It is read again whenever something follows, until an operation does."""
    errors: list[ImgtoolError] = []
    add(store, "a")
    append(store, b"{}\n")
    follower = Follower(store.engine, on_error=errors.append)
    assert told(follower) == ["a"]
    append(store, b'{"op":')
    assert told(follower) == []
    assert len(errors) == 1


@pytest.mark.parametrize("what", ["log", "namespaces"])
def test_what_is_a_link_is_reported_once_and_not_followed(store: DiskStore, what: str) -> None:
    errors: list[ImgtoolError] = []
    add(store, "a")
    there = path(store) if what == "log" else Path(store.engine.layout.namespaces)
    there.rename(aside := there.with_name("aside"))
    there.symlink_to(aside)
    follower = Follower(store.engine, on_error=errors.append)
    for _ in range(3):
        assert told(follower) == []
    assert [error.exit_code for error in errors] == [6]


def test_a_line_without_an_end_does_not_fill_the_memory(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[ImgtoolError] = []
    monkeypatch.setattr(follow, "_BLOCK", 64)
    monkeypatch.setattr(follow, "_LINE_MAX", 4096)
    add(store, "a")
    append(store, b"x" * 20000)
    follower = Follower(store.engine, on_error=errors.append)
    assert told(follower) == []
    assert [error.exit_code for error in errors] == [6]


def test_a_record_that_cannot_be_read_may_well_be_as_the_log_says(store: DiskStore) -> None:
    """As the next writer judges it."""
    add(store, "a")
    record = Path(store.engine.layout.image(NS, "a"))
    record.chmod(0o600)
    record.write_bytes(b"rot")
    assert told(Follower(store.engine)) == ["a"]


def test_labels_are_told_as_they_became(store: DiskStore) -> None:
    store.images(NS).create(Image("a", target(), {"k": "v"}))
    *_, created = Follower(store.engine).poll()
    assert created.lines == 2  # the namespace came with the image
    change = created.changes[-1]
    assert change.old is None
    assert change.new is not None
    assert change.new["labels"] == {"k": "v"}
