"""What `du` tells of the disk is what find and gc tell."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from imgtool.disk import open_store
from imgtool.disk.extent import Extent, measure
from imgtool.disk.layout import Layout
from tests.fixture_runner import run_here

from .gc_world import NS, add, tag


def found(root: Path, *directories: str) -> int:
    """The sum of the sizes of the files below, as find tells them."""
    there = [str(root / directory) for directory in directories]
    told = subprocess.run(["find", *there, "-type", "f", "-printf", "%s\n"], capture_output=True, check=True)
    return sum(map(int, told.stdout.split()))


def test_du_agrees_with_find(tmp_path: Path) -> None:
    """Images, garbage, writes under way, expired ones, and what dead processes have left."""
    root = tmp_path / "store"
    with open_store(str(root)) as store:
        tag(store, "app", add(store, b"kept"), "application/x")
        add(store, b"garbage")
        with store.content(NS).writer("unfinished") as writer:
            writer.write(b"half")
    dead = root / "tmp/0123456789abcdef"
    dead.mkdir(mode=0o700)
    (dead / "left").write_bytes(b"by a process that is gone")
    told = json.loads(run_here(["du", "--format", "json"], tmp_path, b"").stdout)["usages"]
    totals = {row["name"]: row["total"] for row in told if row["kind"] == "store"}
    assert totals["objects"] == found(root, "objects") == len(b"keptgarbage")
    assert totals["images"] + totals["held"] + totals["garbage"] == totals["objects"]
    assert totals["litter"] + totals["unfinished"] == found(root, "ingests", "tmp")
    assert totals["litter"] == len(b"by a process that is gone")
    assert totals["records"] == found(root, "namespaces", "imgtool.toml")
    gc = json.loads(run_here(["gc", "--dry-run", "--format", "json"], tmp_path, b"").stdout)["garbage"]
    assert totals["garbage"] + totals["litter"] == sum(row["size"] or 0 for row in gc)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Somebody may have put one there; what it leads to does not lie in the store."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/large").write_bytes(b"x" * 1000)
    (tmp_path / "namespaces").mkdir()
    os.symlink("../elsewhere", tmp_path / "namespaces/directory")
    os.symlink("../elsewhere/large", tmp_path / "namespaces/file")
    (tmp_path / "namespaces/own").write_bytes(b"own")
    assert measure(Layout(str(tmp_path))) == Extent(records=3, unfinished=0)
