"""Changes that are only tried: judged by the engine's own code, without locks, and kept in mind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

from imgtool.digest import Digest
from imgtool.disk.apply import judge
from imgtool.disk.engine import Edit, Engine, Kind, Model
from imgtool.errors import ImgtoolError
from imgtool.model import ContentInfo, Image, Lease, Namespace
from imgtool.names import check_namespace

T = TypeVar("T", Image, ContentInfo, Lease, Namespace)


class DryEngine(Engine):
    """Reads the files of `engine`, and writes none. A record that was changed here reads as it is then."""

    is_dry = True

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.layout.root, 0, engine.warn)
        self._tried: dict[tuple[str, str, str], Model | None] = {}

    def load(self, kind: Kind[T], ns: str, name: str) -> T | None:
        key = kind.name, ns, name
        return cast("T | None", self._tried[key]) if key in self._tried else super().load(kind, ns, name)

    def apply(
        self, ns: str, edits: Iterable[Edit[Any]], objects: Sequence[tuple[str, Digest]] = ()
    ) -> list[Model | ImgtoolError | None]:
        check_namespace(ns)
        self.ready()
        outcomes, changes = judge(self, ns, edits)
        self._tried.update({(change.kind.name, ns, change.name): change.new for change in changes})
        return outcomes
