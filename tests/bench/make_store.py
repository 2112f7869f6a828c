"""Make a store of many small images, and an OCI layout of the same: `python tests/bench/make_store.py DIR N`.

Every image has a manifest and a config of its own and shares one layer; every hundredth has the label
`env=prod`, the others `env=dev`. The layout is written by hand, for other tools to list.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from imgtool.digest import SHA256, Digest
from imgtool.disk import open_store
from imgtool.model import Descriptor, Image
from imgtool.stores import Commit, Put, Store

NAMESPACE = "default"
BATCH = 512
LAYER = b"a layer\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"


def images(count: int) -> Iterator[tuple[Image, bytes, bytes]]:
    """`count` images with the bytes of their manifest and config."""
    for n in range(count):
        architecture = ("amd64", "arm64")[n % 2]
        config = document(architecture=architecture, os="linux", author=str(n))
        manifest = document(
            schemaVersion=2,
            mediaType=MANIFEST,
            config=entry(CONFIG, config),
            layers=[entry(LAYER_TYPE, LAYER)],
        )
        target = Descriptor(MANIFEST, Digest.of(manifest), len(manifest))
        labels = {"env": "dev" if n % 100 else "prod", "team": f"team-{n % 20}"}
        name = f"registry.example/team-{n % 20}/app:{n}"
        yield Image(name, target, labels), manifest, config


def document(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def entry(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": Digest.of(data), "size": len(data)}


def fill(store: Store, count: int) -> None:
    """Publish `count` images."""
    left = images(count)
    while batch := list(islice(left, BATCH)):
        with ExitStack() as stack:

            def commit(data: bytes, stack: ExitStack = stack) -> Commit:
                writer = stack.enter_context(store.content(NAMESPACE).stage(algorithm=SHA256))
                writer.write(data)
                return Commit(writer)

            commits = [commit(data) for _, *documents in batch for data in documents]
            published = store.publish(
                NAMESPACE, [commit(LAYER), *commits], [Put(image) for image, *_ in batch]
            )
        assert all(isinstance(image, Image) for image in published.images)


def make_layout(path: Path, count: int) -> None:
    """An OCI layout whose index.json lists the same images, each under its name."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    manifests = []
    for image, manifest, config in images(count):
        for data in (manifest, config, LAYER):
            (blobs / Digest.of(data).encoded).write_bytes(data)
        manifests.append(entry(MANIFEST, manifest) | {"annotations": {REF_NAME: image.name}})
    (path / "oci-layout").write_bytes(document(imageLayoutVersion="1.0.0"))
    (path / "index.json").write_bytes(document(schemaVersion=2, manifests=manifests))


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    directory, count = Path(sys.argv[1]), int(sys.argv[2])
    with open_store(str(directory / "store")) as store:
        fill(store, count)
    make_layout(directory / "layout", count)


if __name__ == "__main__":
    main()
