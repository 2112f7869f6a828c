"""Manifests that are read by a pattern: as the parser reads them, or not at all. `imgtool.ops.documents`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.oci import manifest, media
from imgtool.ops import documents

TYPES = [media.OCI_MANIFEST, media.DOCKER_MANIFEST, media.OCI_INDEX, media.OCI_ARTIFACT]
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def part(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": Digest.of(data), "size": len(data)}


def document(media_type: str = media.OCI_MANIFEST) -> dict[str, Any]:
    layers = [part(LAYER, b"a"), part("application/octet-stream", b"b"), part(media.OCI_MANIFEST, b"c")]
    return {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": part(media.OCI_CONFIG, b"config"),
        "layers": layers,
    }


def docker_order(found: dict[str, Any]) -> dict[str, Any]:
    """Its descriptors have the size before the digest."""

    def turned(part: dict[str, Any]) -> dict[str, Any]:
        return {key: part[key] for key in ("mediaType", "size", "digest")}

    return found | {"config": turned(found["config"]), "layers": [turned(p) for p in found["layers"]]}


def parsed(raw: bytes, media_type: str) -> documents.Document | None:
    """None where it is refused."""
    try:
        return documents._document(manifest.parse(raw, media_type, "x"))
    except InvalidArgument:
        return None


@pytest.mark.parametrize("indent", [None, 3])
@pytest.mark.parametrize("media_type", [media.OCI_MANIFEST, media.DOCKER_MANIFEST])
def test_a_usual_manifest_is_read_as_the_parser_reads_it(media_type: str, indent: int | None) -> None:
    """As Go programs and docker write it."""
    for found in (document(media_type), docker_order(document(media_type))):
        raw = json.dumps(found, indent=indent).encode()
        assert documents._usual(raw, media_type) == parsed(raw, media_type) is not None
        assert documents._usual(raw, documents.UNKNOWN) == parsed(raw, media_type)


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"size"', b'"Size"'),
        (b'"size": ', b'"size": 0'),
        (b'"size": ', b'"size": -'),
        (b'"size": ', b'"size": 99999999999999999999'),
        (b'"size": ', b'"size": 1, "size": '),
        (b'"layers"', b'"layers": [], "layers"'),
        (b'"layers"', b'"Layers": [], "layers"'),
        (b'"layers"', b'"manifests": [], "layers"'),
        (b'"layers"', b'"subject": null, "layers"'),
        (b'"layers"', b'"annotations": {"a": "b"}, "layers"'),
        (b"sha256:", b"sha256:0"),
        (b"sha256:", b"sha1:"),
        (b"sha256:", b"sha\\u003256:"),
        (b"vnd", b"Vnd"),
        (b"vnd", b"\xc3\xa4"),
        (b"vnd", b"\xff"),
        (b"2", b"3"),
        (b"[", b"[1, "),
        (b"[", b"[], ["),
        (b"}", b'"urls": ["x"]}'),
        (b"{", b"\xef\xbb\xbf{"),
        (b"{", b"{{"),
    ],
)
def test_what_is_unusual_is_read_as_the_parser_reads_it_or_not(
    media_type: str, old: bytes, new: bytes
) -> None:
    """Above all where that refuses it, as what another program might read otherwise."""
    for stated in TYPES:
        for found in (document(stated), docker_order(document(stated))):
            raw = json.dumps(found).encode()
            for changed in (raw, raw.replace(old, new, 1), raw.replace(old, new), raw[:-1], raw + b"x"):
                usual = documents._usual(changed, media_type)
                assert usual is None or usual == parsed(changed, media_type)
                usual = documents._usual(changed, documents.UNKNOWN)
                assert usual is None or usual == parsed(changed, manifest.detect(changed) or "")
