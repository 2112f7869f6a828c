"""What ingest makes of odd sources, beside the fixtures."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.errors import ImgtoolError, InvalidArgument
from imgtool.model import Descriptor, Image, References
from imgtool.oci import media
from imgtool.ops import sources
from imgtool.ops.ingest import Ingest
from imgtool.ops.staging import Wanted

NS = "default"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


def ingest(
    store: DiskStore, path: Path, progress: Callable[[int], None] = lambda _: None, **wanted: Any
) -> tuple[list[str], list[ImgtoolError]]:
    """The names that come of it, and the failures."""
    failures: list[ImgtoolError] = []
    run = Ingest(
        store,
        NS,
        Wanted(**wanted),
        on_error=failures.append,
        say=lambda _: None,
        progress=progress,
    )
    return [row.name for row in run.run([sources.parse(str(path))])], failures


def archive(children: int) -> bytes:
    """An OCI archive of one nameless image that lists its one layer so many times."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        digest = Digest.of(data)
        files[f"blobs/sha256/{digest.encoded}"] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    layers = [blob(b"layer", LAYER)] * children
    manifest = {"schemaVersion": 2, "config": blob(b"{}", media.OCI_EMPTY), "layers": layers}
    root = blob(json.dumps(manifest).encode(), media.OCI_MANIFEST)
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [root]}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def test_what_comes_out_of_a_named_pipe_is_not_called_like_the_pipe(store: DiskStore, tmp_path: Path) -> None:
    """`imgtool ingest <(zcat x.tgz)` would make an image called 63."""
    pipe = tmp_path / "63"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[archive(1)])
    writer.start()
    names, failures = ingest(store, pipe)
    writer.join()
    assert names == []
    assert [type(failure) for failure in failures] == [InvalidArgument]


def test_more_children_than_labels_fit_a_record_are_ingested(store: DiskStore, tmp_path: Path) -> None:
    """A label for each of 9,500 made a record that could not be written, after all had been staged."""
    (tmp_path / "many.tar").write_bytes(archive(9_500))
    assert ingest(store, tmp_path / "many.tar") == (["many"], [])


@pytest.mark.parametrize("children", [1, 9_500])
def test_records_tell_what_documents_refer_to(store: DiskStore, tmp_path: Path, children: int) -> None:
    """So that gc need not open them."""
    (tmp_path / "a.tar").write_bytes(archive(children))
    ingest(store, tmp_path / "a.tar")
    target = store.images(NS).get("a").target
    told = {info.digest: info.references for info in store.content(NS).list()}
    assert told.pop(target.digest) == References(
        media.OCI_MANIFEST, {Digest.of(b"{}"): media.OCI_EMPTY, Digest.of(b"layer"): LAYER}
    )
    assert set(told.values()) == {None}


def test_if_absent_ingests_what_is_deleted_meanwhile(
    store: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name was there when it was published, and gone when it was looked at."""
    (tmp_path / "a").write_bytes(b"new")
    images = store.images(NS)
    images.create(Image("a", Descriptor("text/plain", Digest.of(b"old"), 3)))
    publish = store.publish

    def then_delete(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(store, "publish", publish)
        published = publish(*args, **kwargs)
        images.delete("a")
        return published

    monkeypatch.setattr(store, "publish", then_delete)
    assert ingest(store, tmp_path / "a", if_absent=True) == (["a"], [])
    assert images.get("a").target.size == 3


def test_who_watches_a_large_file_sees_it_grow(store: DiskStore, tmp_path: Path) -> None:
    """Silence until the end looks like a hang."""
    size, told = 300 << 20, list[int]()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    for options in ({}, {"expected_size": size}):
        told.clear()
        assert ingest(store, tmp_path / "large", told.append, **options) == (["large"], [])
        assert sum(told) == size
        assert max(told) <= 256 << 20


def test_who_watches_an_archive_sees_each_piece_once(store: DiskStore, tmp_path: Path) -> None:
    """A layer of gigabytes is one member."""
    (tmp_path / "app.tar").write_bytes(archive(3))
    told: list[int] = []
    assert ingest(store, tmp_path / "app.tar", told.append) == (["app"], [])
    with tarfile.open(tmp_path / "app.tar") as tar:
        assert sum(told) == sum(member.size for member in tar if member.name.startswith("blobs/"))
