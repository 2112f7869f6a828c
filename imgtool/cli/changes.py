"""What `update` changes in images: asked for, done or tried, shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from imgtool.cli.images import needed, row, target_of
from imgtool.cli.output import Row
from imgtool.cli.words import label_paths
from imgtool.digest import Digest
from imgtool.errors import InvalidArgument
from imgtool.model import replace
from imgtool.names import EXPIRE, check_name
from imgtool.ops.hold import require_lease
from imgtool.rules import check_target

if TYPE_CHECKING:
    from imgtool.cli.context import Context
    from imgtool.model import Image


class Change:
    """What `update` does to each of its images.

    Args:
        labels, annotations: `KEY=VALUE` words; `KEY=` removes.
        target: a digest or the name of an image; None leaves it.
        replace_all: the labels given replace all labels, the annotations given all annotations;
            without either, all labels go.
        rename: the new name; None leaves it.
        lease: a lease that is to hold the content of the new target before it is one.
        dry_run: only say what would change.

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
        dry_run: bool = False,
    ) -> None:
        self._context = c
        records = c.records(dry_run=dry_run)
        self._images, self._leases = records.images(c.namespace), records.leases(c.namespace)
        if lease is not None and target is None:
            raise InvalidArgument("--lease is for --target, and no other content gets a name")
        if lease is not None:
            require_lease(self._leases, lease)
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

    def apply(self, name: str, expected: Digest | None) -> Row:
        """Change the image called `name`; returns its row, with its `changes`.

        Args:
            expected: what it must point to, if not None.
        """
        images = self._images
        if name == self._rename:
            raise InvalidArgument(f"image '{name}' cannot be renamed to itself")
        if self._rename is not None and not self._paths:
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
        if self._lease is not None:
            check_target(old, expected)
            self._leases.add(self._lease, "content", *sorted(self._needs), needs=self._needs)
        new = images.update(new, *self._paths, if_target=expected, needs=self._needs)
        if self._rename is not None:
            new = images.rename(name, self._rename, if_target=new.target.digest)
        if self._lease is not None and EXPIRE in new.labels:
            self._leases.add(self._lease, "images", new.name)
        return self._row(old, new)

    def _row(self, old: Image, new: Image) -> Row:
        return row(self._context.namespace, new) | {"changes": changes(old, new)}


def _changes_text(row: Row) -> str:
    return "; ".join(
        f"{x['field']}: {x['old'] or '(none)'} -> {x['new'] or '(none)'}" for x in row["changes"]
    )


CHANGES: Mapping[str, Callable[[Row], str]] = {"NAME": itemgetter("name"), "CHANGES": _changes_text}


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
