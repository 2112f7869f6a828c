"""Manifests and indexes: each kind is read, and no document is two kinds at once."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import References
from imgtool.oci import media
from imgtool.oci.manifest import Manifest, detect, parse, references


def entry(n: int, media_type: str = "application/vnd.oci.image.layer.v1.tar") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(bytes([n]))), "size": 1}


def read(document: object, media_type: str = media.OCI_MANIFEST) -> Manifest:
    return parse(json.dumps(document).encode(), media_type, "manifest x")


def refused(document: object, media_type: str = media.OCI_MANIFEST) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(document, media_type)
    return caught.value.message


def digests(manifest: Manifest) -> list[str]:
    return [str(d.digest) for d in manifest.children()]


LAYER = "application/vnd.oci.image.layer.v1.tar"


def part(data: bytes, media_type: str = LAYER) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


IMAGE = {"schemaVersion": 2, "config": entry(0, media.OCI_CONFIG), "layers": [entry(1), entry(2), entry(1)]}
INDEX = {"schemaVersion": 2, "manifests": [entry(3, media.OCI_MANIFEST), entry(4, "application/x")]}


@pytest.mark.parametrize("media_type", [media.OCI_MANIFEST, media.DOCKER_MANIFEST])
@pytest.mark.parametrize("stated", [True, False])
def test_the_children_of_an_image_are_config_and_layers_as_they_occur(media_type: str, stated: bool) -> None:
    """Order and repeats count: they number containerd's labels."""
    found = read(IMAGE | ({"mediaType": media_type} if stated else {}), media_type)
    assert digests(found) == [str(Digest.of(bytes([n]))) for n in (0, 1, 2, 1)]
    assert (found.media_type, found.is_index) == (media_type, False)


@pytest.mark.parametrize("media_type", [media.OCI_INDEX, media.DOCKER_LIST])
def test_the_children_of_an_index_are_its_manifests(media_type: str) -> None:
    """Of whatever type: what is unknown is a leaf."""
    found = read(INDEX, media_type)
    assert digests(found) == [str(Digest.of(bytes([n]))) for n in (3, 4)]
    assert found.is_index


def test_an_artifact_has_a_type_a_subject_and_perhaps_no_layers() -> None:
    """The subject is no child: a signature lives as long as what it signs, not the other way."""
    found = read(
        {
            "schemaVersion": 2,
            "artifactType": "application/x",
            "config": entry(0, media.OCI_EMPTY),
            "layers": [],
            "subject": entry(9, media.OCI_MANIFEST),
            "annotations": {"k": "v"},
        }
    )
    assert digests(found) == [str(Digest.of(b"\0"))]
    assert found.subject is not None
    assert found.subject.digest == Digest.of(b"\x09")
    assert (found.artifact_type, found.annotations) == ("application/x", {"k": "v"})


def test_an_index_may_be_about_a_subject_and_of_a_type_too() -> None:
    """image-spec 1.1."""
    found = read(INDEX | {"subject": entry(9), "artifactType": "application/x"}, media.OCI_INDEX)
    assert found.subject
    assert found.artifact_type == "application/x"
    assert len(found.children()) == 2


def test_the_oci_artifact_manifest_has_blobs() -> None:
    """It was in release candidates only, but layouts of that time hold signatures in it."""
    document = {
        "mediaType": media.OCI_ARTIFACT,
        "artifactType": "application/x",
        "blobs": [entry(1), entry(2)],
    }
    found = read(document, media.OCI_ARTIFACT)
    assert digests(found) == [str(Digest.of(bytes([n]))) for n in (1, 2)]


def test_null_lists_are_empty() -> None:
    """Go programs write them so: buildkit, zot."""
    assert digests(read(IMAGE | {"layers": None})) == [str(Digest.of(b"\0"))]
    assert digests(read(INDEX | {"manifests": None}, media.OCI_INDEX)) == []


@pytest.mark.parametrize("foreign", [None, [], [entry(1)]])
def test_a_document_of_two_kinds_is_refused(foreign: object) -> None:
    """Two programs would see two images under one digest (CVE-2021-41190)."""
    message = "and has 'manifests': index and manifest at once"
    assert refused(IMAGE | {"manifests": foreign}).endswith(message)
    for key in ("config", "layers", "blobs"):
        assert f"has '{key}'" in refused(INDEX | {key: foreign}, media.OCI_INDEX)


@pytest.mark.parametrize("stated", [media.OCI_INDEX, media.DOCKER_MANIFEST, "application/x", 5, []])
def test_a_document_that_is_not_what_its_descriptor_says_is_refused(stated: object) -> None:
    """Who trusts the one reads otherwise than who trusts the other."""
    assert "its descriptor says 'application/vnd.oci.image.manifest.v1+json'" in refused(
        IMAGE | {"mediaType": stated}
    )


@pytest.mark.parametrize("key", ["Layers", "MANIFESTS", "mediatype", "\u017fubject"])
def test_a_key_that_go_would_take_for_another_is_refused(key: str) -> None:
    """Go's decoder ignores case, and the last key wins: containerd would see other layers."""
    assert "which some programs read as" in refused(IMAGE | {key: None})
    assert "which some programs read as" in refused(IMAGE | {"layers": [entry(1) | {"Digest": None}]})


def test_a_key_that_is_nothing_to_go_either_is_passed_over() -> None:
    """Extensions are free to come."""
    assert read(IMAGE | {"layer": [], "config2": 1, "\u017f": 2}) == read(IMAGE)


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []},
        {"schemaVersion": 2, "fsLayers": None},
        {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
    ],
)
def test_docker_schema_1_is_called_by_its_name(document: object) -> None:
    """Its user needs to know that the image is old, not that a field is missing."""
    assert "is a docker schema 1 manifest" in refused(document)


@pytest.mark.parametrize("version", [None, 1, "2", 2.0, True, 3])
def test_the_schema_version_is_2(version: object) -> None:
    """Both families have it, and no other value means anything."""
    assert "schemaVersion of manifest x is" in refused(IMAGE | {"schemaVersion": version})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": None}, "manifest x has no config"),
        ({"config": []}, "config of manifest x is an array, expected a descriptor"),
        ({"layers": {}}, "'layers' of manifest x is an object, expected an array"),
        ({"layers": [entry(1), None]}, "layers[1] of manifest x is null, expected a descriptor"),
        ({"subject": ".nope"}, "subject of manifest x is a string, expected a descriptor"),
        ({"annotations": []}, "annotations of manifest x: an array, expected an object"),
        ({"artifactType": False}, "artifactType of manifest x is not text, expected a media type"),
    ],
)
def test_the_message_names_the_field_that_is_wrong(change: dict[str, Any], message: str) -> None:
    """A manifest has a hundred layers; which one?"""
    assert refused(IMAGE | change) == message


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (IMAGE, media.OCI_MANIFEST),
        (IMAGE | {"mediaType": media.DOCKER_MANIFEST}, media.DOCKER_MANIFEST),
        (INDEX, media.OCI_INDEX),
        (INDEX | {"mediaType": media.DOCKER_LIST}, media.DOCKER_LIST),
        ({"mediaType": media.OCI_ARTIFACT, "blobs": []}, media.OCI_ARTIFACT),
        (IMAGE | {"manifests": []}, None),
        (IMAGE | {"mediaType": "application/x"}, None),
        (IMAGE | {"mediaType": []}, None),
        ({"architecture": "amd64", "os": "linux"}, None),
        ([], None),
    ],
)
def test_a_document_says_what_it_is(document: object, found: str | None) -> None:
    """`tag DIGEST NAME` has no descriptor to ask."""
    assert detect(json.dumps(document).encode()) == found


def test_what_is_no_json_says_nothing() -> None:
    """Most content is not."""
    assert detect(b"\x1f\x8b") is None


def test_what_a_record_may_tell_of_a_manifest() -> None:
    """Each child once, also those of a document inside its descriptor; with the subject."""
    inner = {"schemaVersion": 2, "config": part(b"{}", media.OCI_CONFIG), "layers": [part(b"l", LAYER)] * 2}
    raw = json.dumps(inner).encode()
    data = base64.b64encode(raw).decode()
    outer = {"schemaVersion": 2, "manifests": [part(raw, media.OCI_MANIFEST) | {"data": data}]}
    outer["subject"] = part(b"s", media.OCI_MANIFEST)
    found = parse(json.dumps(outer).encode(), media.OCI_INDEX, "x")
    assert references(found) == References(
        media.OCI_INDEX,
        {Digest.of(raw): media.OCI_MANIFEST, Digest.of(b"{}"): media.OCI_CONFIG, Digest.of(b"l"): LAYER},
        Digest.of(b"s"),
    )


@pytest.mark.parametrize(("layers", "is_told"), [(400, True), (900, False)])
def test_of_much_a_record_tells_nothing(layers: int, is_told: bool) -> None:
    """Reading it would cost what reading the document costs."""
    many = [part(bytes([n // 256, n % 256]), LAYER) for n in range(layers)]
    document = {"schemaVersion": 2, "config": part(b"{}", media.OCI_CONFIG), "layers": many}
    assert bool(references(parse(json.dumps(document).encode(), media.OCI_MANIFEST, "x"))) == is_told


def test_of_content_of_two_types_a_record_tells_nothing() -> None:
    """It has room for one."""
    document = {"schemaVersion": 2, "config": part(b"{}", media.OCI_CONFIG), "layers": [part(b"{}", LAYER)]}
    assert references(parse(json.dumps(document).encode(), media.OCI_MANIFEST, "x")) is None
