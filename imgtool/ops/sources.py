"""What the words on ingest's command line mean: a kind, a path, and the image meant inside."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

from imgtool.errors import InvalidArgument, NotFound, from_oserror

AUTO = "auto"  # a file or a pipe, of which the first bytes tell what it is
FILE = "file"
LAYOUT = "oci"
OCI_ARCHIVE = "oci-archive"
DOCKER_ARCHIVE = "docker-archive"
KINDS = (FILE, LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE)
STDIN = "-"

_SUFFIX = re.compile(r"(?<=.)\.(tar(\.(gz|bz2|xz|zst|zstd))?|tgz|tbz2?|txz|tzst)\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where to ingest from.

    `path` is `-` for stdin. `ref` is the one image meant of a layout or archive; None means all.
    """

    kind: str
    path: str
    ref: str | None = None

    @property
    def what(self) -> str:
        """The source for a message."""
        return "stdin" if self.path == STDIN else f"'{self.path}'"

    @property
    def chosen(self) -> str:
        """How one image of the source is asked for, for a hint."""
        kinds = (OCI_ARCHIVE, DOCKER_ARCHIVE) if self.kind == AUTO else (self.kind,)
        return " or ".join(f"{kind}:{self.path}:REF" for kind in kinds)

    @property
    def base_name(self) -> str:
        """What to call a plain file that has no name."""
        name = os.path.basename(self.path.rstrip("/"))
        return os.path.basename(os.path.realpath(self.path)) if name in ("", ".", "..") else name

    @property
    def is_pipe(self) -> bool:
        """Whether the path names a pipe, and so says nothing of what comes out of it."""
        return self.path == STDIN or _is_pipe(self.path)

    @property
    def stem(self) -> str:
        """What to call images that have no name: the base name without the suffixes of archives."""
        return _SUFFIX.sub("", self.base_name)


def parse(word: str, kind: str | None = None) -> Source:
    """The source that `word` means: `oci:DIR[:REF]`, `oci-archive:FILE[:REF]`,
    `docker-archive:FILE[:REF]`, `-`, or a path, which is looked at.

    Args:
        word: as it was typed.
        kind: one of KINDS overrules what the path looks like.

    Raises:
        InvalidArgument: the word is empty, or `kind` is no kind.
        NotFound: nothing is there.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidArgument(f"unknown kind of source '{kind}'", hint=f"--as takes {' or '.join(KINDS)}")
    if not word:
        raise InvalidArgument("a source is empty")
    if kind is not None:
        return _checked(Source(kind, word))
    for kind in (LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE):
        if word.startswith(f"{kind}:"):
            return _checked(Source(kind, *_split(word[len(kind) + 1 :], kind)))
    if word == STDIN:
        return Source(AUTO, STDIN)
    try:
        mode = os.stat(word).st_mode
    except OSError as error:
        raise from_oserror(error, "cannot open source") from None
    except ValueError:
        raise InvalidArgument(f"source '{word}' is no path") from None
    return Source(LAYOUT if stat.S_ISDIR(mode) else AUTO, word)


def _is_pipe(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _checked(source: Source) -> Source:
    if source.kind == LAYOUT and source.path == STDIN:
        raise InvalidArgument("stdin is no image layout, which is a directory")
    return source


def _split(text: str, kind: str) -> tuple[str, str | None]:
    """`PATH[:REF]`, where both may have colons: the longest path that is there counts."""
    path, ref = text, None
    while not (path == STDIN or os.path.exists(path)):
        path, colon, more = path.rpartition(":")
        if not (colon and path):
            raise NotFound(f"{kind} source '{text}' not found")
        ref = more if ref is None else f"{more}:{ref}"
    if ref == "":
        raise InvalidArgument(f"source '{kind}:{text}' has nothing after its last colon")
    return path, ref
