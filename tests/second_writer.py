"""A second program that writes a store, made from imgtool-store(5) alone.

It imports nothing of imgtool: what it does wrong, the manual page tells wrong or not at all. Each
function names the section that it follows.

    second_writer.py ROOT put NS NAME FILE [KEY=VALUE]...   an image of the bytes of FILE
    second_writer.py ROOT manifest NS NAME LAYER            an OCI image with one layer
    second_writer.py ROOT delete NS NAME                    an image record
    second_writer.py ROOT lease NS ID DIGEST                a lease that holds content
    second_writer.py ROOT begin NS REF FILE                 a write that stays unfinished
    second_writer.py ROOT remove-namespace NS               an empty namespace
    second_writer.py ROOT churn NS COUNT                    many images made, moved and deleted
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import sys
import time
import tomllib
from collections.abc import Iterator
from typing import Any

from blake3 import blake3

Record = dict[str, Any]
Document = tuple[str, bytes, dict[str, str], dict[str, str]]  # media type, bytes, labels, children

ESCAPED = re.compile('[\x00-\x08\x0a-\x1f"\\\\\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]')
SHORT = {"\b": "\\b", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
GROUPS = (("namespace",), ("content", "lease"), ("image",))


# --- NAMES -----------------------------------------------------------------------------------------


def file_name(name: str) -> str:
    text = "".join(
        chr(b) if re.fullmatch(rb"[A-Za-z0-9._-]", bytes([b])) else f"%{b:02X}" for b in name.encode()
    )
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) > 240:
        text = "~" + blake3(name.encode()).hexdigest()
    return text + ".toml"


def fan_out(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm}/{encoded[:2]}/{encoded[2:]}"


def now() -> str:
    seconds, rest = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


# --- RECORDS ---------------------------------------------------------------------------------------


def text(value: str) -> str:
    def escape(match: re.Match[str]) -> str:
        c = match[0]
        return SHORT.get(c) or (f"\\u{ord(c):04x}" if ord(c) <= 0x7F else f"\\u{ord(c):04X}")

    return '"' + ESCAPED.sub(escape, value) + '"'


def canonical(table: Record, name: str = "") -> str:
    def key(k: str) -> str:
        return k if re.fullmatch(r"[A-Za-z0-9_-]+", k, re.ASCII) else text(k)

    def value(v: Any) -> str:
        if isinstance(v, list):
            return "[\n" + "".join(f"    {value(item)},\n" for item in v) + "]"
        return text(v) if isinstance(v, str) else str(v)

    plain = {k: v for k, v in table.items() if not isinstance(v, dict)}
    parts = [f"[{name}]\n"] if name and plain else []
    parts += [f"{key(k)} = {value(v)}\n" for k, v in plain.items()]
    body = "".join(parts)
    for k, inner in table.items():
        if isinstance(inner, dict) and inner:
            body += ("\n" if body else "") + canonical(inner, f"{name}.{key(k)}" if name else key(k))
    return body


def sealed(record: Record) -> bytes:
    body = canonical(record).encode()
    return body + b"# sha256:" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def load(path: str) -> Record | None:
    """A record, its seal compared; None where there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    body, seal, rest = data.rpartition(b"# sha256:")
    if seal and rest.strip().decode() != hashlib.sha256(body).hexdigest():
        sys.exit(f"{path} does not fit its seal")
    return tomllib.loads((body if seal else data).decode())


def with_labels(record: Record, labels: dict[str, str]) -> Record:
    """The record with its labels: sorted, without those whose value is empty."""
    given = sorted(((k, v) for k, v in labels.items() if v), key=lambda pair: pair[0].encode())
    return {**record, "labels": dict(given)} if given else record


# --- files -----------------------------------------------------------------------------------------


def sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def mkdirs(path: str) -> None:
    if not os.path.isdir(path):
        mkdirs(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        sync(os.path.dirname(path))


class Store:
    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.tmp = ""
        self.tmp_lock = -1

    # --- TEMPORARY FILES

    def workspace(self) -> str:
        while not self.tmp:
            path = f"{self.root}/tmp/{secrets.token_hex(8)}"
            mkdirs(path)
            fd = os.open(path, os.O_RDONLY)
            if locked(fd, path, fcntl.LOCK_EX):
                self.tmp, self.tmp_lock = path, fd
            else:
                os.close(fd)
        return self.tmp

    def temporary(self, data: bytes) -> str:
        path = f"{self.workspace()}/{secrets.token_hex(8)}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, 0o444)
            os.fsync(fd)
        return path

    def close(self) -> None:
        if self.tmp:
            for name in os.listdir(self.tmp):
                os.unlink(f"{self.tmp}/{name}")
            os.rmdir(self.tmp)
            os.close(self.tmp_lock)

    # --- WRITING, "Making a store", and SETTINGS

    def make(self) -> None:
        settings = load_settings(f"{self.root}/imgtool.toml")
        if settings is None:
            mkdirs(self.root)
            ours = {"tmp", "locks", "cache", "ingests", "objects", "namespaces"}
            if set(os.listdir(self.root)) - ours - {"imgtool.toml"}:
                sys.exit(f"{self.root} is not empty")
            path = self.temporary(sealed({"format": {"read": 1, "write": 1}}))
            with contextlib.suppress(FileExistsError):
                os.link(path, f"{self.root}/imgtool.toml")
            os.unlink(path)
            sync(self.root)
        elif settings["format"]["write"] > 1:
            sys.exit("the format is too new")

    # --- LOCKS

    def lock(self, name: str, how: int) -> int:
        path = f"{self.root}/locks/{name}"
        mkdirs(os.path.dirname(path))
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(fd, how)
            if is_at(fd, path):
                return fd
            os.close(fd)

    @contextlib.contextmanager
    def changing(self, ns: str) -> Iterator[None]:
        gate = self.lock("gate", fcntl.LOCK_EX)
        store = self.lock("store", fcntl.LOCK_SH)
        os.close(gate)
        own = self.lock(f"ns-{ns}", fcntl.LOCK_EX)
        try:
            left = [fd for fd in (store, own) if os.fstat(fd).st_size]
            if left:
                os.sync()
            for fd in left:
                os.ftruncate(fd, 0)
            os.ftruncate(own, 1)
            yield
            os.ftruncate(own, 0)
        finally:
            os.close(own)
            os.close(store)

    # --- paths of LAYOUT

    def path(self, ns: str, kind: str, name: str) -> str:
        where = f"{self.root}/namespaces/{ns}"
        return {
            "namespace": f"{where}/namespace.toml",
            "image": f"{where}/images/{file_name(name)}",
            "content": f"{where}/content/{fan_out(name)}.toml" if kind == "content" else "",
            "lease": f"{where}/leases/{file_name(name)}",
        }[kind]

    # --- LOG

    def log(self, ns: str, changes: dict[tuple[str, str], tuple[Record | None, Record | None]]) -> None:
        op = {"op": secrets.token_hex(8), "time": now()}
        lines = [
            line({**op, "kind": kind, "name": name, "old": old, "new": new})
            for (kind, name), (old, new) in changes.items()
        ]
        fd = os.open(f"{self.root}/namespaces/{ns}/log", os.O_RDWR | os.O_CREAT, 0o600)
        with open(fd, "r+b") as file:
            data = file.read()
            end = data.rfind(b"\n") + 1
            void = self.void(ns, data[:end])
            file.truncate(end)
            file.seek(end)
            file.write(b"".join(void + lines))
            file.flush()
            os.fsync(fd)

    def void(self, ns: str, data: bytes) -> list[bytes]:
        last: list[Record] = []
        for raw in reversed(data.splitlines()):
            entry = parse(raw)
            if not entry or "kind" not in entry or (last and entry["op"] != last[0]["op"]):
                break
            last.append(entry)
        gone = [
            [entry["kind"], entry["name"]]
            for entry in reversed(last)
            if load(self.path(ns, entry["kind"], entry["name"])) != entry["new"]
        ]
        return [line({"op": last[0]["op"], "time": now(), "void": gone})] if gone else []

    # --- WRITING, "Changing records"

    def change(
        self, ns: str, new: dict[tuple[str, str], Record | None], objects: dict[str, str] | None = None
    ) -> None:
        """Give records new values (None removes), and put objects, path by digest, into place. The
        locks are held.
        """
        for digest, source in (objects or {}).items():
            path = f"{self.root}/objects/{fan_out(digest)}"
            mkdirs(os.path.dirname(path))
            os.rename(source, path)
            while path != self.root:
                path = os.path.dirname(path)
                sync(path)
        changes = {key: (load(self.path(ns, *key)), record) for key, record in new.items()}
        if load(self.path(ns, "namespace", ns)) is None and any(new.values()):
            made = {"schema": 1, "name": ns, "created": now()}
            changes = {("namespace", ns): (None, made), **changes}
        changes = {key: pair for key, pair in changes.items() if pair[0] != pair[1]}
        if not changes:
            return
        mkdirs(f"{self.root}/namespaces/{ns}")
        self.log(ns, changes)
        for kinds in GROUPS:
            added = {k: r for k, (_, r) in changes.items() if k[0] in kinds and r is not None}
            for key, record in added.items():
                path = self.path(ns, *key)
                mkdirs(os.path.dirname(path))
                source = self.temporary(sealed(record))
                if changes[key][0] is None:
                    os.link(source, path)
                    os.unlink(source)
                else:
                    os.rename(source, path)
            self.settle(ns, list(added))
        for kinds in reversed(GROUPS):
            removed = [k for k, (_, r) in changes.items() if k[0] in kinds and r is None]
            for key in removed:
                os.unlink(self.path(ns, *key))
            self.settle(ns, removed)

    def settle(self, ns: str, keys: list[tuple[str, str]]) -> None:
        for directory in {os.path.dirname(self.path(ns, *key)) for key in keys}:
            stamp = time.time_ns() | 1
            os.utime(directory, ns=(stamp, stamp))
            sync(directory)

    # --- what it can do

    def put(self, ns: str, name: str, documents: list[Document], given: dict[str, str]) -> str:
        """Publish content, and an image of the last one with the labels that are given."""
        objects, new = {}, {}
        target: Record = {}
        for media_type, data, references, children in documents:
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            objects[digest] = self.temporary(data)
            record: Record = {"schema": 1, "digest": digest, "size": len(data)}
            new["content", digest] = with_labels({**record, "created": now(), "updated": now()}, references)
            if children:
                new["content", digest]["references"] = {"mediaType": media_type, "children": children}
            target = {"mediaType": media_type, "digest": digest, "size": len(data)}
        with self.changing(ns):
            for kind, digest in new:
                old = load(self.path(ns, kind, digest))
                if old is not None:  # content that is here already keeps its record
                    new[kind, digest] = old
            old = load(self.path(ns, "image", name))
            created = old["created"] if old else now()
            image = {"schema": 1, "name": name, "created": created, "updated": now(), "target": target}
            self.change(ns, {**new, ("image", name): with_labels(image, given)}, objects)
        return str(target["digest"])

    def delete(self, ns: str, name: str) -> bool:
        with self.changing(ns):
            there = load(self.path(ns, "image", name)) is not None
            if there:
                self.change(ns, {("image", name): None})
        return there

    def lease(self, ns: str, id: str, digest: str) -> None:
        lease = {"schema": 1, "id": id, "created": now(), "resources": {"content": [digest]}}
        with self.changing(ns):
            self.change(ns, {("lease", id): lease})

    def remove_namespace(self, ns: str) -> None:
        with self.changing(ns):
            where = f"{self.root}/namespaces/{ns}"
            if any(files for part in ("images", "content") for _, _, files in os.walk(f"{where}/{part}")):
                sys.exit(f"{ns} is not empty")
            files = os.listdir(f"{where}/leases") if os.path.isdir(f"{where}/leases") else []
            leases = [lease for name in files if (lease := load(f"{where}/leases/{name}"))]
            self.change(ns, {**{("lease", lease["id"]): None for lease in leases}, ("namespace", ns): None})

    # --- INGESTS

    def begin(self, ns: str, ref: str, data: bytes) -> None:
        key = blake3(ns.encode() + b"\0" + ref.encode()).hexdigest()
        directory = f"{self.root}/ingests/{key}"
        mkdirs(directory)
        lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not locked(lock, f"{directory}/lock", fcntl.LOCK_EX):
            sys.exit(f"{ref} is being written")
        with contextlib.suppress(FileNotFoundError):
            os.truncate(f"{directory}/data", 0)
        day = time.gmtime(time.time() + 86400)
        record = {"schema": 1, "ref": ref, "namespace": ns, "started": now()}
        record["expires"] = time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", day)
        os.rename(self.temporary(sealed(record)), f"{directory}/ref.toml")
        fd = os.open(f"{directory}/data", os.O_WRONLY | os.O_CREAT, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        os.close(lock)


def load_settings(path: str) -> Record | None:
    settings = load(path)
    if settings is not None and settings["format"]["read"] > 1:
        sys.exit("the format is too new")
    return settings


def line(entry: Record) -> bytes:
    body = json.dumps(entry).encode()[:-1]
    return body + b',"seal":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def parse(raw: bytes) -> Record | None:
    body, _, seal = raw.rpartition(b',"seal":"')
    if seal != hashlib.sha256(body).hexdigest().encode() + b'"}':
        return None
    entry: Record = json.loads(raw)
    return entry


def locked(fd: int, path: str, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return is_at(fd, path)


def is_at(fd: int, path: str) -> bool:
    try:
        there, mine = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def manifest(layer: bytes) -> list[Document]:
    """The documents of an OCI image with one layer, children first, with containerd's labels."""
    parts = [
        ("application/vnd.oci.image.config.v1+json", b'{"architecture":"amd64","os":"linux"}'),
        ("application/vnd.oci.image.layer.v1.tar", layer),
    ]
    digests = ["sha256:" + hashlib.sha256(data).hexdigest() for _, data in parts]
    config, *layers = [
        {"mediaType": kind, "digest": digest, "size": len(data)}
        for (kind, data), digest in zip(parts, digests, strict=True)
    ]
    kind = "application/vnd.oci.image.manifest.v1+json"
    document = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
    references = {
        "containerd.io/gc.ref.content.config": digests[0],
        "containerd.io/gc.ref.content.l.0": digests[1],
    }
    children = {digest: kind for digest, (kind, _) in zip(digests, parts, strict=True)}
    return [
        *((t, data, {}, {}) for t, data in parts),
        (kind, json.dumps(document).encode(), references, children),
    ]


def main(root: str, verb: str, ns: str, *rest: str) -> None:
    store = Store(root)
    try:
        store.make()
        if verb == "put":
            name, path, *words = rest
            with open(path, "rb") as file:
                given = dict(word.split("=", 1) for word in words)
                print(store.put(ns, name, [("text/plain", file.read(), {}, {})], given))
        elif verb == "manifest":
            print(store.put(ns, rest[0], manifest(rest[1].encode()), {}))
        elif verb == "delete":
            if not store.delete(ns, rest[0]):
                sys.exit(f"{rest[0]} not found")
        elif verb == "lease":
            store.lease(ns, rest[0], rest[1])
        elif verb == "begin":
            with open(rest[1], "rb") as file:
                store.begin(ns, rest[0], file.read())
        elif verb == "remove-namespace":
            store.remove_namespace(ns)
        elif verb == "churn":
            for i in range(int(rest[0])):
                store.put(ns, f"churn-{i % 3}", manifest(b"layer %d" % (i % 5)), {})
                store.put(ns, f"kept-{i}", [("text/plain", b"kept %d" % i, {}, {})], {})
                store.delete(ns, f"churn-{(i + 1) % 3}")
        else:
            sys.exit(__doc__)
    finally:
        store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
