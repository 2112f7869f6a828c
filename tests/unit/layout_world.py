"""OCI layouts made by code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imgtool.digest import SHA256, Digest
from imgtool.model import Descriptor
from imgtool.oci import graph, media
from imgtool.oci.descriptor import to_dict
from imgtool.oci.graph import Extent, Node
from imgtool.oci.layout import Layout

LAYER = "application/vnd.oci.image.layer.v1.tar"


class Made:
    """A layout under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs" / SHA256
        self.blobs.mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (path / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')

    def put(self, content: bytes, media_type: str = LAYER, **fields: Any) -> Descriptor:
        found = Descriptor(media_type, Digest.of(content), len(content), **fields)
        self.file(found).write_bytes(content)
        return found

    def json(self, media_type: str, document: dict[str, Any], **fields: Any) -> Descriptor:
        return self.put(json.dumps(document).encode(), media_type, **fields)

    def config(self, **fields: Any) -> Descriptor:
        return self.json(media.OCI_CONFIG, fields)

    def image(self, config: Descriptor, *layers: Descriptor, **more: Any) -> Descriptor:
        document = {"schemaVersion": 2, "config": to_dict(config), "layers": [to_dict(d) for d in layers]}
        return self.json(media.OCI_MANIFEST, document | more)

    def index(self, *manifests: Descriptor, **more: Any) -> Descriptor:
        document = {"schemaVersion": 2, "manifests": [to_dict(d) for d in manifests]}
        return self.json(media.OCI_INDEX, document | more)

    def file(self, descriptor: Descriptor) -> Path:
        return self.blobs / descriptor.digest.encoded

    def lose(self, *descriptors: Descriptor) -> None:
        for d in descriptors:
            self.file(d).unlink()

    def walk(self, *roots: Descriptor) -> list[Node]:
        with Layout(str(self.path)) as layout:
            return list(graph.walk(layout, roots, layout.has))

    def extent(self, *roots: Descriptor) -> Extent:
        return Extent(self.walk(*roots))

    def platforms(self, target: Descriptor) -> list[str]:
        with Layout(str(self.path)) as layout:
            return graph.image_platforms(layout, target)
