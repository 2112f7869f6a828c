"""The records that most are, from their bytes to what they say at once: images and content in the
canonical form, sealed, with nothing but what each has. Of any other there is None, and `codec` and
`records` read it, and say what is wrong. It is a third of their cost.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

from imgtool.clock import parse_time
from imgtool.digest import Digest
from imgtool.model import ContentInfo, Descriptor, Image, References
from imgtool.names import for_gc

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEAL_LENGTH = len("# sha256:\n") + 64
# As TOML has them where nothing is escaped; numbers below 2^63, whatever their digits; times of a day that
# there is, but for February 29.
_TEXT = r'"([^"\\\x00-\x1f\x7f]*)"'
_DIGEST = '"((?:sha256|blake3):[0-9a-f]{64}|sha512:[0-9a-f]{128})"'
_NUMBER = "(0|[1-9][0-9]{0,17})"
_DAY = "(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31"
_TIME = rf"(?!0000)[0-9]{{4}}-(?:{_DAY})T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){{2}}(?:\.[0-9]{{1,9}})?Z"
_TIMES = rf'created = "(?P<created>{_TIME})"\nupdated = "(?:(?P=created)|({_TIME}))"\n'
_KEY = r'(?:"([^"\\\x00-\x1f\x7f]+)"|([A-Za-z0-9_-]+))'
_LABELS = re.compile(rf"^{_KEY} = {_TEXT}\n", re.MULTILINE)
_CHILDREN = re.compile(rf"^{_DIGEST} = {_TEXT}\n", re.MULTILINE)

Told = tuple[str, str, tuple[str, ...], str | None]
"""The first fields of `model.Referred`."""


def image(data: bytes) -> Image | None:
    """The image that `data` is the record of."""
    found = _fields(_image(), data)
    if found is None or found[2]:
        return None
    (name, created, updated, kind, digest, size), labels, _ = found
    target = Descriptor(kind, Digest(digest), int(size), {}, None, "", (), None, {})
    return Image(name, target, labels, *_times(created, updated), {})


def content(data: bytes) -> ContentInfo | None:
    """The content that `data` is the record of."""
    found = _fields(_content(), data)
    if found is None:
        return None
    (digest, size, created, updated), labels, referred = found
    references = referred and _references(*referred)
    return ContentInfo(Digest(digest), int(size), labels, *_times(created, updated), {}, references)


def target(data: bytes) -> tuple[str, str, str, dict[str, str]] | None:
    """Of the image that `data` is the record of: name, digest and media type of the target, labels for gc."""
    found = _fields(_image(), data)
    if found is None or found[2]:
        return None
    (name, _, _, kind, digest, _), labels, _ = found
    return name, digest, kind, for_gc(labels) if labels else labels


def size(data: bytes) -> tuple[str, int, dict[str, str], Told | None] | None:
    """Of the content that `data` is the record of: digest, size, labels for gc, what it refers to."""
    found = _fields(_content(), data)
    if found is None:
        return None
    (digest, size, _, _), labels, referred = found
    return digest, int(size), for_gc(labels) if labels else labels, referred


def neither(data: bytes) -> None:
    """Of other kinds there are few records."""


@cache
def _image() -> re.Pattern[str]:
    """Compiled where it is needed, as the other two: it takes long."""
    target = rf"\[target\]\nmediaType = {_TEXT}\ndigest = {_DIGEST}\nsize = {_NUMBER}\n"
    return re.compile(f"schema = 1\nname = {_TEXT}\n{_TIMES}\n{target}")


@cache
def _content() -> re.Pattern[str]:
    return re.compile(f"schema = 1\ndigest = {_DIGEST}\nsize = {_NUMBER}\n{_TIMES}")


@cache
def _told() -> re.Pattern[str]:
    children = r"(?:\n\[references\.children\]\n(.+))?"
    return re.compile(rf"mediaType = {_TEXT}\n(?:subject = {_DIGEST}\n)?{children}", re.DOTALL)


def _fields(form: re.Pattern[str], data: bytes) -> tuple[Sequence[str], dict[str, str], Told | None] | None:
    """The groups of `form`, which is all in front of the labels, these, and the references behind them."""
    body = data[:-_SEAL_LENGTH]
    if data[-_SEAL_LENGTH:] != b"# sha256:%b\n" % sha256(body).hexdigest().encode():
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    text, has_references, last = text.partition("\n[references]\n")
    head, has_labels, lines = text.partition("\n[labels]\n")
    found = form.fullmatch(head)
    labels = _labels(lines) if has_labels else {}
    referred = _referred(last) if has_references else None
    if found is None or labels is None or (has_references and referred is None):
        return None
    return found.groups(), labels, referred


def _referred(lines: str) -> Told | None:
    """None where they are of another form, or a child is there twice."""
    found = _told().fullmatch(lines)
    if found is None:
        return None
    media_type, subject, lines = found.groups("")
    children = _CHILDREN.findall(lines)
    if len(dict(children)) != lines.count("\n") or lines[-1:] not in ("", "\n"):
        return None
    digests, types = zip(*children, strict=True) if children else ((), ())
    return media_type, " ".join(digests), types, subject or None


def _labels(lines: str) -> dict[str, str] | None:
    """None where there is none, one is of another form, or a key is there twice."""
    labels = {quoted or bare: value for quoted, bare, value in _LABELS.findall(lines)}
    return labels if len(labels) == lines.count("\n") > 0 and lines[-1] == "\n" else None


def _references(media_type: str, digests: str, types: Sequence[str], subject: str | None) -> References:
    children = dict(zip(map(Digest, digests.split()), types, strict=True))
    return References(media_type, children, Digest(subject) if subject else None, {})


def _times(created: str, updated: str | None) -> tuple[int, int]:
    """None for `updated` means the same."""
    time = parse_time(created)
    return time, time if updated is None else parse_time(updated)
