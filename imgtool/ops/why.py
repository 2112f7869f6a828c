"""Why content is kept: the shortest path from a root; or since when it is garbage, and by what change."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imgtool.digest import Digest
from imgtool.errors import NotFound
from imgtool.ops import released
from imgtool.ops.labels import IMAGE, REF, labelled
from imgtool.ops.mark import FLAT, FLAT_IMAGE, INGEST, Node, Root, Space, spaces
from imgtool.stores import Store

KEPT = "kept"
ABSENT = "absent"
GARBAGE = "garbage"

_THINGS = {IMAGE: "image", FLAT_IMAGE: "image", INGEST: "ingest"}
_DOCUMENTS = ("manifest", "index")


class Step(NamedTuple):
    """A thing on the way from a root, and what leads to it.

    `kind`: "image", "lease", "ingest", "content"; "object" for bytes that no namespace has. `through`:
    "root"; "resource" of a lease, or "resource, flat"; what `ops.mark.Edge` has; of a part that a
    document and a label tell, both, with a comma between. Of garbage: what let go of it.
    """

    kind: str
    name: str
    through: str


class Answer(NamedTuple):
    """What one namespace has to do with the content.

    `status`: KEPT with the path from a root; ABSENT with the path to what the namespace does not have,
    which keeps nothing; GARBAGE with the content alone. `since`: when it became that, nanoseconds since
    the epoch. Of an object that no namespace has, the namespace is empty.
    """

    namespace: str
    status: str
    steps: Sequence[Step]
    since: int | None = None


def explain(store: Store, digest: Digest) -> list[Answer]:
    """Of each namespace that has `digest`, or has a root that leads to it, why it is kept or since when it
    is garbage, in the order of the namespaces. Takes no lock and writes nothing.

    Raises:
        NotFound: the store has neither a record nor an object of it.
        DataLoss: as `ops.gc.find`.
    """
    found = spaces(store)
    there = store.object_size(digest) is not None
    if not there and not any(digest in space.recorded.sizes for space in found):
        raise NotFound(f"content '{digest}' not found in any namespace")
    answers = [answer for space in found if (answer := _explain(store, space, digest))]
    if there and all(answer.status == ABSENT for answer in answers):
        gone = released.of_object(store, [space.name for space in found], digest)
        answers.append(Answer("", GARBAGE, [Step("object", digest, gone.by)], gone.time))
    return answers


def _explain(store: Store, space: Space, digest: Digest) -> Answer | None:
    path = _path(space, digest)
    if path:
        kept = digest in space.recorded.sizes or digest in space.expected()
        return Answer(space.name, KEPT if kept else ABSENT, path)
    if digest not in space.recorded.sizes:
        return None
    gone = released.of_content(store, space, digest)
    return Answer(space.name, GARBAGE, [Step("content", digest, gone.by)], gone.time)


def _path(space: Space, digest: Digest) -> list[Step]:
    """The shortest path from a root to `digest`, of several the one whose root comes first; empty if
    there is none.
    """
    if not any(name == digest and kind not in _THINGS for name, kind in space.nodes()):
        return []
    before: dict[Node, Root | tuple[Node, str]] = {}
    queue = deque[Node]()
    for root in space.roots:
        if root.node not in before:
            before[root.node] = root
            queue.append(root.node)
    while queue:
        node = queue.popleft()
        if node[0] == digest and node[1] not in _THINGS:
            return list(_steps(space, before, node))[::-1]
        for following, by in space.edges(node):
            if following not in before:
                before[following] = node, by
                queue.append(following)
    return []


def _steps(space: Space, before: dict[Node, Root | tuple[Node, str]], node: Node) -> Iterator[Step]:
    """The way back from `node`."""
    while True:
        name, kind = node
        thing, come = _THINGS.get(kind, "content"), before[node]
        if isinstance(come, Root):
            break
        node, by = come
        yield Step(thing, name, _both(space, node, name, by) if by in _DOCUMENTS else by)
    if come.kind == "lease":
        yield Step(thing, name, "resource, flat" if kind in (FLAT, FLAT_IMAGE) else "resource")
        yield Step("lease", come.name, "root")
    else:
        yield Step(thing, name, come.name if come.kind == "label" else "root")


def _both(space: Space, parent: Node, child: str, by: str) -> str:
    """`by`, and the label on `parent` that tells the same, if there is one."""
    labels = labelled(space.recorded.labels_of(parent[0]), REF)
    return ", ".join([by, *(key for key, value in labels if value == child)][:2])
