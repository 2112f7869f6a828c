"""Reading files of a store without a trace, and those of others. `imgtool.disk.read`."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from imgtool.disk import read


@pytest.mark.parametrize("ours", [True, False])
def test_reading_leaves_the_time_of_access_where_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    """Else the next sync has to write one for each file. Only of one's own files may that be asked."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    opened: list[tuple[str, bool]] = []
    system = os.open

    def watched(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        quietly = bool(flags & os.O_NOATIME)
        if not flags & os.O_DIRECTORY:
            opened.append((os.path.basename(path), quietly))
        if quietly and not ours:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        return system(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", watched)
    assert read.read_regular(str(tmp_path / "a"), 9) == b"x"
    assert [*read.small_files(str(tmp_path), ["b"])] == [("b", b"x")]
    ways = [True] if ours else [True, False]
    assert opened == [(name, quietly) for name in "ab" for quietly in ways]
