"""Leases as files: what only the disk can do to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.disk import DiskStore, open_store
from imgtool.errors import DataLoss, InvalidArgument, NotFound
from imgtool.model import Lease
from imgtool.ops.gc import collect

NS = "default"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


def spoil(store: DiskStore, id: str) -> Path:
    """Make a lease whose record cannot be read; returns its file."""
    store.leases(NS).create(Lease(id))
    path = Path(store.engine.layout.lease(NS, id))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"schema = 1", b"schema = 7"))
    return path


def test_a_lease_that_cannot_be_read_can_be_removed(store: DiskStore) -> None:
    """It stops every gc, and nothing else would end that."""
    path = spoil(store, "l")
    with pytest.raises(DataLoss):
        collect(store)
    store.leases(NS).delete("l")
    assert not path.exists()
    collect(store)


def test_of_two_that_remove_a_lease_one_finds_none(
    store: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the other comes between the look and the lock; both exits tell who did it."""
    store.leases(NS).create(Lease("l"))
    change = store.engine.change

    def after_the_other(*args: Any) -> Any:
        with open_store(str(tmp_path / "store")) as other:
            other.leases(NS).delete("l")
        return change(*args)

    monkeypatch.setattr(store.engine, "change", after_the_other)
    with pytest.raises(NotFound):
        store.leases(NS).delete("l")


def test_a_lease_with_more_than_a_record_holds_is_refused(store: DiskStore) -> None:
    """Before anything is written; the lease stays as it was."""
    made = store.leases(NS).create(Lease("l"))
    with pytest.raises(InvalidArgument, match="at most"):
        store.leases(NS).add("l", "ingests", *(f"{n:0100}" for n in range(12_000)))
    assert store.leases(NS).get("l") == made


def test_content_whose_object_is_missing_is_not_held(store: DiskStore) -> None:
    """The record says that it is here: who is told that it is held believes that it is."""
    store.leases(NS).create(Lease("l"))
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"bytes")
        digest = writer.commit().digest
    Path(store.engine.layout.object(digest)).unlink()
    with pytest.raises(DataLoss):
        store.leases(NS).add("l", "content", digest, needs=[digest])
    assert store.leases(NS).get("l").resources == {}
