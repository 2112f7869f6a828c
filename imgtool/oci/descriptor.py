"""Descriptors as documents write them (OCI image-spec, descriptor.md), to and from the model."""

from __future__ import annotations

import re
from typing import Any

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import SIZE_MAX, Descriptor, Platform
from imgtool.oci import media
from imgtool.oci.strictjson import check_keys, kind

_KNOWN = frozenset({"mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"})
# RFC 3986: a scheme, and something of its alphabet behind it.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", re.ASCII)


def parse(value: object, what: str) -> Descriptor:
    """The descriptor that the JSON value `value` holds; a field that is null counts as absent.

    Args:
        value: as `strictjson` returns it.
        what: names it in messages.

    Raises:
        InvalidArgument: a required field is missing, a field is of another type or out of its
            range, the digest's algorithm is unknown, or the embedded `data` is not what size and
            digest say.
    """
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is {kind(value)}, expected a descriptor")
    check_keys(value, _KNOWN, what)
    fields = {k: v for k, v in value.items() if v is not None}
    for name in ("mediaType", "digest", "size"):
        if name not in fields:
            raise InvalidArgument(f"{what} has no '{name}'")
    parsed = Descriptor(
        media_type=media.check(fields["mediaType"], f"media type of {what}"),
        digest=_digest(fields["digest"], what),
        size=_size(fields["size"], what),
        annotations=text_map(fields.get("annotations", {}), f"annotations of {what}"),
        platform=_platform(fields["platform"], f"platform of {what}") if "platform" in fields else None,
        artifact_type=artifact_type(fields.get("artifactType", ""), what),
        urls=_urls(fields.get("urls", []), f"urls of {what}"),
        data=fields.get("data"),
        unknown={k: v for k, v in fields.items() if k not in _KNOWN},
    )
    _check_data(parsed, what)
    return parsed


def to_dict(descriptor: Descriptor) -> dict[str, Any]:
    """The JSON object of `descriptor`: the fields in the order of the OCI types, then unknown ones."""
    p = descriptor.platform
    fields: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
        "urls": list(descriptor.urls) or None,
        "annotations": dict(descriptor.annotations) or None,
        "data": descriptor.data,
        "platform": p and platform_to_dict(p),
        "artifactType": descriptor.artifact_type or None,
    }
    return {k: v for k, v in fields.items() if v is not None} | dict(descriptor.unknown)


def platform_to_dict(platform: Platform) -> dict[str, Any]:
    """The JSON object of `platform`, in the order of the OCI types."""
    optional = {
        "os.version": platform.os_version,
        "os.features": list(platform.os_features),
        "variant": platform.variant,
    }
    return {"architecture": platform.architecture, "os": platform.os} | {
        k: v for k, v in optional.items() if v
    }


def inline(descriptor: Descriptor) -> bytes | None:
    """The content that a parsed `descriptor` carries in its `data`; None if it carries none."""
    import base64

    return None if descriptor.data is None else base64.b64decode(descriptor.data)


def artifact_type(value: object, what: str) -> str:
    """The artifact type `value`; the empty text is none.

    Raises:
        InvalidArgument: it is no media type.
    """
    return "" if value == "" else media.check(value, f"artifactType of {what}")


def text_map(value: object, what: str) -> dict[str, str]:
    """`value` if it is an object whose values are text.

    Raises:
        InvalidArgument: it is not.
    """
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what}: {kind(value)}, expected an object")
    for key, text in value.items():
        if not isinstance(text, str):
            raise InvalidArgument(f"{what}: '{key[:64]}' is {kind(text)}, expected a string")
    return value


def _digest(value: object, what: str) -> Digest:
    try:
        return Digest.parse(value)
    except InvalidArgument as e:
        raise InvalidArgument(f"{what}: {e.message}", hint=e.hint) from None


def _size(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidArgument(f"size of {what} is {kind(value)}, expected a whole number")
    if not 0 <= value <= SIZE_MAX:
        raise InvalidArgument(f"size of {what} is {value}, expected 0 to {SIZE_MAX}")
    return value


def _urls(value: object, what: str) -> tuple[str, ...]:
    urls = _texts(value, what)
    for url in urls:
        if not _URI.fullmatch(url):
            raise InvalidArgument(f"{what}: '{url[:80]}' is no URI")
    return urls


def _platform(value: object, what: str) -> Platform:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is {kind(value)}, expected an object")

    def text(key: str) -> str:
        found = value.get(key)
        if found is None:
            return ""
        if not isinstance(found, str):
            raise InvalidArgument(f"{what}: '{key}' is {kind(found)}, expected a string")
        return found

    for key in ("os", "architecture"):
        if key not in value:
            raise InvalidArgument(f"{what} has no '{key}'")
    features = value.get("os.features")
    return Platform(
        os=text("os"),
        architecture=text("architecture"),
        variant=text("variant"),
        os_version=text("os.version"),
        os_features=() if features is None else _texts(features, f"{what}: 'os.features'"),
    )


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InvalidArgument(f"{what}: {kind(value)}, expected an array")
    for item in value:
        if not isinstance(item, str):
            raise InvalidArgument(f"{what}: {kind(item)}, expected strings")
    return tuple(value)


def _check_data(descriptor: Descriptor, what: str) -> None:
    """Compare embedded content with what the descriptor says of it."""
    if descriptor.data is None:
        return
    import base64

    if not isinstance(descriptor.data, str):
        raise InvalidArgument(f"data of {what} is {kind(descriptor.data)}, expected a string")
    try:
        content = base64.b64decode(descriptor.data, validate=True)
    except ValueError:  # non-ASCII text, binascii.Error
        raise InvalidArgument(f"data of {what} is not base64") from None
    if len(content) != descriptor.size:
        raise InvalidArgument(f"data of {what} has {len(content)} bytes, its size is {descriptor.size}")
    found = Digest.of(content, descriptor.digest.algorithm)
    if found != descriptor.digest:
        raise InvalidArgument(f"data of {what} is {found}, expected {descriptor.digest}")
