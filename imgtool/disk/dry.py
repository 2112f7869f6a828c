"""Changes that are only tried: judged by the engine's own code, without locks, and kept in mind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeVar, cast

from imgtool.digest import Digest
from imgtool.disk import ingests
from imgtool.disk.apply import judge
from imgtool.disk.engine import Edit, Engine, Kind, Model
from imgtool.errors import ImgtoolError
from imgtool.model import ContentInfo, Image, Lease, Namespace
from imgtool.names import check_namespace

T = TypeVar("T", Image, ContentInfo, Lease, Namespace)


class DryEngine(Engine):
    """Reads the files of `engine`, and writes none. A record that was changed here reads as it is then,
    and an ingest that was dropped is not found.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.layout.root, 0, engine.warn)
        self.locks = self.workspace = cast(Any, _Nothing())
        self._tried: dict[tuple[str, str, str], Model | None] = {}
        self._aborted = set[tuple[str, str]]()

    def load(self, kind: Kind[T], ns: str, name: str) -> T | None:
        key = kind.name, ns, name
        return cast("T | None", self._tried[key]) if key in self._tried else super().load(kind, ns, name)

    def ready(self) -> NoReturn:
        raise _fault()

    def apply(
        self, ns: str, edits: Iterable[Edit[Any]], objects: Sequence[tuple[str, Digest]] = ()
    ) -> list[Model | ImgtoolError | None]:
        check_namespace(ns)
        self.check_writable()
        outcomes, changes = judge(self, ns, edits)
        self._tried.update({(change.kind.name, ns, change.name): change.new for change in changes})
        return outcomes

    def abort(self, ns: str, ref: str) -> None:
        if (ns, ref) in self._aborted:
            raise ingests.not_found(ref)
        ingests.check_abort(self, ns, ref)
        self._aborted.add((ns, ref))

    def close(self) -> None:
        """Nothing is open."""


class _Nothing:
    """In place of what only writers need."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _fault()


def _fault() -> AssertionError:
    return AssertionError("a dry run was asked to write")
