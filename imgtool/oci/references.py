"""Image references, `[domain/]path[:tag][@digest]`, as docker and containerd read them.

The grammar and the defaults are those of github.com/distribution/reference. They serve what talks to
registries and reads docker archives; an image's name in the store need not be a
reference: `repository_of` and `tag_of` take any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from imgtool.digest import Digest
from imgtool.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
PATH_MAX = 255

_LABEL = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = "[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_PATH = f"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

DOMAIN = re.compile(_DOMAIN, re.ASCII)
NAME = re.compile(f"(?:({_DOMAIN})/)?({_PATH})", re.ASCII)
REFERENCE = re.compile(f"((?:{_DOMAIN}/)?{_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?", re.ASCII)
IDENTIFIER = re.compile("[a-f0-9]{64}", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """A reference in its parts; `domain`, `tag` and `digest` may be empty."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Domain and path."""
        return f"{self.domain}/{self.path}" if self.domain else self.path

    def __str__(self) -> str:
        return join(self.name, self.tag, self.digest)


def parse(text: str) -> Reference:
    """The reference `text` as it is written, nothing added.

    Raises:
        InvalidArgument: not the grammar; the path is longer than 255; the digest is none that
            imgtool has.
    """
    m = REFERENCE.fullmatch(text)
    if not m:
        upper = REFERENCE.fullmatch(text.lower())
        hint = "the repository must be in lower case" if upper else "[domain/]path[:tag][@digest]"
        raise InvalidArgument(f"invalid reference '{text[:300]}'", hint=hint)
    found = with_name(m[1])
    return replace(found, tag=m[2] or "", digest=Digest.parse(m[3]) if m[3] else "")


def with_name(name: str) -> Reference:
    """The reference that has only a name.

    Raises:
        InvalidArgument: not the grammar, or the path is longer than 255.
    """
    m = NAME.fullmatch(name)
    if not m:
        raise InvalidArgument(f"invalid repository name '{name[:300]}'")
    if len(m[2]) > PATH_MAX:
        raise InvalidArgument(
            f"repository name '{name[:40]}…' has {len(m[2])} characters, at most {PATH_MAX} fit"
        )
    return Reference(m[1] or "", m[2])


def parse_normalized(text: str) -> Reference:
    """The reference that a user of docker means by `text`: `redis` is `docker.io/library/redis`.

    Raises:
        InvalidArgument: as `parse`; 64 hexadecimal digits, which are an image's id.
    """
    if IDENTIFIER.fullmatch(text):
        raise InvalidArgument(f"'{text}' is an identifier, not a repository name")
    return parse("/".join(split_normalized(text)))


def parse_canonical(text: str) -> Reference:
    """The reference `text` if it is written in full.

    Raises:
        InvalidArgument: as `parse_normalized`; something would have to be added.
    """
    found = parse_normalized(text)
    if str(found) != text:
        raise InvalidArgument(
            f"reference '{text[:300]}' is not written in full", hint=f"in full it is {found}"
        )
    return found


def parse_docker(text: str) -> Reference:
    """The reference that containerd stores for docker's `text`: a digest displaces the tag, and
    without either the tag is `latest`.

    Raises:
        InvalidArgument: as `parse_normalized`.
    """
    found = parse_normalized(text)
    return replace(found, tag="" if found.digest else found.tag or DEFAULT_TAG)


def parse_any(text: str) -> str:
    """`text` in full: a digest, 64 hexadecimal digits as a sha256 digest, or a normalised reference.

    Raises:
        InvalidArgument: it is none of them.
    """
    if IDENTIFIER.fullmatch(text):
        return f"sha256:{text}"
    try:
        return Digest.parse(text)
    except InvalidArgument:
        return str(parse_normalized(text))


def repository_of(name: str) -> str:
    """The repository of an image's name as it is written; a name that is no reference is its own."""
    reference = _written(name)
    return reference.name if reference else name


def tag_of(name: str) -> str:
    """The tag in an image's name; all of the name where it has none."""
    reference = _written(name)
    return (reference and reference.tag) or name


@lru_cache(maxsize=4096)
def _written(name: str) -> Reference | None:
    """`name` as a reference. A digest, which CRI gives to images as a name, would pass for one."""
    try:
        Digest.parse(name)
    except InvalidArgument:
        pass
    else:
        return None
    try:
        return parse(name)
    except InvalidArgument:
        return None


def split(name: str) -> tuple[str, str]:
    """Domain and path of `name` as it is written; without a domain the path is all of it."""
    m = NAME.fullmatch(name)
    return (m[1] or "", m[2]) if m else ("", name)


def split_normalized(text: str) -> tuple[str, str]:
    """Domain and rest of `text` with docker's defaults. What has a dot, a colon or an upper-case
    letter before the first slash is a domain, and so is `localhost`.
    """
    first, slash, rest = text.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        domain = DEFAULT_DOMAIN if first == LEGACY_DOMAIN else first
    else:
        domain, rest = DEFAULT_DOMAIN, text
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = OFFICIAL + rest
    return domain, rest


def familiar(reference: Reference) -> Reference:
    """`reference` as docker shows it: without `docker.io`, and without `library/` for what is there."""
    if reference.domain != DEFAULT_DOMAIN:
        return reference
    short = reference.path.removeprefix(OFFICIAL)
    return replace(reference, domain="", path=reference.path if "/" in short else short)


def join(name: str, tag: str = "", digest: str = "") -> str:
    """`name:tag@digest`, without the parts that are empty."""
    return name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def matches(pattern: str, reference: Reference) -> bool:
    """Whether the shell pattern `pattern` fits the familiar form of `reference`, with or without its
    tag and digest. `*` and `?` stop at `/`; `[a-z]`, `[^a-z]` and `\\` are as in Go's `path.Match`.

    Raises:
        InvalidArgument: the pattern is malformed.
    """
    short = familiar(reference)
    glob = _glob(pattern)
    return any(glob.fullmatch(text) for text in (str(short), short.name))


_CHAR = r"(?:[^\\\]-]|\\.)"
_TOKEN = re.compile(rf"(\*+)|(\?)|\[(\^?+)((?:{_CHAR}(?:-{_CHAR})?)+)\]|\\(.)|([^\\\[])", re.DOTALL)
_RANGE = re.compile(rf"({_CHAR})(?:-({_CHAR}))?", re.DOTALL)


def _glob(pattern: str) -> re.Pattern[str]:
    """`pattern` as a regular expression that takes the first place where what follows a star fits
    and never looks back, so that no pattern is slow.
    """
    runs = [""]
    at = 0
    while at < len(pattern):
        m = _TOKEN.match(pattern, at)
        if not m:
            raise InvalidArgument(f"invalid pattern '{pattern[:80]}' at character {at + 1}")
        star, one, negated, ranges, escaped, plain = m.groups()
        at = m.end()
        if star:
            runs.append("[^/]*?")
        elif one:
            runs[-1] += "[^/]"
        elif ranges:
            runs[-1] += _class(ranges, bool(negated))
        else:
            runs[-1] += re.escape(escaped or plain)
    return re.compile("".join(f"(?>{r})" for r in runs[:-1]) + runs[-1], re.DOTALL)


def _class(ranges: str, negated: bool) -> str:
    inside = ""
    for low, high in _RANGE.findall(ranges):
        first, last = low[-1], (high or low)[-1]
        if first <= last:
            inside += f"{re.escape(first)}-{re.escape(last)}"
    if not inside:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{inside}]"
