"""Media types, and containerd's labels for what a document refers to."""

from __future__ import annotations

import pytest

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import Descriptor
from imgtool.oci import media

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def child(n: int, media_type: str, **annotations: str) -> Descriptor:
    return Descriptor(media_type, Digest.of(bytes([n])), 1, annotations)


def labels(*children: Descriptor) -> dict[str, int]:
    """The labels without their common prefix, with the number of the child."""
    numbers = {Digest.of(bytes([n])): n for n in range(256)}
    found = media.gc_labels(children)
    assert all(k.startswith("containerd.io/gc.ref.content") for k in found)
    return {
        k.removeprefix("containerd.io/gc.ref.content"): numbers[Digest.parse(d)] for k, d in found.items()
    }


def test_an_image_has_a_config_and_numbered_layers() -> None:
    """The names that `ctr images import` writes, so that its collector keeps the same content."""
    children = (
        child(1, media.OCI_CONFIG),
        child(2, GZIP),
        child(3, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        child(4, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        child(5, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
    )
    assert labels(*children) == {".config": 1, ".l.0": 2, ".l.1": 3, ".l.2": 4, ".l.3": 5}


def test_an_index_numbers_manifests_apart_from_all_else() -> None:
    """A nested index is no `.m.`: containerd counts it among the others."""
    children = (
        child(1, media.OCI_MANIFEST),
        child(2, media.OCI_INDEX),
        child(3, media.DOCKER_MANIFEST),
        child(4, "application/x"),
        child(5, media.DOCKER_LIST),
    )
    assert labels(*children) == {".m.0": 1, ".0": 2, ".m.1": 3, ".1": 4, ".2": 5}


def test_the_config_of_an_artifact_is_one_among_the_others() -> None:
    """Only configs of images and checkpoints have the name."""
    checkpoint = "application/vnd.containerd.container.checkpoint.config.v1+proto"
    assert labels(child(1, media.OCI_EMPTY), child(2, "text/plain")) == {".0": 1, ".1": 2}
    assert labels(child(1, media.DOCKER_CONFIG), child(2, checkpoint)) == {".config": 1, ".config1": 2}


def test_a_layer_that_occurs_twice_has_two_labels() -> None:
    """Numbers count positions, not contents."""
    assert labels(child(1, GZIP), child(1, GZIP)) == {".l.0": 1, ".l.1": 1}


def test_a_referrer_is_named_by_its_digest() -> None:
    """As in containerd 2: its number would change whenever another one comes."""
    referrer = child(7, media.OCI_MANIFEST, **{media.SUBJECT: "sha256:…"})
    key = f".referrer.sha256.{referrer.digest.encoded[:12]}"
    assert labels(child(1, media.OCI_MANIFEST), referrer, child(2, media.OCI_MANIFEST)) == {
        ".m.0": 1,
        key: 7,
        ".m.1": 2,
    }
    assert media.referrer_label(referrer.digest) == "containerd.io/gc.ref.content" + key


def test_no_children_have_no_labels() -> None:
    """Labels are written as they are given here."""
    assert media.gc_labels(()) == {}


@pytest.mark.parametrize(
    ("media_type", "families"),
    [
        (media.OCI_MANIFEST, "manifest"),
        (media.DOCKER_MANIFEST, "manifest"),
        (media.OCI_ARTIFACT, "manifest"),
        (media.OCI_INDEX, "index"),
        (media.DOCKER_LIST, "index"),
        (media.OCI_CONFIG, "config"),
        (media.DOCKER_CONFIG, "config"),
        (GZIP, "layer"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "layer nondistributable"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "layer nondistributable"),
        ("application/vnd.erofs.layer.v1", "layer"),
        (media.OCI_EMPTY, ""),
        ("application/vnd.oci.image.manifest.v1+json+x", ""),
        ("application/vnd.oci.image.layers", ""),
    ],
)
def test_each_type_is_of_its_families(media_type: str, families: str) -> None:
    """What is of none is a leaf."""
    asked = {
        "manifest": media.is_manifest,
        "index": media.is_index,
        "config": media.is_config,
        "layer": media.is_layer,
        "nondistributable": media.is_nondistributable,
    }
    assert [name for name, ask in asked.items() if ask(media_type)] == families.split()
    assert media.has_children(media_type) == (families in ("manifest", "index"))


@pytest.mark.parametrize("text", ["a/b", "application/vnd.x+json", "9/9", f"{'a' * 127}/{'b' * 127}"])
def test_a_media_type_has_a_type_and_a_subtype(text: str) -> None:
    """RFC 6838, with its longest names."""
    assert media.check(text, "media type of x") == text


@pytest.mark.parametrize(
    "text", ["", "a", "a/", "/b", "a/b/c", "a/b;c=d", "a/ b", "é/b", f"{'a' * 128}/b", None]
)
def test_anything_else_is_no_media_type(text: object) -> None:
    """It is printed in tables and sent in headers."""
    with pytest.raises(InvalidArgument, match="media type of x is "):
        media.check(text, "media type of x")
