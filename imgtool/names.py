"""What may be a name, and how a name becomes a file name.

Rules are containerd's (`identifiers/validate.go`, `labels/validate.go`, `metadata/images.go`);
file names are those of imgtool-store(5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from imgtool.clock import parse_time
from imgtool.errors import InvalidArgument

DEFAULT_NAMESPACE = "default"
GC_LABELS = "containerd.io/gc."
"""How the labels begin that are for gc."""
GC_REF = f"{GC_LABELS}ref.content"
"""The label that refers to content, with or without a suffix."""
EXPIRE = f"{GC_LABELS}expire"
"""The label of a lease or an image that tells, in RFC 3339, after what time gc may remove it."""
SHAREABLE = "containerd.io/namespace.shareable"
"""The label of a namespace that lends its content to others where it is `true`, whatever the settings."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", re.ASCII)
_IDENTIFIER_MAX = 76
_LABEL_MAX = 4096
_REF_MAX = 1024
_NAME_MAX = 32768
_FILE_NAME_MAX = 240
_UNSAFE = re.compile(rb"[^A-Za-z0-9._-]")
_FILE_NAME = re.compile(r"(?:[A-Za-z0-9._-]|%[0-9A-F]{2})+", re.ASCII)


def check_namespace(name: str) -> str:
    """`name` if it is a containerd identifier: 1 to 76 bytes, alphanumeric runs joined by one of `._-`.

    Raises:
        InvalidArgument: it is not.
    """
    if not name:
        raise InvalidArgument("namespace is required")
    if len(name) > _IDENTIFIER_MAX:
        raise InvalidArgument(f"namespace '{name[:80]}' is longer than {_IDENTIFIER_MAX} bytes")
    if not _IDENTIFIER.fullmatch(name):
        raise InvalidArgument(
            f"invalid namespace '{name}'", hint="letters and digits, joined by single '.', '_' or '-'"
        )
    return name


def check_name(name: object, what: str = "image name") -> str:
    """`name` if it can name a record: valid UTF-8 without NUL, 1 to 32,768 bytes. No reference grammar.

    Raises:
        InvalidArgument: it cannot.
    """
    return _check_text(name, what, _NAME_MAX)


def check_ref(ref: object) -> str:
    """`ref` if it can name an ingest: valid UTF-8 without NUL, 1 to 1,024 bytes.

    Raises:
        InvalidArgument: it cannot.
    """
    return _check_text(ref, "ref", _REF_MAX)


def check_resource_type(type: str) -> str:
    """`type` if a lease can hold such things: `content`, `ingests`, `images`, `snapshots/SNAPSHOTTER`.

    Raises:
        InvalidArgument: it cannot.
    """
    kind, slash, snapshotter = check_name(type, "resource type").partition("/")
    if kind == "snapshots":
        known = bool(snapshotter) and "/" not in snapshotter
    else:
        known = kind in ("content", "ingests", "images") and not slash
    if not known:
        raise InvalidArgument(
            f"a lease holds nothing of type '{type[:80]}'",
            hint="types are content, ingests, images and snapshots/SNAPSHOTTER",
        )
    return type


def check_resource(type: str, id: str) -> str:
    """`id` if a lease can hold such a thing: `content` by its digest, `ingests` by their refs, `images` by
    their names, `snapshots/SNAPSHOTTER` by their keys. Nothing need be there.

    Raises:
        InvalidArgument: it cannot.
    """
    if check_resource_type(type) == "content":
        from imgtool.digest import Digest

        return Digest.parse(id)
    return check_name(id, "lease resource")


def check_labels(labels: Mapping[str, str], *, limited: bool = True) -> None:
    """Check every label: text without NUL, key and value together at most 4,096 bytes.

    Args:
        limited: without, they may be longer: those of leases, as in containerd.

    Raises:
        InvalidArgument: one is not.
    """
    for key, value in labels.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise InvalidArgument(f"label '{key}' is not text")
        size = len(_utf8(key, "label key")) + len(_utf8(value, f"label '{key[:64]}'"))
        if limited and size > _LABEL_MAX:
            raise InvalidArgument(
                f"label '{key[:64]}' has {size} bytes with its value, at most {_LABEL_MAX} fit"
            )


def is_label_of(label: str, key: str) -> bool:
    """Whether `label` is `key`, `key.…` or `key/…`, which mean the same to gc."""
    return label.startswith(key) and label[len(key) : len(key) + 1] in ("", ".", "/")


def for_gc(labels: Mapping[str, str]) -> dict[str, str]:
    """Those labels that tell gc something."""
    return {key: value for key, value in labels.items() if key.startswith(GC_LABELS)}


def expiry(labels: Mapping[str, str]) -> int | None:
    """When the lease or image with these labels expires, in nanoseconds of the wall clock; None if never,
    which is also what a time means that cannot be read, as in containerd.
    """
    text = labels.get(EXPIRE)
    if text is None:
        return None
    try:
        return parse_time(text)
    except InvalidArgument:
        return None


def is_expired(labels: Mapping[str, str], now: int) -> bool:
    """Whether the lease or image with these labels has expired."""
    return is_past(expiry(labels), now)


def is_past(end: int | None, now: int) -> bool:
    """Whether the time of something is up: after its end, as in containerd, and not yet in that moment.

    Args:
        end: in nanoseconds of the wall clock; None: never.
        now: likewise.
    """
    return end is not None and end < now


def file_name(name: str) -> str:
    """The file name, without suffix, of the record called `name`.

    Every byte outside `[A-Za-z0-9._-]` is written `%XX`, and so is a leading dot; a result over
    240 bytes is replaced by `~` and the blake3 of the name. See imgtool-store(5).
    """
    raw = name.encode()
    text = _UNSAFE.sub(lambda m: b"%%%02X" % ord(m[0]), raw).decode()
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) > _FILE_NAME_MAX:
        from imgtool.digest import BLAKE3, Digest

        return "~" + Digest.of(raw, BLAKE3).encoded
    return text


def name_of_file(stem: str) -> str | None:
    """The name whose `file_name` is `stem`; None where it is a hash, or no name of ours."""
    if not _FILE_NAME.fullmatch(stem):
        return None
    usual = stem.replace("%2F", "/").replace("%3A", ":")
    if "%" not in usual and stem[0] != "." and len(stem) <= _FILE_NAME_MAX:
        return usual
    plain, *escaped = stem.encode().split(b"%")
    raw = plain + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in escaped)
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return None
    return name if file_name(name) == stem else None


def _check_text(text: object, what: str, limit: int) -> str:
    if not isinstance(text, str):
        raise InvalidArgument(f"{what} is not text")
    if not text:
        raise InvalidArgument(f"{what} is empty")
    size = len(_utf8(text, what))
    if size > limit:
        raise InvalidArgument(f"{what} '{text[:40]}…' has {size} bytes, at most {limit} fit")
    return text


def _utf8(text: str, what: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} is not valid UTF-8") from None
    if b"\0" in raw:
        raise InvalidArgument(f"{what} contains NUL")
    return raw
