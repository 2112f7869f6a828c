"""Graphs: what a descriptor reaches, bounded, and what may be absent from it."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest

from imgtool.errors import DataLoss, FailedPrecondition, InvalidArgument
from imgtool.model import Descriptor, replace
from imgtool.oci import graph, media
from imgtool.oci.descriptor import parse, to_dict
from imgtool.oci.graph import Extent
from imgtool.oci.layout import Layout

from .layout_world import LAYER, Made

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def on(descriptor: Descriptor, os: str, architecture: str, **more: Any) -> Descriptor:
    platform = {"os": os, "architecture": architecture} | more
    return parse(to_dict(descriptor) | {"platform": platform}, "d")


def test_a_walk_goes_down_in_the_order_of_the_documents(made: Made) -> None:
    """Parents come before children, as in containerd, and each node knows where it was met."""
    config, one, two = made.config(os="linux"), made.put(b"1"), made.put(b"2")
    first, second = made.image(config, one), made.image(config, two, one)
    index = made.index(first, second)
    nodes = made.walk(index)
    assert [(n.descriptor, n.depth, n.parent) for n in nodes] == [
        (index, 0, None),
        (first, 1, index.digest),
        (config, 2, first.digest),
        (one, 2, first.digest),
        (second, 1, index.digest),
        (two, 2, second.digest),
    ]
    assert [n.manifest is not None for n in nodes] == [True, True, False, False, True, False]


def test_the_size_counts_each_content_once_and_only_what_is_there(made: Made) -> None:
    """It is what the image takes on disk."""
    config, shared, gone = made.config(), made.put(b"12345"), made.put(b"gone", FOREIGN)
    image, other = made.image(config, shared, shared, gone), made.image(config, shared)
    made.lose(gone)
    sizes = sum(d.size for d in (config, shared, image, other))
    assert made.extent(image, other, image).size == sizes


def test_a_manifest_of_an_index_may_be_absent_as_a_whole(made: Made) -> None:
    """docker since 25 saves one platform of an index and leaves the index as it is."""
    kept, dropped = made.image(made.config(a="1")), made.image(made.config(a="2"))
    index = made.index(kept, dropped)
    made.lose(dropped)
    found = made.extent(index)
    assert (found.missing(), found.absent()) == ([], [dropped.digest])


def test_a_part_of_a_manifest_that_is_there_may_not_be_absent(made: Made) -> None:
    """An image without its config or a layer cannot run."""
    config, layer = made.config(), made.put(b"1")
    index = made.index(made.image(config, layer))
    made.lose(config, layer)
    found = made.extent(index)
    assert (found.missing(), found.absent()) == ([config.digest, layer.digest], [])


def test_a_root_may_not_be_absent(made: Made) -> None:
    """There would be nothing to name."""
    image = made.image(made.config())
    made.lose(image)
    assert made.extent(image).missing() == [image.digest]


@pytest.mark.parametrize("fields", [{"media_type": FOREIGN}, {"urls": ("https://example.com/layer",)}])
def test_a_layer_that_comes_from_elsewhere_may_be_absent(made: Made, fields: dict[str, Any]) -> None:
    """Windows base layers may not be passed on; their descriptors say where to get them."""
    layer = made.put(b"1", **fields)
    image = made.image(made.config(), layer)
    assert made.extent(image).absent() == []
    made.lose(layer)
    assert (made.extent(image).missing(), made.extent(image).absent()) == ([], [layer.digest])


def test_what_may_be_absent_in_one_place_is_missing_in_another(made: Made) -> None:
    """The place that was met first must not decide."""
    leaf = made.put(b"1", "application/x")
    image = made.image(made.config(), leaf)
    made.lose(leaf)
    for index in (made.index(leaf, image), made.index(image, leaf)):
        assert (made.extent(index).missing(), made.extent(index).absent()) == ([leaf.digest], [])


def test_content_inline_in_its_descriptor_is_there(made: Made) -> None:
    """Tools leave the file of `{}` out; a whole manifest may be inline as well."""
    config = made.put(b"{}", media.OCI_EMPTY)
    inline = replace(config, data="e30=")
    image = made.image(inline, inline)
    whole = replace(image, data=base64.b64encode(made.file(image).read_bytes()).decode())
    made.lose(config, image)
    found = made.walk(made.index(whole))
    assert Extent(found).missing() == []
    assert [n.descriptor.digest for n in found[1:]] == [image.digest, config.digest]


def test_a_referrer_does_not_reach_its_subject(made: Made) -> None:
    """The edge goes the other way, and who stores both makes it."""
    image = made.image(made.config())
    signature = made.image(made.put(b"{}", media.OCI_EMPTY), subject=to_dict(image))
    assert image.digest not in {n.descriptor.digest for n in made.walk(signature)}


def test_one_digest_is_read_as_each_type_that_it_is_given(made: Made) -> None:
    """A manifest that was first met as a layer is still a manifest, with children."""
    layer = made.put(b"1")
    inner = made.image(made.config(), layer)
    outer = made.image(made.config(), replace(inner, media_type=LAYER))
    digests = [n.descriptor.digest for n in made.walk(made.index(outer, inner))]
    assert digests.count(inner.digest) == 2
    assert layer.digest in digests


def test_one_digest_with_two_types_of_document_is_judged_by_both(made: Made) -> None:
    """The document says one of them; the other descriptor lies (CVE-2021-41190)."""
    image = made.image(made.config(), mediaType=media.OCI_MANIFEST)
    index = made.index(image, replace(image, media_type=media.DOCKER_MANIFEST))
    with pytest.raises(InvalidArgument, match="says that it is"):
        made.walk(index)


def test_one_digest_with_two_sizes_is_refused(made: Made) -> None:
    """One of them lies, and a leaf is never read here."""
    layer = made.put(b"1")
    image = made.image(made.config(), layer, replace(layer, size=2))
    with pytest.raises(InvalidArgument, match=f"content {layer.digest} has two sizes: 1 and 2"):
        made.walk(image)


def test_a_damaged_manifest_is_an_error_of_the_class_that_was_asked_for(made: Made) -> None:
    """The same bytes are a loss in a store, and a bad source in an ingest."""
    image = made.image(made.config())
    made.file(image).write_bytes(b" " * image.size)
    with pytest.raises(DataLoss, match=image.digest):
        made.walk(image)
    with Layout(str(made.path)) as layout, pytest.raises(FailedPrecondition, match=image.digest):
        list(graph.walk(layout, [image], layout.has, wrong=FailedPrecondition))


def test_32_levels_are_walked_and_33_are_not(made: Made) -> None:
    """A chain of 3,000 indexes costs its author nothing."""
    top = made.put(b"leaf", "application/x")
    for _ in range(32):
        top = made.index(top)
    assert made.walk(top)[-1].depth == 32
    with pytest.raises(InvalidArgument, match="more than 32 levels"):
        made.walk(made.index(top))


def test_documents_one_below_the_other_have_4_mib_together(made: Made) -> None:
    """What each of them lists stays in memory until the walk has come back from below."""
    inner = made.index(made.put(b"leaf", "application/x"), annotations={"a": "b" * (2 << 20)})
    beside = made.index(inner, made.index(annotations={"a": "c" * (2 << 20)}))
    assert len(made.walk(beside)) == 4
    with pytest.raises(InvalidArgument, match=f"to {inner.digest} have 4.* bytes together"):
        made.walk(made.index(inner, annotations={"a": "d" * (2 << 20)}))


def test_2_to_the_30_paths_are_one_walk_of_each_document(made: Made) -> None:
    """Each index lists the next one twice."""
    top = made.put(b"leaf", "application/x")
    for _ in range(30):
        top = made.index(top, top)
    started = time.monotonic()
    assert len(made.walk(top)) == 31
    assert time.monotonic() - started < 5
    assert made.platforms(top) == []


def test_100_000_descriptors_are_walked_and_one_more_is_not(made: Made) -> None:
    """4 MiB of index hold some 30,000, and indexes nest."""

    def leaves(first: int, count: int) -> Descriptor:
        entries = [
            {"mediaType": "a/b", "digest": f"sha256:{n:064x}", "size": 1} for n in range(first, first + count)
        ]
        return made.json(media.OCI_INDEX, {"schemaVersion": 2, "manifests": entries})

    parts = [leaves(n * 25_000, 25_000) for n in range(3)]
    assert len(made.walk(made.index(*parts, leaves(75_000, 24_995)))) == 100_000
    with pytest.raises(InvalidArgument, match="more than 100000 descriptors"):
        made.walk(made.index(*parts, leaves(75_000, 24_996)))


def test_the_platforms_of_an_index_are_those_of_its_descriptors(made: Made) -> None:
    """Normalised, sorted, each once; attestations run on nothing; absent manifests count, as in ctr."""
    image = made.image(made.config(os="plan9", architecture="mips"))
    gone = made.image(made.config(a="gone"))
    index = made.index(
        on(image, "linux", "x86_64"),
        on(image, "linux", "amd64"),
        on(gone, "Linux", "arm", variant="7"),
        on(image, "unknown", "unknown"),
        on(image, "windows", "amd64", **{"os.version": "10.0.17763.1"}),
    )
    made.lose(gone)
    assert made.platforms(index) == ["linux/amd64", "linux/arm/v7", "windows/amd64"]


def test_the_platform_of_a_manifest_is_that_of_its_config(made: Made) -> None:
    """Also below an index that does not say it."""
    image = made.image(made.config(os="linux", architecture="aarch64", variant="v8"))
    assert made.platforms(image) == ["linux/arm64"]
    assert made.platforms(made.index(image)) == ["linux/arm64"]
    assert made.platforms(on(image, "linux", "386")) == ["linux/386"]


@pytest.mark.parametrize(
    "config",
    [b"{}", b"not json", b'{"os": 1}', b'{"os": "linux", "architecture": []}', b"[]", b'{"os": null}', b""],
)
def test_a_config_that_says_no_platform_adds_none(made: Made, config: bytes) -> None:
    """A list goes on past one strange image."""
    assert made.platforms(made.image(made.put(config, media.OCI_CONFIG))) == []


def test_what_is_absent_or_malformed_has_no_platforms(made: Made) -> None:
    """Its other platforms are shown all the same."""
    good = made.image(made.config(os="linux", architecture="riscv64"))
    bad = made.put(b"{", media.OCI_MANIFEST)
    gone = made.image(made.config(a="gone"))
    index = made.index(bad, gone, good)
    made.lose(gone)
    assert made.platforms(index) == ["linux/riscv64"]


def test_a_damaged_config_is_a_loss(made: Made) -> None:
    """What the store's own bytes no longer say is not passed over."""
    config = made.config(os="linux", architecture="amd64")
    image = made.image(config)
    made.file(config).write_bytes(b" " * config.size)
    with pytest.raises(DataLoss, match=config.digest):
        made.platforms(image)
