"""Model to record and back: which keys a record has, in which order, and what may stand in them.

A key that this version does not know is carried in `unknown` and written back. See imgtool-store(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgtool.clock import format_time, parse_time
from imgtool.digest import Digest
from imgtool.disk.codec import Record
from imgtool.errors import DataLoss, InvalidArgument
from imgtool.model import (
    SIZE_MAX,
    ContentInfo,
    Descriptor,
    Image,
    Lease,
    Namespace,
    Platform,
    References,
    is_plain,
)

SCHEMA = 1
_NUMBER = "a number from 0 to 2^63-1"


class Fields:
    """The keys of a record, taken one by one; what is left is unknown.

    Every method raises DataLoss where the value is not what the schema says.
    """

    def __init__(self, record: Mapping[str, Any], path: str, prefix: str = "") -> None:
        self._left = dict(record)
        self._path = path
        self._prefix = prefix

    def schema(self) -> None:
        found = self.integer("schema")
        if found != SCHEMA:
            raise self.bad("schema", f"is {found}, this imgtool reads {SCHEMA}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._left.pop(key, default)
        if not isinstance(value, str):
            raise self.bad(key, "is missing" if value is None else "is not text")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._left.pop(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= SIZE_MAX:
            raise self.bad(key, "is missing" if value is None else f"is {value!r:.80}, expected {_NUMBER}")
        return value

    def choice(self, key: str, *choices: str) -> str:
        """One of `choices`, the first where there is no such key."""
        value = self._left.pop(key, choices[0])
        if value not in choices:
            raise self.bad(key, f"is {value!r:.80}, expected {' or '.join(choices)}")
        return str(value)

    def time(self, key: str) -> int:
        text = self.text(key)
        try:
            return parse_time(text)
        except InvalidArgument as error:
            raise self.bad(key, f"is wrong: {error.message}") from None

    def digest(self, key: str) -> Digest:
        text = self.text(key)
        try:
            return Digest.parse(text)
        except InvalidArgument as error:
            raise self.bad(key, f"is wrong: {error.message}") from None

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._left.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.bad(key, "is not a list of texts")
        return tuple(value)

    def mapping(self, key: str) -> dict[str, str]:
        value = self._table(key)
        if not all(isinstance(item, str) for item in value.values()):
            raise self.bad(key, "has a value that is not text")
        return value

    def table(self, key: str) -> Fields | None:
        """The table `key`; None where there is none."""
        if key not in self._left:
            return None
        return Fields(self._table(key), self._path, f"{self._prefix}{key}.")

    def _table(self, key: str) -> dict[str, Any]:
        value = self._left.pop(key, {})
        if not isinstance(value, dict):
            raise self.bad(key, "is not a table")
        return value

    def unknown(self) -> dict[str, Any]:
        for key, value in self._left.items():
            if not is_plain(value):
                raise self.bad(key, "has a value that imgtool cannot keep")
        return self._left

    def left(self) -> tuple[str, ...]:
        """The keys that are unknown, with those of the tables around them in front."""
        return tuple(f"{self._prefix}{key}" for key in self._left)

    def has(self, key: str) -> bool:
        return key in self._left

    def bad(self, key: str, why: str) -> DataLoss:
        return DataLoss(f"record '{self._path}': '{self._prefix}{key}' {why}")


def image_to_record(image: Image) -> Record:
    return _tidy(
        image.unknown,
        schema=SCHEMA,
        name=image.name,
        created=format_time(image.created),
        updated=format_time(image.updated),
        target=_descriptor_to_record(image.target),
        labels=_sorted(image.labels),
    )


def image_from_record(record: Mapping[str, Any], path: str) -> Image:
    fields = Fields(record, path)
    fields.schema()
    name, created, updated = fields.text("name"), fields.time("created"), fields.time("updated")
    labels = fields.mapping("labels")
    target = fields.table("target")
    if target is None:
        raise fields.bad("target", "is missing")
    return Image(name, _descriptor(target), labels, created, updated, fields.unknown())


def content_to_record(info: ContentInfo) -> Record:
    return _tidy(
        info.unknown,
        schema=SCHEMA,
        digest=str(info.digest),
        size=info.size,
        created=format_time(info.created),
        updated=format_time(info.updated),
        labels=_sorted(info.labels),
        references=None if info.references is None else _references_to_record(info.references),
    )


def content_from_record(record: Mapping[str, Any], path: str) -> ContentInfo:
    fields = Fields(record, path)
    fields.schema()
    digest, size = fields.digest("digest"), fields.integer("size")
    created, updated = fields.time("created"), fields.time("updated")
    labels, references = fields.mapping("labels"), fields.table("references")
    told = None if references is None else _references(references)
    return ContentInfo(digest, size, labels, created, updated, fields.unknown(), told)


def _references_to_record(references: References) -> Record:
    return _tidy(
        references.unknown,
        mediaType=references.media_type,
        subject=references.subject and str(references.subject),
        children={str(digest): media_type for digest, media_type in references.children.items()},
    )


def _references(fields: Fields) -> References:
    media_type = fields.text("mediaType")
    subject = fields.digest("subject") if fields.has("subject") else None
    children = fields.mapping("children")
    try:
        known = {Digest.parse(digest): media_type for digest, media_type in children.items()}
    except InvalidArgument as error:
        raise fields.bad("children", f"is wrong: {error.message}") from None
    return References(media_type, known, subject, fields.unknown())


def lease_to_record(lease: Lease) -> Record:
    resources = {kind: list(ids) for kind, ids in sorted(lease.resources.items()) if ids}
    return _tidy(
        lease.unknown,
        schema=SCHEMA,
        id=lease.id,
        created=format_time(lease.created),
        labels=_sorted(lease.labels),
        resources=resources,
    )


def lease_from_record(record: Mapping[str, Any], path: str) -> Lease:
    fields = Fields(record, path)
    fields.schema()
    id, created, labels = fields.text("id"), fields.time("created"), fields.mapping("labels")
    held = fields.table("resources") or Fields({}, path)
    resources = {kind: held.texts(kind) for kind in list(held.unknown())}
    return Lease(id, labels, resources, created, fields.unknown())


def namespace_to_record(namespace: Namespace) -> Record:
    return _tidy(
        namespace.unknown,
        schema=SCHEMA,
        name=namespace.name,
        created=format_time(namespace.created),
        labels=_sorted(namespace.labels),
    )


def namespace_from_record(record: Mapping[str, Any], path: str) -> Namespace:
    fields = Fields(record, path)
    fields.schema()
    name, created, labels = fields.text("name"), fields.time("created"), fields.mapping("labels")
    return Namespace(name, labels, created, fields.unknown())


def _descriptor_to_record(target: Descriptor) -> Record:
    platform = target.platform
    return _tidy(
        target.unknown,
        mediaType=target.media_type,
        digest=str(target.digest),
        size=target.size,
        artifactType=target.artifact_type or None,
        data=target.data,
        urls=list(target.urls),
        platform=None if platform is None else _platform_to_record(platform),
        annotations=_sorted(target.annotations),
    )


def _descriptor(fields: Fields) -> Descriptor:
    media_type, digest, size = fields.text("mediaType"), fields.digest("digest"), fields.integer("size")
    artifact_type = fields.text("artifactType", "")
    data = fields.text("data") if fields.has("data") else None
    urls, annotations = fields.texts("urls"), fields.mapping("annotations")
    platform = fields.table("platform")
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        annotations=annotations,
        platform=None if platform is None else _platform(platform),
        artifact_type=artifact_type,
        urls=urls,
        data=data,
        unknown=fields.unknown(),
    )


def _platform_to_record(platform: Platform) -> Record:
    return _tidy(
        {},
        **{
            "architecture": platform.architecture or None,
            "os": platform.os or None,
            "os.version": platform.os_version or None,
            "os.features": list(platform.os_features),
            "variant": platform.variant or None,
        },
    )


def _platform(fields: Fields) -> Platform:
    return Platform(
        os=fields.text("os", ""),
        architecture=fields.text("architecture", ""),
        variant=fields.text("variant", ""),
        os_version=fields.text("os.version", ""),
        os_features=fields.texts("os.features"),
    )


def _tidy(unknown: Mapping[str, Any], **known: Any) -> Record:
    """The keys that are known, without those that say nothing, and the unknown ones as they came; tables
    last, because TOML wants them so.
    """
    said = {k: v for k, v in known.items() if v is not None and v != [] and v != {}}
    record: Record = {}
    for keys, are_tables in ((said, False), (unknown, False), (unknown, True), (said, True)):
        record |= {k: v for k, v in keys.items() if isinstance(v, dict) is are_tables}
    return record


def _sorted(mapping: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(mapping.items(), key=lambda item: item[0].encode()))
