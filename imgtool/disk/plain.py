"""The records that most are, from their bytes to what they say at once: images and content in the
canonical form, sealed, with nothing but what each has. Of any other there is None, and `codec` and
`records` read it, and say what is wrong. It is a third of their cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

from imgtool.clock import parse_time
from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import ContentInfo, Descriptor, Image
from imgtool.names import for_gc

if TYPE_CHECKING:
    from collections.abc import Mapping

    Build = Callable[..., "T"]

T = TypeVar("T")

_SEAL_LENGTH = len("# sha256:\n") + 64
# As TOML has them where nothing is escaped; and numbers that are below 2^63, whatever their digits.
_TEXT = r'"([^"\\\x00-\x1f\x7f]*)"'
_DIGEST = '"((?:sha256|blake3):[0-9a-f]{64}|sha512:[0-9a-f]{128})"'
_NUMBER = "(0|[1-9][0-9]{0,17})"
_LABEL = r'(?:[A-Za-z0-9_-]+|"[^"\\\x00-\x1f\x7f]+") = "[^"\\\x00-\x1f\x7f]*"\n'
_TIMES = f"created = {_TEXT}\nupdated = {_TEXT}\n"
_END = rf"(?:\n\[labels\]\n((?:{_LABEL})+))?# sha256:([0-9a-f]{{64}})\n"

_IMAGE = re.compile(
    f"schema = 1\nname = {_TEXT}\n{_TIMES}\n"
    rf"\[target\]\nmediaType = {_TEXT}\ndigest = {_DIGEST}\nsize = {_NUMBER}\n{_END}"
)
_CONTENT = re.compile(f"schema = 1\ndigest = {_DIGEST}\nsize = {_NUMBER}\n{_TIMES}{_END}")
_LABELS = re.compile(r'(?:([^" ]+)|"([^"]+)") = "([^"]*)"\n')


def image(data: bytes) -> Image | None:
    """The image that `data` is the record of."""
    return _read(_IMAGE, data, _image)


def content(data: bytes) -> ContentInfo | None:
    """The content that `data` is the record of."""
    return _read(_CONTENT, data, _content)


def target(data: bytes) -> tuple[str, str, str, dict[str, str]] | None:
    """Of the image that `data` is the record of: name, digest and media type of the target, labels for gc."""
    return _read(_IMAGE, data, _target)


def size(data: bytes) -> tuple[str, int, dict[str, str]] | None:
    """Of the content that `data` is the record of: digest, size, labels for gc."""
    return _read(_CONTENT, data, _size)


def neither(data: bytes) -> None:
    """Of other kinds there are few records."""


def _read(form: re.Pattern[str], data: bytes, build: Build[T]) -> T | None:
    try:
        found = form.fullmatch(data.decode())
        if found is None:
            return None
        *values, labels, seal = found.groups()
        if sha256(data[:-_SEAL_LENGTH]).hexdigest() != seal:
            return None
        told = _labels(labels) if labels else {}
        return None if told is None else build(*values, told)
    except (UnicodeDecodeError, InvalidArgument):
        return None


def _labels(lines: str) -> dict[str, str] | None:
    """None where a key is there twice."""
    pairs = _LABELS.findall(lines)
    labels = {bare or quoted: value for bare, quoted, value in pairs}
    return labels if len(labels) == len(pairs) else None


def _image(
    name: str, created: str, updated: str, kind: str, digest: str, size: str, labels: Mapping[str, str]
) -> Image:
    target = Descriptor(kind, Digest(digest), int(size), {}, None, "", (), None, {})
    return Image(name, target, labels, *_times(created, updated), {})


def _content(digest: str, size: str, created: str, updated: str, labels: Mapping[str, str]) -> ContentInfo:
    return ContentInfo(Digest(digest), int(size), labels, *_times(created, updated), {})


def _target(
    name: str, created: str, updated: str, kind: str, digest: str, _size: str, labels: Mapping[str, str]
) -> tuple[str, str, str, dict[str, str]]:
    _check_times(created, updated)
    return name, digest, kind, for_gc(labels) if labels else {}


def _size(
    digest: str, size: str, created: str, updated: str, labels: Mapping[str, str]
) -> tuple[str, int, dict[str, str]]:
    _check_times(created, updated)
    return digest, int(size), for_gc(labels) if labels else {}


def _check_times(created: str, updated: str) -> None:
    """
    Raises:
        InvalidArgument: one is none, or of those that `parse_time` had better look at.
    """
    is_time = _time().fullmatch
    if not (is_time(created) and (updated == created or is_time(updated))):
        raise InvalidArgument("a time that is not plain")


@cache
def _time() -> re.Pattern[str]:
    """Times of a day that there is; February 29 is left out. Compiled where it is needed: it takes long."""
    day = "(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31"
    return re.compile(
        rf"(?!0000)[0-9]{{4}}-(?:{day})T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){{2}}(?:\.[0-9]{{1,9}})?Z"
    )


def _times(created: str, updated: str) -> tuple[int, int]:
    time = parse_time(created)
    return time, time if updated == created else parse_time(updated)
