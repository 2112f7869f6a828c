"""The journal of a namespace: `imgtool.disk.log`."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgtool.disk import atomic, codec, log, open_store
from imgtool.errors import DataLoss, ResourceExhausted
from imgtool.model import Lease, Namespace

NS = "default"
Records = dict[tuple[str, str], codec.Record]


class Journal:
    """A log, and records of which a test says what they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: Records = {}
        self.unreadable: set[tuple[str, str]] = set()

    def append(self, op: str, *changes: log.Change) -> None:
        log.append(str(self.path), op, 0, changes, self.current)

    def change(self, op: str, *names: str, new: Any = 1, happens: bool = True) -> None:
        """An operation that sets the images `names`; what happens is another matter."""
        records = {name: {"v": new} for name in names}
        self.append(op, *(("image", n, self.records.get(("image", n)), r) for n, r in records.items()))
        if happens:
            self.records.update({("image", n): r for n, r in records.items()})

    def current(self, kind: str, name: str) -> codec.Record | None:
        if (kind, name) in self.unreadable:
            raise DataLoss("rotten")
        return self.records.get((kind, name))

    def voids(self) -> list[tuple[str, list[list[str]]]]:
        return [(entry["op"], entry["void"]) for entry in self.entries() if entry and "void" in entry]

    def entries(self) -> list[dict[str, Any] | None]:
        return log.entries(str(self.path))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "log")


def test_a_log_that_is_not_there_is_empty(journal: Journal) -> None:
    """As is that of a store that is not there."""
    assert journal.entries() == []


def test_a_line_tells_what_was_and_what_is(journal: Journal) -> None:
    """undo needs both, and the time and operation."""
    journal.append("1", ("image", "a", None, {"v": 1}), ("content", "b", {"v": 2}, None))
    head = {"op": "1", "time": "1970-01-01T00:00:00.000000000Z"}
    assert journal.entries() == [
        {**head, "kind": "image", "name": "a", "old": None, "new": {"v": 1}},
        {**head, "kind": "content", "name": "b", "old": {"v": 2}, "new": None},
    ]


# What did not happen


def test_a_change_that_happened_is_not_judged(journal: Journal) -> None:
    """The common case: no extra line."""
    journal.change("1", "a", "b")
    journal.change("2", "a", new=2)
    journal.change("3", "c")
    assert journal.voids() == []


def test_a_change_that_did_not_happen_is_told_of_by_the_next(journal: Journal) -> None:
    """The writer was killed between the log and the record."""
    journal.change("1", "a", happens=False)
    journal.change("2", "b")
    journal.change("3", "c")
    assert journal.voids() == [("1", [["image", "a"]])]
    kinds = [("void" in entry, entry["op"]) for entry in journal.entries() if entry]
    assert kinds == [(False, "1"), (True, "1"), (False, "2"), (False, "3")]


def test_an_operation_may_have_happened_in_part(journal: Journal) -> None:
    """Killed between two of its records: only the others are void."""
    journal.change("1", "a", "b", "c", happens=False)
    journal.records["image", "a"] = {"v": 1}
    journal.change("2", "d")
    assert journal.voids() == [("1", [["image", "b"], ["image", "c"]])]


def test_only_the_last_operation_is_judged(journal: Journal) -> None:
    """The others have been, and records have changed since."""
    journal.change("1", "a", happens=False)
    journal.change("2", "b")
    del journal.records["image", "b"]
    journal.change("3", "c")
    journal.change("4", "d")
    assert [op for op, _ in journal.voids()] == ["1", "2"]


def test_a_removal_that_did_not_happen_is_void_too(journal: Journal) -> None:
    """`new` is null, and the record is there."""
    journal.change("1", "a")
    journal.append("2", ("image", "a", {"v": 1}, None))
    journal.change("3", "b")
    assert journal.voids() == [("2", [["image", "a"]])]


def test_what_cannot_be_read_is_not_judged(journal: Journal) -> None:
    """It may have happened and rotted since: undo must not take it for void."""
    journal.change("1", "a", "b", happens=False)
    journal.unreadable.add(("image", "a"))
    journal.change("2", "c")
    assert journal.voids() == [("1", [["image", "b"]])]


@pytest.mark.parametrize("value", [math.nan, math.inf, "\u2028", "é", 2**70, [1, {"a": []}]], ids=repr)
def test_a_record_with_odd_values_is_recognised(journal: Journal, value: Any) -> None:
    """Unknown keys hold whatever TOML can, and NaN is not even equal to itself."""
    journal.change("1", "a", new=value)
    journal.change("2", "b")
    assert journal.voids() == []


def test_a_time_in_a_record_is_written_as_text(journal: Journal) -> None:
    """TOML has times, JSON has none; the record is recognised all the same."""
    journal.change("1", "a", new=codec.load(b"t = 2001-01-01T00:00:00Z\n", "r")["t"])
    journal.change("2", "b")
    assert journal.voids() == []
    assert journal.entries()[0] is not None


def test_the_line_of_a_gc_is_never_void(journal: Journal) -> None:
    """It tells what it is about to remove; whatever it did not comes with the next gc."""
    log.append_gc(str(journal.path), "1", 0, {"content": ["sha256:x"], "leases": []}, journal.current)
    journal.change("2", "a")
    assert journal.voids() == []
    first = journal.entries()[0]
    assert first is not None
    assert first["gc"] == {"content": ["sha256:x"], "leases": []}


def test_a_gc_judges_the_operation_before_it(journal: Journal) -> None:
    """After its line nobody would."""
    journal.change("1", "a", happens=False)
    log.append_gc(str(journal.path), "2", 0, {"content": []}, journal.current)
    assert journal.voids() == [("1", [["image", "a"]])]


# Tails and damage


@given(data=st.data())
def test_a_torn_tail_is_cut_wherever_it_was_torn(data: st.DataObject, tmp_path_factory: Any) -> None:
    """A crash, a power cut or a full disk in the middle of a write: what was whole before stays."""
    journal = Journal(tmp_path_factory.mktemp("torn") / "log")
    journal.change("1", "a")
    whole = journal.path.read_bytes()
    journal.change("2", "b" * data.draw(st.sampled_from([1, 100_000])), happens=False)
    torn = data.draw(st.integers(0, len(journal.path.read_bytes()) - len(whole) - 1))
    tail = data.draw(st.sampled_from([journal.path.read_bytes()[len(whole) :][:torn], bytes(torn)]))
    journal.path.write_bytes(whole + tail)
    journal.change("3", "c")
    assert journal.voids() == []
    assert [entry and entry["op"] for entry in journal.entries()] == ["1", "3"]
    assert journal.path.read_bytes().endswith(b"}\n")


def test_a_log_that_is_only_a_torn_tail_begins_anew(journal: Journal) -> None:
    """Longer than the blocks in which it is read."""
    journal.path.write_bytes(b"x" * 200_000)
    journal.change("1", "a")
    assert [entry and entry["op"] for entry in journal.entries()] == ["1"]


def test_a_line_that_cannot_be_read_is_passed_over(journal: Journal) -> None:
    """Rot in one line must not take the others, nor the writer."""
    journal.change("1", "a")
    journal.change("2", "b")
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(lines[0] + b"\xff{" + lines[1])
    assert [entry and entry["op"] for entry in journal.entries()] == ["1", None]
    journal.change("3", "c")
    assert [entry and entry["op"] for entry in journal.entries()] == ["1", None, "3"]
    assert journal.voids() == []


def test_a_line_that_cannot_be_read_ends_the_last_operation(journal: Journal) -> None:
    """The lines behind it are judged still."""
    journal.change("1", "a", "b", happens=False)
    first, second = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(first.replace(b"image", b"imagE") + second)
    journal.change("2", "c")
    assert journal.voids() == [("1", [["image", "b"]])]


@pytest.mark.parametrize("line", [b"[]", b"1", b"null", b'"x"', b"{}", b"[" * 100_000, b"{" * 9])
def test_json_that_is_no_entry_is_no_entry(journal: Journal, line: bytes) -> None:
    """T8: whatever is in the file."""
    journal.path.write_bytes(line + b"\n")
    assert journal.entries() == [None]
    journal.change("1", "a")
    assert journal.entries()[0] is None


@pytest.mark.parametrize(
    ("size", "count"),
    [(1, 1), (1, 2), (1, 2000), (700, 20), (700, 200), (3000, 200), (40_000, 1), (40_000, 2), (70_000, 20)],
)
def test_an_operation_is_judged_whole_however_long_its_lines(journal: Journal, size: int, count: int) -> None:
    """It is read backwards in blocks, and lines lie across their borders."""
    journal.change("0", "before")
    names = [str(i) for i in range(count)]
    journal.change("1", *names, new="x" * size, happens=False)
    journal.records["image", names[0]] = {"v": "x" * size}
    journal.change("2", "after")
    expected = [["image", name] for name in names[1:]]
    assert journal.voids() == ([("1", expected)] if expected else [])


@pytest.mark.parametrize("off", range(-3, 4))
def test_an_operation_is_judged_whole_where_a_block_ends_between_two_lines(
    journal: Journal, off: int
) -> None:
    """One line too few there, and a change that did not happen would pass for one that did."""
    journal.change("1", "b")
    shortest = journal.path.stat().st_size
    journal.path.unlink()
    long = "b" * (1 + log._BLOCK - shortest + off)
    journal.change("0", "before")
    journal.change("1", "a", long, happens=False)
    journal.change("2", "after")
    assert journal.voids() == [("1", [["image", "a"], ["image", long]])]
    assert len(journal.path.read_bytes().splitlines(keepends=True)[2]) == log._BLOCK + off


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_lines_that_could_not_be_made_durable_are_taken_back(
    journal: Journal, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is given up with them: a full disk, or a bad one."""
    journal.change("1", "a")
    before = journal.path.read_bytes()

    def half(call: Callable[..., Any], *args: Any) -> Any:
        if call.__name__ == "write" and name == "write":
            os.write(args[0], args[1][:20])
        if call.__name__ == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call(*args)

    with monkeypatch.context() as broken:
        broken.setattr(atomic, "_do", half)
        with pytest.raises(ResourceExhausted):
            journal.change("2", "b")
    assert journal.path.read_bytes() == before


# In a store


def test_each_change_of_a_record_has_its_line(tmp_path: Path) -> None:
    """The first brings the namespace into being, in the same operation."""
    with open_store(str(tmp_path / "store")) as store:
        store.leases(NS).create(Lease("l"))
        store.leases(NS).add("l", "ingests", "x")
        store.namespaces.update(Namespace(NS, {"k": "v"}))
        store.namespaces.update(Namespace(NS, {"k": "v"}))
        entries = [entry for entry in log.entries(store.engine.layout.log(NS)) if entry]
    assert [(entry["kind"], entry["name"]) for entry in entries] == [
        ("namespace", NS),
        ("lease", "l"),
        ("lease", "l"),
        ("namespace", NS),
    ]
    assert entries[0]["op"] == entries[1]["op"] != entries[2]["op"]
    assert entries[2]["old"] == entries[1]["new"]
    assert entries[2]["new"]["resources"] == {"ingests": ["x"]}


def test_the_leases_of_a_deleted_namespace_have_their_lines(tmp_path: Path) -> None:
    """They go with it, and the log says so; else the next change would call their making void."""
    with open_store(str(tmp_path / "store")) as store:
        store.leases(NS).create(Lease("l"))
        store.namespaces.delete(NS)
        entries = [entry for entry in log.entries(store.engine.layout.log(NS)) if entry]
    assert [(entry["kind"], entry["new"]) for entry in entries[2:]] == [("namespace", None), ("lease", None)]
    assert (
        json.loads((tmp_path / "store/namespaces/default/log").read_bytes().splitlines()[-1])["name"] == "l"
    )
