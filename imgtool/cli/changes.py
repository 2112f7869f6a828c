"""What a command changes in images and namespaces: asked for, tried out, shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from imgtool import clock
from imgtool.cli.images import needed, row, target_of
from imgtool.cli.output import Row
from imgtool.cli.words import label_paths
from imgtool.digest import Digest
from imgtool.errors import AlreadyExists, FailedPrecondition, ImgtoolError, InvalidArgument, NotFound
from imgtool.fieldpaths import merge_image, merge_labels
from imgtool.model import Namespace, check_image, replace, without_empty
from imgtool.names import EXPIRE, check_labels, check_name
from imgtool.ops.hold import require_lease

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.model import Image
    from imgtool.stores import ImageStore, NamespaceStore, Store


class Change:
    """What `update` does to each of its images.

    Args:
        labels, annotations: `KEY=VALUE` words; `KEY=` removes.
        target: a digest or the name of an image; None leaves it.
        replace_all: the labels given replace all labels, the annotations given all annotations;
            without either, all labels go.
        rename: the new name; None leaves it.
        lease: a lease that is to hold the content of the new target before it is one.

    Raises:
        InvalidArgument: nothing is asked for, or a word is malformed.
        NotFound: no such target or lease.
    """

    def __init__(
        self,
        c: Context,
        labels: Sequence[str],
        annotations: Sequence[str],
        target: str | None,
        *,
        replace_all: bool,
        rename: str | None,
        lease: str | None = None,
    ) -> None:
        self._context = c
        if lease is not None and target is None:
            raise InvalidArgument("--lease is for --target, and no other content gets a name")
        if lease is not None:
            require_lease(c.store().leases(c.namespace), lease)
        self._lease = lease
        self._rename = rename
        self._paths: list[str] = []
        self._labels: dict[str, str] = {}
        self._annotations: dict[str, str] = {}
        if rename is not None:
            check_name(rename, "new image name")
        self._all_annotations = bool(replace_all and annotations)
        self._target = None if target is None else target_of(c, target)[0]
        self._needs = frozenset[Digest]() if self._target is None else needed(c, self._target)
        if self._target:
            self._paths.append("target")
        if labels or (replace_all and not annotations):
            paths, self._labels = label_paths(labels, replace_all)
            self._paths += paths
        if annotations:
            paths, self._annotations = label_paths(annotations, replace_all, "annotation")
            self._paths += paths
        if not (self._paths or rename):
            raise InvalidArgument("nothing to change is given", hint="try 'imgtool update --help'")

    def check_count(self, count: int) -> None:
        """
        Raises:
            InvalidArgument: one new name is for several images.
        """
        if self._rename is not None and count > 1:
            raise InvalidArgument(f"--rename is for one image, not for {count}")

    def apply(self, images: ImageStore, name: str, expected: Digest | None, *, dry_run: bool) -> Row:
        """Change the image called `name`; returns its row, with its `changes`.

        Args:
            expected: what it must point to, if not None.
            dry_run: only say what would change.
        """
        if name == self._rename:
            raise InvalidArgument(f"image '{name}' cannot be renamed to itself")
        if self._rename is not None and not self._paths and not dry_run:
            new = images.rename(name, self._rename, if_target=expected)
            return self._row(replace(new, name=name), new)
        old = images.get(name)
        target = self._target or old.target
        kept = {} if self._all_annotations else target.annotations
        new = replace(
            old,
            labels=self._labels,
            target=replace(target, annotations={**kept, **self._annotations}),
        )
        if dry_run:
            expect(old, expected)
            new = check_image(merge_image(old, new, self._paths)) if self._paths else old
            new = replace(new, updated=clock.now())
            return self._row(old, new if self._rename is None else would_rename(images, new, self._rename))
        if self._lease is not None:
            expect(old, expected)
            self._hold(self._lease, "content", sorted(self._needs), self._needs)
        new = images.update(new, *self._paths, if_target=expected, needs=self._needs)
        if self._rename is not None:
            new = images.rename(name, self._rename, if_target=new.target.digest)
        if self._lease is not None and EXPIRE in new.labels:
            self._hold(self._lease, "images", [new.name])
        return self._row(old, new)

    def _hold(
        self, lease: str, type: str, resources: Sequence[str], needs: frozenset[Digest] = frozenset()
    ) -> None:
        c = self._context
        c.store().leases(c.namespace).add(lease, type, *resources, needs=needs)

    def _row(self, old: Image, new: Image) -> Row:
        return row(self._context.namespace, new) | {"changes": changes(old, new)}


def _changes_text(row: Row) -> str:
    return "; ".join(
        f"{x['field']}: {x['old'] or '(none)'} -> {x['new'] or '(none)'}" for x in row["changes"]
    )


CHANGES: Mapping[str, Callable[[Row], str]] = {"NAME": itemgetter("name"), "CHANGES": _changes_text}


def expect(image: Image, target: Digest | None) -> Image:
    """`image`, if it points to `target` or nothing is expected: what a dry run checks.

    Raises:
        FailedPrecondition: it points elsewhere.
    """
    if target is not None and image.target.digest != target:
        raise FailedPrecondition(f"image '{image.name}' has target {image.target.digest}, expected {target}")
    return image


def would_rename(images: ImageStore, image: Image, name: str) -> Image:
    """`image` as it would be under the new `name`.

    Raises:
        AlreadyExists: it is the name of another image, or has other labels.
    """
    with suppress(NotFound):
        there = images.get(name)
        if replace(there, name=image.name, created=image.created, updated=image.updated) != image:
            same = there.target.digest == image.target.digest
            other = "other labels or annotations" if same else f"target {there.target.digest}"
            raise AlreadyExists(f"image '{name}' already exists, with {other}")
        return there
    return replace(image, name=name)


def would_create(namespaces: NamespaceStore, new: Namespace) -> Namespace:
    """The namespace `new` as it would be.

    Raises:
        AlreadyExists: it is there.
    """
    check_labels(new.labels)
    with suppress(NotFound):
        namespaces.get(new.name)
        raise AlreadyExists(f"namespace '{new.name}' already exists")
    return replace(new, labels=without_empty(new.labels), created=clock.now())


def would_label(namespaces: NamespaceStore, new: Namespace, paths: Sequence[str]) -> Namespace:
    """The namespace as it would be with the labels of `new` that `paths` name."""
    check_labels(new.labels)
    old = Namespace(new.name, created=clock.now())
    with suppress(NotFound):
        old = namespaces.get(new.name)
    return replace(old, labels=merge_labels(old.labels, new.labels, paths, f"namespace '{new.name}'"))


def would_remove(store: Store, name: str) -> None:
    """
    Raises:
        NotFound: there is no namespace of that name.
        FailedPrecondition: it still has images or content, and be it such that cannot be read.
    """
    store.namespaces.get(name)
    lost: dict[str, list[ImgtoolError]] = {"images": [], "content": []}
    there = {
        "images": store.images(name).names(on_error=lost["images"].append),
        "content": islice(store.content(name).list(on_error=lost["content"].append), 1),
    }
    left = [what for what, records in there.items() if [*records, *lost[what]]]
    if left:
        raise FailedPrecondition(
            f"namespace '{name}' must be empty, but it still has {' and '.join(left)}",
            hint="delete its images, then run imgtool gc",
        )


def changes(old: Image, new: Image) -> list[dict[str, str]]:
    """What is different, field by field."""
    before, after = _fields(old), _fields(new)
    return [
        {"field": field, "old": before.get(field, ""), "new": after.get(field, "")}
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]


def _fields(image: Image) -> dict[str, str]:
    return {
        "name": image.name,
        "target": image.target.digest,
        **{f"labels.{k}": v for k, v in image.labels.items()},
        **{f"annotations.{k}": v for k, v in image.target.annotations.items()},
    }
