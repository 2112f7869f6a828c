"""What a log tells when its last writer died, and when it is no log: `imgtool.disk.history`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, atomic, codec, open_store
from imgtool.model import Descriptor, Image, Lease
from imgtool.stores import Put

NS = "default"
TARGET = Descriptor("t", Digest.of(b"x"), 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


def told(store: DiskStore) -> list[tuple[str, str, bool, bool]]:
    """Kind and name of what was changed, and whether it was there before and is then, the newest first."""
    return [(e.kind, e.name, e.old is not None, e.new is not None) for e in store.history(NS)]


def dies(patch: pytest.MonkeyPatch, call: str, change: Callable[[], object], after: int = 0) -> None:
    """Make a change in a process that ends at a call of `atomic.Batch`, when `after` of them are done."""
    there, left = getattr(atomic.Batch, call), [after]

    def interrupted(self: atomic.Batch, *args: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return there(self, *args)

    with patch.context() as dying:
        dying.setattr(atomic.Batch, call, interrupted)
        with pytest.raises(KeyboardInterrupt):
            change()


# A writer that dies between the log and the records


def test_what_did_not_happen_is_left_out_before_a_writer_says_so(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may write for weeks; and the records are there to be asked."""
    images = store.images(NS)
    images.create(Image("a", TARGET))
    before = told(store)
    dies(monkeypatch, "unlink", lambda: images.delete("a"))
    assert told(store) == before
    dies(monkeypatch, "rename", lambda: images.update(Image("a", TARGET, {"k": "v"})))
    assert told(store) == before
    dies(monkeypatch, "link", lambda: images.create(Image("b", TARGET)))
    assert told(store) == before
    images.delete("a")
    assert told(store) == [("image", "a", True, False), *before]


def test_of_an_operation_is_told_what_happened(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename, of which the first step is done: both names are there."""
    store.images(NS).create(Image("a", TARGET))
    before = told(store)
    dies(monkeypatch, "unlink", lambda: store.images(NS).rename("a", "b"))
    assert told(store) == [("image", "b", False, True), *before]
    puts = [Put(Image(name, TARGET)) for name in ("c", "d", "e")]
    dies(monkeypatch, "link", lambda: store.publish(NS, puts=puts), after=2)
    assert told(store)[:2] == [("image", "d", False, True), ("image", "c", False, True)]


def test_a_record_that_cannot_be_read_may_well_have_been_changed(store: DiskStore) -> None:
    """As for the next writer, who does not call it void either."""
    store.images(NS).create(Image("a", TARGET))
    before = told(store)
    Path(store.engine.layout.image(NS, "a")).write_bytes(b"\xff")
    assert told(store) == before


def test_who_writes_meanwhile_does_not_make_others_undone(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is no longer what the last line said, because by now that is not the last."""
    store.images(NS).create(Image("a", TARGET))
    before = told(store)
    looks: list[str] = []
    look = store.engine.current

    def late(ns: str, kind: str, name: str) -> codec.Record | None:
        looks.append(name)
        if len(looks) == 1:
            with open_store(store.engine.layout.root) as other:
                other.images(NS).delete("a")
        return look(ns, kind, name)

    monkeypatch.setattr(store.engine, "current", late)
    assert told(store) == [("image", "a", True, False), *before]
    assert looks == [NS, "a", "a"], "what each of the two last operations changed"


# A log that is none


@pytest.mark.parametrize("kind", ["link", "dead link", "directory", "pipe", "empty", "below a file"])
def test_what_is_no_log_tells_nothing(store: DiskStore, kind: str) -> None:
    """fsck says what is wrong with it; who asks for the history gets what there is."""
    store.leases(NS).create(Lease("l"))
    path = store.engine.layout.log(NS)
    os.rename(path, f"{path}.away")
    if "link" in kind:
        os.symlink(f"{path}.away" if kind == "link" else "nowhere", path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        Path(path).touch()
    else:
        os.rename(os.path.dirname(path), f"{store.engine.layout.root}/away")
        Path(os.path.dirname(path)).touch()
    assert told(store) == []
