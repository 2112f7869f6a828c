"""What records tell of documents: gc believes it as far as that may be, and no further.

That it needs no bytes then is in `test_gc_disk.py`; that it leaves what it should, in `test_gc_model.py`.
"""

from __future__ import annotations

import json
import marshal
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store, scan
from imgtool.disk.engine import CONTENT
from imgtool.model import References
from imgtool.oci import media
from imgtool.oci.manifest import parse, references
from imgtool.ops import fsck, gc

from .gc_world import LAYER, NS, OTHER, REF, add, add_told, entry, hold, index, label, manifest, objects, tag


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


def rewrite(store: DiskStore, digest: Digest, old: bytes, new: bytes) -> Path:
    """Change the record of content, which has no seal then."""
    path = Path(store.engine.layout.content_record(NS, digest))
    body = path.read_bytes().rsplit(b"# sha256:", 1)[0]
    assert old in body
    temporary = path.with_suffix(".new")
    temporary.write_bytes(body.replace(old, new))
    os.rename(temporary, path)
    return path


def ambiguous(config: Digest, layer: Digest, blob: Digest) -> bytes:
    """A document that is an image's manifest and an artifact's, and does not say which."""
    document = {"config": entry(config, media.OCI_CONFIG), "layers": [entry(layer)], "blobs": [entry(blob)]}
    return json.dumps({"schemaVersion": 2, **document}).encode()


def test_a_record_without_a_seal_is_not_believed(store: DiskStore) -> None:
    """A digit of it may be wrong: the manifest is read."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    top = add_told(store, manifest(config, layer))
    tag(store, "a", top, media.OCI_MANIFEST)
    rewrite(store, top, layer.encoded.encode(), config.encoded[::-1].encode())
    assert not any(gc.collect(store))


def test_what_is_told_without_a_seal_does_not_spoil_the_work_of_others(store: DiskStore) -> None:
    """What a worker found comes back whole."""
    top = add_told(store, manifest(add(store, b"{}"), subject=Digest.of(b"x")))
    path = rewrite(store, top, b"[references]", b"[references]")
    load = partial(store.engine.load, CONTENT, NS)
    columns, is_whole = scan._records(load, None, str(path.parent), f"sha256:{path.parent.name}", [path.name])
    assert is_whole
    assert marshal.loads(marshal.dumps(columns)) == columns


def test_of_a_long_record_is_believed_what_it_tells(store: DiskStore) -> None:
    """It has more than one read gives."""
    parts = [add(store, b"%d" % n) for n in range(60)]
    top = add_told(store, manifest(*parts))
    assert Path(store.engine.layout.content_record(NS, top)).stat().st_size > 4096
    assert store.content(NS).inventory().references.keys() == {top}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_namespace_believes_its_own_records_alone(store: DiskStore, labelled: bool) -> None:
    """Another one's may be wrong."""
    config, layer = add(store, b"{}", OTHER), add(store, b"layer", OTHER)
    data = manifest(config, layer)
    add(store, data, "aaa", told=References(media.OCI_MANIFEST))
    if labelled:
        top = add_told(store, data, OTHER)
        label(store, top, {f"{REF}.config": config, f"{REF}.l.0": layer}, OTHER)
    else:
        top = add(store, data, OTHER)
    for namespace in ("aaa", OTHER):
        tag(store, "a", top, media.OCI_MANIFEST, namespace)
    gc.collect(store)
    assert objects(store) == {config, layer, top}


def test_only_of_documents_something_is_believed(store: DiskStore) -> None:
    """Other types refer to nothing, so no record of them tells anything."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    top = add(store, manifest(config, layer), told=References(media.OCTETS))
    hold(store, "lease", [top])
    assert not any(gc.collect(store))


def test_of_a_document_that_does_not_say_what_it_is_nothing_is_told(store: DiskStore) -> None:
    """Who does not know its type would read another one in its bytes."""
    data = ambiguous(*(add(store, part) for part in (b"{}", b"layer", b"blob")))
    assert references(parse(data, media.OCI_ARTIFACT, "x")) is None
    assert references(parse(data, media.OCI_MANIFEST, "x"))


def test_labels_count_where_the_bytes_are_read_and_say_something_else(store: DiskStore) -> None:
    """The record tells of the document as an artifact, with labels for that; an image calls it a manifest."""
    config, layer, blob = (add(store, data) for data in (b"{}", b"layer", b"blob"))
    told = References(media.OCI_ARTIFACT, {config: media.OCI_CONFIG, blob: LAYER})
    labels = {f"{REF}.config": config, f"{REF}.l.0": blob}
    top = add(store, ambiguous(config, layer, blob), labels=labels, told=told)
    tag(store, "a", top, media.OCI_MANIFEST)
    assert not any(gc.collect(store))


@pytest.mark.parametrize("is_told", [True, False])
def test_a_referrer_is_found_though_something_dead_calls_it_a_layer(store: DiskStore, is_told: bool) -> None:
    """What that refers to is told by its record, too."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    top = add(store, manifest(config, layer))
    tag(store, "a", top, media.OCI_MANIFEST)
    data = manifest(add(store, b"{1}"), subject=top, annotations={"k": "x" * 900 * is_told})
    referrer = add_told(store, data) if is_told else add(store, data)
    add_told(store, manifest(add(store, b"{22}"), referrer, annotations={"k": "x" * 500}))
    gc.collect(store)
    assert objects(store) == {config, layer, top, referrer, Digest.of(b"{1}")}


def test_what_is_told_wrongly_is_healed_by_who_reads_the_bytes_again(store: DiskStore) -> None:
    """As everything is: ingest it again. Keys that are not known stay where it was right."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    data = manifest(config, layer)
    add(store, data, told=References(media.OCI_MANIFEST))
    told = store.content(NS).info(add_told(store, data)).references
    assert told
    assert [*told.children] == [config, layer]
    later: dict[str, Any] = {"later": 1}
    add(store, data, "other", told=told._replace(unknown=later))
    right = store.content("other").info(add_told(store, data, "other")).references
    assert right == told._replace(unknown=later)


def test_an_artifact_that_does_not_say_what_it_is_is_ingested_soundly(store: DiskStore) -> None:
    """Its type is in its descriptor alone, so fsck cannot know it."""
    data = json.dumps({"blobs": [entry(add(store, b"b"))]}).encode()
    top = add(store, data, told=references(parse(data, media.OCI_ARTIFACT, "x")))
    assert store.content(NS).info(top).references is None
    assert [*fsck.check(store.engine.layout.root)] == []


def test_what_is_told_wrongly_goes_where_nothing_may_be_told(store: DiskStore) -> None:
    """One digest has two types: a record has room for one."""
    config, layer = add(store, b"{}"), add(store, b"layer")
    data = manifest(config, config, layer)
    top = add(store, data, told=References(media.OCI_MANIFEST, {config: media.OCI_CONFIG}))
    tag(store, "a", top, media.OCI_MANIFEST)
    assert add_told(store, data) == top
    assert store.content(NS).info(top).references is None
    assert not any(gc.collect(store))


def test_one_of_two_types_is_told_wrongly(store: DiskStore) -> None:
    """By the other the content is followed."""
    inner = add(store, manifest(add(store, b"{}"), add(store, b"layer")))
    data = index(entry(inner, media.OCI_MANIFEST), entry(inner, LAYER))
    top = add(store, data, told=References(media.OCI_INDEX, {inner: LAYER}))
    found = [problem.what for problem in fsck.check(store.engine.layout.root) if problem.name == top]
    assert "its record tells wrongly what it refers to" in found


def test_an_empty_index_that_does_not_say_what_it_is_is_ingested_soundly(store: DiskStore) -> None:
    """Its bytes look like those of a manifest."""
    data = b'{"schemaVersion": 2}'
    add(store, data, told=references(parse(data, media.OCI_INDEX, "x")), is_document=True)
    assert [*fsck.check(store.engine.layout.root)] == []
