"""The largest resident size that an ingest reaches."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from ingest import random_file
from measure import Row, environment, imgtool

MIB = 1 << 20

# The kernel counts what a process was before exec too, so the parent must be smaller than the child.
SMALL_PARENT = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
os.write(2, b"%d" % usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak(argv: list[str], stdin: int) -> int:
    """Bytes at the peak of one process, as the kernel counted them."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SMALL_PARENT, *argv],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.decode()}")
    return int(done.stderr) * 1024


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
