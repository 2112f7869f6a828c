"""What a command may still do with a record that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.errors import DataLoss, InvalidArgument, NotFound
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


@pytest.mark.parametrize(
    "value", ["1979-05-27T07:32:00Z", "inf", "0x" + "f" * 5000], ids=["date", "float", "huge"]
)
def test_an_unknown_value_that_no_log_can_hold_makes_the_record_unreadable(
    tmp_path: Path, value: str
) -> None:
    """A record edited by hand: every command says so, and none stumbles over the value."""
    store = open_store(str(tmp_path / "store"))
    store.images(NS).create(Image("a", Descriptor("text/plain", Digest.of(b"x"), 1)))
    path = tmp_path / "store/namespaces/default/images/a.toml"
    body = path.read_text().partition("# sha256:")[0]
    path.chmod(0o600)
    path.write_text(f"when = {value}\n{body}")
    with pytest.raises(DataLoss, match="when"):
        store.images(NS).get("a")


@pytest.mark.parametrize("value", [None, 2**64, float("nan"), {"deep": [None]}], ids=repr)
def test_a_value_that_no_record_can_hold_is_refused_for_its_image_alone(
    tmp_path: Path, value: object
) -> None:
    """A descriptor from outside may have any key; the others of the batch are published."""
    store = open_store(str(tmp_path / "store"))
    odd = Image("odd", Descriptor("text/plain", Digest.of(b"x"), 1, unknown={"x": value}))
    good = Image("good", Descriptor("text/plain", Digest.of(b"x"), 1))
    refused, published = store.publish(NS, puts=[Put(odd), Put(good)]).images
    assert isinstance(refused, InvalidArgument)
    assert isinstance(published, Image)
    assert store.images(NS).names() == ["good"]


def test_replace_gives_the_same_content_another_media_type(tmp_path: Path) -> None:
    """Only the digest was compared, and the user was told that it is done."""
    store = open_store(str(tmp_path / "store"))
    target = Descriptor("text/plain", Digest.of(b"x"), 1)
    store.publish(NS, puts=[Put(Image("a", target))])
    other = Image("a", target._replace(media_type="text/html"))
    store.publish(NS, puts=[Put(other)])
    assert store.images(NS).get("a").target == target
    store.publish(NS, puts=[Put(other, replace=True)])
    assert store.images(NS).get("a").target == other.target
