"""The largest resident size that an ingest reaches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ingest import random_file
from measure import Row, environment, imgtool

MIB = 1 << 20


def peak(argv: list[str], stdin: int) -> int:
    """Bytes at the peak of one process, as the kernel counted them."""
    process = subprocess.Popen(argv, stdin=stdin, stdout=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(argv)}: exit {process.returncode}")
    return usage.ru_maxrss * 1024


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """From a file and from a pipe, into a fresh store."""
    file = random_file(work / "file", size)
    measured = []
    for source in ("FILE", "-"):
        store = work / "store"
        shutil.rmtree(store, ignore_errors=True)
        if source == "FILE":
            most = peak(imgtool(store, "ingest", file, "--name", "bench"), subprocess.DEVNULL)
        else:
            with subprocess.Popen(["cat", file], stdout=subprocess.PIPE) as cat:
                assert cat.stdout is not None
                most = peak(imgtool(store, "ingest", "-", "--name", "bench"), cat.stdout.fileno())
        what = "imgtool ingest FILE, peak" if source == "FILE" else "cat FILE | imgtool ingest -, peak"
        measured.append(Row(what, f"{most / MIB:.1f} MiB", target="< 64 MiB"))
    return measured
