"""Make a store of many small images, and an OCI layout of the same: `python tests/bench/make_store.py DIR N`.

Every image has a manifest and a config of its own and shares one layer, or has layers of its own; every
hundredth has the label `env=prod`, the others `env=dev`. The layout is written by hand, for other tools.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from imgtool.digest import SHA256, Digest
from imgtool.disk import open_store
from imgtool.model import Descriptor, Image
from imgtool.oci import manifest, media
from imgtool.stores import Commit, Put, Store

NAMESPACE = "default"
BATCH = 512
BATCH_BYTES = 64 << 20
LAYER = b"a layer\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"


class Shape(NamedTuple):
    """What a store has.

    `dead`: every so many-th image is to die, 0 for none: the layout does not name it any more;
    `layers`: of each image, of its own; 0 for one that all share; `size`: of each of them; `first`: number of
    the first image.
    """

    count: int
    dead: int = 0
    layers: int = 0
    size: int = 4096
    first: int = 0

    def dying(self) -> list[str]:
        """The names of those."""
        return [name(n) for n in self.numbers() if self.is_dead(n)]

    def numbers(self) -> range:
        return range(self.first, self.first + self.count)

    def is_dead(self, number: int) -> bool:
        return bool(self.dead) and number % self.dead == 0


def images(shape: Shape) -> Iterator[tuple[Image, list[bytes]]]:
    """Images with the bytes of their manifest, config and layers."""
    for n in shape.numbers():
        architecture = ("amd64", "arm64")[n % 2]
        config = document(architecture=architecture, os="linux", author=str(n))
        layers = [random.Random(f"{n} {i}").randbytes(shape.size) for i in range(shape.layers)] or [LAYER]
        top = document(
            schemaVersion=2,
            mediaType=MANIFEST,
            config=entry(CONFIG, config),
            layers=[entry(LAYER_TYPE, layer) for layer in layers],
        )
        target = Descriptor(MANIFEST, Digest.of(top), len(top))
        labels = {"env": "dev" if n % 100 else "prod", "team": f"team-{n % 20}"}
        yield Image(name(n), target, labels), [top, config, *layers]


def name(number: int) -> str:
    return f"registry.example/team-{number % 20}/app:{number}"


def document(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def entry(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": Digest.of(data), "size": len(data)}


def fill(store: Store, shape: Shape) -> None:
    """Publish the images, as `imgtool ingest` does."""
    left = images(shape)
    batch = max(1, min(BATCH, BATCH_BYTES // (shape.layers * shape.size + 1)))
    while found := list(islice(left, batch)):
        with ExitStack() as stack:

            def commit(data: bytes, stack: ExitStack = stack, **told: Any) -> Commit:
                writer = stack.enter_context(store.content(NAMESPACE).stage(algorithm=SHA256))
                writer.write(data)
                return Commit(writer, **told)

            commits = {}
            for _, (top, *parts) in found:
                commits |= {Digest.of(part): commit(part) for part in parts}
                parsed = manifest.parse(top, MANIFEST, "manifest")
                labels = media.gc_labels(parsed.children())
                commits[Digest.of(top)] = commit(top, labels=labels, references=manifest.references(parsed))
            published = store.publish(NAMESPACE, list(commits.values()), [Put(image) for image, _ in found])
        assert all(isinstance(image, Image) for image in published.images)


def make_layout(path: Path, shape: Shape) -> None:
    """An OCI layout whose index.json lists the same images, each under its name. Of dead ones there are
    only the blobs.
    """
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    manifests = []
    for n, (image, documents) in zip(shape.numbers(), images(shape), strict=True):
        for data in documents:
            (blobs / Digest.of(data).encoded).write_bytes(data)
        if not shape.is_dead(n):
            manifests.append(entry(MANIFEST, documents[0]) | {"annotations": {REF_NAME: image.name}})
    (path / "oci-layout").write_bytes(document(imageLayoutVersion="1.0.0"))
    (path / "index.json").write_bytes(document(schemaVersion=2, manifests=manifests))


def make(directory: Path, shape: Shape) -> None:
    """A store and a layout of the same images, in `directory`."""
    with open_store(str(directory / "store")) as store:
        fill(store, shape)
    make_layout(directory / "layout", shape)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    make(Path(sys.argv[1]), Shape(int(sys.argv[2])))


if __name__ == "__main__":
    main()
