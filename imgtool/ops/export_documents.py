"""The documents that are written for an export: everything else goes out byte for byte as it is."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace as replaced
from typing import Any

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import Descriptor, replace
from imgtool.oci import descriptor, media
from imgtool.oci.layout import IMAGE_NAME, REF_NAME
from imgtool.oci.manifest import Manifest
from imgtool.oci.references import DEFAULT_TAG, familiar, parse_normalized

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
EMPTY = b"{}"
TITLE = "org.opencontainers.image.title"

# OCI image-spec, annotations.md: what a ref name may be; umoci and skopeo refuse others.
_PART = "[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(f"{_PART}(?:/{_PART})*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]*)?", re.ASCII)


def blob_path(digest: Digest) -> str:
    """Where a blob lies."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def index(images: Sequence[tuple[str, Descriptor]]) -> bytes:
    """`index.json`: the descriptors as they are, with their names as `ctr images export` writes them.

    Args:
        images: names and targets.
    """
    tags = _ref_names(images)
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_INDEX,
        "manifests": [descriptor.to_dict(_called(target, name, tags[name])) for name, target in images],
    }
    return _json(document)


def artifact(file: Descriptor, name: str) -> bytes:
    """The manifest that wraps a plain file, as the OCI image-spec recommends (manifest.md, "Guidelines
    for Artifact Usage"). Its title is the last part of `name`.

    Raises:
        InvalidArgument: its media type is none.
    """
    title = name.rstrip("/").rpartition("/")[2]
    layer = replace(file, annotations={} if title in ("", ".", "..") else {TITLE: title})
    config = Descriptor(media.OCI_EMPTY, Digest.of(EMPTY), len(EMPTY), data="e30=")
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "artifactType": media.check(file.media_type, f"media type of image '{name}'"),
        "config": descriptor.to_dict(config),
        "layers": [descriptor.to_dict(layer)],
    }
    return _json(document)


def docker_manifest(images: Iterable[tuple[str, Manifest]]) -> bytes:
    """`manifest.json`, as docker since 25 writes it: the OCI blobs under docker's names.

    Args:
        images: names, and the one manifest that each means to docker.

    Raises:
        InvalidArgument: one is no container image, or its name no docker reference; two have the same.
    """
    tags: dict[str, Manifest] = {}
    entries: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, manifest in images:
        config = manifest.config
        if config is None or not media.is_config(config.media_type):
            raise InvalidArgument(
                f"image '{name}' is no container image, and a docker-archive can hold nothing else",
                hint="use --to oci-archive",
            )
        tag = _docker_tag(name)
        if tag and tags.setdefault(tag, manifest) != manifest:
            raise InvalidArgument(f"two images are '{tag}' to docker", hint="export one of them")
        paths = tuple(blob_path(d.digest) for d in manifest.children())
        entry = entries.setdefault(paths, {"Config": paths[0], "RepoTags": [], "Layers": paths[1:]})
        if tag and tag not in entry["RepoTags"]:
            entry["RepoTags"].append(tag)
    return _json(list(entries.values()))


def _called(target: Descriptor, name: str, tag: str | None) -> Descriptor:
    named = {k: v for k, v in target.annotations.items() if k != REF_NAME} | {IMAGE_NAME: name}
    if tag:
        named[REF_NAME] = tag
    return replace(target, annotations=dict(sorted(named.items())))


def _ref_names(images: Iterable[tuple[str, Descriptor]]) -> Mapping[str, str | None]:
    """The ref name of each image: the tag as containerd cuts it off (`pkg/reference/reference.go`); the
    whole name where there is none, or where several images would have the same; None where
    neither may be a ref name.
    """
    sharing: dict[str, set[Digest]] = defaultdict(set)
    tags = {}
    for name, target in images:
        tags[name] = _tag(name)
        sharing[tags[name]].add(target.digest)

    def chosen(name: str, tag: str) -> str | None:
        candidates = [name] if len(sharing[tag]) > 1 else [tag, name]
        return next((text for text in candidates if _REF_NAME.fullmatch(text)), None)

    return {name: chosen(name, tag) for name, tag in tags.items()}


def _tag(name: str) -> str:
    host, _, path = name.partition("/")
    found = re.search("[:@]", path)
    if not found or not _HOST.fullmatch(host):
        return ""
    return path[found.start() :].removeprefix(":")


def _docker_tag(name: str) -> str:
    """The name that docker shows for the image; empty for one that is called by its digest alone."""
    try:
        found = parse_normalized(name)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"image '{name}' cannot be called so in a docker-archive: {error.message}",
            hint="give it another name with imgtool tag, or use --to oci-archive",
        ) from None
    if found.digest and not found.tag:
        return ""
    return str(familiar(replaced(found, tag=found.tag or DEFAULT_TAG, digest="")))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
