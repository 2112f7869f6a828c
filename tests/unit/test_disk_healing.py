"""What a command may still do with a record that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.errors import DataLoss, NotFound
from imgtool.model import Descriptor, Image
from imgtool.stores import Commit, Put

NS = "default"


@pytest.fixture
def rotten(tmp_path: Path) -> tuple[DiskStore, Digest, Path]:
    """A store, its one content, and the record of it, one letter of which is another."""
    store = open_store(str(tmp_path / "store"))
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"bytes")
        digest = store.publish(NS, [Commit(writer)]).content[0].digest
    (record,) = (tmp_path / "store/namespaces/default/content").rglob("*.toml")
    data = record.read_bytes().replace(b"size", b"sise")
    record.chmod(0o600)
    record.write_bytes(data)
    with pytest.raises(DataLoss):
        store.content(NS).info(digest)
    return store, digest, record


def test_ingest_heals_a_content_record(rotten: tuple[DiskStore, Digest, Path]) -> None:
    """Digest and size are proven by the bytes that come."""
    store, digest, _ = rotten
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"bytes")
        store.publish(NS, [Commit(writer)], [Put(Image("a", Descriptor("text/plain", digest, 5)))])
    assert store.content(NS).info(digest).size == 5


def test_a_content_record_that_cannot_be_read_can_be_removed(rotten: tuple[DiskStore, Digest, Path]) -> None:
    """Otherwise gc would be stopped by it for ever."""
    store, digest, record = rotten
    store.content(NS).delete(digest)
    assert not record.exists()
    with pytest.raises(NotFound):
        store.content(NS).info(digest)


def test_a_name_is_not_given_to_content_whose_object_is_missing(tmp_path: Path) -> None:
    """The record says that it is here: that is damage, not absence."""
    store = open_store(str(tmp_path / "store"))
    with store.content(NS).stage(algorithm="sha256") as writer:
        writer.write(b"bytes")
        digest = store.publish(NS, [Commit(writer)]).content[0].digest
    (path,) = (path for path in (tmp_path / "store/objects").rglob("*") if path.is_file())
    path.unlink()
    put = Put(Image("a", Descriptor("text/plain", digest, 5)), needs=frozenset([digest]))
    (outcome,) = store.publish(NS, puts=[put]).images
    assert isinstance(outcome, DataLoss)
