"""Ingest a batch of archives, each in a child of its own: `python hostile_driver.py DIR CASES RESULTS`.

Run as a user without rights. A fork costs a tenth of a fresh process and has its own exit status,
streams, time and memory all the same.

CASES has a list of `{"id", "path", "kind"}`. RESULTS gets for each of them what came of it, from the file
and from a pipe.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgtool.cli import main

HANGS = 60  # seconds of the wall clock: the machine may be busy with other things
CPU = 30  # seconds of its own time
MADE_HERE = {"file", "pipe", "stdout", "stderr"}


def run(lines: Sequence[Sequence[str]], out: Path, stdin: int) -> dict[str, Any]:
    """Run command lines in a child until one fails; its exit status (negative: a signal), streams, time
    and memory.
    """
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.alarm(HANGS)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
            os.dup2(stdin, 0)
            for fd, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            code = next(filter(None, map(main.run, lines)), 0)
            sys.stdout.flush()
        finally:
            os._exit(code)
    _, status, usage = os.wait4(pid, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "stdout": (out / "stdout").read_bytes().decode("latin-1"),
        "stderr": (out / "stderr").read_bytes().decode("latin-1"),
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss": usage.ru_maxrss * 1024,
    }


def feed(path: str) -> tuple[int, int]:
    """The reading end of a pipe through which a child sends the file, and the child."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.close(read)
        with open(path, "rb") as file:
            while data := file.read(1 << 16):
                os.write(write, data)
        os._exit(0)
    os.close(write)
    return read, pid


def attempt(case: dict[str, str], work: Path, null: int) -> dict[str, Any]:
    """Ingest one archive into two new stores, list and check what is there then, and remove them."""
    ways = {}
    roots = {way: ["--root", str(work / way)] for way in ("file", "pipe")}
    ways["file"] = run([[*roots["file"], "ingest", f"{case['kind']}:{case['path']}"]], work, null)
    pipe, feeder = feed(case["path"])
    ways["pipe"] = run([[*roots["pipe"], "ingest", "--as", case["kind"], "-"]], work, pipe)
    os.close(pipe)
    os.waitpid(feeder, 0)
    for way, found in ways.items():
        records = sorted((work / way).glob("namespaces/*/images/*"))
        found["names"] = sorted(tomllib.loads(path.read_text())["name"] for path in records)
        found["litter"] = [path.name for path in (work / way).glob("tmp/*")]
    checked = run([[*root, word] for root in roots.values() for word in ("fsck", "list")], work, null)
    beside = {path.name: path.read_text() for path in work.iterdir() if path.name not in MADE_HERE}
    for way in ways:
        shutil.rmtree(work / way, ignore_errors=True)
    return {"id": case["id"], "ways": ways, "checked": checked, "beside": beside}


def warm_up(work: Path, archive: str) -> None:
    """Import once, for all children, what a command imports when it needs it."""
    import bz2  # noqa: F401
    import lzma  # noqa: F401
    import tempfile  # noqa: F401

    root = ["--root", str(work / "file")]
    for line in (
        ["ingest", "--as", "file", archive],
        ["fsck"],
        ["list"],
        ["ingest", f"docker-archive:{archive}"],
    ):
        main.run([*root, "-q", *line])
    shutil.rmtree(work / "file")


def drive(work: Path, cases: Path, results: Path) -> None:
    """Attempt all, and write the results."""
    null = os.open(os.devnull, os.O_RDONLY)
    todo = json.loads(cases.read_bytes())
    warm_up(work, todo[0]["path"])
    results.write_text(json.dumps([attempt(case, work, null) for case in todo]))


if __name__ == "__main__":
    drive(*map(Path, sys.argv[1:]))
