"""gc with `follow = "labels"` against containerd's own collector, over records that are the same.

Images are imported into a daemon; labels are then changed at random, with `ctr`. What the daemon holds
is laid out in a store of ours; both collect, and what is left must be the same. Only what containerd 1.6
has: no back references, no images that expire, `gc.root` without a suffix.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from imgtool.digest import Digest
from imgtool.disk import DiskStore, open_store
from imgtool.model import Descriptor, Image, Namespace
from imgtool.ops import gc
from imgtool.stores import Commit

from .containerd import Containerd, running

GC = "containerd.io/gc."
KEYS = [f"{GC}ref.content{suffix}" for suffix in ("", ".0", ".l.1", ".config", "/x", "s", "-1")]
NAMES = ("example.com/a:1", "example.com/b:1", "example.com/c:1")
TRIGGER = "example.com/trigger:1"


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with running(tmp_path_factory.mktemp("containerd")) as daemon:
        yield daemon


class Held(NamedTuple):
    """What a namespace of the daemon has: labels by digest; target and labels by name."""

    content: dict[str, dict[str, str]]
    images: dict[str, tuple[str, dict[str, str]]]


def archive(path: Path, seed: int) -> None:
    """An OCI archive of small images, which share a layer."""
    blobs: dict[str, bytes] = {}

    def put(media_type: str, data: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    oci = "application/vnd.oci.image"
    manifests = []
    for name in (*NAMES, TRIGGER):
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
            "n": name,
        }
        layers = [f"{text} {seed}".encode() for text in ("shared", f"{name} 1", f"{name} 2")]
        document = {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": put(f"{oci}.config.v1+json", json.dumps(config).encode()),
            "layers": [put(f"{oci}.layer.v1.tar", layer) for layer in layers],
        }
        entry = put(f"{oci}.manifest.v1+json", json.dumps(document).encode())
        manifests.append({**entry, "annotations": {"io.containerd.image.name": name}})
    files = {f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()}
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    with tarfile.open(path, "w") as tar:
        for member, data in files.items():
            header = tarfile.TarInfo(member)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def ctr(daemon: Containerd, namespace: str, *args: str | Path) -> str:
    done = daemon.ctr("-n", namespace, *args)
    assert not done.returncode, done.stderr
    return done.stdout


def held(daemon: Containerd, namespace: str) -> Held:
    content = [line.split() for line in ctr(daemon, namespace, "content", "ls").splitlines()[1:]]
    images = [line.split() for line in ctr(daemon, namespace, "images", "ls").splitlines()[1:]]
    return Held(
        {row[0]: labels(row[-1]) for row in content}, {row[0]: (row[2], labels(row[-1])) for row in images}
    )


def labels(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def shuffle(daemon: Containerd, namespace: str, chance: random.Random) -> None:
    """Take labels away and set others, on content and on images."""
    now = held(daemon, namespace)
    digests = sorted(now.content)
    for digest in chance.sample(digests, 8):
        gone = {key: "" for key in now.content[digest] if key.startswith(GC) and chance.random() < 0.5}
        new = {chance.choice(KEYS): chance.choice(digests) for _ in range(chance.randrange(3))}
        if chance.random() < 0.15:
            new[chance.choice([f"{GC}root", f"{GC}roots"])] = "false"
        if changes := [f"{key}={value}" for key, value in {**gone, **new}.items()]:
            ctr(daemon, namespace, "content", "label", digest, *changes)
    for name in NAMES:
        if chance.random() < 0.5:
            key = chance.choice(KEYS)
            ctr(daemon, namespace, "images", "label", name, f"{key}={chance.choice(digests)}")


def lay(store: DiskStore, daemon: Containerd, namespace: str, now: Held) -> None:
    """Make our store hold what the daemon does."""
    content = store.content(namespace)
    for digest, its_labels in now.content.items():
        with content.stage(algorithm="sha256") as writer:
            writer.write(ctr(daemon, namespace, "content", "get", digest).encode())
            store.publish(namespace, [Commit(writer, expected=Digest.parse(digest), labels=its_labels)])
    for name, (target, its_labels) in now.images.items():
        size = content.info(Digest.parse(target)).size
        media_type = "application/vnd.oci.image.manifest.v1+json"
        store.images(namespace).create(
            Image(name, Descriptor(media_type, Digest.parse(target), size), its_labels)
        )


def recorded(store: DiskStore, namespace: str) -> set[str]:
    return {str(info.digest) for info in store.content(namespace).list()}


def follow_labels(root: Path) -> None:
    """Make a store that goes by containerd's rule alone."""
    with open_store(str(root)) as store:
        store.namespaces.create(Namespace("default"))
    with (root / "imgtool.toml").open("a") as settings:
        settings.write('[gc]\nfollow = "labels"\n')


@pytest.mark.parametrize("seed", range(6))
def test_the_same_is_left_as_by_containerd(containerd: Containerd, tmp_path: Path, seed: int) -> None:
    """Where documents count as well, that is left too, and more."""
    chance, namespace = random.Random(seed), f"scenario-{seed}"
    archive(tmp_path / "images.tar", seed)
    ctr(containerd, namespace, "images", "import", "--no-unpack", tmp_path / "images.tar")
    time.sleep(1)  # the end of import's lease makes the daemon collect
    shuffle(containerd, namespace, chance)
    gone = [chance.choice(NAMES), TRIGGER]
    before = held(containerd, namespace)
    follow_labels(tmp_path / "labels")
    with open_store(str(tmp_path / "labels")) as ours, open_store(str(tmp_path / "graph")) as graph:
        for store in (ours, graph):
            lay(store, containerd, namespace, before)
            for name in gone:
                store.images(namespace).delete(name)
            gc.collect(store)
        ctr(containerd, namespace, "images", "rm", "--sync", *gone)
        after = held(containerd, namespace)
        assert after.content.keys() < before.content.keys()
        assert recorded(ours, namespace) == after.content.keys()
        assert recorded(graph, namespace) >= after.content.keys()
        assert set(ours.images(namespace).names()) == after.images.keys()
