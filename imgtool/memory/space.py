"""What one namespace has, and what its parts do alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from imgtool import filters
from imgtool.digest import Digest
from imgtool.memory.writer import Ingest
from imgtool.model import ContentInfo, Image, Lease, Namespace
from imgtool.names import check_namespace

if TYPE_CHECKING:
    from imgtool.memory.store import MemoryStore

T = TypeVar("T")
Record = Image | ContentInfo | Lease | Namespace


@dataclass
class Space:
    """What one namespace has."""

    record: Namespace | None = None
    images: dict[str, Image] = field(default_factory=dict)
    content: dict[Digest, ContentInfo] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    ingests: dict[str, Ingest] = field(default_factory=dict)

    def copy(self) -> Space:
        return Space(
            self.record, dict(self.images), dict(self.content), dict(self.leases), dict(self.ingests)
        )


class Bound:
    """A part of a store, of one namespace; `kind` is that of its records."""

    kind: str

    def __init__(self, store: MemoryStore, namespace: str) -> None:
        self._store = store
        self._namespace = check_namespace(namespace)

    @property
    def _space(self) -> Space:
        return self._store.space(self._namespace)

    def _tell(self, name: str, old: Record | None, new: Record | None) -> None:
        self._store.tell(self._namespace, self.kind, name, old, new)


def matching(
    records: Mapping[str, T] | Mapping[Digest, T], fields: Callable[[T], filters.Adaptor], args: Sequence[str]
) -> Iterator[T]:
    """The records that match, in the order of their keys, as they are now."""
    found = filters.compile(args)
    ordered = [record for _, record in sorted(records.items(), key=lambda item: item[0])]
    return iter([record for record in ordered if found.matches(fields(record))])
