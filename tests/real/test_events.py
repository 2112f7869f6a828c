"""`imgtool events --follow` as a process, beside commands that change the store."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .containerd import running
from .process import Imgtool


@contextmanager
def following(imgtool: Imgtool, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that follows, and does so already."""
    process = imgtool.start("events", "--follow", *args)
    try:
        assert process.stdout is not None
        begin(imgtool, process)
        yield process
    finally:
        process.kill()
        process.communicate()


def begin(imgtool: Imgtool, process: subprocess.Popen[bytes]) -> None:
    """Change something until the process tells of it."""
    for number in range(100):
        imgtool("namespace", "create", f"begin-{number}")
        if lines(process, 1, seconds=0.3):
            return
    raise AssertionError("nothing is told")


def lines(process: subprocess.Popen[bytes], count: int, seconds: float = 20.0) -> list[str]:
    """What it prints, `count` lines or what has come after so many seconds."""
    assert process.stdout is not None
    fd, deadline, data = process.stdout.fileno(), time.monotonic() + seconds, b""
    while data.count(b"\n") < count:
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        if not (part := os.read(fd, 1 << 16)):
            break
        data += part
    return data.decode().splitlines()


@pytest.fixture
def imgtool(tmp_path: Path) -> Imgtool:
    return Imgtool(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "hi.txt"
    path.write_text("hi\n")
    return path


def test_what_commands_change_is_printed_as_it_happens(imgtool: Imgtool, source: Path) -> None:
    """Line by line, each handed out at once."""
    with following(imgtool, "--format", "jsonl", "topic~=^/(images|namespaces)/") as process:
        imgtool("ingest", source, "-t", "a")
        imgtool("label", "a", "k=v")
        imgtool("tag", "a", "b")
        imgtool("delete", "a", "b")
        rows = [json.loads(line) for line in lines(process, 5)]
    told = [(row["topic"], row["event"]) for row in rows]
    assert told == [
        ("/images/create", {"name": "a"}),
        ("/images/update", {"name": "a", "labels": {"k": "v"}}),
        ("/images/create", {"name": "b", "labels": {"k": "v"}}),
        ("/images/delete", {"name": "a"}),
        ("/images/delete", {"name": "b"}),
    ]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_word(imgtool: Imgtool, number: signal.Signals, status: int) -> None:
    with following(imgtool) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (status, b"", b"")


def test_it_ends_when_nobody_reads_it_any_more(imgtool: Imgtool) -> None:
    """Also where nothing happens that it could print: `… | head -1`."""
    with following(imgtool) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(20) == 141


def test_it_costs_next_to_nothing_while_nothing_happens(imgtool: Imgtool, source: Path) -> None:
    """It looks ten times a second: at most 2 % of a processor, with 20 namespaces."""
    for number in range(20):
        imgtool("-n", f"n{number}", "ingest", source)
    with following(imgtool) as process:
        before = used(process.pid)
        time.sleep(3)
        assert (used(process.pid) - before) / 3 < 0.02


def used(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_many_writers_at_once_lose_nothing(imgtool: Imgtool, source: Path) -> None:
    """Processes that change the same namespaces; some of them are killed on the way."""
    imgtool("ingest", source, "-t", "base")
    with following(imgtool, "--format", "jsonl", "topic~=^/images/", "topic~=^/namespaces/") as process:
        printed = lines_of(process)
        writers = []
        for number in range(12):
            writer = imgtool.start("tag", "base", *(f"{number}/{i}" for i in range(30)))
            writers.append(writer)
            if number % 3 == 2:
                time.sleep(0.15)
                writer.kill()
        for writer in writers:
            writer.communicate(timeout=60)
        imgtool("tag", "base", "last")
        told: list[str] = []
        for row in printed:
            told.append(row["event"]["name"])
            if told[-1] == "last":
                break
    there = {record["name"] for record in imgtool.records()} - {"base"}
    assert len(told) == len(set(told))
    assert set(told) == there
    whole = [f"{number}/{i}" for number in range(12) if number % 3 != 2 for i in range(30)]
    assert set(whole) <= there
    imgtool.check()


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, dict[str, str]]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def test_history_is_what_was_followed(imgtool: Imgtool, source: Path) -> None:
    """The same lines, whether they are read afterwards or as they come."""
    with following(imgtool) as process:
        imgtool("ingest", source, "-t", "a")
        imgtool("-n", "other", "ingest", source, "-t", "b")
        imgtool("delete", "a")
        imgtool("gc")
        followed = lines(process, 5)
    assert imgtool("events", "event.name!=begin").splitlines()[-5:] == followed


def test_lines_have_the_form_that_ctr_prints(imgtool: Imgtool, source: Path, tmp_path: Path) -> None:
    """containerd's own, of the same changes; its times apart."""
    work = tmp_path / "containerd"
    work.mkdir()
    with running(work) as daemon:
        address = str(work / "socket")
        with subprocess.Popen(["ctr", "--address", address, "events"], stdout=subprocess.PIPE) as ctr:
            try:
                for number in range(100):
                    daemon.ctr("namespaces", "create", f"begin-{number}")
                    if lines(ctr, 1, seconds=0.3):
                        break
                daemon.ctr("namespaces", "create", "default", "a=<&>")
                daemon.ctr("namespaces", "label", "default", "a=")
                daemon.ctr("namespaces", "label", "default", "b=é")
                daemon.ctr("namespaces", "rm", "default")
                theirs = lines(ctr, 4)
            finally:
                ctr.kill()
    imgtool("namespace", "create", "default", "a=<&>")
    imgtool("namespace", "label", "default", "a=")
    imgtool("namespace", "label", "default", "b=é")
    imgtool("namespace", "rm", "default")
    ours = imgtool("events").splitlines()
    assert [without_time(line) for line in ours] == [without_time(line) for line in theirs]


def without_time(line: str) -> str:
    day, clock, zone, name, rest = line.split(" ", 4)
    assert (len(day), zone, name) == (10, "+0000", "UTC")
    assert len(clock) <= len("00:00:00.000000000")
    return rest
