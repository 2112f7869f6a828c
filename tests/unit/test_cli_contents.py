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


def test_each_content_is_looked_at_before_it_reaches_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Text first does not open the way for the layer behind it."""
    monkeypatch.setenv("IMGTOOL_ROOT", str(tmp_path / "store"))
    digests = []
    with open_store(str(tmp_path / "store")) as store:
        for data in (b"text\n", b"\x1f\x8b\x08\x00", b"more text\n"):
            with store.content("default").stage(algorithm="sha256") as writer:
                writer.write(data)
                digests.append(writer.commit().digest)
    leader, follower = os.openpty()
    c = Context()
    with os.fdopen(leader, "rb", 0) as seen, os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        contents.cat(c, digests, Digest.parse, zero=False)
        terminal.flush()
        shown = b""
        while not shown.endswith(b"more text\r\n"):
            shown += seen.read(100)
        assert shown == b"text\r\nmore text\r\n"
    assert c.failures.exit_code == 2
    c.close()
