"""Whether a gc is due. The rule is containerd's (`gc/scheduler/scheduler.go`), without its clock.

Time alone makes none due, as there: what has expired, and what a crash left, waits for the next gc
that something else makes due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgtool.stores import Store


def due(store: Store, *, any_deletion: bool = False) -> str | None:
    """Why a gc is due, in words; None if it is not. Takes no lock, and reads only what the logs tell of
    the time since the last gc, as far as it must.

    Due is one after `deletion_threshold` deletions, or any if that is 0; after `mutation_threshold`
    changes, deletions among them, unless that is 0; and wherever neither can be told.

    Args:
        store: whose.
        any_deletion: whatever `deletion_threshold` is, one deletion is enough.
    """
    settings = store.settings
    deletions = 0 if any_deletion else settings.deletion_threshold
    changes = settings.mutation_threshold
    deleted = 0
    for changed, happening in enumerate(store.since_gc(), 1):
        if happening.doubt:
            return f"namespace '{happening.namespace}': {happening.doubt}"
        deleted += happening.deletes
        if deleted >= max(1, deletions):
            return "something was deleted" if deletions <= 1 else f"{deleted} things were deleted"
        if 0 < changes <= changed:
            return f"{changed} changes were made" if changed > 1 else "something was changed"
    return None
