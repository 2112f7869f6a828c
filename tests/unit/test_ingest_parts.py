"""Images with more content than is staged at once: published in parts, which leases hold till the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgtool.digest import SHA256, Digest
from imgtool.disk import DiskStore, open_store
from imgtool.errors import ImgtoolError
from imgtool.oci import media
from imgtool.ops import gc, ingest_images, sources
from imgtool.ops.ingest import Ingest
from imgtool.ops.staging import Wanted

NS = "default"
LAYERS = [f"layer {n}".encode() for n in range(7)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two contents make a part."""
    monkeypatch.setattr(ingest_images, "_PART", 2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An index of two manifests that share a layer."""
    blobs = tmp_path / "layout" / "blobs" / SHA256
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digest = Digest.of(data)
        (blobs / digest.encoded).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def document(media_type: str, **fields: object) -> dict[str, object]:
        return put(json.dumps({"schemaVersion": 2} | fields).encode(), media_type)

    config = put(b"{}", media.OCI_CONFIG)
    layers = [put(data, "application/vnd.oci.image.layer.v1.tar") for data in LAYERS]
    images = [document(media.OCI_MANIFEST, config=config, layers=part) for part in (layers[:4], layers[3:])]
    index = document(media.OCI_INDEX, manifests=images)
    path = tmp_path / "layout"
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [index]}))
    return path


def ingest(
    store: DiskStore,
    layout: Path,
    *,
    progress: Callable[[int], None] = lambda size: None,
    dry_run: bool = False,
) -> list[ImgtoolError]:
    """Ingest the layout; the errors."""
    errors: list[ImgtoolError] = []
    call = Ingest(
        store,
        NS,
        Wanted(),
        on_error=errors.append,
        say=lambda text: None,
        progress=progress,
        dry_run=dry_run,
    )
    list(call.run([sources.parse(f"oci:{layout}")]))
    return errors


def collect(store: DiskStore) -> None:
    gc.collect(store)


def labels(store: DiskStore) -> dict[Digest, dict[str, str]]:
    """The labels of all content."""
    return {info.digest: dict(info.labels) for info in store.content(NS).list()}


def test_a_gc_between_two_parts_takes_nothing(store: DiskStore, layout: Path, tmp_path: Path) -> None:
    """Of what is published no name reaches anything yet."""
    with open_store(str(tmp_path / "store")) as other:
        assert ingest(store, layout, progress=lambda size: collect(other)) == []
    assert store.images(NS).names() == ["layout"]
    assert len(labels(store)) == len(LAYERS) + 4
    gc.collect(store)
    assert len(labels(store)) == len(LAYERS) + 4


def test_parts_have_the_labels_of_a_whole(
    store: DiskStore, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that only follows labels sees the same graph."""
    assert ingest(store, layout) == []
    monkeypatch.undo()
    with open_store(str(tmp_path / "whole")) as whole:
        assert ingest(whole, layout) == []
        assert labels(store) == labels(whole)


def test_no_lease_is_left(store: DiskStore, layout: Path) -> None:
    """The image's name keeps all; a lease would keep it a day longer than that."""
    assert ingest(store, layout) == []
    assert list(store.leases(NS).list()) == []


def test_a_bad_layer_in_a_late_part_leaves_no_name_and_no_lease(store: DiskStore, layout: Path) -> None:
    """What was published before is garbage, which the next gc takes."""
    (layout / "blobs" / SHA256 / Digest.of(LAYERS[-1]).encoded).write_bytes(b"evil  6")
    assert [type(error).__name__ for error in ingest(store, layout)] == ["FailedPrecondition"]
    assert store.images(NS).names() == []
    assert list(store.leases(NS).list()) == []
    gc.collect(store)
    assert labels(store) == {}


def test_a_dry_run_publishes_no_part(store: DiskStore, layout: Path, tmp_path: Path) -> None:
    """It says what would be made, and makes nothing."""
    assert ingest(store, layout, dry_run=True) == []
    assert not (tmp_path / "store").exists()
