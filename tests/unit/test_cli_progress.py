"""Progress is for who watches, and for nobody else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from imgtool.cli.context import Context
from imgtool.cli.output import Kind
from imgtool.cli.progress import Progress
from imgtool.errors import NotFound


def progress(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of work in two steps, a minute after each other."""
    clock = iter(range(0, 6000, 60))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with Progress(context, "ingesting") as shown:
        shown.add(1024)
        shown.add(2048)


def on_a_terminal(context: Context, monkeypatch: pytest.MonkeyPatch) -> bytes:
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress(context, monkeypatch)
    return watched(leader)


def watched(leader: int) -> bytes:
    """All that was written to a terminal, which is closed now."""
    seen = b""
    with os.fdopen(leader, "rb", buffering=0) as watcher, suppress(OSError):  # EIO: that was all
        while part := watcher.read(10000):
            seen += part
    return seen


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


ROWS = Kind("images", ("name",))


def row(context: Context) -> None:
    context.out.rows(ROWS, [{"name": "app"}], {"NAME": lambda r: r["name"]}, header=False)
    context.out.flush()


def test_whatever_else_is_printed_begins_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, whenever they leave the buffer, failures, warnings and notes; then the work goes on."""
    context = Context()
    clock = iter(range(0, 6000, 60))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    talk: tuple[Callable[[], object], ...] = (
        lambda: row(context),
        lambda: context.failures.add(NotFound("lost")),
        lambda: context.failures.warn("beware"),
        lambda: context.say("by the way"),
    )
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setattr(sys, "stdout", terminal)
        with Progress(context, "ingesting") as shown:
            for say in talk:
                shown.add(1024)
                say()
            context.out.write("buffered\n")
            shown.add(1024)
            context.say("flushes it")
        row(context)
    seen = watched(leader)
    lines = [line.rpartition(b"\x1b[K") for line in seen.split(b"\r\n")]
    assert [text for _, _, text in lines] == [
        b"app",
        b"imgtool: lost",
        b"imgtool: warning: beware",
        b"imgtool: by the way",
        b"buffered",
        b"imgtool: flushes it",
        b"app",
        b"",
    ]
    assert seen.count(b"ingesting: ") == 5


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
