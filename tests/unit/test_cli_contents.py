"""Content on its way to stdout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from imgtool.cli import contents
from imgtool.cli.context import Context
from imgtool.digest import Digest
from imgtool.disk import open_store


def contents_of(store: Path, *contents: bytes) -> list[Digest]:
    digests = []
    with open_store(str(store)) as opened:
        for data in contents:
            with opened.content("default").stage(algorithm="sha256") as writer:
                writer.write(data)
                digests.append(writer.commit().digest)
    return digests


def shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, digests: list[Digest], last: bytes
) -> tuple[bytes, int]:
    """What `cat` shows, up to `last`, and its exit status."""
    leader, follower = os.openpty()
    c = Context()
    with os.fdopen(leader, "rb", 0) as seen, os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        contents.cat(c, digests, Digest.parse, what="digest", zero=False)
        terminal.flush()
        shown = b""
        while not shown.endswith(last):
            shown += seen.read(100)
    c.close()
    return shown, c.failures.exit_code


def test_each_content_is_looked_at_before_it_reaches_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Text first does not open the way for the layer behind it."""
    monkeypatch.setenv("IMGTOOL_ROOT", str(tmp_path / "store"))
    digests = contents_of(tmp_path / "store", b"text\n", b"\x1f\x8b\x08\x00", b"more text\n")
    shown = shown_on_a_terminal(monkeypatch, digests, b"more text\r\n")
    assert shown == (b"text\r\nmore text\r\n", 2)


def test_every_part_of_a_content_is_looked_at_before_it_reaches_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A long text may end with what repaints the screen (FAULTS T15)."""
    monkeypatch.setenv("IMGTOOL_ROOT", str(tmp_path / "store"))
    monkeypatch.setattr(contents, "_CHUNK", 4)
    digests = contents_of(tmp_path / "store", b"abc\xc3\xa9fgh\x1b[2J", b"end\n")
    shown = shown_on_a_terminal(monkeypatch, digests, b"end\r\n")
    assert shown == (b"abc\xc3\xa9fghend\r\n", 2)
