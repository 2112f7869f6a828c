"""Where everything lies in a store: the only module that joins paths. See imgtool-store(5)."""

from __future__ import annotations

import re

from imgtool.digest import ALGORITHMS, BLAKE3, Digest
from imgtool.names import file_name

SUFFIX = ".toml"

_BRANCH = re.compile(rf"{'|'.join(ALGORITHMS)}|[0-9a-f]{{2}}")


class Layout:
    """The paths of one store. Nothing here touches the file system."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.settings = f"{root}/imgtool{SUFFIX}"
        self.objects = f"{root}/objects"
        self.namespaces = f"{root}/namespaces"
        self.ingests = f"{root}/ingests"
        self.tmp = f"{root}/tmp"
        self.locks = f"{root}/locks"
        self.cache = f"{root}/cache"
        self.directories = (self.objects, self.namespaces, self.ingests, self.tmp, self.locks, self.cache)

    def object(self, digest: Digest) -> str:
        return f"{self.objects}/{_fan_out(digest)}"

    def namespace(self, ns: str) -> str:
        return f"{self.namespaces}/{ns}"

    def namespace_record(self, ns: str) -> str:
        return f"{self.namespaces}/{ns}/namespace{SUFFIX}"

    def log(self, ns: str) -> str:
        return f"{self.namespaces}/{ns}/log"

    def images(self, ns: str) -> str:
        return f"{self.namespaces}/{ns}/images"

    def image(self, ns: str, name: str) -> str:
        return f"{self.namespaces}/{ns}/images/{file_name(name)}{SUFFIX}"

    def content(self, ns: str) -> str:
        return f"{self.namespaces}/{ns}/content"

    def content_record(self, ns: str, digest: Digest) -> str:
        return f"{self.namespaces}/{ns}/content/{_fan_out(digest)}{SUFFIX}"

    def leases(self, ns: str) -> str:
        return f"{self.namespaces}/{ns}/leases"

    def lease(self, ns: str, id: str) -> str:
        return f"{self.namespaces}/{ns}/leases/{file_name(id)}{SUFFIX}"

    def ingest(self, ns: str, ref: str) -> str:
        return f"{self.ingests}/{ingest_key(ns, ref)}"

    def cached(self, name: str) -> str:
        return f"{self.cache}/{name}"

    def lock(self, name: str) -> str:
        """`gate`, `store` or `ns-<namespace>`."""
        return f"{self.locks}/{name}"


def _fan_out(digest: Digest) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm}/{encoded[:2]}/{encoded[2:]}"


def is_record(entry: str) -> bool:
    """Whether a file among records is one, by its name: what begins with a dot is another program's."""
    return entry.endswith(SUFFIX) and not entry.startswith(".")


def is_branch(entry: str) -> bool:
    """Whether a directory between the records or objects may be called so: an algorithm, or two digits."""
    return _BRANCH.fullmatch(entry) is not None


def inside(directory: str, entry: str) -> str:
    """The path of `entry`, a name that a scan of `directory` gave."""
    return f"{directory}/{entry}"


def parent(path: str) -> str:
    """The directory that holds `path`."""
    return path[: path.rindex("/")] or "/"


def base(path: str) -> str:
    """The last name of `path`."""
    return path[path.rindex("/") + 1 :]


def ingest_key(ns: str, ref: str) -> str:
    """The directory name of an ingest: blake3 of namespace, NUL and ref."""
    return Digest.of(b"\0".join((ns.encode(), ref.encode())), BLAKE3).encoded
