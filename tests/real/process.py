"""imgtool as its users have it: a process, its exit code, its two streams, and the files it leaves.

What is expected of the store is computed here with `json`, `tomllib` and `sha256sum` alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import imgtool

from .images import walk

SOURCE = Path(imgtool.__file__).parents[1]
WAIT = 120  # seconds; more than any command here needs, so that a hang is a failure


class Imgtool:
    """The command, bound to one store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def argv(self, *args: str | Path) -> list[str]:
        return [sys.executable, "-m", "imgtool", "--root", str(self.root), *map(str, args)]

    def run(
        self,
        *args: str | Path,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        input: bytes | None = None,
        stdout: int | IO[bytes] = subprocess.PIPE,
        umask: int = -1,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to the end and return all; whatever happens, no traceback may reach the user.

        Args:
            stdin: where it reads, unless `input` is given.
            umask: its umask; -1 is ours.
        """
        done = subprocess.run(
            self.argv(*args),
            stdin=None if input is not None else stdin,
            input=input,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=WAIT,
            env=environment(),
            umask=umask,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    def __call__(
        self,
        *args: str | Path,
        code: int = 0,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        input: bytes | None = None,
        umask: int = -1,
    ) -> str:
        """Run, demand the exit code, return stdout."""
        done = self.run(*args, stdin=stdin, input=input, umask=umask)
        said = done.stderr.decode()
        assert done.returncode == code, f"imgtool {' '.join(map(str, args))}: {done.returncode}\n{said}"
        return done.stdout.decode()

    def start(self, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start without waiting."""
        return subprocess.Popen(
            self.argv(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )

    def images(self) -> dict[str, dict[str, Any]]:
        """What `list` says, by name."""
        return {row["name"]: row for row in json.loads(self("list", "--format", "json"))["images"]}

    def targets(self) -> dict[str, str]:
        """Name to digest, as `list` says."""
        return {name: row["target"]["digest"] for name, row in self.images().items()}

    def records(self) -> Iterator[dict[str, Any]]:
        """The image records of all namespaces, read as files."""
        for path in sorted(self.root.glob("namespaces/*/images/*.toml")):
            yield tomllib.loads(path.read_text())

    def object(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self.root / "objects" / algorithm / encoded[:2] / encoded[2:]

    def objects(self) -> dict[str, int]:
        """Every file under `objects/`: digest to size."""
        return {
            f"{path.parents[1].name}:{path.parent.name}{path.name}": path.stat().st_size
            for path in self.root.glob("objects/*/*/*")
        }

    def reachable(self) -> dict[str, int]:
        """What the image records need, followed through the objects' own JSON."""
        targets = [record["target"] for record in self.records()]
        return walk([(target["mediaType"], target["digest"]) for target in targets], self.object)

    def check(self) -> None:
        """The store is sound: fsck says so, and coreutils says so of every object."""
        self("fsck")
        for algorithm in ("sha256", "sha512"):
            lines = [
                f"{d.partition(':')[2]}  {self.object(d)}\n"
                for d in self.objects()
                if d.startswith(f"{algorithm}:")
            ]
            if lines:
                sums = [f"{algorithm}sum", "--check", "--strict", "--quiet"]
                subprocess.run(sums, input="".join(lines), text=True, check=True)

    def check_collected(self) -> None:
        """As `check`, and nothing is kept beyond what the image records need."""
        self.check()
        assert self.objects() == self.reachable()
        assert not list((self.root / "tmp").glob("*"))


def environment(**more: str) -> dict[str, str]:
    """A fixed world: nothing of the caller's but the way to programs."""
    keep = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    fixed = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1", "COLUMNS": "80", "PYTHONPATH": str(SOURCE)}
    return keep | fixed | {"PYTHONHASHSEED": "0"} | more
