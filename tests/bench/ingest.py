"""One large file into the store, against a plain copy and against containerd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from measure import Case, Row, call, imgtool, in_turn, rows

CONFIG = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs"]
"""


class Containerd:
    """A daemon of our own, with its own root, state and socket; ended by its process id."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        """Stop what runs, and start on an empty store."""
        self.stop()
        self.work.mkdir(parents=True)
        (self.work / "config.toml").write_text(CONFIG)
        with (self.work / "log").open("wb") as log:
            places = {"config": "config.toml", "root": "root", "state": "state", "address": "socket"}
            options = [f"--{option}={self.work / name}" for option, name in places.items()]
            self.process = subprocess.Popen(
                ["containerd", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        for _ in range(100):
            if not subprocess.run([*self.ctr(), "version"], capture_output=True).returncode:
                return
            time.sleep(0.1)
        sys.exit(f"containerd does not answer: {(self.work / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None
        shutil.rmtree(self.work, ignore_errors=True)

    def ctr(self) -> list[str | Path]:
        return ["ctr", "--address", self.work / "socket"]

    def ingest(self, file: Path) -> None:
        with file.open("rb") as stream:
            call(*self.ctr(), "content", "ingest", "bench", stdin=stream.fileno())


def random_file(path: Path, size: int) -> Path:
    """`size` bytes that do not compress, on the disk before anything is timed."""
    with path.open("wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    return path


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """Every run starts with an empty destination on the same disk and ends when the bytes are durable."""
    file = random_file(work / "file", size)
    store, copies = work / "store", work / "copies"
    daemon = Containerd(work / "containerd")
    missing = [tool for tool in ("ctr", "containerd") if shutil.which(tool) is None]

    def ours(name: str, *options: str) -> Case:
        return Case(
            name,
            lambda: call(*imgtool(store, "ingest", file, "--name", "bench", *options)),
            lambda: shutil.rmtree(store, ignore_errors=True),
        )

    def empty_copies() -> None:
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()

    def copy_and_sync() -> None:
        call("cp", file, copies)
        call("sync", copies / file.name)

    cases = [
        Case("cp FILE DIR && sync FILE", copy_and_sync, empty_copies),
        ours("imgtool ingest FILE"),
        Case(
            "ctr content ingest",
            lambda: daemon.ingest(file),
            daemon.restart,
            f"not measured: {' and '.join(missing)} missing" if missing else "",
        ),
        ours("imgtool ingest FILE, sha256", "--digest-algorithm", "sha256"),
    ]
    try:
        in_turn(cases, rounds)
    finally:
        daemon.stop()
    return rows(
        cases,
        {
            ("imgtool ingest FILE", "cp FILE DIR && sync FILE"): "<= 1.5",
            ("imgtool ingest FILE", "ctr content ingest"): "< 0.5",
            ("imgtool ingest FILE, sha256", "cp FILE DIR && sync FILE"): "",
            ("imgtool ingest FILE, sha256", "ctr content ingest"): "",
        },
    )
