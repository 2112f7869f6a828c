"""Docker archives: what `docker save` writes beside the bytes, and the manifest that it leaves out.

Formats: `manifest.json` since docker 1.10, also as podman, jib, bazel and skopeo write it. The
manifest is made as containerd makes it (`core/images/archive/importer.go`), so that an archive has
the same digest there and here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imgtool.errors import InvalidArgument
from imgtool.model import Descriptor, Platform
from imgtool.oci import compression, media
from imgtool.oci.references import parse_docker
from imgtool.oci.strictjson import kind, load, load_object

MANIFEST = "manifest.json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"
LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

THINGS_MAX = 100_000  # images, layers and names of one archive


@dataclass(frozen=True)
class Entry:
    """One image of an archive: the members that hold its config and layers, and its names as
    docker references in full.
    """

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """What is read of an image's configuration: what it runs on, and what its layers hash to when they
    are not compressed; None or empty if it does not say.
    """

    platform: Platform | None
    diff_ids: tuple[str, ...]


def parse_entries(raw: bytes, what: str) -> list[Entry]:
    """The images that `manifest.json` lists. Keys are found in any case, as docker finds them.

    Args:
        raw: its bytes.
        what: names it in messages.

    Raises:
        InvalidArgument: it is malformed, or a name is no docker reference; or it lists more than
            100,000 images, layers and names.
    """
    document = load(raw, what)
    if not isinstance(document, list):
        raise InvalidArgument(f"{what} is {kind(document)}, expected an array of images")
    if not document:
        raise InvalidArgument(f"{what} lists no image")
    things = len(document) + sum(map(_things, document))
    if things > THINGS_MAX:
        raise InvalidArgument(f"{what} has {things} images, layers and names, at most {THINGS_MAX} are read")
    return [_entry(item, f"image {i} of {what}") for i, item in enumerate(document)]


def parse_config(raw: bytes, what: str) -> Config:
    """The configuration of an image.

    Raises:
        InvalidArgument: it is malformed.
    """
    document = load_object(raw, what)
    os, architecture, variant = (document.get(key) or "" for key in ("os", "architecture", "variant"))
    if not all(isinstance(text, str) for text in (os, architecture, variant)):
        raise InvalidArgument(f"{what} has a platform that is not text")
    rootfs = document.get("rootfs") or {}
    if not isinstance(rootfs, dict):
        raise InvalidArgument(f"rootfs of {what} is {kind(rootfs)}, expected an object")
    diff_ids = _texts(rootfs.get("diff_ids"), f"diff_ids of {what}")
    return Config(
        platform=Platform(os=os, architecture=architecture, variant=variant) if os and architecture else None,
        diff_ids=diff_ids,
    )


def layer_type(head: bytes) -> str:
    """The media type of the layer that begins with `head`, as containerd tells it: it has one type for
    what it can decompress, and takes everything else for plain.
    """
    form = compression.detect(head)
    return LAYER_GZIP if form in (compression.GZIP, compression.ZSTD) else LAYER


def manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """The schema 2 manifest of an image, byte for byte as containerd writes it."""

    def plain(d: Descriptor) -> dict[str, Any]:
        return {"mediaType": d.media_type, "digest": d.digest, "size": d.size}

    document = {
        "schemaVersion": 2,
        "mediaType": media.DOCKER_MANIFEST,
        "config": plain(config),
        "layers": [plain(layer) for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _entry(item: object, what: str) -> Entry:
    if not isinstance(item, dict):
        raise InvalidArgument(f"{what} is {kind(item)}, expected an object")
    fields: dict[str, Any] = {}
    for key, value in item.items():
        if key.lower() in fields:
            raise InvalidArgument(f"{what} has '{key[:64]}' twice, in another case")
        fields[key.lower()] = value
    config = fields.get("config")
    if not isinstance(config, str) or not config:
        raise InvalidArgument(f"{what} has no 'Config', as a manifest.json of docker has")
    return Entry(
        config, _texts(fields.get("layers"), f"'Layers' of {what}"), _names(fields.get("repotags"), what)
    )


def _things(item: object) -> int:
    """How many layers and names an entry has, which may be malformed."""
    fields = item.items() if isinstance(item, dict) else ()
    return sum(len(v) for k, v in fields if k.lower() in ("layers", "repotags") and isinstance(v, list))


def _names(value: object, what: str) -> tuple[str, ...]:
    names = []
    for tag in _texts(value, f"'RepoTags' of {what}"):
        try:
            names.append(str(parse_docker(tag)))
        except InvalidArgument as error:
            raise InvalidArgument(f"{what} is called '{tag[:200]}': {error.message}") from None
    return tuple(names)


def _texts(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InvalidArgument(f"{what} is no array of strings")
    return tuple(value)
