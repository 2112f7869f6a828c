"""What `ctr` takes against `imgtool serve`, and against a containerd with a store of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from make_store import Shape, make
from measure import Case, Row, call, environment, imgtool, in_turn, rows

SIZE = 256 << 20
IMAGES = 1_000
CONFIG = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs"]
"""


def run(work: Path, size: int, rounds: int) -> list[Row]:
    """Content of at most 256 MiB, written and read; and a list of a thousand images, whose manifests and
    configs the client reads one by one.
    """
    if not (shutil.which("ctr") and shutil.which("containerd")):
        return [Row("ctr", "not measured: containerd missing")]
    store = work / "store"
    make(work, Shape(IMAGES))
    with ExitStack() as stack:
        try:
            theirs = Server("containerd", stack.enter_context(containerd(work)))
        except TimeoutError as error:
            return [Row("containerd", f"not measured: {error}")]
        ours = Server("imgtool", stack.enter_context(served(store, work / "imgtool.sock")))
        with tarfile.open(work / "images.tar", "w") as tar:
            tar.add(work / "layout", ".")
        theirs.ctr("images", "import", "--no-unpack", "--all-platforms", work / "images.tar")
        data = work / "data"
        size = min(size, SIZE)
        with data.open("wb") as file:
            for _ in range(0, size, 1 << 20):
                file.write(os.urandom(1 << 20))
        return both(ours, theirs, data, size >> 20, rounds)


class Server:
    """One that runs, and `ctr` for it."""

    def __init__(self, name: str, address: Path) -> None:
        self.name = name
        self._argv = ("ctr", "--address", address)

    def ctr(self, *args: str | Path) -> None:
        call(*self._argv, *args)

    def said(self, *args: str) -> str:
        return subprocess.run([*self._argv, *args], check=True, capture_output=True, text=True).stdout

    def ingest(self, data: Path) -> None:
        with data.open("rb") as file:
            call(*self._argv, "content", "ingest", data.name, stdin=file.fileno())

    def clear(self, digest: str) -> None:
        """Delete the content, its bytes too: a lease that goes waits for gc."""
        if digest in self.said("content", "ls", "-q"):
            self.ctr("content", "rm", digest)
        self.ctr("leases", "create", "--id", "clear")
        self.ctr("leases", "rm", "--sync", "clear")


def both(ours: Server, theirs: Server, data: Path, mib: int, rounds: int) -> list[Row]:
    with data.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    targets = {}
    groups: list[list[Case]] = [[], [], []]
    for server in (theirs, ours):
        write = Case(
            f"ctr content ingest, {mib} MiB, {server.name}",
            lambda server=server: server.ingest(data),
            lambda server=server: server.clear(digest),
        )
        read = Case(
            f"ctr content get, {mib} MiB, {server.name}",
            lambda server=server: server.ctr("content", "get", digest),
        )
        found = Case(
            f"ctr images ls, {IMAGES:,} images, {server.name}",
            lambda server=server: server.ctr("images", "ls"),
        )
        for group, case in zip(groups, (write, read, found), strict=True):
            group.append(case)
    for group, target in zip(groups, ("<= 1.43", "<= 2", "<= 1.5"), strict=True):
        if group is groups[1]:
            for server in (theirs, ours):
                server.ctr("content", "label", digest, "containerd.io/gc.root=bench")
        in_turn(group, rounds)
        targets[group[1].name, group[0].name] = target
    return rows([case for group in groups for case in group], targets)


@contextmanager
def containerd(work: Path) -> Iterator[Path]:
    """One with all its files below `work`; its socket."""
    config, socket = work / "config.toml", work / "containerd.sock"
    config.write_text(CONFIG)
    argv = ["containerd", f"--config={config}", f"--root={work / 'root'}", f"--state={work / 'state'}"]
    with running([*argv, f"--address={socket}"], work / "containerd.log", socket):
        yield socket


@contextmanager
def served(store: Path, socket: Path) -> Iterator[Path]:
    with running(imgtool(store, "serve", "--address", socket), store.parent / "imgtool.log", socket):
        yield socket


@contextmanager
def running(argv: list[str], log: Path, socket: Path) -> Iterator[None]:
    """
    Raises:
        TimeoutError: it does not answer.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment()
        )
    try:
        for _ in range(100):
            if not subprocess.run(["ctr", "--address", socket, "version"], capture_output=True).returncode:
                break
            time.sleep(0.1)
        else:
            raise TimeoutError(f"{argv[0]} does not answer: {log.read_text()[-200:]}")
        yield
    finally:
        process.terminate()
        process.wait()
