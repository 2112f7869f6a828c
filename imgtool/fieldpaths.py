"""Field paths: which parts of a record an update replaces.

The rules are containerd's (`metadata/images.go`, `metadata/content.go`, `metadata/namespaces.go`):
paths apply in order, a key is everything after the first dot, an empty value removes, and no paths
at all replace everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imgtool.errors import InvalidArgument
from imgtool.model import Descriptor, Image, replace, without_empty


def merge_image(current: Image, new: Image, paths: Sequence[str]) -> Image:
    """`current` with the parts that `paths` name taken from `new`.

    Args:
        current: the record as it is.
        new: the values; its name and times are not looked at.
        paths: `labels`, `labels.KEY`, `target`, `annotations`, `annotations.KEY`; none: all of it.

    Raises:
        InvalidArgument: any other path.
    """
    if not paths:
        return replace(current, target=new.target, labels=without_empty(new.labels))
    labels, target = dict(current.labels), current.target
    for path in paths:
        field, dot, key = path.partition(".")
        if path == "target":
            target = new.target
        elif field == "labels":
            labels = _merged(labels, new.labels, key if dot else None)
        elif field == "annotations":
            target = _with_annotations(
                target, _merged(target.annotations, new.target.annotations, key if dot else None)
            )
        else:
            raise InvalidArgument(f"cannot update field '{path[:80]}' of image '{current.name[:80]}'")
    return replace(current, target=target, labels=labels)


def merge_labels(
    current: Mapping[str, str], new: Mapping[str, str], paths: Sequence[str], what: str
) -> dict[str, str]:
    """The labels `current` with those that `paths` name taken from `new`.

    Args:
        paths: `labels`, `labels.KEY`; none: all labels.
        what: the thing whose labels they are, for the message.

    Raises:
        InvalidArgument: any other path.
    """
    if not paths:
        return without_empty(new)
    labels = dict(current)
    for path in paths:
        field, dot, key = path.partition(".")
        if field != "labels":
            raise InvalidArgument(f"cannot update field '{path[:80]}' of {what}")
        labels = _merged(labels, new, key if dot else None)
    return labels


def _merged(current: Mapping[str, str], new: Mapping[str, str], key: str | None) -> dict[str, str]:
    if key is None:
        return without_empty(new)
    return without_empty({**current, key: new.get(key, "")})


def _with_annotations(target: Descriptor, annotations: Mapping[str, str]) -> Descriptor:
    return replace(target, annotations=annotations)
