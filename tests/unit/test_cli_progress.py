"""Progress is for who watches, and for nobody else."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from imgtool.cli.context import Context
from imgtool.cli.progress import Progress


def progress(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of work in two steps, a minute after each other."""
    clock = iter(range(0, 6000, 60))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with Progress(context, "ingesting") as shown:
        shown.add(1024)
        shown.add(2048)


def on_a_terminal(context: Context, monkeypatch: pytest.MonkeyPatch) -> bytes:
    leader, follower = os.openpty()
    shown = b""
    with os.fdopen(leader, "rb", buffering=0) as watcher:
        with os.fdopen(follower, "w") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            progress(context, monkeypatch)
        with suppress(OSError):  # EIO: all has been read, and nobody has the terminal open any more
            while part := watcher.read(10000):
                shown += part
    return shown


def in_a_file(context: Context, monkeypatch: pytest.MonkeyPatch, path: Path) -> bytes:
    with path.open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        progress(context, monkeypatch)
    return path.read_bytes()


def test_on_a_terminal_one_line_is_rewritten_and_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays on the screen is what the command printed."""
    assert on_a_terminal(Context(), monkeypatch) == (
        b"\r\x1b[Kingesting: 1.0 KiB\r\x1b[Kingesting: 3.0 KiB\r\x1b[K"
    )


def test_elsewhere_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A log file full of half lines helps nobody."""
    assert in_a_file(Context(), monkeypatch, tmp_path / "log") == b""


def test_plain_writes_lines_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A build that is silent for minutes looks hung, and its log is no terminal."""
    context = Context()
    context.progress = "plain"
    assert in_a_file(context, monkeypatch, tmp_path / "log") == (
        b"imgtool: ingesting: 1.0 KiB\nimgtool: ingesting: 3.0 KiB\n"
    )


@pytest.mark.parametrize(
    ("name", "value"), [("progress", "none"), ("quiet", True), ("format", "json"), ("format", "jsonl")]
)
def test_it_can_be_silenced(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Who reads stderr with a program wants nothing on it but what it can parse."""
    context = Context()
    setattr(context, name, value)
    assert on_a_terminal(context, monkeypatch) == b""
