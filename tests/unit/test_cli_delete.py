"""What a dry run of `delete` says that gc would free is what is gone from the disk afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from imgtool.disk import DiskStore, open_store
from imgtool.model import Lease
from imgtool.oci import media
from tests.fixture_runner import run_here

from .gc_world import NS, OTHER, add, manifest, tag


def put(store: DiskStore) -> None:
    """Images that share a layer, one of them twice; a signature; a lease; another namespace; garbage; and
    what a dead process has left.
    """
    config, shared, own = (add(store, data) for data in (b"{}", b"shared layer", b"a layer of a alone"))
    a, b = (add(store, manifest(config, *layers)) for layers in ((shared, own), (shared,)))
    add(store, manifest(config, add(store, b"signature"), subject=a))
    held, elsewhere = add(store, b"held by a lease"), add(store, b"in two namespaces")
    add(store, b"in two namespaces", OTHER)
    for name, digest in (("a", a), ("again", a), ("b", b)):
        tag(store, name, digest, media.OCI_MANIFEST)
    for name, digest in (("held", held), ("both", elsewhere), ("gone", add(store, b"garbage"))):
        tag(store, name, digest, media.OCTETS)
    tag(store, "both", elsewhere, media.OCTETS, OTHER)
    store.leases(NS).create(Lease("l", {}, {"content": (held,)}))
    store.images(NS).delete("gone")


def size(root: Path) -> int:
    """Bytes below `objects` and `tmp`."""
    return sum(
        os.lstat(path).st_size
        for directory in ("objects", "tmp")
        for path in (root / directory).rglob("*")
        if path.is_file()
    )


@pytest.mark.parametrize(
    "names", [["a"], ["again", "a"], ["b"], ["a", "again", "b"], ["held"], ["both"], ["--all"], ["b", "none"]]
)
def test_the_sum_is_what_a_deletion_and_gc_free(names: list[str], tmp_path: Path) -> None:
    """Shared by names, kept by a lease or another namespace, about what goes: all of it counts."""
    with open_store(str(tmp_path / "store")) as store:
        put(store)
    dead = tmp_path / "store/tmp/0123456789abcdef"
    dead.mkdir(mode=0o700)
    (dead / "left").write_bytes(b"by a process that is gone")
    before = size(tmp_path / "store")
    told = json.loads(run_here(["delete", "--dry-run", "--format", "json", *names], tmp_path, b"").stdout)
    assert size(tmp_path / "store") == before
    run_here(["delete", *names], tmp_path, b"")
    assert run_here(["gc"], tmp_path, b"").code == 0
    assert before - size(tmp_path / "store") == told["gc"]["frees"]


def test_what_is_garbage_already_is_what_gc_frees_now(tmp_path: Path) -> None:
    """It is in the sum, and told apart."""
    with open_store(str(tmp_path / "store")) as store:
        put(store)
    before = size(tmp_path / "store")
    told = json.loads(run_here(["delete", "--dry-run", "--format", "json", "a"], tmp_path, b"").stdout)
    assert run_here(["gc"], tmp_path, b"").code == 0
    assert before - size(tmp_path / "store") == told["gc"]["garbage"] == len(b"garbage")
