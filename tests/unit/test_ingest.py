"""What ingest makes of odd sources, beside the fixtures."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.errors import ImgtoolError, InvalidArgument
from imgtool.model import Descriptor, Image
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


def ingest(store: DiskStore, path: Path, **wanted: Any) -> tuple[list[str], list[ImgtoolError]]:
    """The names that come of it, and the failures."""
    failures: list[ImgtoolError] = []
    run = Ingest(
        store,
        NS,
        Wanted(**wanted),
        on_error=failures.append,
        say=lambda _: None,
        progress=lambda _: None,
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
