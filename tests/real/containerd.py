"""A containerd of our own: its own root, state and socket; ended by its process id."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .images import need

CONFIG = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs"]
"""


class Containerd:
    """A daemon that runs, and `ctr` for it."""

    def __init__(self, address: Path) -> None:
        self._address = address

    def ctr(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        argv = ["ctr", "--address", str(self._address), *map(str, args)]
        return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def imported(self, archive: Path) -> dict[str, str]:
        """What `ctr images import` makes of an archive: name to digest. Nothing of it stays."""
        done = self.ctr("images", "import", "--no-unpack", "--all-platforms", archive)
        assert not done.returncode, done.stderr
        rows = [line.split() for line in self.ctr("images", "ls").stdout.splitlines()[1:]]
        self.ctr("images", "rm", *(row[0] for row in rows))
        return {row[0]: row[2] for row in rows}


@contextmanager
def running(work: Path, config: str = CONFIG) -> Iterator[Containerd]:
    """Start one with all its files below `work`; skip the test where it cannot run."""
    need("containerd", "ctr")
    (work / "config.toml").write_text(config)
    places = {"config": "config.toml", "root": "root", "state": "state", "address": "socket"}
    options = [f"--{option}={work / name}" for option, name in places.items()]
    daemon = Containerd(work / "socket")
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(["containerd", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(100):
            if not daemon.ctr("version").returncode:
                break
            if process.poll() is not None:
                pytest.skip(f"containerd does not run: {(work / 'log').read_text()[-500:]}")
            time.sleep(0.1)
        yield daemon
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(work / "root", ignore_errors=True)
