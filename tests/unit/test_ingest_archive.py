"""Archives as sources: what a first look may cost, and members that are there twice."""

from __future__ import annotations

import bz2
import tarfile
import time

import pytest

from imgtool.errors import InvalidArgument
from imgtool.oci import docker
from imgtool.ops.ingest_archive import is_archive

MIB = 1 << 20


def header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(("name", "archive"), [("blobs/sha256/x", True), ("a", False)])
def test_a_first_look_does_not_decompress_a_bomb(name: str, archive: bool) -> None:
    """A few bytes can stand for as many as one likes, and here it is only told what the file is."""
    zeros = bz2.compress(bytes(32 * MIB))
    head = bz2.compress(header(name, 32 * 1024 * MIB)) + zeros * 1024
    assert len(head) < MIB
    start = time.process_time()
    assert is_archive(head, "head") == archive
    assert time.process_time() - start < 1


def test_what_manifest_json_lists_is_counted_before_it_is_read() -> None:
    """4 MiB can name a million layers, each of which would be looked at."""
    for many in (b'[{"Config":"a","Layers":[%s]}]', b'[{"Config":"a","repoTags":[%s]}]', b"[%s]"):
        raw = many % b",".join([b'"a"'] * 100_001)
        with pytest.raises(InvalidArgument, match="at most 100000 are read"):
            docker.parse_entries(raw, "it")


def test_a_config_says_what_its_layers_are() -> None:
    """Or nothing of it: artifacts have no root file system."""
    assert docker.parse_config(b'{"rootfs":{"diff_ids":["a"]}}', "it").diff_ids == ("a",)
    for silent in (b"{}", b'{"rootfs":null}', b'{"rootfs":{"diff_ids":null}}', b'{"rootfs":{"diff_ids":[]}}'):
        assert docker.parse_config(silent, "it").diff_ids == ()
    for wrong in (
        b'{"rootfs":[1]}',
        b'{"rootfs":{"diff_ids":[1]}}',
        b'{"rootfs":{"diff_ids":"a"}}',
        b'{"os":1}',
    ):
        with pytest.raises(InvalidArgument):
            docker.parse_config(wrong, "it")


@pytest.mark.parametrize(
    ("head", "packed"),
    [
        (b"\x1f\x8b\x08", True),
        (b"\x28\xb5\x2f\xfd", True),
        (b"\xfd7zXZ\0", False),
        (b"BZh91AY&SY", False),
        (b"", False),
    ],
)
def test_a_layer_has_the_type_that_containerd_gives_it(head: bytes, packed: bool) -> None:
    """The type is part of the manifest, so of the digest."""
    assert docker.layer_type(head) == (docker.LAYER_GZIP if packed else docker.LAYER)
