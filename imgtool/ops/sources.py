"""What the words on ingest's command line mean: a kind, a path, and the image meant inside."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from imgtool.errors import InvalidArgument, NotFound, from_oserror

FILE = "file"
LAYOUT = "oci"
KINDS = (FILE, LAYOUT)
STDIN = "-"


@dataclass(frozen=True)
class Source:
    """Where to ingest from.

    `path` is `-` for stdin. `ref` is the one image meant of a layout; None means all of them.
    """

    kind: str
    path: str
    ref: str | None = None

    @property
    def base_name(self) -> str:
        """What to call what has no name."""
        return os.path.basename(
            os.path.realpath(self.path) if self.path in (".", "..") else self.path.rstrip("/")
        )


def parse(word: str, kind: str | None = None) -> Source:
    """The source that `word` means: `oci:DIR[:REF]`, `-`, or a path, which is looked at.

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
    if word == STDIN:
        if kind == LAYOUT:
            raise InvalidArgument("stdin is no image layout, which is a directory")
        return Source(FILE, STDIN)
    if kind is not None:
        return Source(kind, word)
    if word.startswith(f"{LAYOUT}:"):
        return Source(LAYOUT, *_split(word[len(LAYOUT) + 1 :]))
    try:
        mode = os.stat(word).st_mode
    except OSError as error:
        raise from_oserror(error, "cannot open source") from None
    except ValueError:
        raise InvalidArgument(f"source '{word}' is no path") from None
    return Source(LAYOUT if stat.S_ISDIR(mode) else FILE, word)


def _split(text: str) -> tuple[str, str | None]:
    """`DIR[:REF]`, where both may have colons: the longest directory that is there counts."""
    path, ref = text, None
    while not os.path.isdir(path):
        path, colon, more = path.rpartition(":")
        if not (colon and path):
            raise NotFound(f"image layout '{text}' not found")
        ref = more if ref is None else f"{more}:{ref}"
    if ref == "":
        raise InvalidArgument(f"source 'oci:{text}' has nothing after its last colon")
    return path, ref
