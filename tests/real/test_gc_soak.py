"""gc beside everything that changes what is kept, for a while: it takes nothing that lives, and leaves
nothing that is dead. `IMGTOOL_SOAK_SECONDS` says for how long.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .images import walk
from .process import WAIT, Imgtool
from .test_parallel import KILLED, in_parallel

SECONDS = float(os.environ.get("IMGTOOL_SOAK_SECONDS", "20"))
WORKERS = 4

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LEAF = "application/octet-stream"


def layouts(path: Path) -> list[Path]:
    """Images that share their layers two by two, so that what dies with one lives with another."""
    layers = [f"layer {n}\n".encode() * 2_000 for n in range(3)]
    made = []
    for n in range(3):
        layout = path / f"layout-{n}"
        (layout / "blobs/sha256").mkdir(parents=True)

        def blob(media_type: str, data: bytes, layout: Path = layout) -> dict[str, Any]:
            encoded = hashlib.sha256(data).hexdigest()
            (layout / "blobs/sha256" / encoded).write_bytes(data)
            return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(data)}

        config = blob(CONFIG, json.dumps({"os": "linux", "architecture": "amd64", "author": str(n)}).encode())
        parts = {"config": config, "layers": [blob(LAYER, layers[i]) for i in (n, (n + 1) % 3)]}
        manifest = blob(MANIFEST, json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **parts}).encode())
        (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        made.append(layout)
    return made


@dataclass
class Model:
    """What one user has been told that the store holds for it."""

    targets: dict[str, str] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    leases: dict[str, set[str]] = field(default_factory=dict)
    rooted: set[str] = field(default_factory=set)

    def set(self, name: str, digest: str) -> None:
        """A name that points elsewhere begins anew; one that does not keeps its labels."""
        if self.targets.get(name) != digest:
            self.targets[name], self.labels[name] = digest, {}

    def forget(self, name: str) -> None:
        self.targets.pop(name, None)
        self.labels.pop(name, None)


class User:
    """Changes what is kept, under names that nobody else writes; all users share the bytes."""

    def __init__(self, store: Imgtool, number: int, sources: dict[Path, str]) -> None:
        self.store = store
        self.number = number
        self.random = random.Random(number)
        self.names = [f"user-{number}/{n}" for n in range(3)]
        self.ids = [f"lease-{number}-{n}" for n in range(2)]
        self.sources = sources
        self.model = Model()
        self.done: dict[str, int] = {}

    def step(self) -> None:
        actions: list[Callable[[str], None]] = [
            *(self.ingest, self.ingest, self.hand_over, self.retarget, self.label),
            *(self.delete, self.delete, self.hold, self.let_go, self.root, self.unroot, self.look),
        ]
        action = self.random.choice(actions)
        action(self.random.choice(self.names))
        self.done[action.__name__] = self.done.get(action.__name__, 0) + 1

    def ingest(self, name: str) -> None:
        """Take an image or a file; one in ten is killed on the way."""
        source, digest = self.random.choice(list(self.sources.items()))
        started = self.store.start("ingest", source, "--name", name, "--replace")
        if self.random.random() < 0.1:
            time.sleep(self.random.uniform(0, 0.3))
            started.kill()
        _, err = started.communicate(timeout=WAIT)
        assert started.returncode in (0, KILLED), err.decode()
        if started.returncode == 0 or self.store.targets().get(name) == digest:
            self.model.set(name, digest)

    def hand_over(self, name: str) -> None:
        """Content without a name, and the name a moment later: a lease holds it meanwhile."""
        data = b"nameless %d\n" % self.random.randrange(5)
        digest = self.store("content", "ingest", "-", input=data).strip()
        time.sleep(self.random.uniform(0, 0.5))
        self.store("tag", digest, name, "--replace")
        self.model.set(name, digest)

    def retarget(self, name: str) -> None:
        other = self.random.choice(self.names)
        if {name, other} <= self.model.targets.keys():
            self.store("update", name, "--target", other, "--if-digest", self.model.targets[name])
            self.model.targets[name] = self.model.targets[other]

    def label(self, name: str) -> None:
        if name in self.model.targets:
            value = str(self.random.randrange(100))
            self.store("label", name, f"k={value}")
            self.model.labels[name] = {**self.model.labels[name], "k": value}

    def delete(self, name: str) -> None:
        sync = ["--sync"] if self.random.random() < 0.2 else []
        self.store("delete", name, *sync, code=0 if name in self.model.targets else 3)
        self.model.forget(name)

    def hold(self, name: str) -> None:
        """Put what an image points to under a lease, which then keeps it alone."""
        id = self.random.choice(self.ids)
        if name not in self.model.targets:
            return
        if id not in self.model.leases:
            self.store("lease", "create", "--id", id)
            self.model.leases[id] = set()
        self.store("lease", "add", id, self.model.targets[name])
        self.model.leases[id].add(self.model.targets[name])

    def let_go(self, _name: str) -> None:
        id = self.random.choice(self.ids)
        held = sorted(self.model.leases.get(id, ()))
        if held and self.random.random() < 0.5:
            self.store("lease", "drop", id, held[0])
            self.model.leases[id].discard(held[0])
        elif id in self.model.leases:
            self.store("lease", "rm", id)
            del self.model.leases[id]

    def root(self, name: str) -> None:
        """Keep content by its own label; users have labels of their own."""
        if name in self.model.targets:
            digest = self.model.targets[name]
            self.store("content", "label", digest, f"containerd.io/gc.root.{self.number}=yes")
            self.model.rooted.add(digest)

    def unroot(self, _name: str) -> None:
        if self.model.rooted:
            digest = self.model.rooted.pop()
            self.store("content", "label", digest, f"containerd.io/gc.root.{self.number}=")

    def look(self, _name: str) -> None:
        mine = {name: row for name, row in self.store.images().items() if name in self.names}
        assert {name: row["target"]["digest"] for name, row in mine.items()} == self.model.targets
        assert {name: row["labels"] for name, row in mine.items()} == self.model.labels
        for digest in self.kept():
            self.store("content", "get", digest, "--format", "json")

    def kept(self) -> set[str]:
        """What must be there, by all that this user was told."""
        return {*self.model.targets.values(), *self.model.rooted}.union(*self.model.leases.values())


class Collector:
    """Runs gc again and again, one in five killed on the way."""

    def __init__(self, store: Imgtool, *options: str) -> None:
        self.store = store
        self.options = options
        self.random = random.Random(repr(options))
        self.removed = 0

    def step(self) -> None:
        started = self.store.start("gc", "-q", *self.options)
        if self.random.random() < 0.2:
            time.sleep(self.random.uniform(0, 0.3))
            started.kill()
        out, err = started.communicate(timeout=WAIT)
        assert started.returncode in (0, KILLED), err.decode()
        self.removed += len(out.splitlines())


def check(store: Imgtool, kept: set[str]) -> None:
    """The store is sound, and has exactly what `kept` reaches."""
    store.check()
    there = store.objects()
    types = {record["target"]["digest"]: record["target"]["mediaType"] for record in store.records()}
    starts = [
        (types.get(digest, MANIFEST if is_manifest(store, digest) else LEAF), digest) for digest in kept
    ]
    assert there == walk(starts, store.object)


def is_manifest(store: Imgtool, digest: str) -> bool:
    return b'"layers"' in store.object(digest).read_bytes()


def test_gc_beside_everything_loses_nothing_and_revives_nothing(store: Imgtool, tmp_path: Path) -> None:
    """Names, leases and root labels come and go on shared bytes, and gc runs all the time."""
    files = [tmp_path / f"file-{n}" for n in range(2)]
    for n, path in enumerate(files):
        path.write_text(f"{n}\n" * 20_000)
    sources = {
        path: store("ingest", path, "--name", "x", "--dry-run").split()[0]
        for path in [*files, *layouts(tmp_path)]
    }
    users = [User(store, n, sources) for n in range(WORKERS)]
    collectors = [Collector(store), Collector(store, "--auto")]
    steps: list[Callable[[], object]] = [
        *(user.step for user in users),
        *(collector.step for collector in collectors),
    ]
    in_parallel(steps, SECONDS)
    assert all(user.done for user in users)
    assert any(collector.removed for collector in collectors)

    targets = {name: digest for user in users for name, digest in user.model.targets.items()}
    assert store.targets() == targets
    leases = {id for user in users for id in user.model.leases}
    others = [row["id"] for row in json.loads(store("lease", "list", "--format", "json"))["leases"]]
    assert leases <= set(others)
    if short := [id for id in others if id not in leases]:  # of content that had no name yet
        store("lease", "rm", *short)
    store("gc")
    check(store, set().union(*(user.kept() for user in users)))
    assert store("gc", "-q") == ""

    if leases:
        store("lease", "rm", *sorted(leases))
    for user in users:
        for digest in user.model.rooted:
            store("content", "label", digest, f"containerd.io/gc.root.{user.number}=")
    store("gc", "--auto")
    store.check_collected()
    store("delete", "--all", "--sync")
    assert (store.targets(), store.objects()) == ({}, {})
