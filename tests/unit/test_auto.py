"""When `gc --auto` runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from imgtool.memory import MemoryStore
from imgtool.model import Happening, Settings
from imgtool.ops import auto, gc

from .gc_world import LAYER, NS, add, tag


def store_with(deletions: int, changes: int) -> MemoryStore:
    return MemoryStore(Settings(deletion_threshold=deletions, mutation_threshold=changes))


class Told(MemoryStore):
    """A store of which it is known what has happened."""

    def __init__(self, settings: Settings, happened: Sequence[Happening]) -> None:
        super().__init__(settings)
        self.left = iter(happened)

    def since_gc(self) -> Iterator[Happening]:
        return self.left


CHANGE, DELETION = Happening(NS), Happening(NS, deletes=True)
DOUBT = Happening(NS, doubt="the log is missing")


@pytest.mark.parametrize(
    ("deletions", "changes", "happened", "reason"),
    [
        (0, 100, [], None),
        (0, 100, [CHANGE] * 99, None),
        (0, 100, [CHANGE] * 100, "100 changes were made"),
        (0, 100, [CHANGE] * 5 + [DELETION], "something was deleted"),
        (1, 100, [DELETION], "something was deleted"),
        (3, 100, [DELETION] * 2 + [CHANGE] * 97, None),
        (3, 100, [DELETION] * 2 + [CHANGE] * 98, "100 changes were made"),
        (3, 100, [CHANGE, DELETION] * 3, "3 things were deleted"),
        (3, 0, [CHANGE] * 1000 + [DELETION] * 2, None),
        (0, 1, [CHANGE], "something was changed"),
        (9, 0, [CHANGE, DOUBT], f"namespace '{NS}': the log is missing"),
    ],
)
def test_due_is_what_containerd_would_not_skip(
    deletions: int, changes: int, happened: list[Happening], reason: str | None
) -> None:
    """Each threshold at its edge; 0 changes never make it due; what cannot be told does."""
    store = Told(Settings(deletion_threshold=deletions, mutation_threshold=changes), happened)
    assert auto.due(store) == reason


def test_no_more_is_read_than_decides() -> None:
    """The log of a store that is never collected may be long."""
    store = Told(Settings(), [DELETION, CHANGE, CHANGE])
    assert auto.due(store)
    assert len(list(store.left)) == 2


def test_a_deletion_that_freed_nothing_makes_one_gc_due_not_two() -> None:
    """The gc that finds nothing has looked, and that counts."""
    store = store_with(0, 100)
    digest = add(store, b"x")
    tag(store, "a", digest, LAYER)
    tag(store, "b", digest, LAYER)
    assert auto.due(store) is None
    store.images(NS).delete("b")
    assert auto.due(store) == "something was deleted"
    assert not any(gc.collect(store))
    assert auto.due(store) is None


def test_looking_is_not_enough() -> None:
    """A dry run leaves it due."""
    store = store_with(0, 100)
    tag(store, "a", add(store, b"x"), LAYER)
    store.images(NS).delete("a")
    assert gc.collect(store, dry_run=True).objects
    assert auto.due(store)
    assert gc.collect(store).objects
    assert auto.due(store) is None
